//! Weighted rendezvous hashing: every member has a score for every key, the best one takes it. When a member goes,
//! only its own keys move; when its weight grows, keys move to it only.

use super::Candidate;
use super::hash::mix;

/// The candidate with the best score for `key`. `keys` are the members' own, in the same order.
pub fn rendezvous(keys: &[u64], candidates: &[Candidate], key: u64) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (n, (member, candidate)) in keys.iter().zip(candidates).enumerate() {
        if candidate.share() == 0 {
            continue;
        }
        // Exponentially distributed with the weight as its rate: the chance to be the smallest is in proportion to it.
        let cost = -unit(mix(member ^ mix(key))).ln() / f64::from(candidate.weight);
        if best.is_none_or(|(_, least)| cost < least) {
            best = Some((n, cost));
        }
    }
    best.map(|(n, _)| n)
}

/// A number in (0, 1) from a hash's upper 52 bits.
fn unit(hash: u64) -> f64 {
    // Exact: 52 bits and a half fit a double.
    let high = u32::try_from(hash >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from((hash >> 12) & 0xf_ffff).unwrap_or(0);
    (f64::from(high) * 1_048_576.0 + f64::from(low) + 0.5) / 4_503_599_627_370_496.0
}
