//! A translation undone: for people who look at what went out and want to know what the server's kernel had sent.

use crate::record::{FlowRecord, FlowState};

/// The record that turns what `record` made of a segment of the server's into that segment again. `ack` is the
/// acknowledgement number in what went out; one that was raised to the floor stays raised, with its window.
///
/// Windows that lost bits by a smaller scale get zeros in their place.
pub fn inverse(record: &FlowRecord, ack: u32) -> FlowRecord {
    let ack_delta = record.ack_delta.wrapping_neg();
    let mut key = record.key;
    (key.local, key.local_port) = (record.new_addr, record.new_port);
    FlowRecord {
        flow_id: record.flow_id,
        generation: record.generation,
        key,
        state: FlowState::Committed as u32,
        new_addr: record.key.local,
        new_port: record.key.local_port,
        window_shift_in: record.window_shift_out,
        window_shift_out: record.window_shift_in,
        seq_delta: record.seq_delta.wrapping_neg(),
        ack_delta,
        tsval_delta: record.tsval_delta.wrapping_neg(),
        tsecr_delta: record.tsecr_delta.wrapping_neg(),
        ack_floor: ack.wrapping_add(ack_delta),
        ..FlowRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortWord;
    use crate::translate::{Direction, Patch, translate};
    use crate::wire::{ACK, Segment};
    use core::net::{IpAddr, Ipv4Addr};
    use proptest::prelude::*;

    fn ip(last: u8) -> crate::addr::IpWords {
        IpAddr::from(Ipv4Addr::new(10, 0, 0, last)).into()
    }

    proptest! {
        #[test]
        fn there_and_back_is_what_was_sent(
            seq: u32, ack: u32, window: u16, seq_delta: u32, ack_delta: u32,
        ) {
            let mut record = FlowRecord { seq_delta, ack_delta, new_addr: ip(1), new_port: PortWord::new(80),
                ack_floor: ack.wrapping_add(ack_delta), state: FlowState::Committed as u32, ..FlowRecord::default() };
            (record.key.local, record.key.local_port) = (ip(2), PortWord::new(8080));
            let sent = Segment { seq, ack, window, flags: ACK, ..Segment::default() };
            let mut there = Patch::default();
            translate(&record, &sent, Direction::ToClient, &mut there);
            prop_assert_eq!(there.new_port, PortWord::new(80));
            let gone = Segment { seq: there.seq, ack: there.ack, window: there.window, ..sent };
            let mut back = Patch::default();
            translate(&inverse(&record, gone.ack), &gone, Direction::ToClient, &mut back);
            prop_assert_eq!((back.seq, back.ack, back.window), (seq, ack, window));
            prop_assert_eq!(back.new_port, PortWord::new(8080));
        }
    }
}
