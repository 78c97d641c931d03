//! Some of the slots, by a bit for each: to find the few of interest among many without touching the others.

/// So many slots are in one word.
const BITS: u32 = u64::BITS;

/// A set of slot numbers below a bound.
#[derive(Debug, Default)]
pub(crate) struct SlotSet {
    words: Vec<u64>,
}

impl SlotSet {
    /// An empty one, for the numbers below `slots`.
    pub(crate) fn new(slots: usize) -> Self {
        SlotSet { words: vec![0; slots.div_ceil(64)] }
    }

    fn word(&mut self, slot: u32) -> Option<&mut u64> {
        self.words.get_mut(usize::try_from(slot / BITS).ok()?)
    }

    /// A number at the bound or above it is not taken in.
    pub(crate) fn insert(&mut self, slot: u32) {
        if let Some(word) = self.word(slot) {
            *word |= 1 << (slot % BITS);
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some(word) = self.word(slot) {
            *word &= !(1 << (slot % BITS));
        }
    }

    /// The smallest member that is not below `slot`.
    pub(crate) fn from(&self, slot: u32) -> Option<u32> {
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
        set.remove(64);
        set.remove(199);
        assert_eq!((set.from(64), set.from(129), set.from(100_000)), (Some(65), None, None));
        set.insert(100_000);
        set.remove(100_000);
        assert_eq!(SlotSet::new(0).from(0), None);
    }
}
