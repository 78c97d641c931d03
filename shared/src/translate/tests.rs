//! Properties of the translation, with naive oracles: streams numbered without wrapping, headers rebuilt from
//! nothing by etherparse.

use super::{Action, Direction, Patch, judge_egress, judge_ingress, translate};
use crate::addr::{IpWords, PortWord};
use crate::record::{FLAG_FED, FlowKey, FlowRecord, FlowState, NOTE_CAUGHT_UP};
use crate::wire::{ACK, HeaderChecksum, OPTION_BUFFER, OptionPlaces, OptionValues, SYN, Segment};
use etherparse::{IpNumber, Ipv4Header, TcpHeader};
use proptest::prelude::*;

/// Numbers as they come, and the ones where wrapping and signs go wrong.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(0x7fff_ffff),
        Just(0x8000_0000),
        Just(0x8000_0001),
        Just(u32::MAX),
        any::<u32>()
    ]
}

fn v4() -> impl Strategy<Value = IpWords> {
    any::<u32>().prop_map(IpWords::from_v4_word)
}

prop_compose! {
    fn record()(flow in (v4(), v4(), v4(), any::<u16>(), any::<u16>(), any::<u16>()),
                deltas in [number(), number(), number(), number()],
                floor in number(), shifts in (0u8..15, 0u8..15)) -> FlowRecord {
        let (remote, local, new_addr, remote_port, local_port, new_port) = flow;
        let (remote_port, local_port) = (PortWord(remote_port), PortWord(local_port));
        FlowRecord {
            key: FlowKey { remote, local, remote_port, local_port },
            new_addr, new_port: PortWord(new_port), state: FlowState::Committed as u32,
            window_shift_in: shifts.0, window_shift_out: shifts.1,
            seq_delta: deltas[0], ack_delta: deltas[1], tsval_delta: deltas[2], tsecr_delta: deltas[3],
            ack_floor: floor,
            ..FlowRecord::default()
        }
    }
}

prop_compose! {
    fn segment()(numbers in [number(), number(), number(), number()], edges in any::<[u32; 8]>(), blocks in 0u32..=4,
                 timestamps in any::<bool>(), window in any::<u16>(), flags in any::<u8>(), ttl in 2u8..,
                 payload in 0u32..70_000) -> Segment {
        let places = OptionPlaces {
            timestamps: if timestamps { 2 } else { 0 },
            sack: if blocks > 0 { 13 } else { 0 },
            sack_blocks: blocks,
            next: 0,
        };
        let mut sack_edges = [0; 8];
        for (to, from) in sack_edges.iter_mut().zip(edges).take(2 * blocks as usize) { *to = from; }
        let (tsval, tsecr) = if timestamps { (numbers[2], numbers[3]) } else { (0, 0) };
        Segment {
            seq: numbers[0], ack: numbers[1], payload, window, flags, ttl,
            header_checksum: HeaderChecksum(0x1234), may_fragment: 0, reserved: 0, packet: payload + 40,
            options: OptionValues { places, tsval, tsecr, sack_edges },
        }
    }
}

/// What the far side reads.
fn arrived(segment: &Segment, patch: &Patch) -> Segment {
    let mut arrived = *segment;
    (arrived.seq, arrived.ack, arrived.window, arrived.ttl) = (patch.seq, patch.ack, patch.window, patch.ttl);
    arrived.header_checksum = patch.header_checksum;
    let places = segment.options.places;
    if places.timestamps != 0 {
        (arrived.options.tsval, arrived.options.tsecr) = (patch.tsval, patch.tsecr);
    }
    let edges = 2 * places.sack_blocks as usize;
    arrived.options.sack_edges[..edges].copy_from_slice(&patch.sack_edges[..edges]);
    arrived
}

/// The record that undoes another's translation.
fn reversed(record: &FlowRecord) -> FlowRecord {
    FlowRecord {
        key: FlowKey { local: record.new_addr, local_port: record.new_port, ..record.key },
        new_addr: record.key.local,
        new_port: record.key.local_port,
        window_shift_in: record.window_shift_out,
        window_shift_out: record.window_shift_in,
        seq_delta: record.seq_delta.wrapping_neg(),
        ack_delta: record.ack_delta.wrapping_neg(),
        tsval_delta: record.tsval_delta.wrapping_neg(),
        tsecr_delta: record.tsecr_delta.wrapping_neg(),
        ..*record
    }
}

/// The segment as a packet of the flow with this local end, checksums by etherparse.
fn packet(record: &FlowRecord, local: IpWords, port: PortWord, segment: &Segment) -> (Ipv4Header, TcpHeader) {
    let mut ip = Ipv4Header::new(
        20,
        segment.ttl,
        IpNumber::TCP,
        record.key.remote.v4_word().to_ne_bytes(),
        local.v4_word().to_ne_bytes(),
    )
    .unwrap();
    let mut tcp = TcpHeader::new(record.key.remote_port.number(), port.number(), segment.seq, segment.window);
    tcp.acknowledgment_number = segment.ack;
    tcp.ack = segment.has(ACK);
    let (values, places) = (&segment.options, segment.options.places);
    let mut options = [1u8; 40];
    let mut put = |at: u32, value: u32| {
        let at = at as usize;
        if at + 4 <= 40 {
            options[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
    };
    if places.timestamps != 0 {
        put(places.timestamps, values.tsval);
        put(places.timestamps + 4, values.tsecr);
    }
    for (i, edge) in (0..2 * places.sack_blocks).zip(values.sack_edges) {
        put(places.sack + 4 * i, edge);
    }
    tcp.set_options_raw(&options).unwrap();
    ip.set_payload_len(tcp.header_len()).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, &[]).unwrap();
    (ip, tcp)
}

/// 0 and 0xffff are one number in one's complement.
fn same_checksum(a: u16, b: u16) -> bool {
    a == b || (a.is_multiple_of(0xffff) && b.is_multiple_of(0xffff))
}

proptest! {
    #[test]
    fn there_and_back_is_the_identity(mut record in record(), segment in segment()) {
        record.window_shift_out = record.window_shift_in;
        let mut there = Patch::default();
        translate(&record, &segment, Direction::FromClient, &mut there);
        let middle = arrived(&segment, &there);
        // The floor is not the record's of this way back.
        let back_record = reversed(&record);
        let mut back = Patch::default();
        translate(&back_record, &middle, Direction::FromClient, &mut back);
        let mut end = arrived(&middle, &back);
        prop_assert_eq!(end.ttl, segment.ttl - 2);
        prop_assert_eq!((back.new_addr, back.new_port), (record.key.local, record.key.local_port));
        (end.ttl, end.header_checksum) = (segment.ttl, segment.header_checksum);
        prop_assert_eq!(end, segment);
    }

    #[test]
    fn incremental_checksums_are_the_full_ones(record in record(), mut segment in segment()) {
        // What fits into 40 option bytes behind an odd offset.
        segment.options.places.sack_blocks = segment.options.places.sack_blocks.min(3);
        let (old_ip, old_tcp) = packet(&record, record.key.local, record.key.local_port, &segment);
        segment.header_checksum = HeaderChecksum(old_ip.header_checksum.to_be());
        let mut patch = Patch::default();
        translate(&record, &segment, Direction::FromClient, &mut patch);
        let (new_ip, new_tcp) = packet(&record, record.new_addr, record.new_port, &arrived(&segment, &patch));
        prop_assert!(same_checksum(u16::from_be(patch.header_checksum.0), new_ip.header_checksum));
        // bpf_l4_csum_replace with size 0, then the pseudo-header's address.
        let mut sum = u64::from(!old_tcp.checksum.to_be()) + u64::from(patch.tcp_change);
        sum += u64::from(!record.key.local.v4_word()) + u64::from(record.new_addr.v4_word());
        while sum > 0xffff { sum = (sum >> 16) + (sum & 0xffff); }
        let incremental = u16::from_be(!u16::try_from(sum).unwrap());
        prop_assert!(same_checksum(incremental, new_tcp.checksum), "{incremental:x} {:x}", new_tcp.checksum);
    }

    #[test]
    fn addresses_of_either_length_balance(old in any::<[u32; 4]>(), new in any::<[u32; 4]>(), v4 in any::<bool>()) {
        let [old, new] = [old, new].map(|a| if v4 { IpWords::from_v4_word(a[3]) } else { IpWords(a) });
        let record = FlowRecord {
            key: FlowKey { local: old, ..FlowKey::default() },
            new_addr: new,
            ..FlowRecord::default()
        };
        let mut patch = Patch::default();
        translate(&record, &Segment::default(), Direction::ToClient, &mut patch);
        let sum = |words: &IpWords| words.0.iter().map(|w| u64::from(*w)).sum::<u64>();
        let balance = sum(&old) + u64::from(patch.address_change) + 0xffff * 4;
        prop_assert_eq!(balance % 0xffff, sum(&new) % 0xffff);
    }

    /// The client knows `given` bytes of its stream acknowledged; the server acknowledged `acked` and has room for
    /// `room` more. Streams are numbered without wrapping.
    #[test]
    fn the_floor_keeps_the_right_edge(given in 0u64..1 << 40, behind in 0u64..1 << 20, room in 0u64..65_536,
                                      base in number(), delta in number()) {
        let acked = given.saturating_sub(behind);
        let wire = |n: u64| u32::try_from(n & 0xffff_ffff).unwrap();
        let record = FlowRecord {
            ack_delta: delta,
            ack_floor: base.wrapping_add(wire(given)),
            ..FlowRecord::default()
        };
        let segment = Segment {
            ack: base.wrapping_add(wire(acked)).wrapping_sub(delta),
            window: u16::try_from(room).unwrap(),
            flags: ACK,
            ..Segment::default()
        };
        let mut patch = Patch::default();
        translate(&record, &segment, Direction::ToClient, &mut patch);
        let edge = (acked + room).max(given);
        prop_assert_eq!(patch.ack, base.wrapping_add(wire(given)));
        prop_assert_eq!(u64::from(patch.window), edge - given);
        prop_assert_eq!(patch.account.also != 0, acked < given);
    }

    /// However far the client's stream has got: 2 GiB behind the floor its numbers compare as before it.
    #[test]
    fn once_the_server_has_caught_up_no_acknowledgement_is_raised(floor in number(), ack in number(), delta in number(),
                                                            window: u16) {
        let (flags, note_flags) = (FLAG_FED, NOTE_CAUGHT_UP);
        let record =
            FlowRecord { flags, note_flags, ack_floor: floor, ack_delta: delta, ..FlowRecord::default() };
        let segment = Segment { ack, window, flags: ACK, ..Segment::default() };
        let mut patch = Patch::default();
        translate(&record, &segment, Direction::ToClient, &mut patch);
        prop_assert_eq!((patch.ack, patch.window), (ack.wrapping_add(delta), window));
    }

    #[test]
    fn a_window_never_promises_more(record in record(), mut segment in segment()) {
        segment.flags &= !SYN;
        let mut patch = Patch::default();
        translate(&record, &segment, Direction::FromClient, &mut patch);
        let promised = u64::from(segment.window) << record.window_shift_in;
        let arrives = u64::from(patch.window) << record.window_shift_out;
        prop_assert!(arrives <= promised);
        // And as little less as the other scale allows, up to its largest.
        let most = 0xffffu64 << record.window_shift_out;
        prop_assert!(arrives + (1 << record.window_shift_out) > promised.min(most));
        segment.flags |= SYN;
        translate(&record, &segment, Direction::FromClient, &mut patch);
        prop_assert_eq!(patch.window, segment.window);
    }

    #[test]
    fn without_ack_neither_acknowledgement_nor_echo_changes(record in record(), mut segment in segment()) {
        segment.flags &= !ACK;
        let mut patch = Patch::default();
        translate(&record, &segment, Direction::ToClient, &mut patch);
        prop_assert_eq!(patch.ack, segment.ack);
        if segment.options.places.timestamps != 0 { prop_assert_eq!(patch.tsecr, segment.options.tsecr); }
    }

    #[test]
    fn any_record_and_segment_are_survived(mut record in record(), segment in segment(), state in number(),
                                           shifts in any::<(u8, u8)>(), marked in any::<bool>()) {
        record.state = state;
        (record.window_shift_in, record.window_shift_out) = shifts;
        let mut patch = Patch::default();
        let verdict = judge_ingress(&record, &segment, marked, 5, &mut patch);
        prop_assert!(verdict.action == Action::Pass || verdict.counter.is_some());
        let verdict = judge_egress(&record, &segment, &mut patch);
        prop_assert!(verdict.action == Action::Pass || verdict.counter.is_some());
        translate(&record, &segment, Direction::ToClient, &mut patch);
    }
}

#[test]
fn the_floor_holds_beyond_the_request_until_the_server_has_caught_up() {
    let floor =
        |note_flags| FlowRecord { flags: FLAG_FED, note_flags, ack_floor: 180, ..FlowRecord::default() };
    let sent = Segment { ack: 150, flags: ACK, ..Segment::default() };
    let mut patch = Patch::default();
    translate(&floor(0), &sent, Direction::ToClient, &mut patch);
    assert_eq!(patch.ack, 180);
    translate(&floor(NOTE_CAUGHT_UP), &sent, Direction::ToClient, &mut patch);
    assert_eq!(patch.ack, 150);
}

#[test]
fn options_at_their_largest_fit_the_buffer() {
    let mut values = OptionValues {
        places: OptionPlaces { timestamps: 63, sack: 63, sack_blocks: 4, next: 0 },
        ..OptionValues::default()
    };
    values.load(&[0xff; OPTION_BUFFER]);
    assert_eq!(values.tsval, u32::MAX);
}
