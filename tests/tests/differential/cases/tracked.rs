//! Cases of tracked flows: what is read of them, and the plain requests that the program judges by itself.

use super::{Add, C, Expected, Version, frame, record, timestamps};
use crate::bench::RULING;
use crate::packet::Frame;
use crate::{Case, Hook};
use baton_shared::record::{FLAG_LAST, FLAG_OWED, FLAG_TRACKED, FLAG_WITHIN_BODY, FlowRecord, FlowState};

/// As curl asks.
const PLAIN: &[u8] = b"GET /a/b?c HTTP/1.1\r\nHost: lab:80\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n";

/// The record of a flow whose next request, at the frame's number, is judged by the program if it is plain.
fn follow_plain(r: &mut FlowRecord) {
    r.flags = FLAG_TRACKED;
    (r.read_from, r.note_flags, r.requests) = (1000, RULING, u32::MAX);
    (r.note_ack, r.note_window) = (4999, 1);
    (r.diverted, r.released) = (7, 7);
}

/// Plain requests on tracked flows, and what keeps one from being judged by the program.
pub(super) fn plain_entries(add: &mut Add<'_>) {
    use Hook::Ingress;
    let follow = |r: &mut FlowRecord, f: &mut Frame| {
        follow_plain(r);
        f.payload = PLAIN.to_vec();
    };
    let (passed, read) = (&[C::Translated, C::LaterPlain], &[C::LaterRequest]);
    add("plain: it goes on", Ingress, passed, &follow);
    add("plain: pushed, with options, and with timestamps", Ingress, passed, &|r, f| {
        follow(r, f);
        f.tcp.psh = true;
        *f = f.clone().options(&timestamps(1, 2));
    });
    add("plain: across the wrap", Ingress, passed, &|r, f| {
        follow(r, f);
        (r.read_from, f.tcp.sequence_number) = (u32::MAX, u32::MAX);
        r.note_window = 0;
    });
    for length in [1023, 1024] {
        add("plain: of an odd length, and of the greatest", Ingress, passed, &|r, f| {
            follow(r, f);
            let cookie = format!("Cookie: {}\r\n\r\n", "x".repeat(length - PLAIN.len() - 10));
            f.payload.splice(PLAIN.len() - 2.., cookie.into_bytes());
            assert_eq!(f.payload.len(), length);
        });
    }
    type Change = fn(&mut FlowRecord, &mut Frame);
    let others: [(&'static str, Change); 18] = [
        ("plain: under another ruling", |r, _| r.note_flags = RULING + 1),
        ("plain: under none", |r, _| r.note_flags = 0),
        ("plain: behind a request whose end is still to come", |r, _| r.read_from = 1001),
        ("plain: behind a gap", |r, _| r.read_from = 999),
        ("plain: while something is held", |r, _| r.released = 6),
        ("plain: behind the last request", |r, _| r.flags |= FLAG_LAST),
        ("plain: within a body that is read", |r, _| r.flags |= FLAG_WITHIN_BODY),
        ("plain: where the client was told of more", |r, _| r.flags |= FLAG_OWED),
        ("plain: acknowledges too much", |r, _| r.note_ack = 4998),
        ("plain: acknowledges too little", |r, _| r.note_ack = 5002),
        ("plain: with a FIN", |_, f| f.tcp.fin = true),
        ("plain: with an urgent byte", |_, f| f.tcp.urg = true),
        ("plain: with a SYN", |_, f| f.tcp.syn = true),
        ("plain: in part", |_, f| f.payload.truncate(PLAIN.len() - 1)),
        ("plain: and more", |_, f| f.payload.push(b'G')),
        ("plain: but for its method", |_, f| f.payload[..3].copy_from_slice(b"PUT")),
        ("plain: but for a header", |_, f| {
            f.payload.splice(PLAIN.len() - 2.., *b"Connection: close\r\n\r\n");
        }),
        ("plain: but for its length", |_, f| {
            let cookie = format!("Cookie: {}\r\n\r\n", "x".repeat(1025 - PLAIN.len() - 10));
            f.payload.splice(PLAIN.len() - 2.., cookie.into_bytes());
        }),
    ];
    for (name, change) in others {
        add(name, Ingress, read, &|r, f| {
            follow(r, f);
            change(r, f);
        });
    }
    add("plain: too large for the way", Ingress, read, &|r, f| {
        follow(r, f);
        r.leg_mtu = 60;
    });
    add("plain: its hops are used up", Ingress, &[C::DropTtlExpired], &|r, f| {
        follow(r, f);
        f.ttl(1);
    });
    add("plain: sent again", Ingress, &[C::Translated], &|r, f| {
        follow(r, f);
        r.read_from = 1000 + u32::try_from(PLAIN.len()).unwrap();
    });
}

/// Tracked flows: the frame's 100 bytes are those from 1000 on.
pub(super) fn tracked_entries(add: &mut Add<'_>) {
    use Hook::{Egress, Ingress};
    let ends_at = |read_from| {
        move |r: &mut FlowRecord| {
            r.flags = FLAG_TRACKED;
            r.read_from = read_from;
        }
    };
    let inside = ends_at(1100);
    add("tracked: the last byte of the request under way", Ingress, &[C::Translated], &|r, _| inside(r));
    let beyond = ends_at(1099);
    add("tracked: a segment over the end of the request", Ingress, &[C::LaterRequest], &|r, _| beyond(r));
    add("tracked: a FIN with the request's last byte", Ingress, &[C::Translated], &|r, f| {
        inside(r);
        f.tcp.fin = true;
    });
    add("tracked: a FIN with data behind the request counts one", Ingress, &[C::LaterRequest], &|r, f| {
        beyond(r);
        f.tcp.fin = true;
    });
    add("tracked: a bare FIN at once behind the request", Ingress, &[C::Translated], &|r, f| {
        ends_at(1000)(r);
        f.payload.clear();
        f.tcp.fin = true;
    });
    add("tracked: a bare FIN behind what is to be read", Ingress, &[C::LaterRequest], &|r, f| {
        ends_at(999)(r);
        f.payload.clear();
        f.tcp.fin = true;
    });
    add("tracked: an acknowledgement behind the request", Ingress, &[C::Translated], &|r, f| {
        ends_at(0)(r);
        f.payload.clear();
    });
    add("tracked: a reset behind the request", Ingress, &[C::Translated], &|r, f| {
        ends_at(0)(r);
        f.tcp.rst = true;
    });
    add("tracked: across the wrap", Ingress, &[C::LaterRequest], &|r, f| {
        ends_at(5)(r);
        f.tcp.sequence_number = u32::MAX - 93;
    });
    add("tracked: within, across the wrap", Ingress, &[C::Translated], &|r, f| {
        ends_at(6)(r);
        f.tcp.sequence_number = u32::MAX - 93;
    });
    let held = |r: &mut FlowRecord| {
        inside(r);
        (r.diverted, r.released) = (3, u32::MAX);
    };
    add("tracked: an acknowledgement behind what is held", Ingress, &[C::Translated], &|r, f| {
        held(r);
        f.payload.clear();
    });
    add("tracked: data of the request under way before what is held", Ingress, &[C::Translated], &|r, _| {
        held(r)
    });
    add("tracked: a reset behind what is held", Ingress, &[C::Translated], &|r, f| {
        held(r);
        f.payload.clear();
        f.tcp.rst = true;
    });
    add("marked: an acknowledgement comes back", Ingress, &[C::Translated, C::Released], &|r, f| {
        held(r);
        f.payload.clear();
    });
    add("marked: read and released", Ingress, &[C::Translated, C::Released], &|r, _| beyond(r));
    add("not tracked: the end is nothing", Ingress, &[C::Translated], &|r, _| r.read_from = 0);
    add("tracked and ended: nobody reads", Ingress, &[C::Translated], &|r, _| {
        beyond(r);
        r.state = FlowState::Ended as u32;
    });
    add("tracked: content that need not be read", Egress, &[C::Translated], &|r, _| inside(r));
    let copied = &[C::Translated, C::ResponseCopied];
    add("tracked: the start of a response is copied", Egress, copied, &|r, _| ends_at(1000)(r));
    add("tracked: a response begins in mid-packet", Egress, copied, &|r, _| beyond(r));
    for length in [1, 2047, 2048, 2049, 3000] {
        add("tracked: responses of one piece and of two are copied whole", Egress, copied, &|r, f| {
            f.payload.resize(length, b'x');
            ends_at(1000)(r);
        });
    }
    let head =
        |length: u32| format!("HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    // So much of the content is there.
    let begun = |content: u32, there: usize| {
        move |r: &mut FlowRecord, f: &mut Frame| {
            ends_at(1000)(r);
            r.requests = 9;
            (r.packets, r.bytes) = (1, 2049);
            f.payload = [head(content), vec![b'c'; there]].concat();
        }
    };
    add(
        "tracked: of a large response that begins only the head is copied",
        Egress,
        copied,
        &begun(90_000, 3000),
    );
    add("tracked: of one that this packet ends as well", Egress, copied, &begun(3000, 3000));
    add("tracked: all is copied where the next one begins in it", Egress, copied, &begun(2999, 3000));
    add("tracked: of a small one", Egress, copied, &begun(90_000, 30));
    add("tracked: of one whose content comes later", Egress, copied, &begun(90_000, 0));
    add("tracked: of one without content", Egress, copied, &begun(0, 0));
    add("tracked: all is copied where HEAD may have been asked", Egress, copied, &|r, f| {
        begun(90_000, 0)(r, f);
        r.requests = 0;
    });
    add("tracked: all is copied where packets were small", Egress, copied, &|r, f| {
        begun(90_000, 0)(r, f);
        r.packets = 2;
    });
    add("tracked: a head that another packet's end completes", Egress, copied, &|r, f| {
        begun(90_000, 0)(r, f);
        f.payload.truncate(f.payload.len() - 1);
    });
    add("tracked: the head as it came before", Egress, copied, &|r, f| {
        begun(90_000, 3000)(r, f);
        r.read_from = 1001;
    });
    add("tracked: the head's numbers go round", Egress, copied, &|r, f| {
        begun(90_000, 3000)(r, f);
        r.read_from = u32::MAX - 20;
        f.tcp.sequence_number = r.read_from;
    });
    for (name, from, to) in [
        ("tracked: a large chunked response is copied whole", "A: b", "Transfer-Encoding: chunked"),
        ("tracked: one that its server closes is copied whole", "A: b", "Connection: close"),
        ("tracked: one of HTTP/1.0 is copied whole", "1.1 200", "1.0 200"),
        ("tracked: one without content is copied whole", "200", "304"),
        ("tracked: one without a length is copied whole", "Content-Length", "Content-Height"),
        ("tracked: one with two lengths is copied whole", "A: b", "Content-Length: 5"),
    ] {
        add(name, Egress, copied, &|r, f| {
            begun(90_000, 3000)(r, f);
            let text = String::from_utf8(f.payload.clone()).unwrap();
            f.payload = text.replacen(from, to, 1).into_bytes();
        });
    }
    for length in [1024, 1025] {
        add("tracked: the longest plain head, and one more", Egress, copied, &|r, f| {
            begun(90_000, 2000)(r, f);
            let more = length - head(90_000).len();
            let text = String::from_utf8(f.payload.clone()).unwrap();
            f.payload = text.replacen("A: b", &format!("A: b{}", "b".repeat(more)), 1).into_bytes();
        });
    }
    add("tracked: a server's acknowledgement is not copied", Egress, &[C::Translated], &|r, f| {
        ends_at(0)(r);
        f.payload.clear();
    });
    add("tracked and fenced", Egress, &[C::DropFenced], &|r, _| {
        beyond(r);
        r.state = FlowState::Fenced as u32;
    });
    add("tracked and ended: not copied", Egress, &[C::Translated], &|r, _| {
        beyond(r);
        r.state = FlowState::Ended as u32;
    });
}

/// A plain request in which a bit was changed on its way: in its last header's value.
pub(super) fn corrupted_entry(version: Version) -> (Expected, Case) {
    let (mut record, mut frame) = (record(Hook::Ingress, version), frame(Hook::Ingress, version));
    follow_plain(&mut record);
    frame.payload = PLAIN.to_vec();
    let mut bytes = frame.bytes();
    let at = bytes.len() - 6;
    bytes[at] ^= 1;
    let name = "plain: corrupted on its way";
    (Expected(name.to_owned(), vec![C::LaterRequest]), Case::new(name, Hook::Ingress, record, bytes))
}
