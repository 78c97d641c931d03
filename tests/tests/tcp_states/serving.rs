//! What a server may do on a migrated connection: windows, probes, segments out of order and again, resets, ends. The
//! server is scripted, so the numbers in the packets it gets are known exactly.

use crate::place::{Place, Row};
use crate::rows;
use crate::scripted::{Both, bytes, called_with, head, put, server, server_with};
use baton_tests::peer::{Options, Peer, Start, flag, request};
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![
    zero_window_and_its_reopening,
    window_shrinks,
    window_update_without_data,
    keepalive_probes_of_the_server,
    selective_acknowledgements_in_the_servers_numbers,
    selective_acknowledgements_of_the_server,
    answer_out_of_order,
    answer_sent_again_in_other_pieces,
    urgent_byte_of_the_server,
    server_fin_first,
    server_fin_with_data,
    server_fin_sent_again,
    both_fins_cross,
    client_goes_on_after_the_servers_fin,
    server_resets_before_it_answers,
    server_resets_in_mid_answer,
    server_resets_after_its_fin,
    client_resets_in_mid_answer,
];

fn answered(place: &Place) -> Both {
    Both::answered(place, &Start::default(), &server())
}

/// A second request that announces this body: the server has its head.
fn upload(both: &mut Both, body: &[u8]) {
    both.client.data(&put("/any", body.len()));
    assert_eq!(both.server.head().into_bytes(), put("/any", body.len()));
    both.client.wait_acknowledged();
}

fn zero_window_and_its_reopening(place: &Place) {
    let mut both = answered(place);
    let body = bytes(1000);
    upload(&mut both, &body);
    both.client.watch_mut().allow_shrinking();
    let open = std::mem::take(&mut both.server.window);
    both.server.acknowledge();
    both.client.wait("the closed window", |p| p.segment.window == 0);
    both.server.watch_mut().allow_probes();
    // A probe is answered, not taken.
    for _ in 0..2 {
        let mut probe = both.client.segment();
        probe.payload = body[..1].to_vec();
        both.client.send(&probe);
        both.server.wait("the probe", |p| p.length() == 1);
        both.server.acknowledge();
        let answer = both.client.wait("its answer", |p| p.length() == 0);
        assert_eq!((answer.segment.ack, answer.segment.window), (both.client.seq, 0), "{answer:?}");
    }
    both.server.window = open;
    both.server.acknowledge();
    both.client.wait("the open window", |p| p.segment.window > 0);
    both.client.data(&body);
    assert_eq!(both.server.body(body.len()), body);
    both.answer(b"stored");
    both.again();
    both.close();
}

fn window_shrinks(place: &Place) {
    let mut start = server_with(|o| o.window_scale = Some(3));
    start.window = 60_000;
    let mut both = Both::answered(place, &Start::default(), &start);
    both.client.watch_mut().allow_shrinking();
    let rounding = 1 << both.client.watch().scales().1;
    for field in [8000, 500, 100, 10, 1, 0, 1, 8191, 60_000] {
        both.server.window = field;
        both.server.acknowledge();
        both.client.wait("the new window", |p| p.length() == 0);
        let theirs = u32::from(field) << 3;
        let told = both.client.watch().promised().wrapping_sub(both.client.seq);
        let most = u32::from(u16::MAX) << both.client.watch().scales().1;
        assert!(told <= theirs && theirs.min(most) < told + rounding, "told {told}, the server has {theirs}");
    }
    both.again();
    both.close();
}

fn window_update_without_data(place: &Place) {
    let options = Options { window_scale: None, ..Start::default().options };
    let start = |isn| Start { isn, window: 60_000, options: options.clone(), ..Start::default() };
    let (mut client, called) = called_with(place, &start(1_000_000), request("/any").as_bytes());
    // The intermediate had a little more.
    client.watch_mut().allow_shrinking();
    let mut both = Both::accept(place, client, called, &start(9_000_000));
    both.server.head();
    both.answer(b"first");
    both.server.window = 65_535;
    both.server.acknowledge();
    let update = both.client.wait("the update", |p| p.length() == 0);
    assert_eq!(update.segment.window, 65_535);
    both.again();
    both.close();
}

fn keepalive_probes_of_the_server(place: &Place) {
    let mut both = answered(place);
    for _ in 0..2 {
        let mut probe = both.server.segment();
        probe.seq = probe.seq.wrapping_sub(1);
        both.server.send(&probe);
        let probe = both.client.wait("the probe", |_| true);
        let expected = both.client.watch().next_expected();
        assert_eq!((probe.segment.seq, probe.segment.ack), (expected.wrapping_sub(1), both.client.seq));
        both.client.acknowledge();
        let answer = both.server.wait("its answer", |p| p.length() == 0);
        assert_eq!((answer.segment.seq, answer.segment.ack), (both.server.ack, both.server.seq));
    }
    both.again();
    both.close();
}

/// So many segments of an answer, which the client has and has not acknowledged.
fn segments(both: &mut Both, count: usize) -> Vec<(u32, u32)> {
    both.client.get("/again");
    both.server.head();
    let body = bytes(count * 1000);
    both.server.data(&head(body.len()));
    let mut places = Vec::new();
    for piece in body.chunks(1000) {
        let from = both.server.seq;
        both.server.data(piece);
        places.push((from, both.server.seq));
    }
    for _ in 0..=count {
        both.client.wait("a segment of the answer", |p| p.has_data());
    }
    places
}

fn selective_acknowledgements_in_the_servers_numbers(place: &Place) {
    // The wrap of the server's numbers is among the edges.
    let start = Start { isn: u32::MAX - 3000, ..server() };
    let mut both = Both::answered(place, &Start::default(), &start);
    let places = segments(&mut both, 8);
    let shift = both.client.watch().next_expected().wrapping_sub(both.server.seq);
    let ours = |(left, right): (u32, u32)| (left.wrapping_add(shift), right.wrapping_add(shift));
    for blocks in [vec![places[1]], vec![places[5], places[1]], vec![places[7], places[3], places[5]]] {
        let mut segment = both.client.segment();
        segment.ack = ours(places[0]).0;
        segment.options.sack = blocks.iter().copied().map(ours).collect();
        both.client.send(&segment);
        let got = both.server.wait("the blocks", |p| !p.segment.options.sack.is_empty());
        assert_eq!((got.segment.ack, &got.segment.options.sack), (places[0].0, &blocks));
    }
    both.client.ack = both.client.watch().next_expected();
    both.client.acknowledge();
    both.server.wait_acknowledged();
    assert_eq!(both.client.response(), (200, bytes(8000)));
    both.close();
}

fn selective_acknowledgements_of_the_server(place: &Place) {
    let mut both = answered(place);
    let body = bytes(49);
    upload(&mut both, &body);
    let (first, rest) = body.split_at(20);
    let (first, second) = (both.client.data_segment(first), both.client.data_segment(rest));
    both.client.send(&second);
    both.server.wait("the second part", |p| p.has_data());
    let block = (second.seq, both.client.seq);
    let mut answer = both.server.segment();
    answer.options.sack = vec![block];
    both.server.send(&answer);
    let got = both.client.wait("the block", |p| p.length() == 0);
    assert_eq!((got.segment.ack, &got.segment.options.sack), (first.seq, &vec![block]));
    both.server.watch_mut().allow_overtaking();
    both.client.send(&first);
    assert_eq!(both.server.body(body.len()), body);
    both.answer(b"second");
    both.close();
}

fn answer_out_of_order(place: &Place) {
    let mut both = answered(place);
    both.client.get("/again");
    both.server.head();
    both.client.watch_mut().allow_overtaking();
    let body = bytes(4000);
    both.server.data(&head(body.len()));
    let pieces: Vec<_> = body.chunks(1000).map(|piece| both.server.data_segment(piece)).collect();
    for n in [3, 1, 1, 2, 0] {
        both.server.send(&pieces[n]);
    }
    assert_eq!(both.client.response(), (200, body));
    both.server.wait_acknowledged();
    both.again();
    both.close();
}

fn answer_sent_again_in_other_pieces(place: &Place) {
    let mut both = answered(place);
    both.client.get("/again");
    both.server.head();
    let body = bytes(3000);
    let whole = [head(body.len()), body.clone()].concat();
    let from = both.server.seq;
    for size in [1400, 333, 1000] {
        both.server.seq = from;
        for piece in whole.chunks(size) {
            both.server.data(piece);
        }
    }
    assert_eq!(both.client.response(), (200, body));
    both.server.wait_acknowledged();
    both.again();
    both.close();
}

fn urgent_byte_of_the_server(place: &Place) {
    let mut both = answered(place);
    both.client.get("/again");
    both.server.head();
    let body = b"not!urgent";
    both.server.data(&head(body.len()));
    let mut urgent = both.server.data_segment(body);
    (urgent.flags, urgent.urgent) = (urgent.flags | flag::URG, 4);
    both.server.send(&urgent);
    let got = both.client.wait("the urgent byte", |p| p.has(flag::URG));
    assert_eq!((got.segment.urgent, got.segment.payload), (4, body.to_vec()));
    both.client.ack = both.client.watch().next_expected();
    both.client.acknowledge();
    both.server.wait_acknowledged();
    both.close();
}

/// Nothing more reaches either end, and the flow ends as an orderly one on both hosts once the kernel has forgotten it.
fn quiet_end(place: &Place, mut both: Both) {
    assert_eq!(both.client.listen_for_news(Duration::from_millis(150)), [], "at the client");
    assert_eq!(both.server.listen_for_news(Duration::from_millis(150)), [], "at the server");
    both.forget();
    place.expect_ended(&both.client);
}

fn server_fin_first(place: &Place) {
    let mut both = answered(place);
    both.server.fin(b"");
    both.client.receive_end();
    both.server.wait_acknowledged();
    both.client.fin(b"");
    both.server.receive_end();
    both.client.wait_acknowledged();
    quiet_end(place, both);
}

fn server_fin_with_data(place: &Place) {
    let mut both = answered(place);
    both.client.get("/again");
    both.server.head();
    both.server.data(&head(7));
    both.server.fin(b"the end");
    assert_eq!(both.client.response(), (200, b"the end".to_vec()));
    both.client.receive_end();
    both.server.wait_acknowledged();
    both.client.fin(b"");
    both.server.receive_end();
    both.client.wait_acknowledged();
    quiet_end(place, both);
}

fn server_fin_sent_again(place: &Place) {
    let mut both = answered(place);
    let fin = both.server.fin_segment(b"");
    for _ in 0..3 {
        both.server.send(&fin);
        let got = both.client.wait("the FIN", |p| p.has(flag::FIN));
        assert_eq!(got.segment.seq.wrapping_add(1), both.client.watch().next_expected());
    }
    both.client.ack = both.client.watch().next_expected();
    both.client.fin(b"");
    both.server.receive_end();
    both.client.wait_acknowledged();
    quiet_end(place, both);
}

fn both_fins_cross(place: &Place) {
    let mut both = answered(place);
    // Each is made before the other's has come (RFC 9293, figure 13).
    let (ours, theirs) = (both.client.fin_segment(b""), both.server.fin_segment(b""));
    both.client.send(&ours);
    both.server.send(&theirs);
    both.client.receive_end();
    both.server.receive_end();
    both.client.wait_acknowledged();
    both.server.wait_acknowledged();
    quiet_end(place, both);
}

fn client_goes_on_after_the_servers_fin(place: &Place) {
    let (client, called) = called_with(place, &Start::default(), &put("/any", 5000));
    let mut both = Both::accept(place, client, called, &server());
    assert_eq!(both.server.head().into_bytes(), put("/any", 5000));
    // Before it has any of the body.
    both.answer(b"early");
    place.expect_migrated(&both.client);
    both.server.fin(b"");
    both.client.receive_end();
    for piece in bytes(5000).chunks(1250) {
        both.client.data(piece);
        assert_eq!(both.server.body(piece.len()), piece);
    }
    both.client.fin(b"");
    both.server.receive_end();
    both.client.wait_acknowledged();
    quiet_end(place, both);
}

/// The client gets the server's reset with the number it expects; then the flow ends.
fn expect_reset(place: &Place, mut both: Both) {
    both.server.reset();
    both.forget();
    let expected = both.client.watch().next_expected();
    let reset = both.client.wait("the reset", |p| p.has(flag::RST));
    assert_eq!(reset.segment.seq, expected, "the client would take it");
    place.expect_ended(&both.client);
}

fn server_resets_before_it_answers(place: &Place) {
    let both = Both::asked(place, &Start::default(), &server());
    place.expect_migrated(&both.client);
    expect_reset(place, both);
}

fn server_resets_in_mid_answer(place: &Place) {
    let mut both = Both::asked(place, &Start::default(), &server());
    both.server.data(&head(9000));
    both.server.data(&bytes(1000));
    both.client.receive(head(9000).len() + 1000);
    expect_reset(place, both);
}

fn server_resets_after_its_fin(place: &Place) {
    let mut both = answered(place);
    both.server.fin(b"");
    both.client.receive_end();
    both.client.data(b"more");
    both.server.receive(b"more".len());
    expect_reset(place, both);
}

fn client_resets_in_mid_answer(place: &Place) {
    let mut both = Both::asked(place, &Start::default(), &server());
    both.server.data(&head(9000));
    both.client.receive(head(9000).len());
    let at = both.client.seq;
    Peer::reset(&mut both.client);
    let reset = both.server.wait("the reset", |p| p.has(flag::RST));
    assert_eq!(reset.segment.seq, at, "the server would take it");
    both.forget();
    // What it had under way finds no connection; a kernel sends nothing for a reset, so the flow is noticed when it is
    // quiet.
    place.expect_ended(&both.client);
}
