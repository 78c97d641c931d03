//! Maglev hashing (Eisenbud and others, NSDI 2016) with bounded load.
//!
//! The table is made once from the configuration. A member that cannot take a request (down, draining, over its
//! bound) is passed over by walking on in the table, so that its keys are spread over all others in proportion to
//! their shares, and nobody else's keys move at all. When the configuration takes a member away the table is made
//! anew, and few keys of the others move.

use super::Candidate;
use super::hash::mix;

/// Entries of the table unless configured otherwise; a prime.
pub const DEFAULT_TABLE_SIZE: u32 = 65_537;
/// The largest table that can be configured; the next prime below 2^22.
pub const MAX_TABLE_SIZE: u32 = 4_194_301;
/// How far over its share of what is under way a member may be, percent of the share.
pub const DEFAULT_LOAD_PERCENT: u32 = 125;

/// The table.
#[derive(Clone, Debug)]
pub struct Maglev {
    table: Vec<u32>,
    load_percent: u32,
}

impl Maglev {
    /// For members of these keys and weights, in the pool's order. `size` must be a prime (a step that divides it
    /// would never reach some entries; the nearest prime above is taken else). `load_percent` below 101 means no bound.
    pub fn new(members: &[(u64, u32)], size: u32, load_percent: u32) -> Self {
        let size = next_prime(size.clamp(2, MAX_TABLE_SIZE));
        Maglev { table: fill(members, size), load_percent }
    }

    /// The member for `key`: the table's, or the next in the table that is usable and below its bound.
    pub fn pick(&self, candidates: &[Candidate], key: u64) -> Option<usize> {
        let size = u64::try_from(self.table.len()).ok()?;
        let start = usize::try_from(mix(key).checked_rem(size)?).ok()?;
        let bound = Bound::new(candidates, self.load_percent);
        let mut over: Option<usize> = None;
        for member in self.table.iter().skip(start).chain(self.table.iter().take(start)) {
            let n = usize::try_from(*member).ok()?;
            let Some(candidate) = candidates.get(n).filter(|c| c.share() > 0) else { continue };
            if bound.has_room(candidate) {
                return Some(n);
            }
            over.get_or_insert(n);
        }
        // All that have entries are at their bounds only if those without entries hold the rest of the room.
        over.or_else(|| candidates.iter().position(|c| c.share() > 0))
    }

    /// The table's own member for `key`, whatever its state.
    pub fn owner(&self, key: u64) -> Option<usize> {
        let size = u64::try_from(self.table.len()).ok()?;
        let at = usize::try_from(mix(key).checked_rem(size)?).ok()?;
        usize::try_from(*self.table.get(at)?).ok()
    }
}

/// What each usable member may have under way: its share of all that is, and of the request to come, times the
/// allowance, rounded up.
struct Bound {
    weights: u128,
    active: u128,
    percent: u32,
}

impl Bound {
    fn new(candidates: &[Candidate], percent: u32) -> Self {
        let usable = || candidates.iter().filter(|c| c.share() > 0);
        Bound {
            weights: usable().map(|c| u128::from(c.weight)).sum(),
            active: usable().map(|c| u128::from(c.active)).sum(),
            percent,
        }
    }

    fn has_room(&self, candidate: &Candidate) -> bool {
        if self.percent <= 100 {
            return true;
        }
        let allowed = (self.active + 1) * u128::from(candidate.weight) * u128::from(self.percent);
        // active + 1 <= ceil(allowed / (weights * 100)), which is active * weights * 100 < allowed.
        u128::from(candidate.active) * self.weights * 100 < allowed
    }
}

/// Each member in turn takes the next free entry of its own permutation, heavier ones more often.
fn fill(members: &[(u64, u32)], size: u32) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let heaviest = members.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    let Ok(length) = usize::try_from(size) else { return Vec::new() };
    if heaviest == 0 {
        return Vec::new();
    }
    struct Turn {
        member: u32,
        weight: u64,
        credit: u64,
        at: u64,
        step: u64,
    }
    let size = u64::from(size);
    let mut turns: Vec<Turn> = (0u32..)
        .zip(members)
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(member, (key, weight))| Turn {
            member,
            weight: u64::from(*weight),
            credit: 0,
            at: mix(*key) % size,
            step: mix(key.rotate_left(32)) % (size - 1) + 1,
        })
        .collect();
    // The order must not depend on the file's.
    turns.sort_by_key(|turn| (turn.at, turn.step, turn.member));
    let mut table = vec![FREE; length];
    let mut left = length;
    while left > 0 {
        for turn in &mut turns {
            turn.credit += turn.weight;
            if turn.credit < u64::from(heaviest) {
                continue;
            }
            turn.credit -= u64::from(heaviest);
            // The permutation visits every entry, and one is free: it ends.
            while let Some(entry) = usize::try_from(turn.at).ok().and_then(|at| table.get_mut(at)) {
                turn.at = (turn.at + turn.step) % size;
                if *entry == FREE {
                    *entry = turn.member;
                    left -= 1;
                    break;
                }
            }
            if left == 0 {
                break;
            }
        }
    }
    table
}

/// Whether a number is a prime.
pub fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= u64::from(n)).all(|d| !u64::from(n).is_multiple_of(d))
}

fn next_prime(from: u32) -> u32 {
    (from..=u32::MAX).find(|n| is_prime(*n)).unwrap_or(DEFAULT_TABLE_SIZE)
}
