//! Packets by which the agent must look at a flow: whether it is told.

use crate::cases::{Version, frame, record};
use crate::packet::Frame;
use crate::{Case, Hook, compare, host, userspace, with_bench};
use baton_shared::record::{
    FLAG_ADOPTED, FLAG_OWN_SCALE, FLAG_TRACKED, FlowRecord, FlowState, NOTE_FIN, NOTE_LISTENER, NOTE_RST,
    NOTE_SYN_ACK,
};

type Change = fn(&mut FlowRecord, &mut Frame);

/// What a server sends, and whether its agent is told that the flow closes.
const TABLE: [(&str, bool, Change); 21] = [
    ("nothing but data", false, |_, _| {}),
    ("a FIN", true, |_, f| f.tcp.fin = true),
    ("a FIN without data", true, |_, f| bare(f).fin = true),
    ("a reset", true, |_, f| bare(f).rst = true),
    ("a late SYN-ACK", true, |_, f| bare(f).syn = true),
    ("a second FIN", false, |r, f| {
        r.note_flags = NOTE_SYN_ACK | NOTE_FIN;
        f.tcp.fin = true;
    }),
    ("a second reset", false, |r, f| {
        r.note_flags = NOTE_FIN | NOTE_RST;
        bare(f).rst = true;
    }),
    ("a second SYN-ACK", false, |r, f| {
        r.note_flags = NOTE_LISTENER;
        bare(f).syn = true;
    }),
    ("a reset behind a FIN", true, |r, f| {
        r.note_flags = NOTE_FIN;
        bare(f).rst = true;
    }),
    ("data behind a FIN", false, |r, _| r.note_flags = NOTE_FIN),
    ("with a part of a response that is read", true, |r, f| {
        read(r);
        f.tcp.fin = true;
    }),
    ("with one of several pieces", true, |r, f| {
        read(r);
        f.payload.resize(3000, b'x');
        f.tcp.fin = true;
    }),
    ("a second FIN with such a part", false, |r, f| {
        read(r);
        r.note_flags = NOTE_FIN;
        f.tcp.fin = true;
    }),
    ("a FIN behind the last that is read", true, |r, f| {
        read(r);
        bare(f).fin = true;
    }),
    ("of an adopted flow", true, |r, f| {
        r.flags = FLAG_ADOPTED;
        f.tcp.fin = true;
    }),
    ("of an adopted flow with a scale of its own", true, |r, f| {
        r.flags = FLAG_ADOPTED | FLAG_OWN_SCALE;
        f.tcp.fin = true;
    }),
    ("of a flow that is being adopted", true, |r, f| {
        (r.flags, r.state, r.packets) = (FLAG_ADOPTED, FlowState::Adopting as u32, 1);
        f.tcp.fin = true;
    }),
    ("the stack's answer to a packet of no connection", false, |r, f| {
        (r.flags, r.state) = (FLAG_ADOPTED, FlowState::Adopting as u32);
        bare(f).rst = true;
        f.tcp.ack = false;
    }),
    ("in the handshake", false, |r, f| {
        r.state = FlowState::Replaying as u32;
        bare(f).rst = true;
    }),
    ("of an ended flow", false, |r, f| {
        r.state = FlowState::Ended as u32;
        f.tcp.fin = true;
    }),
    ("of a fenced flow", false, |r, f| {
        r.state = FlowState::Fenced as u32;
        f.tcp.fin = true;
    }),
];

fn bare(frame: &mut Frame) -> &mut etherparse::TcpHeader {
    frame.payload.clear();
    &mut frame.tcp
}

/// All of the frame's payload.
fn read(record: &mut FlowRecord) {
    (record.flags, record.read_from) = (FLAG_TRACKED, 1000);
}

/// By the table, and as `shared` says.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in [Version::V4, Version::V6] {
        for (name, closes, change) in TABLE {
            let (mut record, mut frame) = (record(Hook::Egress, version), frame(Hook::Egress, version));
            change(&mut record, &mut frame);
            let case = Case::new(name, Hook::Egress, record, frame.bytes());
            assert_eq!(host::run(&case).closes, closes, "{name}");
            cases.push(case);
        }
        // Nobody closes a flow by what the client sends: its server's socket answers.
        let mut frame = frame(Hook::Ingress, version);
        frame.tcp.fin = true;
        cases.push(Case::new("a client's", Hook::Ingress, record(Hook::Ingress, version), frame.bytes()));
    }
    cases
}

#[test]
fn the_agent_is_told_once_of_each_sign_that_a_flow_closes() {
    with_bench(|bench| cases().iter().for_each(|case| compare(case, &host::run(case), &bench.run(case))));
}

#[test]
fn in_user_space_each_sign_that_a_flow_closes_is_judged_alike() {
    // Where nothing is adopted.
    for case in cases().iter().filter(|case| case.record.flags & FLAG_ADOPTED == 0) {
        compare(case, &host::run(case), &userspace::run(case));
    }
}

#[test]
fn what_tells_that_a_flow_closes_goes_on_where_the_ring_buffer_has_no_room() {
    with_bench(|bench| {
        let (_, _, change) = TABLE[2];
        let (mut record, mut frame) = (record(Hook::Egress, Version::V4), frame(Hook::Egress, Version::V4));
        change(&mut record, &mut frame);
        let case = Case::new("no room", Hook::Egress, record, frame.bytes());
        let once = host::run(&case);
        // Each as if it were the first of its flow; the buffer takes about a thousand.
        for _ in 0..2 {
            (1..1500).for_each(|_| bench.send_unread(&case, 1));
            let (counters, elements) = bench.run_unread(&case, 1);
            assert_eq!(counters, once.counters.iter().map(|one| 1500 * one).collect::<Vec<_>>());
            assert!((900..=1024).contains(&elements.len()), "{} of 1500", elements.len());
            assert!(elements.iter().all(|payload| *payload == 0));
        }
    });
}
