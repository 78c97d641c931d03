//! The table of cases. Each has a name, and besides the comparison what must come of it.

use crate::packet::Frame;
use crate::{Case, Hook, Outcome};
use baton_shared::addr::{IpWords, PortWord};
use baton_shared::reason::PacketCounter as C;
use baton_shared::record::{FlowKey, FlowRecord, FlowState};
use std::net::IpAddr;

const CLIENT: ([u8; 4], u16) = ([10, 90, 10, 2], 40_000);
const VIP: ([u8; 4], u16) = ([10, 90, 1, 100], 80);
const SERVER: ([u8; 4], u16) = ([10, 90, 101, 2], 8080);

fn address(a: [u8; 4]) -> IpWords {
    IpAddr::from(a).into()
}

/// A committed record with the addresses of the hook and no deltas.
pub(crate) fn record(hook: Hook) -> FlowRecord {
    let (local, new) = match hook {
        Hook::Ingress => (VIP, SERVER),
        Hook::Egress => (SERVER, VIP),
    };
    FlowRecord {
        flow_id: 1,
        generation: 1,
        key: FlowKey {
            remote: address(CLIENT.0),
            local: address(local.0),
            remote_port: PortWord::new(CLIENT.1),
            local_port: PortWord::new(local.1),
        },
        state: FlowState::Committed as u32,
        deadline_ns: u64::MAX,
        new_addr: address(new.0),
        new_port: PortWord::new(new.1),
        out_ifindex: 1,
        ..FlowRecord::default()
    }
}

/// A segment of the flow with 100 bytes.
pub(crate) fn frame(hook: Hook) -> Frame {
    let mut frame = match hook {
        Hook::Ingress => Frame::new(CLIENT, VIP),
        Hook::Egress => Frame::new(SERVER, CLIENT),
    };
    frame.payload = vec![b'x'; 100];
    frame
}

fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let mut raw = vec![1, 1, 8, 10];
    raw.extend(value.to_be_bytes());
    raw.extend(echo.to_be_bytes());
    raw
}

fn sack(lead: &[u8], edges: &[u32]) -> Vec<u8> {
    let mut raw = lead.to_vec();
    raw.extend([5, u8::try_from(2 + 4 * edges.len()).unwrap()]);
    raw.extend(edges.iter().flat_map(|e| e.to_be_bytes()));
    raw.resize(raw.len().next_multiple_of(4), 0);
    raw
}

/// What a case must count; the drop, divert or pass follows from it.
struct Expected(&'static str, Vec<C>);

/// The table: name, hook, counters, changes to record and frame.
fn entries() -> Vec<(Expected, Case)> {
    let mut all = Vec::new();
    let mut add = |name: &'static str, hook, counters: &[C], change: &dyn Fn(&mut FlowRecord, &mut Frame)| {
        let (mut record, mut frame) = (record(hook), frame(hook));
        change(&mut record, &mut frame);
        let case = Case {
            name: name.into(),
            hook,
            record,
            marked: name.starts_with("marked"),
            frame: frame.bytes(),
        };
        all.push((Expected(name, counters.to_vec()), case));
    };
    use Hook::{Egress, Ingress};
    let deltas = |r: &mut FlowRecord| {
        r.seq_delta = 0x8000_0001;
        r.ack_delta = 0xffff_fff0;
        r.tsval_delta = 77;
        r.tsecr_delta = 0xffff_ffb3;
    };
    for hook in [Ingress, Egress] {
        add("addresses and ports only", hook, &[C::Translated], &|_, _| {});
        add("sequence and acknowledgement", hook, &[C::Translated], &|r, _| deltas(r));
        add("timestamps", hook, &[C::Translated], &|r, f| {
            deltas(r);
            *f = f.clone().options(&timestamps(0xffff_fff0, 5));
        });
        add("timestamps at an odd offset", hook, &[C::Translated], &|r, f| {
            deltas(r);
            let mut raw = timestamps(1, 2);
            raw.rotate_left(1);
            *f = f.clone().options(&raw);
        });
        add("timestamps without ACK keep their echo", hook, &[C::Translated], &|r, f| {
            deltas(r);
            f.tcp.ack = false;
            *f = f.clone().options(&timestamps(1, 9));
        });
        for blocks in 1..=4 {
            add("selective acknowledgements", hook, &[C::Translated], &|r, f| {
                deltas(r);
                let edges: Vec<u32> = (0..2 * blocks).map(|i| (u32::MAX - 7).wrapping_add(i * 3)).collect();
                *f = f.clone().options(&sack(&[1, 1], &edges));
            });
        }
        add(
            "selective acknowledgements at an odd offset, after timestamps",
            hook,
            &[C::Translated],
            &|r, f| {
                deltas(r);
                let mut raw = timestamps(3, 4);
                raw.extend(sack(&[1], &[10, 20, 30, 40]));
                *f = f.clone().options(&raw);
            },
        );
        add("a window in a smaller scale is clamped", hook, &[C::Translated], &|r, f| {
            (r.window_shift_in, r.window_shift_out) = (9, 2);
            f.tcp.window_size = 4000;
        });
        add("a window in a larger scale is rounded down", hook, &[C::Translated], &|r, f| {
            (r.window_shift_in, r.window_shift_out) = (0, 7);
            f.tcp.window_size = 255;
        });
        add("a reset is translated", hook, &[C::Translated], &|r, f| {
            deltas(r);
            (f.tcp.rst, f.tcp.ack) = (true, false);
            f.payload.clear();
        });
        add("IP options", hook, &[C::Translated], &|r, f| {
            deltas(r);
            *f = f.clone().ip_options(&[7, 7, 4, 0, 0, 0, 0, 0]).options(&timestamps(1, 2));
        });
        add("a padded short frame", hook, &[C::Translated], &|_, f| {
            f.payload.clear();
            f.padding = 6;
        });
        add("a first fragment of a known flow", hook, &[C::DropFragment], &|_, f| f.ip.more_fragments = true);
        add("a later fragment has no ports", hook, &[], &|_, f| {
            f.ip.fragment_offset = etherparse::IpFragOffset::try_new(100).unwrap();
        });
        add("another port", hook, &[], &|r, _| r.key.remote_port = PortWord::new(1));
        add("a free record", hook, &[], &|r, _| r.state = 0);
    }

    add("TTL used up", Ingress, &[C::DropTtlExpired], &|_, f| f.ip.time_to_live = 1);
    add("TTL 2 goes on", Ingress, &[C::Translated], &|_, f| f.ip.time_to_live = 2);
    add("frozen: to the hold TUN", Ingress, &[C::Diverted], &|r, _| r.state = FlowState::Frozen as u32);
    add("frozen: a FIN counts one", Ingress, &[C::Diverted], &|r, f| {
        r.state = FlowState::Frozen as u32;
        f.tcp.fin = true;
    });
    add("frozen too long", Ingress, &[C::FreezeExpired], &|r, _| {
        r.state = FlowState::Frozen as u32;
        r.deadline_ns = 0;
    });
    add("frozen: a fragment is dropped", Ingress, &[C::DropFragment], &|r, f| {
        r.state = FlowState::Frozen as u32;
        f.ip.more_fragments = true;
    });
    add("marked: released and translated", Ingress, &[C::Translated, C::Released], &|r, _| {
        (r.diverted, r.released) = (300, 100);
    });
    add("data queues behind held data", Ingress, &[C::Diverted], &|r, _| {
        (r.diverted, r.released) = (5, u32::MAX)
    });
    add("a pure acknowledgement does not queue", Ingress, &[C::Translated], &|r, f| {
        (r.diverted, r.released) = (300, 100);
        f.payload.clear();
    });
    add("a SYN on a live flow is translated", Ingress, &[C::Translated], &|r, f| {
        deltas(r);
        (f.tcp.syn, f.tcp.ack) = (true, false);
        (r.window_shift_in, r.window_shift_out) = (0, 7);
        f.payload.clear();
    });
    add("a SYN on an ended flow goes to the listener", Ingress, &[C::SynToListener], &|r, f| {
        r.state = FlowState::Ended as u32;
        (f.tcp.syn, f.tcp.ack) = (true, false);
        f.payload.clear();
    });
    add("what follows it as well", Ingress, &[C::Superseded], &|r, _| r.state = FlowState::Superseded as u32);
    add("an ended flow is still translated", Ingress, &[C::Translated], &|r, _| {
        r.state = FlowState::Ended as u32
    });

    add("replaying: the SYN-ACK goes to the agent", Egress, &[C::ReplayDiverted], &|r, f| {
        r.state = FlowState::Replaying as u32;
        f.tcp.syn = true;
        f.payload.clear();
        *f = f.clone().options(&[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 1, 1, 0, 0, 2, 2, 1, 3, 3, 7]);
    });
    add("fenced", Egress, &[C::DropFenced], &|r, _| r.state = FlowState::Fenced as u32);
    add("a late SYN-ACK", Egress, &[C::DropLateSynAck], &|_, f| f.tcp.syn = true);
    add("an acknowledgement below the floor", Egress, &[C::Translated, C::AckRaised], &|r, f| {
        (r.window_shift_in, r.window_shift_out, r.ack_floor) = (7, 7, 9000);
        f.tcp.acknowledgment_number = 8000;
        f.tcp.window_size = 10;
    });
    add("the floor takes the whole window", Egress, &[C::Translated, C::AckRaised], &|r, f| {
        r.ack_floor = 9000;
        f.tcp.acknowledgment_number = 1;
        f.tcp.window_size = 10;
    });
    add("a reset's notes", Egress, &[C::Translated], &|_, f| f.tcp.rst = true);
    add("a FIN's notes", Egress, &[C::Translated], &|r, f| {
        r.note_flags = 4;
        r.note_seq_end = 5;
        f.tcp.fin = true;
    });

    // Broken by hand.
    for (name, at, value) in [
        ("a data offset too small", 46, 0x40),
        ("a data offset past the end", 46, 0xf0),
        ("a total length past the end", 17, 0xff),
    ] {
        let mut f = frame(Ingress);
        f.payload.truncate(10);
        let mut bytes = f.bytes();
        bytes[at] = value;
        let case =
            Case { name: name.into(), hook: Ingress, record: record(Ingress), marked: false, frame: bytes };
        all.push((Expected(name, vec![C::DropMalformed]), case));
    }
    all
}

/// Cases for the target whose packet finds the same record again after its translation.
pub(crate) fn repeatable() -> Vec<Case> {
    let hook = Hook::Egress;
    let case = |name: &str, options: &[u8]| {
        let mut record = record(hook);
        (record.new_addr, record.new_port) = (record.key.local, record.key.local_port);
        (record.seq_delta, record.ack_delta, record.tsval_delta, record.tsecr_delta) = (1, 2, 3, 4);
        record.ack_floor = 5000u32.wrapping_sub(1 << 30);
        let frame = frame(hook).options(options).bytes();
        Case { name: name.into(), hook, record, marked: false, frame }
    };
    let mut all = vec![case("miss", &[]), case("hit", &[]), case("hit with timestamps", &timestamps(1, 2))];
    all[0].record.key.local_port = PortWord::new(1);
    let mut raw = timestamps(1, 2);
    raw.extend(sack(&[1, 1], &[1, 2, 3, 4, 5, 6]));
    all.push(case("hit with timestamps and three SACK blocks", &raw));
    all
}

pub(crate) fn table() -> Vec<Case> {
    entries().into_iter().map(|(_, case)| case).collect()
}

/// The table's own word on a case.
pub(crate) fn check_expectation(case: &Case, outcome: &Outcome) {
    let (expected, _) = entries()
        .into_iter()
        .find(|(_, c)| c.name == case.name && c.hook == case.hook && c.frame == case.frame)
        .unwrap();
    let mut counters = vec![0; C::CAPACITY as usize];
    expected.1.iter().for_each(|c| counters[c.code() as usize] += 1);
    assert_eq!(outcome.counters, counters, "{} ({:?})", expected.0, case.hook);
}
