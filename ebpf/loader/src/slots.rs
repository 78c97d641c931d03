//! The flow records, mapped into this process, and which of them are in use.

use crate::sys::MappedSlots;
use baton_shared::record::{FlowRecord, FlowState};
use std::collections::VecDeque;
use std::mem::offset_of;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The array of flow records. Reads and writes are plain memory accesses, no system calls.
#[derive(Debug)]
pub struct Slots {
    mapped: MappedSlots,
    /// The slots not in use, the one freed longest ago first: a program that still holds the number of a freed
    /// slot finds it `Free` for as long as possible.
    free: Mutex<VecDeque<u32>>,
}

impl Slots {
    pub(crate) fn new(mapped: MappedSlots) -> Self {
        let slots = Slots { mapped, free: Mutex::new(VecDeque::new()) };
        let free = (0..slots.capacity()).filter(|s| slots.state(*s) == FlowState::Free).collect();
        *slots.free_list() = free;
        slots
    }

    /// The records' memory, for whoever does the programs' part.
    pub(crate) fn memory(&self) -> &MappedSlots {
        &self.mapped
    }

    fn free_list(&self) -> MutexGuard<'_, VecDeque<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many flows the plane can hold.
    pub fn capacity(&self) -> u32 {
        self.mapped.count()
    }

    /// How many slots are allocated.
    pub fn in_use(&self) -> u32 {
        self.capacity() - u32::try_from(self.free_list().len()).unwrap_or(u32::MAX)
    }

    /// A slot for a new flow, its state `Free`; the one that was freed longest ago.
    pub fn allocate(&self) -> Option<u32> {
        self.free_list().pop_front()
    }

    /// Gives a slot back: its state becomes `Free` first. Remove its key from the plane before.
    pub fn free(&self, slot: u32) {
        self.mapped.write(slot, &FlowRecord::default(), true);
        self.free_list().push_back(slot);
    }

    /// A copy of the record as it stands. The programs may write to it meanwhile: each aligned 8 bytes are of
    /// one moment, the whole need not be.
    ///
    /// # Panics
    /// Here and below, if `slot` is not below [`Slots::capacity`].
    pub fn read(&self, slot: u32) -> FlowRecord {
        self.mapped.read(slot)
    }

    /// Stores a record, its state last (release).
    ///
    /// The hold accounts, notes and statistics (from [`FlowRecord::diverted`] on) are stored only while the
    /// slot's state is `Free`; after that they are the programs' and a write here leaves them as they are.
    pub fn write(&self, slot: u32, record: &FlowRecord) {
        let fresh = self.state(slot) == FlowState::Free;
        self.mapped.write(slot, record, fresh);
    }

    /// Stores a whole record, what the programs write included: what they write at this very moment is lost.
    pub(crate) fn overwrite(&self, slot: u32, record: &FlowRecord) {
        self.mapped.write(slot, record, true);
    }

    /// The state as it stands.
    pub fn state(&self, slot: u32) -> FlowState {
        FlowState::from_raw(self.mapped.field(slot, offset_of!(FlowRecord, state)).load(Ordering::Acquire))
    }

    /// Stores the state (release).
    pub fn set_state(&self, slot: u32, state: FlowState) {
        self.mapped.field(slot, offset_of!(FlowRecord, state)).store(state as u32, Ordering::Release);
    }

    /// Changes the state if it is still `from` (the intermediate's program makes `Ended` to `Superseded` by
    /// itself); whether it was.
    pub fn change_state(&self, slot: u32, from: FlowState, to: FlowState) -> bool {
        self.mapped
            .field(slot, offset_of!(FlowRecord, state))
            .compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// `NOTE_*` as they stand: what a scan over many flows looks at.
    pub fn note_flags(&self, slot: u32) -> u32 {
        self.mapped.field(slot, offset_of!(FlowRecord, note_flags)).load(Ordering::Relaxed)
    }

    /// Low half of [`FlowRecord::last_seen_ns`]: it moves with every packet of the flow that a program counts.
    pub fn last_seen_low(&self, slot: u32) -> u32 {
        let low = if cfg!(target_endian = "big") { 4 } else { 0 };
        self.mapped.field(slot, offset_of!(FlowRecord, last_seen_ns) + low).load(Ordering::Relaxed)
    }

    /// The hold accounts as they stand: [`FlowRecord::diverted`] and [`FlowRecord::released`].
    pub fn accounts(&self, slot: u32) -> (u32, u32) {
        let load = |offset| self.mapped.field(slot, offset).load(Ordering::Relaxed);
        (load(offset_of!(FlowRecord, diverted)), load(offset_of!(FlowRecord, released)))
    }

    /// Stores [`FlowRecord::note_ack`] and [`FlowRecord::note_seq_end`], while the programs do not: what the
    /// intermediate knows of the client before its first translated packet.
    pub fn set_notes(&self, slot: u32, note_ack: u32, note_seq_end: u32, note_window: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, note_window)).store(note_window, Ordering::Relaxed);
        self.mapped.field(slot, offset_of!(FlowRecord, note_ack)).store(note_ack, Ordering::Relaxed);
        self.mapped.field(slot, offset_of!(FlowRecord, note_seq_end)).store(note_seq_end, Ordering::Relaxed);
    }

    /// Stores [`FlowRecord::leg_mtu`], bytes.
    pub fn set_leg_mtu(&self, slot: u32, bytes: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, leg_mtu)).store(bytes, Ordering::Relaxed);
    }

    /// Stores `FLAG_*`.
    pub fn set_flags(&self, slot: u32, flags: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, flags)).store(flags, Ordering::Release);
    }

    /// Stores [`FlowRecord::read_from`] (release): what was done by the number before is done.
    pub fn set_read_from(&self, slot: u32, read_from: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, read_from)).store(read_from, Ordering::Release);
    }

    /// Stores [`FlowRecord::requests`] (release).
    pub fn set_requests(&self, slot: u32, requests: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, requests)).store(requests, Ordering::Release);
    }

    /// Adds payload bytes to [`FlowRecord::released`] that were diverted and will not come back.
    pub fn add_released(&self, slot: u32, bytes: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, released)).fetch_add(bytes, Ordering::AcqRel);
    }

    /// Reconciles the hold accounts: payload bytes come back from the hold TUN, as [`FlowRecord::released`].
    pub fn set_released(&self, slot: u32, released: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, released)).store(released, Ordering::Release);
    }
}
