use super::*;
use crate::addr::{IpWords, PortWord};
use crate::record::{FlowKey, NOTE_ACTIVE_RST, NOTE_FIN, NOTE_RST, NOTE_SYN_ACK};
use crate::translate::{Direction, judge_egress, reported_flow, translate};
use crate::wire::{FIN, HeaderChecksum, IcmpWords, IpFacts, PROTOCOL_TCP, QuotedTcp};
use etherparse::checksum::Sum16BitWords;
use proptest::prelude::*;

const CLIENT_NXT: u32 = 7000;
const FIRST: u32 = 100;

fn record(state: FlowState) -> FlowRecord {
    let key = FlowKey {
        remote: IpWords::from_v4_word(1),
        local: IpWords::from_v4_word(2),
        remote_port: PortWord::new(4000),
        local_port: PortWord::new(80),
    };
    FlowRecord {
        key,
        state: state as u32,
        flags: FLAG_ADOPTED | FLAG_TIMESTAMPS,
        new_addr: IpWords::from_v4_word(3),
        new_port: PortWord::new(8080),
        seq_delta: FIRST,
        ack_delta: CLIENT_NXT,
        tsecr_delta: 55,
        note_flags: NOTE_SYN_ACK,
        note_ack: FIRST,
        note_seq_end: CLIENT_NXT,
        ..FlowRecord::default()
    }
}

fn segment(flags: u8) -> Segment {
    Segment { seq: FIRST, ack: CLIENT_NXT, flags, payload: 10, ..Segment::default() }
}

/// The verdict, and what was noted.
fn arrive(
    record: &FlowRecord,
    segment: &Segment,
    (marked, to_server): (bool, bool),
    holder: Holder,
) -> (Arrival, Option<PacketCounter>, u32) {
    let mut patch = Patch::default();
    let (arrival, counter) = judge_arrival(record, segment, marked, to_server, holder, &mut patch);
    (arrival, counter, patch.account.note_flags)
}

const AGENT: (bool, bool) = (true, false);
const CLIENT: (bool, bool) = (false, true);

#[test]
fn only_the_agents_packet_with_the_very_numbers_is_given_to_the_kernel() {
    let adopting = record(FlowState::Adopting);
    let right = segment(ACK);
    let nobody = Holder::Nobody;
    assert_eq!(
        arrive(&adopting, &right, AGENT, nobody),
        (Arrival::Assign, Some(PacketCounter::AdoptAssigned), 0)
    );
    let early = (Arrival::Drop, Some(PacketCounter::DropAdoptEarly), 0);
    for wrong in [
        Segment { seq: FIRST + 1, ..right },
        Segment { seq: FIRST - 1, ..right },
        Segment { ack: CLIENT_NXT - 1, ..right },
        segment(0),
        segment(SYN),
        segment(SYN | ACK),
        segment(RST | ACK),
    ] {
        assert_eq!(arrive(&adopting, &wrong, AGENT, nobody), early, "{wrong:?}");
    }
    for holder in [Holder::Nobody, Holder::TimeWait, Holder::Connection] {
        assert_eq!(arrive(&adopting, &right, CLIENT, holder), early, "not from the TUN, {holder:?}");
        assert_eq!(arrive(&adopting, &right, (false, false), holder), early, "not from the TUN, {holder:?}");
    }
}

#[test]
fn what_a_client_says_to_its_answer_reaches_the_socket_before_the_agent_has_noticed_that_there_is_one() {
    let fresh = record(FlowState::Adopting);
    let given = FlowRecord { note_flags: NOTE_SYN_ACK | NOTE_ASSIGNED, ..fresh };
    let early = (Arrival::Drop, Some(PacketCounter::DropAdoptEarly), 0);
    let readdressed = (Arrival::Readdress, Some(PacketCounter::Readdressed), 0);
    for flags in [ACK, ACK | FIN, ACK | RST] {
        for holder in [Holder::Connection, Holder::TimeWait] {
            assert_eq!(arrive(&given, &segment(flags), CLIENT, holder), readdressed);
            assert_eq!(arrive(&fresh, &segment(flags), CLIENT, holder), early, "another flow's socket");
        }
        assert_eq!(arrive(&given, &segment(flags), CLIENT, Holder::Nobody), early, "there is none yet");
    }
    assert_eq!(arrive(&given, &segment(ACK), (false, false), Holder::Connection), (Arrival::Pass, None, 0));
    let opening = arrive(&given, &segment(SYN), CLIENT, Holder::TimeWait);
    assert_eq!(opening, (Arrival::Drop, Some(PacketCounter::DropAdoptGone), NOTE_LISTENER));
}

#[test]
fn whoever_holds_the_4_tuple_is_told() {
    let fresh = record(FlowState::Adopting);
    let given = FlowRecord { note_flags: NOTE_SYN_ACK | NOTE_ASSIGNED, ..fresh };
    let refused = Some(PacketCounter::DropAdoptRefused);
    let repeated = Some(PacketCounter::AdoptRepeated);
    for (record, holder, expected) in [
        (fresh, Holder::TimeWait, (Arrival::Drop, refused, NOTE_TIME_WAIT)),
        (fresh, Holder::Connection, (Arrival::Drop, refused, NOTE_TAKEN)),
        (given, Holder::Connection, (Arrival::Pass, repeated, 0)),
        (given, Holder::TimeWait, (Arrival::Pass, repeated, 0)),
    ] {
        assert_eq!(arrive(&record, &segment(ACK), AGENT, holder), expected, "{holder:?}");
    }
    // A full accept queue: the kernel made none from the first.
    assert_eq!(arrive(&given, &segment(ACK), AGENT, Holder::Nobody).0, Arrival::Assign);
}

#[test]
fn the_kernels_answer_is_noted() {
    let mut patch = Patch::default();
    for (code, expected, notes, errno) in [
        (0, (Arrival::Pass, PacketCounter::AdoptAssigned), NOTE_ASSIGNED, 0),
        (-22, (Arrival::Drop, PacketCounter::DropAdoptRefused), NOTE_ASSIGN_FAILED, 22),
        (NO_LISTENER, (Arrival::Drop, PacketCounter::DropAdoptRefused), NOTE_NO_LISTENER, 0),
    ] {
        patch.account = Account::default();
        assert_eq!(judge_assignment(code, &mut patch), expected, "{code}");
        assert_eq!((patch.account.note_flags, patch.account.errno), (notes, errno), "{code}");
    }
}

#[test]
fn a_clients_packet_gets_the_vip_back_and_no_packet_opens_a_connection_past_the_intermediate() {
    for state in [FlowState::Committed, FlowState::Ended, FlowState::Fenced] {
        let record = record(state);
        let readdressed = (Arrival::Readdress, Some(PacketCounter::Readdressed), 0);
        for flags in [ACK, RST, RST | ACK] {
            assert!(!asks_for_holder(&record, &segment(flags)));
            assert_eq!(arrive(&record, &segment(flags), CLIENT, Holder::Connection), readdressed);
            // What the agent sends is addressed rightly.
            assert_eq!(arrive(&record, &segment(flags), AGENT, Holder::Connection), (Arrival::Pass, None, 0));
        }
        let syn = segment(SYN);
        assert!(asks_for_holder(&record, &syn));
        assert_eq!(arrive(&record, &syn, CLIENT, Holder::Connection), readdressed, "the owner answers");
        let gone = (Arrival::Drop, Some(PacketCounter::DropAdoptGone), NOTE_LISTENER);
        for holder in [Holder::Nobody, Holder::TimeWait] {
            assert_eq!(arrive(&record, &syn, CLIENT, holder), gone, "{state:?} {holder:?}");
        }
    }
    for state in [FlowState::Free, FlowState::Frozen, FlowState::Replaying, FlowState::Superseded] {
        let arrived = arrive(&record(state), &segment(ACK), CLIENT, Holder::Nobody);
        assert_eq!(arrived, (Arrival::Pass, None, 0), "{state:?}");
    }
}

#[test]
fn what_the_socket_sends_goes_out_unchanged_and_is_noted() {
    for state in [FlowState::Adopting, FlowState::Committed, FlowState::Ended] {
        let mut patch = Patch::default();
        let mut sent = Segment { seq: CLIENT_NXT, ack: FIRST + 10, ..segment(ACK) };
        sent.window = 500;
        let verdict = judge_egress(&record(state), &sent, &mut patch);
        assert_eq!(verdict, Verdict { action: Action::Pass, counter: Some(PacketCounter::AdoptedSent) });
        let account = patch.account;
        assert_eq!((account.sent, account.noted, account.note_ack), (1, 1, FIRST + 10), "{state:?}");
        assert_eq!((account.note_window, account.note_seq_end), (500, CLIENT_NXT + 10));
    }
    let mut patch = Patch::default();
    let fenced = judge_egress(&record(FlowState::Fenced), &segment(ACK), &mut patch);
    assert_eq!(fenced.counter, Some(PacketCounter::DropFenced));
}

#[test]
fn the_stacks_reset_for_a_packet_without_a_connection_never_reaches_the_client() {
    let egress = |record: &FlowRecord, flags| {
        let mut patch = Patch::default();
        (judge_egress(record, &segment(flags), &mut patch), patch.account.note_flags)
    };
    let adopting = record(FlowState::Adopting);
    let (verdict, notes) = egress(&adopting, RST);
    assert_eq!(verdict, Verdict { action: Action::Drop, counter: Some(PacketCounter::DropAdoptReset) });
    assert_eq!(notes, NOTE_UNADOPTED);
    // A socket's own: the server has closed at once.
    let (verdict, notes) = egress(&adopting, RST | ACK);
    assert_eq!((verdict.action, notes), (Action::Pass, NOTE_RST | NOTE_ACTIVE_RST));
    // It has said something before: whatever comes now is the flow's.
    let (verdict, notes) = egress(&FlowRecord { packets: 1, ..adopting }, RST);
    assert_eq!((verdict.action, notes), (Action::Pass, NOTE_RST));
    let (verdict, _) = egress(&record(FlowState::Committed), RST);
    assert_eq!(verdict.action, Action::Pass);
}

#[test]
fn the_agent_is_told_that_an_adopted_socket_closes_or_that_its_client_begins_anew() {
    let mut patch = Patch::default();
    let fin = segment(ACK | FIN);
    for (own_scale, state, closes) in [
        (0, FlowState::Committed, 1),
        (FLAG_OWN_SCALE, FlowState::Committed, 1),
        (0, FlowState::Adopting, 1),
        (0, FlowState::Ended, 0),
    ] {
        let mut record = record(state);
        record.flags |= own_scale;
        judge_egress(&record, &fin, &mut patch);
        assert_eq!(patch.account.closes, closes, "{state:?}");
        record.note_flags |= NOTE_FIN;
        judge_egress(&record, &fin, &mut patch);
        assert_eq!(patch.account.closes, 0, "{state:?}, again");
    }
    let mut arrived = |record: &FlowRecord, flags, holder| {
        judge_arrival(record, &segment(flags), false, true, holder, &mut patch);
        patch.account.closes
    };
    let live = record(FlowState::Committed);
    assert_eq!(arrived(&live, SYN, Holder::Nobody), 1);
    assert_eq!(arrived(&live, SYN, Holder::TimeWait), 1);
    assert_eq!(arrived(&live, SYN, Holder::Connection), 0, "the socket judges it");
    assert_eq!(arrived(&live, RST, Holder::Nobody), 0);
    let noted = FlowRecord { note_flags: live.note_flags | NOTE_LISTENER, ..live };
    assert_eq!(arrived(&noted, SYN, Holder::Nobody), 0, "again");
    for over in [FlowState::Ended, FlowState::Fenced] {
        assert_eq!(arrived(&record(over), SYN, Holder::Nobody), 0, "{over:?}");
    }
}

#[test]
fn a_tracked_response_is_copied_from_its_first_byte() {
    use crate::record::FLAG_TRACKED;
    for (state, copied) in [(FlowState::Adopting, 10), (FlowState::Committed, 10), (FlowState::Ended, 0)] {
        let mut flow = record(state);
        flow.flags |= FLAG_TRACKED;
        flow.read_from = CLIENT_NXT;
        let mut patch = Patch::default();
        judge_egress(&flow, &Segment { seq: CLIENT_NXT, ..segment(ACK) }, &mut patch);
        assert_eq!(patch.account.copy, copied, "{state:?}");
        judge_egress(&flow, &Segment { seq: CLIENT_NXT - 10, ..segment(ACK) }, &mut patch);
        assert_eq!(patch.account.copy, 0, "what was sent before");
    }
}

#[test]
fn strays_of_the_agent_are_dropped_unless_no_answer_can_come_of_them() {
    assert!(is_stray(true, ACK) && is_stray(true, SYN));
    assert!(!is_stray(true, RST) && !is_stray(false, ACK));
}

#[test]
fn the_kernels_states_are_told_apart() {
    // net/tcp_states.h: 1 ESTABLISHED to 13 BOUND_INACTIVE.
    let holders = (0..14).map(Holder::from_kernel).collect::<Vec<_>>();
    let expected: Vec<_> = (0..14)
        .map(|state| match state {
            0 | 7 | 10 => Holder::Nobody,
            6 => Holder::TimeWait,
            _ => Holder::Connection,
        })
        .collect();
    assert_eq!(holders, expected);
}

#[test]
fn the_kernel_is_told_what_the_record_and_the_packet_say() {
    let mut flow = record(FlowState::Adopting);
    (flow.out_ifindex, flow.window_shift_in, flow.window_shift_out) = (packed_client(1460, 9), 7, 10);
    let mut packet = segment(ACK);
    packet.options.tsval = 1234;
    let mut told = Attributes { reserved: [9; 3], usec_ts_ok: 1, ..Attributes::default() };
    told.load(&flow, &packet);
    let expected = Attributes {
        rcv_tsval: 1234,
        rcv_tsecr: 55,
        mss: 1460,
        rcv_wscale: 7,
        snd_wscale: 9,
        tstamp_ok: 1,
        ..Attributes::default()
    };
    assert_eq!(told, expected);
    flow.flags = FLAG_ADOPTED | FLAG_SACK | FLAG_WINDOW_SCALES | FLAG_ECN;
    told.load(&flow, &packet);
    let expected = Attributes { rcv_tsval: 0, tstamp_ok: 0, sack_ok: 1, wscale_ok: 1, ecn_ok: 1, ..expected };
    assert_eq!(told, expected);
}

#[test]
fn what_a_socket_with_a_scale_of_its_own_says_gets_the_promised_scale_and_nothing_else_changes() {
    let mut flow = record(FlowState::Adopting);
    (flow.window_shift_in, flow.window_shift_out) = (4, 10);
    let mut sent = segment(ACK);
    sent.window = 4095;
    sent.header_checksum = HeaderChecksum(0x1234);
    sent.options.places.timestamps = 4;
    (sent.options.tsval, sent.options.tsecr) = (71, 72);
    sent.options.sack_edges = [1, 2, 3, 4, 5, 6, 7, 8];
    let mut patch = Patch::default();
    let verdict = judge_egress(&flow, &sent, &mut patch);
    assert_eq!((verdict.action, patch.account.also), (Action::Pass, 0), "both scales are the promised one");
    flow.flags |= FLAG_OWN_SCALE;
    for state in [FlowState::Adopting, FlowState::Committed, FlowState::Ended] {
        flow.state = state as u32;
        let verdict = judge_egress(&flow, &sent, &mut patch);
        assert_eq!((verdict.action, verdict.counter), (Action::Translate, Some(PacketCounter::AdoptedSent)));
        assert_eq!(patch.account.also, PacketCounter::WindowRescaled.code());
        assert_eq!((patch.account.sent, patch.account.note_window), (0, 4095 << 4));
        translate(&flow, &sent, Direction::ToClient, &mut patch);
        // 65 520 bytes are 63 whole units of 1024.
        assert_eq!(patch.window, 63);
        assert_eq!((patch.seq, patch.ack, patch.tsval, patch.tsecr), (FIRST, CLIENT_NXT, 71, 72));
        assert_eq!((patch.new_addr, patch.new_port), (flow.key.local, flow.key.local_port));
        assert_eq!((patch.ttl, patch.header_checksum), (sent.ttl, sent.header_checksum));
        assert_eq!((patch.sack_edges, patch.address_change), (sent.options.sack_edges, 0));
        let change = u32::from(Sum::ZERO.replaced16(4095u16.to_be(), 63u16.to_be()).folded());
        assert_eq!(patch.tcp_change, change);
    }
    // The reset for a packet that was not taken is no socket's.
    flow.state = FlowState::Adopting as u32;
    assert_eq!(judge_egress(&flow, &segment(RST), &mut patch).action, Action::Drop);
}

fn address(v4: bool) -> BoxedStrategy<IpWords> {
    if v4 {
        any::<u32>().prop_map(IpWords::from_v4_word).boxed()
    } else {
        any::<[u32; 4]>().prop_map(IpWords).boxed()
    }
}

prop_compose! {
    fn adopted(v4: bool)(ends in [address(v4), address(v4), address(v4)], ports in any::<[u16; 3]>()) -> FlowRecord {
        let [remote, local, new_addr] = ends;
        let [remote_port, local_port, new_port] = ports.map(PortWord);
        FlowRecord {
            key: FlowKey { remote, local, remote_port, local_port },
            new_addr, new_port,
            flags: FLAG_ADOPTED,
            state: FlowState::Committed as u32,
            ..FlowRecord::default()
        }
    }
}

fn sum(words: &[u32], halves: &[u16]) -> u16 {
    let mut sum = Sum16BitWords::new();
    for word in words {
        sum = sum.add_4bytes(word.to_ne_bytes());
    }
    for half in halves {
        sum = sum.add_2bytes(half.to_ne_bytes());
    }
    sum.ones_complement()
}

fn same(a: u16, b: u16) -> bool {
    a == b || (a.is_multiple_of(0xffff) && b.is_multiple_of(0xffff))
}

proptest! {
    #[test]
    fn checksums_stay_right_when_the_vip_comes_back(record in any::<bool>().prop_flat_map(adopted),
                                                     tcp in any::<u16>(), ip in any::<u16>(), ttl in 1u8..) {
        let packet = Segment { ttl, header_checksum: HeaderChecksum(ip), ..segment(ACK) };
        let mut patch = Patch::default();
        readdress(&record, &packet, &mut patch);
        prop_assert_eq!((patch.new_addr, patch.new_port, patch.ttl), (record.key.local, record.key.local_port, ttl));
        let changed = |checksum: u16, change: u32| sum(&[change], &[!checksum]);
        // What the two helper calls make of the checksum that stands there.
        let new_tcp = changed(changed(tcp, patch.address_change), patch.tcp_change);
        let before = sum(&record.new_addr.0, &[record.new_port.0, tcp]);
        let after = sum(&record.key.local.0, &[record.key.local_port.0, new_tcp]);
        prop_assert!(same(before, after), "{before:x} {after:x}");
        let before = sum(&record.new_addr.0, &[ip]);
        let after = sum(&record.key.local.0, &[patch.header_checksum.0]);
        prop_assert!(same(before, after), "{before:x} {after:x}");
    }

    #[test]
    fn an_error_about_a_servers_packet_is_one_about_its_socket(
        (v4, record, is_adopted) in any::<(bool, bool)>().prop_flat_map(|(v4, a)| (Just(v4), adopted(v4), Just(a))),
        seq in any::<u32>(), icmp in any::<[u32; 2]>(), sums in any::<[u16; 2]>(), ttl in any::<u8>(),
    ) {
        // One that was not adopted has the server's address for its own, and the VIP for its new one.
        let record = if is_adopted { record } else { FlowRecord { flags: 0, ..record } };
        let (server, port) = if is_adopted {
            (record.new_addr, record.new_port)
        } else {
            (record.key.local, record.key.local_port)
        };
        let mut outer = IpFacts::default();
        (outer.source, outer.destination) = (IpWords([9; 4]), server);
        if v4 { outer.source = IpWords::from_v4_word(9); }
        (outer.ttl, outer.upper_at, outer.total, outer.header_checksum) = (ttl, 20, 1000, HeaderChecksum(sums[0]));
        let mut quoted = IpFacts::default();
        (quoted.source, quoted.destination, quoted.protocol) = (server, record.key.remote, PROTOCOL_TCP);
        quoted.header_checksum = HeaderChecksum(sums[1]);
        let tcp = QuotedTcp([TcpWords::port_word(port, record.key.remote_port), seq.to_be()]);
        let report = Report { outer, quoted, icmp: IcmpWords(icmp), tcp };
        let mut key = FlowKey::default();
        prop_assert!(reported_flow(&report, &mut key));
        prop_assert!(record.belongs_under(&key));

        let mut patch = ReportPatch::default();
        readdress_report(&record, &report, &mut patch);
        let mut arrived = report;
        (arrived.outer.source, arrived.outer.destination) = (patch.source, patch.server);
        (arrived.outer.ttl, arrived.outer.header_checksum) = (patch.ttl, patch.outer_checksum);
        (arrived.quoted.source, arrived.quoted.header_checksum) = (patch.server, patch.quoted_checksum);
        arrived.tcp = QuotedTcp([patch.ports, patch.seq]);
        prop_assert_eq!((arrived.outer.source, arrived.outer.ttl), (record.key.remote, ttl));
        prop_assert!(reported_flow(&arrived, &mut key));
        prop_assert_eq!(key, record.key);
        prop_assert_eq!(arrived.tcp.seq(), seq);

        let header = |ip: &IpFacts| sum(&[ip.source.0, ip.destination.0].concat(), &[ip.header_checksum.0]);
        let message = |report: &Report, checksum: HeaderChecksum| {
            let mut words = [report.tcp.0.as_slice(), &report.quoted.source.0, &report.quoted.destination.0].concat();
            let mut halves = vec![checksum.0];
            if v4 {
                halves.push(report.quoted.header_checksum.0);
            } else {
                words.extend([report.outer.source.0, report.outer.destination.0].concat());
            }
            sum(&words, &halves)
        };
        if v4 {
            prop_assert!(same(header(&report.outer), header(&arrived.outer)));
            prop_assert!(same(header(&report.quoted), header(&arrived.quoted)));
        }
        prop_assert!(same(message(&report, report.icmp.checksum()), message(&arrived, patch.icmp_checksum)));
    }
}
