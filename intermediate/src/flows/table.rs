//! The table: entries in one row, found by the flow's number and by its key. Both indexes have no more than an entry's place,
//! since what they go by stands in the flow's record: a third of them and more is room.

use super::entry::Entry;
use super::left::{Left, LeftFlows};
use super::rows::Rows;
use super::upkeep::Watch;
use super::{ByNumber, HashedKey, NumberHash};
use baton_loader::Plane;
use baton_shared::control::{EndReport, FlowRef};
use baton_shared::record::FlowKey;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Table {
    plane: Arc<Plane>,
    entries: Rows<Entry>,
    by_id: HashTable<Place>,
    by_key: HashTable<Place>,
    numbers: NumberHash,
    /// Ended flows and when they are removed; in order, since all linger equally long.
    pub(super) lingering: VecDeque<(Instant, u64)>,
    /// How they ended.
    ends: ByNumber<EndReport>,
    /// The handoffs that flows were taken back from, until the reports of that come.
    pub(super) leaving: ByNumber<Left>,
    pub(super) left: LeftFlows,
    pub(super) watched: Vec<Watch>,
    /// How often they were looked at.
    pub(super) looks: u64,
}

/// Where among the entries. There are no more of them than slots, whose numbers have 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u32);

impl Place {
    fn new(place: usize) -> Self {
        Place(u32::try_from(place).unwrap_or(u32::MAX))
    }

    fn of(self, entries: &Rows<Entry>) -> Option<&Entry> {
        entries.get(self.index())
    }

    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Table {
    /// An empty one; keys are those of the records of `plane`.
    pub(super) fn new(plane: Arc<Plane>) -> Self {
        Table {
            plane,
            entries: Rows::new(),
            by_id: HashTable::new(),
            by_key: HashTable::new(),
            numbers: NumberHash::default(),
            lingering: VecDeque::new(),
            ends: ByNumber::default(),
            leaving: ByNumber::default(),
            left: LeftFlows::default(),
            watched: Vec::new(),
            looks: 0,
        }
    }

    /// How many flows have an entry.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All of them, in no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Those whose turn it is, of so many turns in which all are.
    pub(super) fn entries_of(&self, turn: usize, turns: usize) -> impl Iterator<Item = &Entry> {
        let places = self.entries.places().div_ceil(turns.max(1));
        let from = turn.saturating_mul(places);
        (from..from.saturating_add(places)).filter_map(|place| self.entries.get(place))
    }

    /// A flow's key.
    pub(super) fn key(&self, entry: &Entry) -> FlowKey {
        self.plane.slots().key(entry.slot)
    }

    /// A flow's number.
    pub(super) fn number(&self, entry: &Entry) -> u64 {
        self.plane.slots().flow_id(entry.slot)
    }

    /// Which flow and handoff.
    pub(super) fn flow(&self, entry: &Entry) -> FlowRef {
        FlowRef { flow_id: self.number(entry), generation: entry.generation }
    }

    /// How a flow ended, if that was told.
    pub(super) fn end(&self, entry: &Entry) -> Option<&EndReport> {
        self.ends.get(&self.number(entry)).filter(|_| entry.ended)
    }

    /// A flow's end is told.
    pub(super) fn set_end(&mut self, report: EndReport) {
        if let Some(entry) = self.get_mut(report.flow.flow_id) {
            entry.ended = true;
            self.ends.insert(report.flow.flow_id, report);
        }
    }

    /// The flow of this handoff, if it is its last.
    pub(super) fn at(&self, flow: FlowRef) -> Option<&Entry> {
        self.get(flow.flow_id).filter(|entry| entry.generation == flow.generation)
    }

    /// The same, to be changed.
    pub(super) fn at_mut(&mut self, flow: FlowRef) -> Option<&mut Entry> {
        self.get_mut(flow.flow_id).filter(|entry| entry.generation == flow.generation)
    }

    /// The flow with this number.
    pub(super) fn get(&self, flow_id: u64) -> Option<&Entry> {
        self.place(flow_id)?.of(&self.entries)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, flow_id: u64) -> Option<&mut Entry> {
        let place = self.place(flow_id)?;
        self.entries.get_mut(place.index())
    }

    fn place(&self, flow_id: u64) -> Option<Place> {
        let is_its =
            |place: &Place| place.of(&self.entries).is_some_and(|entry| self.number(entry) == flow_id);
        self.by_id.find(self.numbers.hash_one(flow_id), is_its).copied()
    }

    /// The flow under this key.
    pub(super) fn under(&self, key: &HashedKey) -> Option<&Entry> {
        let is_its =
            |place: &Place| place.of(&self.entries).is_some_and(|entry| self.key(entry) == *key.key());
        self.by_key.find(key.hash(), is_its)?.of(&self.entries)
    }

    /// A flow whose record is written, with this key, and stays as long as it has an entry. No other may have its number or its key.
    pub(super) fn insert(&mut self, entry: Entry, key: &HashedKey) {
        let flow_id = self.number(&entry);
        let Table { plane, entries, by_id, by_key, numbers, .. } = self;
        let place = Place::new(entries.insert(entry));
        let of = |place: &Place| place.of(entries);
        by_id.insert_unique(numbers.hash_one(flow_id), place, |other| {
            of(other).map_or(0, |entry| numbers.hash_one(plane.slots().flow_id(entry.slot)))
        });
        by_key.insert_unique(key.hash(), place, |other| {
            of(other).map_or(0, |entry| HashedKey::from(plane.slots().key(entry.slot)).hash())
        });
    }

    /// The entry, which is in the table no more. Before its slot is freed.
    pub(super) fn remove(&mut self, flow_id: u64) -> Option<(FlowKey, Entry)> {
        let place = self.place(flow_id)?;
        let key = self.key(place.of(&self.entries)?);
        let hashes = (self.numbers.hash_one(flow_id), HashedKey::from(key).hash());
        for (index, hash) in [(&mut self.by_id, hashes.0), (&mut self.by_key, hashes.1)] {
            if let Ok(found) = index.find_entry(hash, |other| *other == place) {
                found.remove();
            }
        }
        self.ends.remove(&flow_id);
        Some((key, self.entries.remove(place.index())?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

    use super::*;
    use crate::flows::flow_key;
    use baton_loader::{Side, UserspaceConfig};
    use baton_shared::record::FlowRecord;
    use std::collections::HashMap;

    #[test]
    fn an_index_takes_five_bytes_for_each_of_its_places() {
        // A place and a byte of its hash; as docs/benchmark.md adds them up.
        assert_eq!(size_of::<Place>() + 1, 5);
    }

    #[test]
    fn flows_are_found_by_number_and_by_key_whichever_came_and_went_before() {
        let config = UserspaceConfig {
            side: Side::Intermediate,
            uplink: "lo".into(),
            flows: 512,
            addresses: Vec::new(),
        };
        let plane = Arc::new(Plane::open_userspace(&config).unwrap());
        let mut table = Table::new(Arc::clone(&plane));
        let key = |n: u64| {
            let client = format!("203.0.113.{}:{}", n % 7, 1000 + n);
            flow_key(client.parse().unwrap(), "192.0.2.1:80".parse().unwrap())
        };
        let mut known = HashMap::new();
        // Every third goes as soon as a hundred younger ones are there: places and slots are used again and again.
        for n in 0..1000 {
            let slot = plane.slots().allocate().unwrap();
            plane
                .slots()
                .write(slot, &FlowRecord { flow_id: n, key: key(n), state: 2, ..FlowRecord::default() });
            table.insert(Entry::new(slot, 1, n), &key(n).into());
            known.insert(n, slot);
            let gone = n.wrapping_sub(100);
            if gone % 3 != 0
                && let Some(slot) = known.remove(&gone)
            {
                let (under, entry) = table.remove(gone).unwrap();
                assert_eq!((under, entry.slot, entry.started_ms), (key(gone), slot, gone));
                plane.slots().free(slot);
            }
        }
        assert_eq!((table.len(), table.entries().count()), (known.len(), known.len()));
        let in_turn = |turns| (0..turns).map(|turn| table.entries_of(turn, turns).count()).sum::<usize>();
        assert_eq!([1, 7, 100].map(in_turn), [known.len(); 3], "each comes once");
        for n in 0..1000 {
            let slot = known.get(&n).copied();
            assert_eq!(table.get(n).map(|entry| entry.slot), slot, "flow {n}");
            assert_eq!(table.get_mut(n).map(|entry| entry.started_ms), slot.map(|_| n));
            assert_eq!(table.under(&key(n).into()).map(|entry| table.number(entry)), slot.map(|_| n));
            assert_eq!(table.remove(n).is_some(), slot.is_some());
        }
        assert_eq!(table.len(), 0);
    }
}
