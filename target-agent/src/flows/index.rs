//! Slots by what their flows are called. An entry is small, a few bits of the name's hash and the slot: whether that is the one
//! sought its flow says, which whoever seeks it looks at next anyway. So the index of many flows stays near the processor.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// What is kept of a hash.
pub(crate) type Short = u32;

/// Of a whole hash.
pub(crate) fn short(hash: u64) -> Short {
    Short::try_from(hash >> 32).unwrap_or_default()
}

/// A hash for the table, which takes the place from its low bits and a tag from its high ones.
fn spread(short: Short) -> u64 {
    u64::from(short) << 32 | u64::from(short)
}

/// See the module. `is` says whether a slot's flow has the name in question.
#[derive(Debug, Default)]
pub(crate) struct Index(HashTable<(Short, u32)>);

impl Index {
    /// The slot of the flow of that name.
    pub(crate) fn find(&self, hash: Short, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.0.find(spread(hash), |(of, slot)| *of == hash && is(*slot)).map(|(_, slot)| *slot)
    }

    /// From now on this slot's flow is the one of that name.
    pub(crate) fn insert(&mut self, hash: Short, slot: u32, is: impl Fn(u32) -> bool) {
        let is = |(of, other): &(Short, u32)| *of == hash && (*other == slot || is(*other));
        match self.0.entry(spread(hash), is, |(of, _)| spread(*of)) {
            Entry::Occupied(mut former) => *former.get_mut() = (hash, slot),
            Entry::Vacant(place) => {
                place.insert((hash, slot));
            }
        }
    }

    /// The slot's flow goes, or gives up that name; nothing if another one has it by now.
    pub(crate) fn remove(&mut self, hash: Short, slot: u32) {
        if let Ok(entry) = self.0.find_entry(spread(hash), |entry| *entry == (hash, slot)) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn each_name_leads_to_the_slot_that_had_it_last_however_many_hashes_are_alike() {
        // Names are numbers, of which a hundred each have one hash.
        let hash = |name: u32| name / 100;
        let (mut index, mut names, mut naive) = (Index::default(), HashMap::new(), HashMap::new());
        let mut seed = 1u32;
        for step in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (name, slot) = (seed >> 16 & 0x3ff, seed >> 8 & 0x1ff);
            // A slot that has a name gives it up first, as one does whose flow goes.
            if let Some(former) = names.remove(&slot) {
                index.remove(hash(former), slot);
                naive.retain(|of, at| (*of, *at) != (former, slot));
            } else {
                index.insert(hash(name), slot, |other| names.get(&other) == Some(&name));
                names.insert(slot, name);
                naive.insert(name, slot);
            }
            if step % 100 == 0 {
                for name in 0..0x400 {
                    let found = index.find(hash(name), |slot| names.get(&slot) == Some(&name));
                    assert_eq!(found, naive.get(&name).copied(), "{name}");
                }
            }
        }
    }
}
