//! The table of cases. Each has a name, and besides the comparison what must come of it.

mod network;
mod tracked;

use crate::errors::Error;
use crate::packet::Frame;
use crate::{Case, Hook, Outcome};
use baton_shared::addr::PortWord;
use baton_shared::reason::PacketCounter as C;
use baton_shared::record::{
    FLAG_ADOPTED, FLAG_AHEAD, FLAG_FED, FLAG_LEG_UDP, FLAG_OWN_SCALE, FLAG_TRACKED, FlowKey, FlowRecord,
    FlowState, NOTE_CAUGHT_UP,
};
use std::net::SocketAddr;
use std::sync::OnceLock;

/// Which version of IP a case uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V6,
}

/// The client's, the VIP's and the server's address.
pub(crate) fn ends(version: Version) -> [SocketAddr; 3] {
    let ends = match version {
        Version::V4 => ["10.90.10.2:40000", "10.90.1.100:80", "10.90.101.2:8080"],
        Version::V6 => ["[fd90:a::2]:40000", "[fd90:1::100]:80", "[fd90:65:ffff::2]:8080"],
    };
    ends.map(|end| end.parse().unwrap())
}

/// A committed record with the addresses of the hook and no deltas.
pub(crate) fn record(hook: Hook, version: Version) -> FlowRecord {
    let [client, vip, server] = ends(version);
    let (local, new) = match hook {
        Hook::Ingress => (vip, server),
        Hook::Egress => (server, vip),
    };
    FlowRecord {
        flow_id: 1,
        generation: 1,
        key: FlowKey {
            remote: client.ip().into(),
            local: local.ip().into(),
            remote_port: PortWord::new(client.port()),
            local_port: PortWord::new(local.port()),
        },
        state: FlowState::Committed as u32,
        deadline_ns: u64::MAX,
        new_addr: new.ip().into(),
        new_port: PortWord::new(new.port()),
        out_ifindex: 1,
        ..FlowRecord::default()
    }
}

/// A segment of the flow with 100 bytes.
pub(crate) fn frame(hook: Hook, version: Version) -> Frame {
    let [client, vip, server] = ends(version);
    let mut frame = match hook {
        Hook::Ingress => Frame::new(client, vip),
        Hook::Egress => Frame::new(server, client),
    };
    frame.payload = vec![b'x'; 100];
    frame
}

pub(crate) fn timestamps(value: u32, echo: u32) -> Vec<u8> {
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

/// An error of a router behind the client about a packet that the target sent in the VIP's name.
pub(crate) fn error(version: Version) -> Error {
    let [client, vip, _] = ends(version);
    let router = match version {
        Version::V4 => "198.51.100.7:0",
        Version::V6 => "[2001:db8:77::7]:0",
    };
    let mut about = Frame::new(vip, client).options(&timestamps(1, 2));
    about.payload = vec![b'y'; 1400];
    Error::new(router.parse().unwrap(), about)
}

/// What a case must count; the drop, divert or pass follows from it.
struct Expected(String, Vec<C>);

/// The table: name, hook, counters, changes to record and frame.
fn entries() -> &'static [(Expected, Case)] {
    static ENTRIES: OnceLock<Vec<(Expected, Case)>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let mut all = entries_of(Version::V4);
        all.extend(entries_of(Version::V6));
        for version in [Version::V4, Version::V6] {
            all.extend(network::fragment_entries(version));
        }
        all.extend(network::extension_entries());
        all.extend(network::error_entries(Version::V4));
        all.extend(network::error_entries(Version::V6));
        all.push(network::mapped_entry());
        all
    })
}

fn entries_of(version: Version) -> Vec<(Expected, Case)> {
    let mut all = Vec::new();
    let mut add = |name: &'static str, hook, counters: &[C], change: &dyn Fn(&mut FlowRecord, &mut Frame)| {
        let (mut record, mut frame) = (record(hook, version), frame(hook, version));
        change(&mut record, &mut frame);
        let case =
            Case { marked: name.starts_with("marked"), ..Case::new(name, hook, record, frame.bytes()) };
        all.push((Expected(name.into(), counters.to_vec()), case));
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
            f.ip_options(&[7, 7, 4, 0, 0, 0, 0, 0]);
            *f = f.clone().options(&timestamps(1, 2));
        });
        add("a padded short frame", hook, &[C::Translated], &|_, f| {
            f.payload.clear();
            f.padding = 6;
        });
        add("a first fragment of a known flow", hook, &[C::DropFragment], &|_, f| f.fragment(0, true));
        add("a later fragment has no ports", hook, &[], &|_, f| {
            f.fragment(100, true);
        });
        add("another port", hook, &[], &|r, _| r.key.remote_port = PortWord::new(1));
        add("a free record", hook, &[], &|r, _| r.state = 0);
    }

    add("TTL used up", Ingress, &[C::DropTtlExpired], &|_, f| f.ttl(1));
    add("TTL 2 goes on", Ingress, &[C::Translated], &|_, f| f.ttl(2));
    add("frozen: to the hold TUN", Ingress, &[C::Diverted], &|r, _| r.state = FlowState::Frozen as u32);
    add("frozen: a FIN counts one", Ingress, &[C::Diverted], &|r, f| {
        r.state = FlowState::Frozen as u32;
        f.tcp.fin = true;
    });
    let ahead = |r: &mut FlowRecord, f: &mut Frame| {
        (r.state, r.flags) = (FlowState::Frozen as u32, FLAG_AHEAD | FLAG_TRACKED);
        (r.note_ack, r.note_window) = (f.tcp.acknowledgment_number.wrapping_sub(1), 5000);
        r.read_from = f.tcp.sequence_number;
        f.payload.clear();
    };
    let (on, held) = ([C::Translated, C::AheadOfAnswer], [C::Diverted]);
    add("ahead: an answer's acknowledgement goes on", Ingress, &on, &ahead);
    add("ahead: with data it is held", Ingress, &held, &|r, f| {
        ahead(r, f);
        f.payload = vec![b'x'; 100];
    });
    let ends = |r: &mut FlowRecord, f: &mut Frame| {
        ahead(r, f);
        f.tcp.fin = true;
    };
    add("ahead: the end behind all that was given", Ingress, &on, &ends);
    add("ahead: the end behind more", Ingress, &held, &|r, f| {
        ends(r, f);
        f.tcp.sequence_number = f.tcp.sequence_number.wrapping_add(1);
    });
    let no_more = |r: &mut FlowRecord, f: &mut Frame| {
        ahead(r, f);
        r.note_ack = f.tcp.acknowledgment_number;
    };
    add("ahead: what acknowledges no more", Ingress, &held, &no_more);
    add("ahead: what acknowledges no more than one that went on", Ingress, &on, &|r, f| {
        no_more(r, f);
        r.packets = 1;
    });
    add("frozen too long", Ingress, &[C::FreezeExpired], &|r, _| {
        r.state = FlowState::Frozen as u32;
        r.deadline_ns = 0;
    });
    add("frozen: a fragment is dropped", Ingress, &[C::DropFragment], &|r, f| {
        r.state = FlowState::Frozen as u32;
        f.fragment(0, true);
    });
    add("marked: released and translated", Ingress, &[C::Translated, C::Released], &|r, _| {
        (r.diverted, r.released) = (300, 100);
    });
    add("data queues behind held data", Ingress, &[C::Diverted], &|r, _| {
        (r.diverted, r.released, r.drain_end) = (5, u32::MAX, 6)
    });
    add("but not for ever", Ingress, &[C::Translated], &|r, _| {
        (r.diverted, r.released, r.drain_end) = (5, u32::MAX, 5)
    });
    add("a pure acknowledgement does not queue", Ingress, &[C::Translated], &|r, f| {
        (r.diverted, r.released, r.drain_end) = (300, 100, 1000);
        f.payload.clear();
    });
    let size = match version {
        Version::V4 => 140,
        Version::V6 => 160,
    };
    add("just what fits the leg goes on", Ingress, &[C::Translated], &|r, _| r.leg_mtu = size);
    add("a byte more goes to the daemon", Ingress, &[C::TooBig], &|r, _| r.leg_mtu = size - 1);
    add("marked: and is dropped when it comes back", Ingress, &[C::DropTooBig], &|r, _| {
        (r.leg_mtu, r.diverted, r.released) = (size - 1, 300, 100);
    });
    add("held data is held, whatever its size", Ingress, &[C::Diverted], &|r, _| {
        (r.leg_mtu, r.state) = (size - 1, FlowState::Frozen as u32);
    });
    if version == Version::V4 {
        add("what routers may cut is not too big", Ingress, &[C::Translated], &|r, f| {
            (r.leg_mtu, r.ack_delta) = (100, 1);
            f.may_fragment();
        });
        add("but in an outer header it is", Ingress, &[C::TooBig], &|r, f| {
            (r.leg_mtu, r.ack_delta, r.flags) = (100, 1, FLAG_LEG_UDP);
            f.may_fragment();
        });
        add("and on its way to an adopted socket", Ingress, &[C::TooBig], &|r, f| {
            r.leg_mtu = 100;
            f.may_fragment();
        });
    }
    add("a SYN on a live flow waits for the word of its end", Ingress, &[C::SynAwaitsEnd], &|_, f| {
        (f.tcp.syn, f.tcp.ack) = (true, false);
        f.payload.clear();
    });
    add("marked: and is translated when it comes back", Ingress, &[C::Translated, C::Released], &|r, f| {
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
    add(
        "fed, and the server behind what the client was told",
        Egress,
        &[C::Translated, C::AckRaised],
        &|r, f| {
            (r.flags, r.ack_floor) = (FLAG_FED, 9000);
            f.tcp.acknowledgment_number = 8999;
        },
    );
    add("fed, and the server catches up", Egress, &[C::Translated], &|r, f| {
        (r.flags, r.ack_floor) = (FLAG_FED, 9000);
        f.tcp.acknowledgment_number = 9000;
    });
    add("once the server has caught up there is no floor", Egress, &[C::Translated], &|r, f| {
        (r.flags, r.note_flags, r.ack_floor) = (FLAG_FED, NOTE_CAUGHT_UP, 9000);
        f.tcp.acknowledgment_number = 9000 + (1 << 31) + 1;
        f.tcp.window_size = 10;
    });
    add("a reset's notes", Egress, &[C::Translated], &|_, f| f.tcp.rst = true);
    add("a FIN's notes", Egress, &[C::Translated], &|r, f| {
        r.note_flags = 4;
        r.note_seq_end = 5;
        f.tcp.fin = true;
    });

    add("adopted, with a scale of its own", Egress, &[C::AdoptedSent, C::WindowRescaled], &|r, f| {
        deltas(r);
        r.flags = FLAG_ADOPTED | FLAG_OWN_SCALE;
        (r.window_shift_in, r.window_shift_out) = (4, 10);
        f.tcp.window_size = 0xfff1;
    });

    tracked::tracked_entries(&mut add);
    tracked::plain_entries(&mut add);

    all.push(tracked::corrupted_entry(version));

    // Broken by hand: bytes of the TCP header and of the IP header's length.
    let (offset_at, length_at) = match version {
        Version::V4 => (46, 17),
        Version::V6 => (66, 19),
    };
    let mut broken = |name: &str, counter: Option<C>, change: &dyn Fn(&mut Vec<u8>)| {
        let mut f = frame(Ingress, version);
        f.payload.truncate(10);
        let mut bytes = f.bytes();
        change(&mut bytes);
        let record = record(Ingress, version);
        let case = Case::new(name, Ingress, record, bytes);
        all.push((Expected(name.to_owned(), Vec::from_iter(counter)), case));
    };
    let malformed = Some(C::DropMalformed);
    broken("a data offset too small", malformed, &|b| b[offset_at] = 0x40);
    broken("a data offset past the end", malformed, &|b| b[offset_at] = 0xf0);
    broken("a total length past the end", malformed, &|b| b[length_at] = 0xff);
    broken("cut short in the TCP header", malformed, &|b| b.truncate(offset_at + 3));
    broken("cut short behind the ports", malformed, &|b| b.truncate(offset_at - 8));
    broken("cut short in the ports", None, &|b| b.truncate(offset_at - 9));
    all
}

type Add<'a> = dyn FnMut(&'static str, Hook, &[C], &dyn Fn(&mut FlowRecord, &mut Frame)) + 'a;

pub(crate) fn table() -> Vec<Case> {
    entries().iter().map(|(_, case)| case.clone()).collect()
}

/// The table's own word on a case.
pub(crate) fn check_expectation(case: &Case, outcome: &Outcome) {
    let (expected, _) = entries()
        .iter()
        .find(|(_, c)| c.name == case.name && c.hook == case.hook && c.frame == case.frame)
        .unwrap();
    let mut counters = vec![0; C::CAPACITY as usize];
    expected.1.iter().for_each(|c| counters[c.code() as usize] += 1);
    assert_eq!(outcome.counters, counters, "{} ({:?})", expected.0, case.hook);
}
