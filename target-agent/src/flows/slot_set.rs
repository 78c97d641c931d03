//! Some of the slots, by a bit for each: to find the few of interest among many without touching the others.

/// So many slots are in one word.
const BITS: u32 = u64::BITS;

/// A set of slot numbers below a bound.
#[derive(Debug, Default)]
pub(crate) struct SlotSet {
    words: Vec<u64>,
    /// How many members it has.
    members: u32,
}

/// Where a walk round all members, or the first so many of them, is: it begins at some number, and goes on from the smallest
/// behind the largest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    start: u32,
    /// The next number to look at; `None` when it is over.
    next: Option<u32>,
    /// The largest is behind it.
    wrapped: bool,
    /// By how many members it may still come.
    left: u32,
}

impl Round {
    pub(crate) fn new(start: u32) -> Self {
        Self::of(start, u32::MAX)
    }

    /// By no more than so many.
    pub(crate) fn of(start: u32, most: u32) -> Self {
        Round { start, next: Some(start), wrapped: false, left: most }
    }

    /// Where the next walk begins, so that it comes first by those that this one has not come by.
    pub(crate) fn goes_on_from(&self) -> u32 {
        self.next.unwrap_or(self.start)
    }
}

impl SlotSet {
    /// An empty one, for the numbers below `slots`.
    pub(crate) fn new(slots: usize) -> Self {
        SlotSet { words: vec![0; slots.div_ceil(64)], members: 0 }
    }

    fn word(&mut self, slot: u32) -> Option<&mut u64> {
        self.words.get_mut(usize::try_from(slot / BITS).ok()?)
    }

    /// A number at the bound or above it is not taken in.
    pub(crate) fn insert(&mut self, slot: u32) {
        let bit = 1 << (slot % BITS);
        if let Some(word) = self.word(slot)
            && *word & bit == 0
        {
            *word |= bit;
            self.members += 1;
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        let bit = 1 << (slot % BITS);
        if let Some(word) = self.word(slot)
            && *word & bit != 0
        {
            *word &= !bit;
            self.members -= 1;
        }
    }

    pub(crate) fn members(&self) -> u32 {
        self.members
    }

    pub(crate) fn contains(&self, slot: u32) -> bool {
        let word = usize::try_from(slot / BITS).ok().and_then(|at| self.words.get(at));
        word.is_some_and(|word| word & 1 << (slot % BITS) != 0)
    }

    /// The next member of a walk; each comes once, but for those that come or go meanwhile.
    pub(crate) fn next(&self, round: &mut Round) -> Option<u32> {
        let from = round.next?;
        round.left = round.left.checked_sub(1)?;
        let mut found = self.from(from);
        if found.is_none() && !round.wrapped {
            round.wrapped = true;
            found = self.from(0);
        }
        let found = found.filter(|slot| !round.wrapped || *slot < round.start);
        round.next = found.and_then(|slot| slot.checked_add(1));
        found
    }

    /// The smallest member that is not below `slot`.
    fn from(&self, slot: u32) -> Option<u32> {
        let first = usize::try_from(slot / BITS).ok()?;
        let mut mask = u64::MAX << (slot % BITS);
        for (at, word) in self.words.iter().enumerate().skip(first) {
            let word = word & std::mem::replace(&mut mask, u64::MAX);
            if word != 0 {
                return Some(u32::try_from(at).ok()? * BITS + word.trailing_zeros());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_in_order_over_all_words() {
        let mut set = SlotSet::new(200);
        let members = [0, 1, 63, 64, 65, 127, 128, 199];
        for slot in members {
            set.insert(slot);
        }
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(slot) = set.from(at) {
            found.push(slot);
            at = slot + 1;
        }
        assert_eq!(found, members);
        assert!((0..300).all(|slot| set.contains(slot) == members.contains(&slot)));
        set.remove(64);
        set.remove(199);
        set.remove(199);
        assert_eq!(set.members(), 6);
        assert_eq!((set.from(64), set.from(129), set.from(100_000)), (Some(65), None, None));
        set.insert(100_000);
        set.remove(100_000);
        assert_eq!(set.members(), 6);
        assert_eq!(SlotSet::new(0).from(0), None);
    }

    #[test]
    fn a_walk_from_anywhere_comes_by_each_member_once() {
        let mut set = SlotSet::new(200);
        let members = [3, 64, 65, 199];
        for slot in members.into_iter().chain(members) {
            set.insert(slot);
        }
        assert_eq!(set.members(), 4);
        for start in 0..=201 {
            let mut round = Round::new(start);
            let walk: Vec<u32> = std::iter::from_fn(|| set.next(&mut round)).collect();
            let first = members.iter().filter(|slot| **slot >= start);
            let expected: Vec<u32> =
                first.chain(members.iter().filter(|slot| **slot < start)).copied().collect();
            assert_eq!(walk, expected, "from {start}");
            assert_eq!(set.next(&mut round), None, "it is over");
        }
        let mut round = Round::new(4);
        assert_eq!(set.next(&mut round), Some(64));
        set.remove(65);
        assert_eq!(
            (set.next(&mut round), set.next(&mut round), set.next(&mut round)),
            (Some(199), Some(3), None)
        );
        assert_eq!(SlotSet::new(0).next(&mut Round::new(0)), None);
    }

    #[test]
    fn walks_by_a_few_at_a_time_come_by_all_in_their_turn() {
        let mut set = SlotSet::new(200);
        let members = [3, 64, 65, 130, 199];
        members.into_iter().for_each(|slot| set.insert(slot));
        let mut from = 100;
        let mut walk = |set: &SlotSet, most| {
            let mut round = Round::of(from, most);
            let found: Vec<u32> = std::iter::from_fn(|| set.next(&mut round)).collect();
            from = round.goes_on_from();
            found
        };
        assert_eq!(walk(&set, 2), [130, 199]);
        assert_eq!(walk(&set, 2), [3, 64]);
        assert_eq!(walk(&set, 2), [65, 130], "round the largest");
        assert_eq!(walk(&set, 0), [0; 0]);
        assert_eq!(walk(&set, 9), [199, 3, 64, 65, 130], "each once");
        set.remove(199);
        assert_eq!(walk(&set, 1), [3]);
    }
}
