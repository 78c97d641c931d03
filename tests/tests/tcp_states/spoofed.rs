//! What somebody on another link sends in a client's name, by raw sockets: blind, many tries, and as one who sees everything.
//! Each is tried at a connection with the server and at a migrated one; it must succeed at neither, or at both.

use crate::after::migrated;
use crate::place::{Place, Row};
use crate::rows;
use baton_tests::peer::{Options, Peer, Segment, Spoofer, Start, flag, request};
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![resets_all_over, syns_all_over, data_with_any_acknowledgement];

/// One packet each, which must not be lost in a queue that the others fill.
pub(crate) const ALONE: &[Row] = rows![reset_by_one_who_sees, data_by_one_who_sees];

/// A connection with the server and a migrated one, and what is sent in their client's name: `tries` made of the client's next
/// segment, from client2.
fn both_ways(place: &Place, tries: impl Fn(&Segment) -> Vec<Segment>, then: impl Fn(&mut Peer)) {
    let spoofer = Spoofer::at(&place.t.lab, "client2");
    let start = Start::default();
    let mut direct = Peer::open(place.host(), place.direct(), &start);
    place.fetch(&mut direct, "1k");
    for mut peer in [direct, migrated(place, &start)] {
        peer.settle();
        // Who does not see the connection knows no timestamp; kernels take segments without (RFC 7323, section 3.2).
        let next = Segment { options: Options::default(), ..peer.segment() };
        for one in tries(&next) {
            spoofer.send(&one, peer.from(), peer.to());
        }
        then(&mut peer);
    }
}

/// Nothing came of it but challenges, one at least: something was there.
fn undisturbed(place: &Place, peer: &mut Peer) {
    let challenge = peer.wait_for_news("a challenge");
    let heard = peer.listen_for_news(Duration::from_millis(100));
    for packet in heard.iter().chain([&challenge]) {
        if (packet.segment.flags, packet.length(), packet.segment.ack) != (flag::ACK, 0, peer.seq) {
            peer.fail(&format!("this is no challenge: {packet:?}"));
        }
    }
    place.fetch(peer, "10k");
    place.close(peer);
}

fn resets_all_over(place: &Place) {
    // Several in any window of the usual size, and none that is the very next number (RFC 5961, section 3.2).
    let tries = |next: &Segment| {
        let at = |n: u32| next.seq.wrapping_add(1 + (n << 19));
        let one = |n| Segment { seq: at(n), flags: flag::RST, ..next.clone() };
        (0..8192).chain([0]).map(one).collect()
    };
    both_ways(place, tries, |peer| undisturbed(place, peer));
}

fn syns_all_over(place: &Place) {
    let tries = |next: &Segment| {
        let options = Start::default().options;
        let one = |n: u32| Segment {
            seq: next.seq.wrapping_add(n << 20),
            ack: 0,
            flags: flag::SYN,
            options: options.clone(),
            ..next.clone()
        };
        (0..4096).map(one).collect()
    };
    both_ways(place, tries, |peer| undisturbed(place, peer));
}

fn data_with_any_acknowledgement(place: &Place) {
    // With the very next number; every acknowledgement but those a kernel takes, the window behind what was sent (RFC 5961,
    // section 5.2). A request that was taken would be answered.
    let tries = |next: &Segment| {
        let one = |n: u32| Segment {
            ack: next.ack.wrapping_add((1 << 20) + (n << 21)),
            payload: request("/100k").into_bytes(),
            ..next.clone()
        };
        (0..2048).map(one).collect()
    };
    both_ways(place, tries, |peer| undisturbed(place, peer));
}

fn reset_by_one_who_sees(place: &Place) {
    both_ways(
        place,
        |next| vec![Segment { flags: flag::RST, ..next.clone() }],
        |peer| {
            // What came before that is noticed would be kept as the beginning of a request.
            place.expect_ended(peer);
            let probe = peer.data_segment(b"GET");
            peer.send(&probe);
            peer.wait("a reset: no such connection", |p| p.has(flag::RST));
        },
    );
}

fn data_by_one_who_sees(place: &Place) {
    let tries = |next: &Segment| vec![Segment { payload: request("/1k").into_bytes(), ..next.clone() }];
    both_ways(place, tries, |peer| {
        // To the server the client has asked.
        let asked = peer.data_segment(request("/1k").as_bytes());
        peer.watch_mut().sent(&asked);
        place.expect_file(peer, "1k");
    });
}
