//! The flow records, mapped into this process, and which of them are in use.

use crate::sys::MappedSlots;
use baton_shared::record::former::{Missed, Notes};
use baton_shared::record::{FlowKey, FlowRecord, FlowState};
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

    /// A slot for a new flow, its state `Free`, so that the next [`Slots::write`] stores all of its record; the one that was
    /// freed longest ago.
    pub fn allocate(&self) -> Option<u32> {
        let slot = self.free_list().pop_front()?;
        // A program that had the record in hand as it was freed may have written to it since.
        self.set_state(slot, FlowState::Free);
        Some(slot)
    }

    /// Gives a slot back: its state becomes `Free` first. Remove its key from the plane before.
    pub fn free(&self, slot: u32) {
        self.set_state(slot, FlowState::Free);
        // Not before the state.
        std::sync::atomic::fence(Ordering::SeqCst);
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

    /// The record's [`FlowRecord::flow_id`] alone.
    pub fn flow_id(&self, slot: u32) -> u64 {
        self.mapped.wide_field(slot, offset_of!(FlowRecord, flow_id)).load(Ordering::Relaxed)
    }

    /// The record's key alone.
    pub fn key(&self, slot: u32) -> FlowKey {
        let at = |word: usize| offset_of!(FlowRecord, key) + word * size_of::<u32>();
        let words: [u32; size_of::<FlowKey>() / size_of::<u32>()] =
            std::array::from_fn(|word| self.mapped.field(slot, at(word)).load(Ordering::Relaxed));
        zerocopy::transmute!(words)
    }

    /// Stores a record, its state last (release).
    ///
    /// The hold accounts, notes and statistics (from [`FlowRecord::diverted`] on) are stored only while the
    /// slot's state is `Free`; after that they are the programs' and a write here leaves them as they are.
    pub fn write(&self, slot: u32, record: &FlowRecord) {
        let fresh = self.state(slot) == FlowState::Free;
        self.mapped.write(slot, record, fresh);
    }

    /// Stores a whole record, what the programs write included: for one that no attached program has written to. It undoes what
    /// one writes at the same time.
    pub(crate) fn overwrite(&self, slot: u32, record: &FlowRecord) {
        self.mapped.write(slot, record, true);
    }

    /// Brings in what a former version's programs wrote after the record was copied. Nothing that this version's programs
    /// write at the same time is undone; of the notes, theirs stand.
    pub(crate) fn catch_up(&self, slot: u32, missed: &Missed) {
        let word = |offset| self.mapped.field(slot, offset);
        let wide = |offset| self.mapped.wide_field(slot, offset);
        word(offset_of!(FlowRecord, diverted)).fetch_add(missed.diverted, Ordering::Relaxed);
        word(offset_of!(FlowRecord, released)).fetch_add(missed.released, Ordering::Relaxed);
        wide(offset_of!(FlowRecord, packets)).fetch_add(missed.packets, Ordering::Relaxed);
        wide(offset_of!(FlowRecord, bytes)).fetch_add(missed.bytes, Ordering::Relaxed);
        wide(offset_of!(FlowRecord, last_seen_ns)).fetch_max(missed.last_seen_ns, Ordering::Relaxed);
        word(offset_of!(FlowRecord, note_flags)).fetch_or(missed.note_flags, Ordering::Relaxed);
        if let Some((from, to)) = missed.notes.filter(|(from, _)| Notes::of(&self.read(slot)) == *from) {
            for (offset, from, to) in [
                (offset_of!(FlowRecord, note_ack), from.ack, to.ack),
                (offset_of!(FlowRecord, note_window), from.window, to.window),
                (offset_of!(FlowRecord, note_tsval), from.tsval, to.tsval),
                (offset_of!(FlowRecord, note_seq_end), from.seq_end, to.seq_end),
            ] {
                // One that a program has written since the look above stays.
                let _ = word(offset).compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        if let Some((from, to)) = missed.state {
            self.change_state(slot, from, to);
        }
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

    /// [`FlowRecord::last_seen_ns`] alone: what a scan over many flows looks at.
    pub fn last_seen_ns(&self, slot: u32) -> u64 {
        self.mapped.wide_field(slot, offset_of!(FlowRecord, last_seen_ns)).load(Ordering::Relaxed)
    }

    /// [`FlowRecord::bytes`] alone.
    pub fn bytes(&self, slot: u32) -> u64 {
        self.mapped.wide_field(slot, offset_of!(FlowRecord, bytes)).load(Ordering::Relaxed)
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

    /// Stores the notes of `record` while the programs do not: what the intermediate knows of the client before its first
    /// translated packet.
    pub fn set_notes(&self, slot: u32, record: &FlowRecord) {
        for (offset, value) in [
            (offset_of!(FlowRecord, note_window), record.note_window),
            (offset_of!(FlowRecord, note_ack), record.note_ack),
            (offset_of!(FlowRecord, note_seq_end), record.note_seq_end),
            (offset_of!(FlowRecord, note_tsval), record.note_tsval),
        ] {
            self.mapped.field(slot, offset).store(value, Ordering::Relaxed);
        }
    }

    /// [`FlowRecord::leg_mtu`], bytes, as it stands.
    pub fn leg_mtu(&self, slot: u32) -> u32 {
        self.mapped.field(slot, offset_of!(FlowRecord, leg_mtu)).load(Ordering::Relaxed)
    }

    /// Stores [`FlowRecord::leg_mtu`], bytes.
    pub fn set_leg_mtu(&self, slot: u32, bytes: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, leg_mtu)).store(bytes, Ordering::Relaxed);
    }

    /// Clears some `FLAG_*` and then sets some (release).
    pub fn change_flags(&self, slot: u32, clear: u32, set: u32) {
        let flags = self.mapped.field(slot, offset_of!(FlowRecord, flags));
        // Never an error: there is always a next value.
        let _ = flags.fetch_update(Ordering::Release, Ordering::Relaxed, |flags| Some(flags & !clear | set));
    }

    /// [`FlowRecord::read_from`] as it stands.
    pub fn read_from(&self, slot: u32) -> u32 {
        self.mapped.field(slot, offset_of!(FlowRecord, read_from)).load(Ordering::Acquire)
    }

    /// Stores [`FlowRecord::read_from`] (release): what was done by the number before is done.
    pub fn set_read_from(&self, slot: u32, read_from: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, read_from)).store(read_from, Ordering::Release);
    }

    /// Stores [`FlowRecord::requests`] (release).
    pub fn set_requests(&self, slot: u32, requests: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, requests)).store(requests, Ordering::Release);
    }

    /// Stores [`FlowRecord::ruling`] (release): by which ruling an intermediate judged the flow's last request; 0: what follows
    /// is read.
    pub fn set_ruling(&self, slot: u32, ruling: u32) {
        self.mapped.field(slot, offset_of!(FlowRecord, note_flags)).store(ruling, Ordering::Release);
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

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::record::former::missed;
    use baton_shared::record::{NOTE_FIN, NOTE_RST};
    use std::sync::atomic::AtomicBool;

    fn all(slots: &Slots, record: &FlowRecord) {
        for slot in 0..slots.capacity() {
            slots.write(slot, record);
        }
    }

    #[test]
    fn what_a_program_writes_to_a_freed_record_is_not_the_next_flows() {
        let slots = Slots::new(MappedSlots::anonymous(1).expect("memory"));
        let slot = slots.allocate().expect("there is one");
        slots.write(slot, &FlowRecord { state: FlowState::Ended as u32, ..FlowRecord::default() });
        slots.free(slot);
        // It saw the flow ended, and a SYN.
        slots.set_state(slot, FlowState::Superseded);
        slots.add_released(slot, 5);
        assert_eq!(slots.allocate(), Some(slot));
        let next =
            FlowRecord { state: FlowState::Frozen as u32, diverted: 7, note_ack: 9, ..FlowRecord::default() };
        slots.write(slot, &next);
        assert_eq!(slots.read(slot), next);
    }

    #[test]
    fn a_change_of_flags_leaves_all_others_and_the_rest_of_the_record_as_they_are() {
        let slots = Slots::new(MappedSlots::anonymous(1).expect("memory"));
        let record =
            FlowRecord { state: 2, flags: 0b1011, read_from: 5, requests: 7, ..FlowRecord::default() };
        slots.write(0, &record);
        slots.change_flags(0, 0b0001, 0b0100);
        assert_eq!(slots.read(0), FlowRecord { flags: 0b1110, ..record });
        slots.change_flags(0, 0b1000, 0b1000);
        assert_eq!(slots.read(0).flags, 0b1110, "set is what is both cleared and set");
    }

    #[test]
    fn a_freed_record_is_free_before_anything_of_it_is_gone() {
        let slots = Slots::new(MappedSlots::anonymous(20_000).expect("memory"));
        let state = FlowState::Committed as u32;
        all(&slots, &FlowRecord { state, flow_id: 1, ..FlowRecord::default() });
        std::thread::scope(|scope| {
            scope.spawn(|| (0..slots.capacity()).for_each(|slot| slots.free(slot)));
            for slot in 0..slots.capacity() {
                let flow_id = slots.mapped.wide_field(slot, offset_of!(FlowRecord, flow_id));
                while flow_id.load(Ordering::Acquire) != 0 {
                    std::hint::spin_loop();
                }
                assert_eq!(slots.state(slot), FlowState::Free, "slot {slot}");
            }
        });
    }

    /// While another thread does to the records what an attached program does.
    #[test]
    fn what_a_program_writes_during_a_catch_up_stands() {
        const ROUNDS: u32 = 20_000;
        let slots = Slots::new(MappedSlots::anonymous(4000).expect("memory"));
        let copied =
            FlowRecord { state: FlowState::Ended as u32, diverted: u32::MAX - 5, ..FlowRecord::default() };
        let last =
            FlowRecord { diverted: 5, released: 3, packets: 1, bytes: 10, note_flags: NOTE_FIN, ..copied };
        let one = missed(&copied, &last);
        all(&slots, &copied);
        let begun = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (word, wide) = (|o| slots.mapped.field(0, o), |o| slots.mapped.wide_field(0, o));
                for round in 0..ROUNDS {
                    begun.store(true, Ordering::Relaxed);
                    word(offset_of!(FlowRecord, diverted)).fetch_add(7, Ordering::Relaxed);
                    wide(offset_of!(FlowRecord, bytes)).fetch_add(70, Ordering::Relaxed);
                    word(offset_of!(FlowRecord, note_flags)).fetch_or(NOTE_RST, Ordering::Relaxed);
                    slots.change_state(round % slots.capacity(), FlowState::Ended, FlowState::Superseded);
                }
            });
            while !begun.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            for round in 0..ROUNDS {
                slots.catch_up(0, &one);
                slots.catch_up(round % slots.capacity(), &missed(&copied, &copied));
            }
        });
        let record = slots.read(0);
        assert_eq!(record.diverted, copied.diverted.wrapping_add(ROUNDS * (7 + 11)));
        assert_eq!((record.released, record.packets), (ROUNDS * 3, u64::from(ROUNDS)));
        assert_eq!(record.bytes, u64::from(ROUNDS) * 80);
        assert_eq!(record.note_flags, NOTE_FIN | NOTE_RST);
        assert!((0..slots.capacity()).all(|slot| slots.state(slot) == FlowState::Superseded));
    }

    #[test]
    fn a_catch_up_brings_in_notes_and_state_only_where_no_program_wrote_its_own() {
        let slots = Slots::new(MappedSlots::anonymous(2).expect("memory"));
        let copied = FlowRecord { state: FlowState::Ended as u32, note_ack: 4, ..FlowRecord::default() };
        let last = FlowRecord {
            state: FlowState::Superseded as u32,
            note_ack: 5,
            note_window: 6,
            note_tsval: 7,
            note_seq_end: 8,
            last_seen_ns: 9,
            ..copied
        };
        all(&slots, &copied);
        slots.catch_up(0, &missed(&copied, &last));
        assert_eq!(slots.read(0), last);

        let noted = FlowRecord { note_ack: 4, note_seq_end: 80, note_window: 0, note_tsval: 0, ..copied };
        slots.set_notes(1, &noted);
        slots.set_state(1, FlowState::Free);
        slots.catch_up(1, &missed(&copied, &last));
        let expected =
            FlowRecord { state: FlowState::Free as u32, note_seq_end: 80, last_seen_ns: 9, ..copied };
        assert_eq!(slots.read(1), expected);
    }
}
