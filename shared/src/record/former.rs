//! Records that a former version's daemon left: which of them this version reads, and how.
//!
//! A version that changes a layout raises [`ABI_VERSION`](super::ABI_VERSION) and says here how the records before it are
//! read, so that an upgrade cuts no flow.

use super::FlowRecord;
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

/// The record that this version's programs use by now, brought up to what the former's programs wrote between the moment it
/// was `copied` and their `last`: nothing that they saw is lost. Of the notes, which follow the newest packet, those of this
/// version's programs stand if they have written any.
pub fn caught_up(now: &FlowRecord, copied: &FlowRecord, last: &FlowRecord) -> FlowRecord {
    let notes = |r: &FlowRecord| (r.note_ack, r.note_window, r.note_tsval, r.note_seq_end);
    let mut record = *now;
    if now.state == copied.state {
        record.state = last.state;
    }
    if notes(now) == notes(copied) {
        (record.note_ack, record.note_window, record.note_tsval, record.note_seq_end) = notes(last);
    }
    record.note_flags |= last.note_flags;
    let more = |now: u32, copied: u32, last: u32| now.wrapping_add(last.wrapping_sub(copied));
    record.diverted = more(now.diverted, copied.diverted, last.diverted);
    record.released = more(now.released, copied.released, last.released);
    record.last_seen_ns = now.last_seen_ns.max(last.last_seen_ns);
    record.packets = now.packets.wrapping_add(last.packets.wrapping_sub(copied.packets));
    record.bytes = now.bytes.wrapping_add(last.bytes.wrapping_sub(copied.bytes));
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ABI_VERSION, FlowState, NOTE_FIN, NOTE_RST};
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
            let record = caught_up(&now, &copied, &last);
            prop_assert_eq!((record.packets, record.bytes, record.diverted), (one.packets, one.bytes, one.diverted));
            prop_assert_eq!(record.note_flags, one.note_flags);
            let newest = if by_this.is_empty() { last.note_seq_end } else { now.note_seq_end };
            prop_assert!(record.note_seq_end == newest || now.note_seq_end == copied.note_seq_end);
        }
    }

    #[test]
    fn a_state_that_the_formers_program_changed_last_is_taken_over() {
        let copied = FlowRecord { state: FlowState::Ended as u32, ..FlowRecord::default() };
        let last = FlowRecord { state: FlowState::Superseded as u32, ..copied };
        assert_eq!(caught_up(&copied, &copied, &last).state, FlowState::Superseded as u32);
        assert_eq!(caught_up(&last, &copied, &copied).state, FlowState::Superseded as u32);
    }
}
