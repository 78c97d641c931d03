//! The plane in user space: the programs' part done by whoever reads the TUN.

use crate::sys::{self, MappedSlots};
use crate::{InsertError, Means, Plane, PlaneError, Side, Slots, UserspaceConfig};
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, FlowRecord};
use baton_shared::translate::fragments::{FragmentKey, PACKETS_MAX};
use baton_shared::translate::{Action, Direction};
use baton_userspace::{Carrier, Fate, Flows, Handled, Lead, Steering, carry};
use lru::LruCache;
use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many packets' first fragments are remembered.
const FRAGMENTED: NonZeroUsize = match NonZeroUsize::new(PACKETS_MAX as usize) {
    Some(packets) => packets,
    None => NonZeroUsize::MIN,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Userspace {
    config: UserspaceConfig,
    slots: Slots,
    flows: RwLock<HashMap<FlowKey, u32>>,
    counters: [AtomicU64; PacketCounter::CAPACITY as usize],
    fragments: Mutex<LruCache<FragmentKey, u64>>,
    steering: Mutex<Option<Steering>>,
    ruling: AtomicU32,
}

impl Userspace {
    pub(crate) fn open(config: &UserspaceConfig) -> Result<Plane, PlaneError> {
        let flows = config.flows;
        if flows == 0 {
            return Err(PlaneError::NoFlows);
        }
        sys::device_index(&config.uplink)
            .map_err(|source| PlaneError::NoDevice { name: config.uplink.clone(), source })?;
        let slots = MappedSlots::anonymous(flows).map_err(|source| PlaneError::Memory { flows, source })?;
        let userspace = Userspace {
            config: config.clone(),
            slots: Slots::new(slots),
            flows: RwLock::default(),
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            fragments: Mutex::new(LruCache::new(FRAGMENTED)),
            steering: Mutex::default(),
            ruling: AtomicU32::new(0),
        };
        Ok(Plane(Means::Userspace(Arc::new(userspace))))
    }

    /// Which packets this side translates.
    fn direction(&self) -> Direction {
        match self.config.side {
            Side::Intermediate => Direction::FromClient,
            Side::Target => Direction::ToClient,
        }
    }

    pub(crate) fn lead_through(&self, tun: &str) -> Result<(), PlaneError> {
        let tun_ifindex =
            sys::device_index(tun).map_err(|source| PlaneError::NoDevice { name: tun.to_owned(), source })?;
        let lead = Lead {
            direction: self.direction(),
            uplink: self.config.uplink.clone(),
            tun: tun.to_owned(),
            tun_ifindex,
            addresses: self.config.addresses.clone(),
        };
        let mut steering = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        // What an earlier call set up goes first: it would take ours with it.
        *steering = None;
        *steering = Some(Steering::begin(&lead)?);
        Ok(())
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    fn table(&self) -> RwLockReadGuard<'_, HashMap<FlowKey, u32>> {
        self.flows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn fragments(&self) -> MutexGuard<'_, LruCache<FragmentKey, u64>> {
        self.fragments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, HashMap<FlowKey, u32>> {
        self.flows.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, key: &FlowKey, slot: u32) -> Result<(), InsertError> {
        self.put(key, slot, false)
    }

    pub(crate) fn replace(&self, key: &FlowKey, slot: u32) -> Result<(), InsertError> {
        self.put(key, slot, true)
    }

    fn put(&self, key: &FlowKey, slot: u32, replaces: bool) -> Result<(), InsertError> {
        let mut table = self.table_mut();
        let is_there = table.contains_key(key);
        if is_there && !replaces {
            return Err(InsertError::Exists);
        }
        if !is_there && table.len() >= self.config.flows as usize {
            return Err(InsertError::Full);
        }
        table.insert(*key, slot);
        Ok(())
    }

    pub(crate) fn remove(&self, key: &FlowKey) -> bool {
        self.table_mut().remove(key).is_some()
    }

    pub(crate) fn lookup(&self, key: &FlowKey) -> Option<u32> {
        self.table().get(key).copied()
    }

    pub(crate) fn keys(&self) -> Vec<FlowKey> {
        self.table().keys().copied().collect()
    }

    pub(crate) fn set_ruling(&self, ruling: u32) {
        self.ruling.store(ruling, Ordering::Release);
    }

    pub(crate) fn counters(&self) -> Vec<(PacketCounter, u64)> {
        let count = |c: &PacketCounter| {
            let counter = self.counters.get(c.code() as usize);
            (*c, counter.map_or(0, |n| n.load(Ordering::Relaxed)))
        };
        PacketCounter::ALL.iter().map(count).collect()
    }

    fn fate(&self, packet: &mut [u8], marked: bool) -> Fate {
        let judging = Judging { plane: self, copy: RefCell::default() };
        match carry(&judging, self.direction(), packet, marked, sys::monotonic_ns()) {
            Action::Pass | Action::Translate => judging.copy.take().map_or(Fate::Write, Fate::WriteAndShow),
            Action::Divert => Fate::Keep,
            Action::Drop => Fate::Drop,
        }
    }
}

impl Carrier for Userspace {
    fn on_received(&self, packet: &mut [u8]) -> Fate {
        self.fate(packet, false)
    }

    fn on_written(&self, packet: &mut [u8]) -> Fate {
        self.count(PacketCounter::Reinjected.code());
        match self.config.side {
            // Released from the hold queue: what a marked packet is to the program.
            Side::Intermediate => self.fate(packet, true),
            // In a client's name, to the host's own server.
            Side::Target => Fate::Write,
        }
    }
}

/// One packet in hand.
struct Judging<'a> {
    plane: &'a Userspace,
    copy: RefCell<Option<Vec<u8>>>,
}

impl Flows for Judging<'_> {
    fn find(&self, key: &FlowKey) -> Option<(u32, FlowRecord)> {
        let slot = self.plane.lookup(key)?;
        let record = self.plane.slots.read(slot);
        // As with the programs: the slot may be freed meanwhile, and be another flow's.
        record.belongs_under(key).then_some((slot, record))
    }

    fn book(&self, slot: u32, handled: &Handled<'_>) {
        let memory = self.plane.slots.memory();
        let word = |offset| memory.field(slot, offset);
        let wide = |offset| memory.wide_field(slot, offset);
        let (account, copy) = (handled.account, handled.record);
        wide(offset_of!(FlowRecord, last_seen_ns)).store(handled.now_ns, Ordering::Relaxed);
        if account.diverted != 0 {
            word(offset_of!(FlowRecord, diverted)).fetch_add(account.diverted, Ordering::Relaxed);
        }
        if account.released != 0 {
            word(offset_of!(FlowRecord, released)).fetch_add(account.released, Ordering::Relaxed);
        }
        let read_from = word(offset_of!(FlowRecord, read_from));
        if account.plain != 0 && read_from.load(Ordering::Acquire) == copy.read_from {
            word(offset_of!(FlowRecord, requests)).store(account.requests, Ordering::Release);
            read_from.store(account.read_from, Ordering::Release);
        }
        if account.state != 0 {
            let (from, to) = (copy.state, account.state);
            // Only while the daemon has not freed the slot meanwhile.
            let state = word(offset_of!(FlowRecord, state));
            let _ = state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        }
        if account.noted != 0 {
            // What is news, and nothing else: since the copy was made another thread may have noted more.
            for (offset, value, before) in [
                (offset_of!(FlowRecord, note_ack), account.note_ack, copy.note_ack),
                (offset_of!(FlowRecord, note_window), account.note_window, copy.note_window),
                (offset_of!(FlowRecord, note_tsval), account.note_tsval, copy.note_tsval),
                (offset_of!(FlowRecord, note_seq_end), account.note_seq_end, copy.note_seq_end),
            ] {
                if value != before {
                    word(offset).store(value, Ordering::Relaxed);
                }
            }
            word(offset_of!(FlowRecord, note_flags)).fetch_or(account.note_flags, Ordering::Relaxed);
        }
        if let Some(payload) = handled.translated {
            wide(offset_of!(FlowRecord, packets)).fetch_add(1, Ordering::Relaxed);
            wide(offset_of!(FlowRecord, bytes)).fetch_add(payload.into(), Ordering::Relaxed);
        }
    }

    fn ruling(&self) -> u32 {
        self.plane.ruling.load(Ordering::Acquire)
    }

    fn copy(&self, packet: &[u8]) {
        self.copy.replace(Some(packet.to_vec()));
    }

    fn dropped_first(&self, key: &FragmentKey) -> Option<u64> {
        self.plane.fragments().get(key).copied()
    }

    fn remember_first(&self, key: &FragmentKey, dropped_ns: Option<u64>) {
        let mut fragments = self.plane.fragments();
        match dropped_ns {
            Some(then) => drop(fragments.put(*key, then)),
            None => drop(fragments.pop(key)),
        }
    }

    fn count(&self, code: u32) {
        self.plane.count(code);
    }
}

impl Userspace {
    fn count(&self, code: u32) {
        if let Some(counter) = self.counters.get(code as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}
