//! What client and VIP agreed on goes on with the server: options, scales, numbers that wrap.

use crate::place::{Place, Row};
use crate::rows;
use baton_tests::peer::{Options, Peer, Start, flag};
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![
    no_options_at_all,
    no_timestamps,
    no_sack,
    no_window_scale,
    only_timestamps,
    window_scale_0,
    window_scale_1,
    window_scale_7,
    window_scale_14,
    every_other_window_scale,
    mss_536,
    mss_88,
    no_mss,
    unknown_options_are_ignored,
    mptcp_falls_back,
    a_signed_syn_is_taken_as_direct,
    a_fast_open_cookie_request_is_ignored,
    data_in_the_syn_waits_for_the_handshake,
    the_request_completes_the_handshake,
    a_syn_sent_twice,
    reset_instead_of_the_last_segment,
    tiny_window,
    sequence_wraps_in_the_handshake,
    sequence_wraps_in_the_request,
    sequence_wraps_after_the_request,
    sequence_crosses_the_sign,
    client_timestamps_wrap_in_the_handshake,
    client_timestamps_wrap_in_the_response,
    client_timestamps_cross_the_sign,
    ecn_is_kept,
];

fn with(change: impl FnOnce(&mut Options)) -> Start {
    let mut start = Start::default();
    change(&mut start.options);
    start
}

/// Two files over one connection that begins so, both byte-exact, then a close in good order.
fn both_files(place: &Place, start: &Start) -> Peer {
    let mut peer = place.open(start);
    // About 64 kB, whatever the scale.
    peer.window = (start.window >> peer.watch().scales().0).max(1);
    place.fetch(&mut peer, "10k");
    place.expect_migrated(&peer);
    place.fetch(&mut peer, "100k");
    place.close(&mut peer);
    peer
}

fn no_options_at_all(place: &Place) {
    both_files(place, &with(|o| *o = Options { mss: Some(1460), ..Options::default() }));
}

fn no_timestamps(place: &Place) {
    both_files(place, &with(|o| o.timestamps = None));
}

fn no_sack(place: &Place) {
    both_files(place, &with(|o| o.sack_permitted = false));
}

fn no_window_scale(place: &Place) {
    both_files(place, &with(|o| o.window_scale = None));
}

fn only_timestamps(place: &Place) {
    both_files(place, &with(|o| (o.sack_permitted, o.window_scale) = (false, None)));
}

fn window_scale_0(place: &Place) {
    both_files(place, &with(|o| o.window_scale = Some(0)));
}

fn window_scale_1(place: &Place) {
    both_files(place, &with(|o| o.window_scale = Some(1)));
}

fn window_scale_7(place: &Place) {
    both_files(place, &with(|o| o.window_scale = Some(7)));
}

fn window_scale_14(place: &Place) {
    both_files(place, &with(|o| o.window_scale = Some(14)));
}

fn every_other_window_scale(place: &Place) {
    for scale in (2..14).filter(|scale| *scale != 7) {
        both_files(place, &with(|o| o.window_scale = Some(scale)));
    }
}

fn mss_536(place: &Place) {
    both_files(place, &with(|o| o.mss = Some(536)));
}

fn mss_88(place: &Place) {
    both_files(place, &with(|o| o.mss = Some(88)));
}

fn no_mss(place: &Place) {
    both_files(place, &with(|o| o.mss = None));
}

fn unknown_options_are_ignored(place: &Place) {
    // An experiment's option (RFC 4727).
    both_files(place, &with(|o| o.raw = vec![253, 6, 1, 2, 3, 4]));
}

fn mptcp_falls_back(place: &Place) {
    // MP_CAPABLE version 1 without a key, as in a SYN (RFC 8684, section 3.1): the listener does not answer it, so
    // the connection is an ordinary one.
    both_files(place, &with(|o| o.raw = vec![30, 4, 0x01, 0x81]));
}

fn a_signed_syn_is_taken_as_direct(place: &Place) {
    // TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925) with keys that no server here has: kernels differ in whether they answer.
    for raw in [[&[19, 18][..], &[7; 16][..]].concat(), [&[29, 16, 1, 1][..], &[7; 12][..]].concat()] {
        let start = with(|o| (o.timestamps, o.raw) = (None, raw));
        let [direct, vip] = [place.direct(), place.vip()].map(|to| {
            let mut peer = Peer::dial(place.host(), to, &start);
            // Once another's SYN is answered, which came after it, this one was looked at.
            Peer::open(place.host(), to, &Start::default());
            peer.try_syn_ack(Duration::from_millis(300)).is_some()
        });
        assert_eq!(direct, vip, "answered directly, and at the VIP");
        if vip {
            both_files(place, &start);
        }
    }
}

fn a_fast_open_cookie_request_is_ignored(place: &Place) {
    // RFC 7413, section 4.1.1.
    both_files(place, &with(|o| o.raw = vec![34, 2]));
}

fn data_in_the_syn_waits_for_the_handshake(place: &Place) {
    let mut peer = Peer::dial(place.host(), place.vip(), &Start::default());
    // The same SYN with data: RFC 9293, section 3.10.7.2 lets the listener forget the data.
    let mut syn = peer.segment();
    syn.flags = flag::SYN;
    (syn.seq, syn.ack) = (peer.seq.wrapping_sub(1), 0);
    syn.options = Start::default().options;
    syn.payload = b"GET /1k".to_vec();
    peer.send(&syn);
    let answer = peer.syn_ack();
    assert_eq!(answer.segment.ack, peer.seq, "the SYN alone is acknowledged");
    peer.acknowledge();
    place.fetch(&mut peer, "10k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn the_request_completes_the_handshake(place: &Place) {
    let mut peer = Peer::dial(place.host(), place.vip(), &Start::default());
    peer.syn_ack();
    place.fetch(&mut peer, "10k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn a_syn_sent_twice(place: &Place) {
    let start = Start::default();
    let mut peer = Peer::dial(place.host(), place.vip(), &start);
    let first = peer.syn_ack();
    let mut syn = peer.segment();
    syn.flags = flag::SYN;
    (syn.seq, syn.ack, syn.options) = (start.isn, 0, start.options);
    peer.send(&syn);
    let again = peer.syn_ack();
    assert_eq!((again.segment.seq, again.segment.ack), (first.segment.seq, first.segment.ack));
    peer.acknowledge();
    place.fetch(&mut peer, "10k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn reset_instead_of_the_last_segment(place: &Place) {
    let mut answers = Vec::new();
    for to in [place.direct(), place.vip()] {
        let mut peer = Peer::dial(place.host(), to, &Start::default());
        peer.syn_ack();
        let last = peer.segment();
        peer.reset();
        // There is nothing left that it could complete.
        peer.send(&last);
        let answer = peer.wait("a reset", |p| p.has(flag::RST));
        answers.push((answer.segment.flags, peer.listen(Duration::from_millis(100)).len()));
        // The port is free for a connection that is one.
        let isn = 77_000_000;
        let mut peer = Peer::open(peer.into_host(), to, &Start { isn, ..Start::default() });
        place.fetch(&mut peer, "10k");
        if to == place.vip() {
            place.expect_migrated(&peer);
        }
        place.close(&mut peer);
    }
    assert_eq!(answers[0], answers[1], "direct, and at the VIP");
}

fn tiny_window(place: &Place) {
    let mut start = with(|o| o.window_scale = None);
    start.window = 700;
    both_files(place, &start);
}

fn sequence_wraps_in_the_handshake(place: &Place) {
    both_files(place, &Start { isn: u32::MAX, ..Start::default() });
}

fn sequence_wraps_in_the_request(place: &Place) {
    both_files(place, &Start { isn: u32::MAX - 20, ..Start::default() });
}

fn sequence_wraps_after_the_request(place: &Place) {
    // The first request has about 60 bytes: the second one has the wrap.
    both_files(place, &Start { isn: u32::MAX - 80, ..Start::default() });
}

fn sequence_crosses_the_sign(place: &Place) {
    both_files(place, &Start { isn: (1 << 31) - 20, ..Start::default() });
}

fn client_timestamps_wrap_in_the_handshake(place: &Place) {
    both_files(place, &with(|o| o.timestamps = Some((u32::MAX, 0))));
}

fn client_timestamps_wrap_in_the_response(place: &Place) {
    both_files(place, &with(|o| o.timestamps = Some((u32::MAX - 6, 0))));
}

fn client_timestamps_cross_the_sign(place: &Place) {
    both_files(place, &with(|o| o.timestamps = Some(((1 << 31) - 6, 0))));
}

fn ecn_is_kept(place: &Place) {
    let start = Start { ecn: true, ..Start::default() };
    for direct in [true, false] {
        let host = place.host();
        let to = if direct { place.direct() } else { place.vip() };
        let mut peer = Peer::dial(host, to, &start);
        let answer = peer.syn_ack();
        assert!(answer.has(flag::ECE) && answer.lacks(flag::CWR), "the server takes part: {answer:?}");
        peer.acknowledge();
        // One marked segment: its receiver says so until it hears of the smaller window (RFC 3168, section 6.1.3).
        let request = baton_tests::peer::request("/100k");
        let (head, rest) = request.split_at(20);
        peer.data(head.as_bytes());
        let mut marked = peer.data_segment(rest.as_bytes());
        marked.ecn = 3;
        if direct {
            peer.send(&marked);
            peer.wait("the echo of congestion", |p| p.has(flag::ECE));
        } else {
            // The mark is on the segment that completes the head: the intermediate's kernel sees it, and the
            // server's learns nothing of it.
            peer.send(&marked);
        }
        place.expect_file(&mut peer, "100k");
        // From here on it is the server in both cases.
        let mut marked = peer.data_segment(baton_tests::peer::request("/10k").as_bytes());
        marked.ecn = 3;
        peer.send(&marked);
        // What is sent again says that it cannot be marked (RFC 3168, section 6.1.5).
        peer.wait("data with the echo of congestion that can be marked", |p| {
            p.has(flag::ECE) && p.length() > 0 && p.segment.ecn == 2
        });
        let mut reduced = peer.segment();
        peer.ack = peer.watch().next_expected();
        reduced.flags |= flag::CWR | flag::ECE;
        reduced.ack = peer.ack;
        peer.send(&reduced);
        place.expect_file(&mut peer, "10k");
        if !direct {
            place.expect_migrated(&peer);
        }
        place.close(&mut peer);
    }
}
