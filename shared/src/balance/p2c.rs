//! The power of two choices: two members are drawn by weight, the better of them takes the request. Nearly as even as
//! asking all, without everybody's running to the same one when what is known is a second old.

use super::Candidate;
use super::hash::mix;

/// The one of two with fewer requests under way for its weight; if they are equal, the one drawn first, which makes
/// idle pools follow the weights.
pub fn least_active_of_two(candidates: &[Candidate], random: u64) -> Option<usize> {
    better_of_two(candidates, random, |c| u64::from(c.active))
}

/// The one of two whose response time, lengthened by what is under way there, is shorter for its weight. A member of
/// which no time is known is taken to be as fast as can be: it gets the requests that tell.
pub fn least_time_of_two(candidates: &[Candidate], random: u64) -> Option<usize> {
    better_of_two(candidates, random, |c| u64::from(c.latency_us).saturating_mul(u64::from(c.active) + 1))
}

fn better_of_two(candidates: &[Candidate], random: u64, cost: impl Fn(&Candidate) -> u64) -> Option<usize> {
    let first = draw(candidates, None, random)?;
    let Some(second) = draw(candidates, Some(first), mix(random)) else { return Some(first) };
    let (a, b) = (candidates.get(first)?, candidates.get(second)?);
    // cost(a) / weight(a) <= cost(b) / weight(b)
    let (left, right) =
        (u128::from(cost(a)) * u128::from(b.weight), u128::from(cost(b)) * u128::from(a.weight));
    Some(if left <= right { first } else { second })
}

/// One usable candidate, each with a probability in proportion to its weight.
fn draw(candidates: &[Candidate], except: Option<usize>, random: u64) -> Option<usize> {
    let shares = || {
        candidates
            .iter()
            .enumerate()
            .filter(|(n, _)| Some(*n) != except)
            .map(|(n, c)| (n, u64::from(c.share())))
    };
    let total: u64 = shares().map(|(_, share)| share).sum();
    let mut at = mix(random).checked_rem(total)?;
    for (n, share) in shares() {
        if at < share {
            return Some(n);
        }
        at -= share;
    }
    None
}
