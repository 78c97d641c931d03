//! How odd servers answer the replayed SYN: options, scales, numbers and clocks that wrap, silence, resets. The server is
//! scripted.

use crate::place::{Place, Row};
use crate::rows;
use crate::scripted::{
    Both, called, called_with, exchange, proxied, refused, serve_the_intermediate, server, server_with,
};
use baton_tests::peer::{Peer, Segment, Start, flag, request};
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![
    every_window_scale,
    no_window_scale_on_either_side,
    no_options_on_either_side,
    a_tiny_segment_size,
    no_segment_size,
    unknown_options_in_the_syn_ack,
    numbers_wrap_in_the_handshake,
    numbers_wrap_in_the_first_answer,
    numbers_wrap_in_the_second_answer,
    numbers_wrap_at_the_fin,
    numbers_cross_the_sign,
    clock_wraps_in_the_handshake,
    clock_wraps_in_the_answer,
    clock_crosses_the_sign,
    ecn_is_taken_up,
    syn_ack_sent_again_before_the_request,
    syn_ack_sent_again_after_the_request,
    syn_unanswered_at_first,
    an_older_connection_answers_the_syn,
];

pub(crate) const ALONE: &[Row] = rows![
    no_timestamps_is_proxied,
    no_sack_is_proxied,
    no_window_scale_is_proxied,
    no_options_is_proxied,
    a_scale_over_14_is_proxied,
    ecn_declined_is_proxied,
    syn_never_answered_is_proxied,
    reset_instead_of_the_syn_ack_is_proxied,
];

fn every_window_scale(place: &Place) {
    for scale in 0..=14 {
        let mut start = server_with(|o| o.window_scale = Some(scale));
        // At least what the VIP promised, and few enough bytes that a field too large by one would show.
        start.window = u16::try_from((65_535_u32 >> scale) + u32::from(scale > 0)).unwrap();
        exchange(place, &Start::default(), &start);
    }
}

fn no_window_scale_on_either_side(place: &Place) {
    let none = |start: Start| {
        let mut start = Start { window: 65_535, ..start };
        start.options.window_scale = None;
        start
    };
    exchange(place, &none(Start::default()), &none(server()));
}

fn no_options_on_either_side(place: &Place) {
    let none = |start: Start| {
        let options = baton_tests::peer::Options { mss: Some(1460), ..Default::default() };
        Start { window: 65_535, options, ..start }
    };
    exchange(place, &none(Start::default()), &none(server()));
}

fn a_tiny_segment_size(place: &Place) {
    exchange(place, &Start::default(), &server_with(|o| o.mss = Some(88)));
}

fn no_segment_size(place: &Place) {
    exchange(place, &Start::default(), &server_with(|o| o.mss = None));
}

fn unknown_options_in_the_syn_ack(place: &Place) {
    // An experiment's option (RFC 4727), behind those that count.
    exchange(place, &Start::default(), &server_with(|o| o.raw = vec![253, 6, 1, 2, 3, 4]));
}

fn at(isn: u32) -> Start {
    Start { isn, ..server() }
}

fn numbers_wrap_in_the_handshake(place: &Place) {
    exchange(place, &Start::default(), &at(u32::MAX));
}

fn numbers_wrap_in_the_first_answer(place: &Place) {
    exchange(place, &Start::default(), &at(u32::MAX - 2000));
}

fn numbers_wrap_in_the_second_answer(place: &Place) {
    // The first one has 5 000 bytes and a head.
    exchange(place, &Start::default(), &at(u32::MAX - 6000));
}

fn numbers_wrap_at_the_fin(place: &Place) {
    let said = [5000, 3000].map(|n| crate::scripted::head(n).len() + n).iter().sum::<usize>() as u32;
    // The SYN takes a number as well; the FIN's is the last one.
    exchange(place, &Start::default(), &at(u32::MAX.wrapping_sub(said + 1)));
}

fn numbers_cross_the_sign(place: &Place) {
    exchange(place, &Start::default(), &at((1 << 31) - 2000));
}

fn clock(value: u32) -> Start {
    server_with(|o| o.timestamps = Some((value, 0)))
}

fn clock_wraps_in_the_handshake(place: &Place) {
    exchange(place, &Start::default(), &clock(u32::MAX));
}

fn clock_wraps_in_the_answer(place: &Place) {
    exchange(place, &Start::default(), &clock(u32::MAX - 6));
}

fn clock_crosses_the_sign(place: &Place) {
    exchange(place, &Start::default(), &clock((1 << 31) - 6));
}

fn ecn_is_taken_up(place: &Place) {
    let start = Start { ecn: true, ..Start::default() };
    let (client, called) = called_with(place, &start, request("/any").as_bytes());
    let syn = called.watch().their_syn().unwrap();
    // RFC 3168, section 6.1.1.
    assert_eq!((syn.flags & (flag::ECE | flag::CWR), syn.ecn), (flag::ECE | flag::CWR, 0));
    let mut both = Both::accept(place, client, called, &Start { ecn: true, ..server() });
    both.server.head();
    // The server's data can be marked, and was on its way.
    let answer = [&crate::scripted::head(5)[..], b"first"].concat();
    let mut marked = both.server.data_segment(&answer);
    marked.ecn = 3;
    both.server.send(&marked);
    let got = both.client.wait("the answer", |p| p.has_data());
    assert_eq!(got.segment.ecn, 3, "{got:?}");
    // The client's echo of it, on a request that was marked as well.
    both.client.ack = both.client.watch().next_expected();
    let mut echo = both.client.data_segment(request("/again").as_bytes());
    (echo.flags, echo.ecn) = (echo.flags | flag::ECE, 3);
    both.client.send(&echo);
    let got = both.server.wait("the request", |p| p.has_data());
    assert!(got.has(flag::ECE) && got.segment.ecn == 3, "{got:?}");
    both.server.ack = both.server.watch().next_expected();
    let mut reduced = both.server.data_segment(&answer);
    reduced.flags |= flag::CWR;
    both.server.send(&reduced);
    let got = both.client.wait("the second answer", |p| p.has_data());
    assert!(got.has(flag::CWR) && got.segment.ecn == 0, "{got:?}");
    both.client.ack = both.client.watch().next_expected();
    both.client.acknowledge();
    both.close();
}

fn syn_ack_sent_again_before_the_request(place: &Place) {
    let (client, mut called) = called(place);
    let syn_ack = called.syn_ack_segment(&server());
    called.send(&syn_ack);
    let mut both = Both::accept(place, client, called, &server());
    assert_eq!(both.server.head(), request("/any"));
    both.answer(b"first");
    place.expect_migrated(&both.client);
    both.again();
    both.close();
}

fn syn_ack_sent_again_after_the_request(place: &Place) {
    let mut both = Both::answered(place, &Start::default(), &server());
    // As one sends it that has not heard the handshake's last segment.
    let late = Segment {
        seq: server().isn,
        flags: flag::SYN | flag::ACK,
        options: server().options,
        ..both.server.segment()
    };
    both.server.forge(&late);
    let heard = both.client.listen_for_news(Duration::from_millis(150));
    assert_eq!(heard, [], "no SYN-ACK reaches the client");
    both.again();
    both.close();
}

fn syn_unanswered_at_first(place: &Place) {
    let (client, mut called) = called(place);
    let first = called.watch().their_syn().unwrap().clone();
    for _ in 0..2 {
        let again = called.wait("the SYN again", |p| p.has(flag::SYN));
        assert_eq!(again.segment, first);
    }
    let mut both = Both::accept(place, client, called, &server());
    assert_eq!(both.server.head(), request("/any"));
    both.answer(b"late");
    place.expect_migrated(&both.client);
    both.again();
    both.close();
}

fn an_older_connection_answers_the_syn(place: &Place) {
    let (client, mut called) = called(place);
    // A challenge (RFC 5961, section 4): the server has a connection with this client of which nobody else knows.
    let challenge = Segment {
        seq: 99,
        ack: called.ack.wrapping_add(123_456),
        flags: flag::ACK,
        window: 500,
        ..Segment::default()
    };
    called.forge(&challenge);
    let reset = called.wait("the reset", |p| p.has(flag::RST));
    assert_eq!(reset.segment.seq, challenge.ack, "RFC 9293, section 3.10.7.3: {reset:?}");
    called.wait("the SYN again", |p| p.has(flag::SYN));
    let mut both = Both::accept(place, client, called, &server());
    assert_eq!(both.server.head(), request("/any"));
    both.answer(b"first");
    place.expect_migrated(&both.client);
    both.close();
}

fn no_timestamps_is_proxied(place: &Place) {
    proxied(place, &Start::default(), &server_with(|o| o.timestamps = None), "options_mismatch");
}

fn no_sack_is_proxied(place: &Place) {
    proxied(place, &Start::default(), &server_with(|o| o.sack_permitted = false), "options_mismatch");
}

fn no_window_scale_is_proxied(place: &Place) {
    proxied(place, &Start::default(), &server_with(|o| o.window_scale = None), "options_mismatch");
}

fn no_options_is_proxied(place: &Place) {
    let none = |o: &mut baton_tests::peer::Options| *o = baton_tests::peer::Options::default();
    proxied(place, &Start::default(), &server_with(none), "options_mismatch");
}

fn a_scale_over_14_is_proxied(place: &Place) {
    // RFC 7323, section 2.3 forbids it; the intermediate's own kernel takes 14 instead.
    let mut start = server_with(|o| o.window_scale = Some(15));
    start.window = 4;
    proxied(place, &Start::default(), &start, "options_mismatch");
}

fn ecn_declined_is_proxied(place: &Place) {
    proxied(place, &Start { ecn: true, ..Start::default() }, &server(), "options_mismatch");
}

fn syn_never_answered_is_proxied(place: &Place) {
    // Whose patience ends first, the agent's or the intermediate's, is open.
    let silent = || refused(place, "server_silent") + refused(place, "cancelled");
    let before = silent();
    let (client, mut called) = called(place);
    let seat = place.intermediates_seat();
    let first = called.watch().their_syn().unwrap().clone();
    let mut times = 0;
    called.wait("the reset that withdraws it", |p| {
        times += u32::from(p.has(flag::SYN));
        assert!(p.has(flag::RST) || p.segment == first, "{p:?}");
        p.has(flag::RST)
    });
    assert!(times >= 3, "said again {times} times");
    serve_the_intermediate(place, client, seat, &server());
    assert_eq!(silent(), before + 1);
}

fn reset_instead_of_the_syn_ack_is_proxied(place: &Place) {
    let before = refused(place, "server_refused");
    let (client, mut called): (Peer, Peer) = called(place);
    let seat = place.intermediates_seat();
    // RFC 9293, section 3.10.7.1.
    let reset = Segment { ack: called.ack, flags: flag::RST | flag::ACK, ..Segment::default() };
    called.forge(&reset);
    serve_the_intermediate(place, client, seat, &server());
    assert_eq!(refused(place, "server_refused"), before + 1);
}
