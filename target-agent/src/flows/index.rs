//! Slots by what their flows are called. An entry is small, a few bits of the name's hash and the slot: whether that is the one
//! sought its flow says, which whoever seeks it looks at next anyway. So the index of many flows stays near the processor.

use baton_shared::record::FlowKey;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

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

/// A flow's key with its hash, worked out once for each that comes. Clients choose keys, so the hash has a key of its own that
/// nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HashedKey {
    key: FlowKey,
    hash: Short,
}

impl HashedKey {
    /// The key alone.
    pub(crate) fn key(&self) -> &FlowKey {
        &self.key
    }

    /// The hash alone.
    pub(crate) fn hash(&self) -> Short {
        self.hash
    }
}

impl From<FlowKey> for HashedKey {
    fn from(key: FlowKey) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = match of_ipv4(&key) {
            Some(number) => KEYS.hash_one(number),
            None => KEYS.hash_one(key),
        };
        HashedKey { key, hash: short(hash) }
    }
}

/// All that keys of IPv4 differ by, as one number: hashing it takes half the time.
fn of_ipv4(key: &FlowKey) -> Option<u128> {
    let FlowKey { remote, local, remote_port, local_port } = key;
    let words = [remote.v4_word(), local.v4_word(), u32::from(remote_port.0) << 16 | u32::from(local_port.0)];
    let number = words.iter().fold(0, |number, word| number << 32 | u128::from(*word));
    (remote.is_v4() && local.is_v4()).then_some(number)
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
    use crate::serve::handoff::key;
    use crate::serve::packet::Ends;
    use std::collections::{HashMap, HashSet};
    use std::net::{IpAddr, SocketAddr};

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

    #[test]
    fn keys_that_differ_have_hashes_of_their_own() {
        let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let (v4, other) = (IpAddr::from([203, 0, 113, 1]), IpAddr::from([203, 0, 113, 2]));
        let vip = IpAddr::from([192, 0, 2, 1]);
        let (mut hashes, mut keys) = (HashSet::new(), 0);
        for (client, vip) in [(v4, vip), (other, vip), (vip, v4), (v6(1), v6(2)), (v6(2), v6(1))] {
            for (port, listener) in (1000..1100).map(|port| (port, 80)).chain([(80, 1000), (80, 80)]) {
                let at = |ip, port| SocketAddr::new(ip, port);
                let ends = Ends::new(at(client, port), at(vip, listener)).unwrap();
                assert_eq!(HashedKey::from(key(ends)), HashedKey::from(key(ends)));
                hashes.insert(HashedKey::from(key(ends)).hash());
                keys += 1;
            }
        }
        // Two of so few are alike once in thirty thousand runs.
        assert!(hashes.len() + 1 >= keys);
    }
}
