//! Records that a former version's daemon left: which of them this version reads, and how.
//!
//! A version that changes a layout raises [`ABI_VERSION`](super::ABI_VERSION) and says here how the records before it are
//! read, so that an upgrade cuts no flow.

use super::{FlowRecord, FlowState};
use zerocopy::FromBytes;

/// The ABI versions whose records [`read`] knows, this one's not among them.
pub const READABLE: &[u32] = &[7];

/// A record of ABI version `abi`, as this version has it; `None` if that version is not known here, or the record's size is
/// not that version's.
pub fn read(abi: u32, bytes: &[u8]) -> Option<FlowRecord> {
    match abi {
        // 8 gave meaning to words and flags that were 0 in 7, where 0 still says what it said: an unbounded `note_window`
        // of the client's direction, no count of `requests`, no negotiated options to take a tracked flow back by.
        7 => FlowRecord::read_from_bytes(bytes).ok(),
        _ => None,
    }
}

/// Whether the record under a flow's key `here` is truer than the one a former's program uses or used. A start that is cut
/// short after this version's program has taken the packets over leaves both, and the former's moves no more: the flow's last
/// packet tells. A flow of another number under the same key is one the former's daemon has seen the end of.
pub const fn is_overtaken(formers: &FlowRecord, here: &FlowRecord) -> bool {
    formers.flow_id == here.flow_id
        && formers.generation == here.generation
        && formers.last_seen_ns < here.last_seen_ns
}

/// What an overtaken record tells all the same: an end that the former's program saw between the copy and this version's first
/// packet. Its accounts and statistics are lost, for how much of them was copied is not known any more.
pub fn told_by_overtaken(formers: &FlowRecord) -> Missed {
    Missed { note_flags: formers.note_flags, ..Missed::default() }
}

/// What a former's programs wrote to a record after it was copied. This version's programs write to the copy at the same
/// time, so each of it is a change that undoes none of theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// The state that was copied and the one to follow it, where they differ. One that this version's programs changed stands.
    pub state: Option<(FlowState, FlowState)>,
    /// The notes that were copied and those to follow them, where they differ. They follow the newest packet: this version's
    /// programs' stand if they have written any.
    pub notes: Option<(Notes, Notes)>,
    /// `NOTE_*` to be set.
    pub note_flags: u32,
    /// To be added to [`FlowRecord::diverted`], modulo 2^32.
    pub diverted: u32,
    /// To be added to [`FlowRecord::released`], modulo 2^32.
    pub released: u32,
    /// [`FlowRecord::last_seen_ns`] is at least this.
    pub last_seen_ns: u64,
    /// To be added to [`FlowRecord::packets`], modulo 2^64.
    pub packets: u64,
    /// To be added to [`FlowRecord::bytes`], modulo 2^64.
    pub bytes: u64,
}

/// The notes of a record that the newest packet replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notes {
    /// [`FlowRecord::note_ack`].
    pub ack: u32,
    /// [`FlowRecord::note_window`].
    pub window: u32,
    /// [`FlowRecord::note_tsval`].
    pub tsval: u32,
    /// [`FlowRecord::note_seq_end`].
    pub seq_end: u32,
}

impl Notes {
    /// Those of a record.
    pub const fn of(record: &FlowRecord) -> Self {
        Notes {
            ack: record.note_ack,
            window: record.note_window,
            tsval: record.note_tsval,
            seq_end: record.note_seq_end,
        }
    }
}

/// What is missing in a record that was `copied` when the former's `last` stands.
pub fn missed(copied: &FlowRecord, last: &FlowRecord) -> Missed {
    let states = (FlowState::from_raw(copied.state), FlowState::from_raw(last.state));
    let notes = (Notes::of(copied), Notes::of(last));
    Missed {
        state: (states.0 != states.1).then_some(states),
        notes: (notes.0 != notes.1).then_some(notes),
        note_flags: last.note_flags & !copied.note_flags,
        diverted: last.diverted.wrapping_sub(copied.diverted),
        released: last.released.wrapping_sub(copied.released),
        last_seen_ns: last.last_seen_ns,
        packets: last.packets.wrapping_sub(copied.packets),
        bytes: last.bytes.wrapping_sub(copied.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ABI_VERSION, NOTE_FIN, NOTE_RST};
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    #[test]
    fn records_of_readable_versions_are_read_and_others_are_not() {
        let record = FlowRecord {
            flow_id: 7,
            state: FlowState::Committed as u32,
            seq_delta: 9,
            ..FlowRecord::default()
        };
        for abi in READABLE {
            assert!(*abi < ABI_VERSION);
            assert_eq!(read(*abi, record.as_bytes()), Some(record));
            assert_eq!(read(*abi, &record.as_bytes()[1..]), None);
        }
        assert_eq!(read(ABI_VERSION, record.as_bytes()), None);
        assert_eq!(read(1, record.as_bytes()), None);
    }

    /// What a program does to a record with one packet.
    fn packet(record: &mut FlowRecord, bytes: u32, flags: u32) {
        record.packets += 1;
        record.bytes += u64::from(bytes);
        record.diverted = record.diverted.wrapping_add(bytes);
        record.note_seq_end = record.note_seq_end.wrapping_add(bytes);
        record.note_flags |= flags;
        record.last_seen_ns += 1;
    }

    /// As it is to be brought into a record to which nobody writes.
    fn caught_up(now: &FlowRecord, missed: &Missed) -> FlowRecord {
        let mut record = *now;
        if let Some((from, to)) = missed.state
            && now.state == from as u32
        {
            record.state = to as u32;
        }
        if let Some((from, to)) = missed.notes
            && Notes::of(now) == from
        {
            (record.note_ack, record.note_window) = (to.ack, to.window);
            (record.note_tsval, record.note_seq_end) = (to.tsval, to.seq_end);
        }
        record.note_flags |= missed.note_flags;
        record.diverted = record.diverted.wrapping_add(missed.diverted);
        record.released = record.released.wrapping_add(missed.released);
        record.last_seen_ns = record.last_seen_ns.max(missed.last_seen_ns);
        record.packets = record.packets.wrapping_add(missed.packets);
        record.bytes = record.bytes.wrapping_add(missed.bytes);
        record
    }

    proptest! {
        #[test]
        fn nothing_that_either_versions_programs_saw_is_lost(
            before in 0..u32::MAX, by_former in proptest::collection::vec(0..2000u32, 0..5),
            by_this in proptest::collection::vec(0..2000u32, 0..5),
        ) {
            let copied = FlowRecord { diverted: before, note_seq_end: before, packets: 3, ..FlowRecord::default() };
            let (mut last, mut now, mut one) = (copied, copied, copied);
            for bytes in &by_former {
                packet(&mut last, *bytes, NOTE_FIN);
                packet(&mut one, *bytes, NOTE_FIN);
            }
            // The first of this version's programs finds what was copied.
            for bytes in &by_this {
                packet(&mut now, *bytes, NOTE_RST);
                packet(&mut one, *bytes, NOTE_RST);
            }
            let record = caught_up(&now, &missed(&copied, &last));
            prop_assert_eq!((record.packets, record.bytes, record.diverted), (one.packets, one.bytes, one.diverted));
            prop_assert_eq!(record.note_flags, one.note_flags);
            let noted = Notes::of(&now) != Notes::of(&copied);
            prop_assert_eq!(Notes::of(&record), Notes::of(if noted { &now } else { &last }));
            prop_assert_eq!(record.last_seen_ns, now.last_seen_ns.max(last.last_seen_ns));
        }
    }

    #[test]
    fn a_formers_record_is_overtaken_by_the_same_flows_alone_and_by_its_later_packets() {
        let formers = FlowRecord { flow_id: 7, generation: 2, last_seen_ns: 50, ..FlowRecord::default() };
        let later = FlowRecord { last_seen_ns: 51, ..formers };
        assert!(is_overtaken(&formers, &later));
        assert!(!is_overtaken(&later, &formers));
        assert!(!is_overtaken(&formers, &formers), "this version's program has seen nothing");
        let ended = FlowRecord { note_flags: NOTE_FIN, packets: 9, ..formers };
        let told = caught_up(&later, &told_by_overtaken(&ended));
        assert_eq!(told, FlowRecord { note_flags: NOTE_FIN, ..later }, "an end is one whoever saw it");
        assert!(!is_overtaken(&formers, &FlowRecord { flow_id: 6, ..later }));
        assert!(!is_overtaken(&formers, &FlowRecord { generation: 1, ..later }));
    }

    #[test]
    fn a_state_that_the_formers_program_changed_last_is_taken_over() {
        let copied = FlowRecord { state: FlowState::Ended as u32, ..FlowRecord::default() };
        let last = FlowRecord { state: FlowState::Superseded as u32, ..copied };
        assert_eq!(missed(&copied, &last).state, Some((FlowState::Ended, FlowState::Superseded)));
        assert_eq!(caught_up(&copied, &missed(&copied, &last)).state, FlowState::Superseded as u32);
        assert_eq!(missed(&copied, &copied).state, None);
        // And one that this version's program changed meanwhile stands.
        assert_eq!(caught_up(&last, &missed(&copied, &copied)).state, FlowState::Superseded as u32);
    }
}
