//! While the request is fed to the server: windows, acknowledgements that do not come, lost segments, resets, ends. The
//! server is scripted.

use crate::place::{Place, Row};
use crate::rows;
use crate::scripted::{Both, bytes, called, called_with, head, server, server_with};
use baton_tests::peer::{Peer, Start, flag, request};
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![
    server_acknowledges_late,
    server_answers_without_acknowledging,
    server_acknowledges_in_the_middle,
    a_window_smaller_than_the_request,
    no_window_in_the_syn_ack,
    a_segment_of_the_request_is_lost,
    reset_right_behind_the_syn_ack,
    reset_instead_of_an_acknowledgement,
    fin_before_the_request_is_acknowledged,
    the_clients_fin_is_fed,
];

/// A request of about so many bytes, all of which are fed: its head ends with its last segment.
fn long_request(length: usize) -> Vec<u8> {
    let padding: String = bytes(length).iter().map(|b| char::from(b'a' + b % 26)).collect();
    format!("GET /any HTTP/1.1\r\nHost: lab\r\nX-Long: {padding}\r\n\r\n").into_bytes()
}

fn server_acknowledges_late(place: &Place) {
    let (client, called) = called(place);
    let mut both = Both::accept(place, client, called, &server());
    let first = both.server.wait("the request", |p| p.has_data());
    for _ in 0..3 {
        let again = both.server.wait("the request again", |p| p.has_data());
        assert_eq!((again.segment.seq, &again.segment.payload), (first.segment.seq, &first.segment.payload));
    }
    // It was fed: the client is told so, and is asked for nothing.
    place.expect_migrated(&both.client);
    assert_eq!(both.server.head(), request("/any"));
    both.server.ack = both.server.watch().next_expected();
    both.server.acknowledge();
    both.answer(b"late");
    // Once it is acknowledged it is not said again.
    both.server.settle();
    assert_eq!(both.server.listen_for_news(Duration::from_millis(200)), []);
    both.again();
    both.close();
}

fn server_answers_without_acknowledging(place: &Place) {
    let (client, called) = called(place);
    let mut both = Both::accept(place, client, called, &server());
    both.server.wait("the request", |p| p.has_data());
    // Its acknowledgement is still that of the handshake: the client was told more by the intermediate, and must not hear
    // less from now on (its watch sees to that).
    let told = both.client.watch().acked();
    let body = bytes(4000);
    for piece in [head(body.len()), body.clone()].concat().chunks(1000) {
        both.server.data(piece);
    }
    assert_eq!(both.client.response(), (200, body));
    assert_eq!(both.client.watch().acked(), both.client.seq);
    assert!(told == both.client.seq || told == both.client.seq.wrapping_sub(request("/any").len() as u32));
    assert_eq!(both.server.head(), request("/any"));
    both.server.ack = both.server.watch().next_expected();
    both.server.acknowledge();
    place.expect_migrated(&both.client);
    both.again();
    both.close();
}

fn server_acknowledges_in_the_middle(place: &Place) {
    let request = long_request(4000);
    let (client, called) = called_with(place, &Start::default(), &request);
    let mut both = Both::accept(place, client, called, &server());
    while both.server.watch().contiguous() < request.len() {
        let from = both.server.ack;
        both.server.wait("the request", |p| p.has_data());
        let there = both.server.watch().next_expected();
        // Half of what is new, then that again.
        both.server.ack = from.wrapping_add(there.wrapping_sub(from).div_ceil(2));
        both.server.acknowledge();
        both.server.acknowledge();
    }
    both.server.ack = both.server.watch().next_expected();
    both.server.acknowledge();
    assert_eq!(both.server.watch().received(), request);
    both.server.head();
    both.answer(b"all");
    place.expect_migrated(&both.client);
    both.again();
    both.close();
}

fn a_window_smaller_than_the_request(place: &Place) {
    let request = long_request(2000);
    let (client, called) = called_with(place, &Start::default(), &request);
    let mut start = server_with(|o| o.window_scale = Some(0));
    start.window = 100;
    let mut both = Both::accept(place, client, called, &start);
    // It is told what the server has, not what the intermediate had.
    both.client.watch_mut().allow_shrinking();
    both.server.watch_mut().allow_probes();
    both.server.receive(request.len());
    assert_eq!(both.server.watch().received(), request);
    both.server.head();
    both.server.window = 65_535;
    both.server.acknowledge();
    both.answer(b"all");
    place.expect_migrated(&both.client);
    both.again();
    both.close();
}

fn no_window_in_the_syn_ack(place: &Place) {
    let (client, called) = called(place);
    let mut both = Both::accept(place, client, called, &Start { window: 0, ..server() });
    both.client.watch_mut().allow_shrinking();
    both.server.watch_mut().allow_probes();
    // One byte past it asks whether the window has opened (RFC 9293, section 3.8.6.1); twice it has not.
    for _ in 0..2 {
        let probe = both.server.wait("a probe", |p| p.has_data());
        assert_eq!((probe.length(), probe.segment.seq), (1, both.server.ack), "{probe:?}");
        both.server.acknowledge();
    }
    both.server.window = 1000;
    both.server.acknowledge();
    assert_eq!(both.server.head(), request("/any"));
    both.answer(b"first");
    place.expect_migrated(&both.client);
    both.again();
    both.close();
}

fn a_segment_of_the_request_is_lost(place: &Place) {
    let request = long_request(5000);
    let (client, called) = called_with(place, &Start::default(), &request);
    let mut both = Both::accept(place, client, called, &server());
    let first = both.server.wait("the first segment", |p| p.has_data());
    let lost = both.server.wait("the second", |p| p.has_data());
    let third = both.server.wait("the third", |p| p.has_data());
    both.server.ack = first.segment.seq.wrapping_add(first.length());
    for _ in 0..3 {
        let mut block = both.server.segment();
        block.options.sack = vec![(third.segment.seq, third.segment.seq.wrapping_add(third.length()))];
        both.server.send(&block);
    }
    let again = both.server.wait("what was lost", |p| p.segment.seq == lost.segment.seq);
    assert_eq!(again.segment.payload, lost.segment.payload);
    both.server.receive(request.len());
    both.server.ack = both.server.watch().next_expected();
    both.server.acknowledge();
    assert_eq!(both.server.watch().received(), request);
    both.server.head();
    both.answer(b"all");
    place.expect_migrated(&both.client);
    both.close();
}

/// The client is reset with the very number it expects, and not before the server reset its end.
fn expect_reset(place: &Place, both: &mut Both) {
    both.forget();
    let reset = both.client.wait("the reset", |p| p.has(flag::RST));
    assert_eq!(reset.segment.seq, both.client.watch().next_expected(), "the client would take it");
    place.expect_migrated(&both.client);
    place.expect_ended(&both.client);
}

fn reset_right_behind_the_syn_ack(place: &Place) {
    let (client, called) = called(place);
    let mut both = Both::accept(place, client, called, &server());
    both.server.reset();
    // What finds no connection is answered by a reset with its number (RFC 9293, section 3.10.7.1).
    let stray = both.server.wait("the request", |p| p.has_data());
    let mut again = both.server.segment();
    (again.seq, again.flags) = (stray.segment.ack, flag::RST);
    both.server.send(&again);
    expect_reset(place, &mut both);
}

fn reset_instead_of_an_acknowledgement(place: &Place) {
    let (client, called) = called(place);
    let mut both = Both::accept(place, client, called, &server());
    both.server.wait("the request", |p| p.has_data());
    both.server.reset();
    expect_reset(place, &mut both);
    // What came until now may have been said before the reset was heard.
    both.server.listen(Duration::ZERO);
    // A request that may have run is not said again.
    let late = both.server.listen(Duration::from_millis(200));
    assert!(late.iter().all(|p| p.length() == 0), "{late:?}");
}

fn fin_before_the_request_is_acknowledged(place: &Place) {
    let (client, called) = called(place);
    let mut both = Both::accept(place, client, called, &server());
    both.server.wait("the request", |p| p.has_data());
    // It answers and closes; that it has the request it says later.
    both.server.fin(&[&head(5)[..], b"first"].concat());
    assert_eq!(both.client.response(), (200, b"first".to_vec()));
    both.client.receive_end();
    both.server.ack = both.server.watch().next_expected();
    both.server.acknowledge();
    both.client.fin(b"");
    both.server.receive_end();
    both.client.wait_acknowledged();
    both.server.wait_acknowledged();
    place.expect_migrated(&both.client);
    both.forget();
    place.expect_ended(&both.client);
}

fn the_clients_fin_is_fed(place: &Place) {
    let mut client = place.open(&Start::default());
    let seat = place.seat(client.from().ip());
    client.fin(request("/any").as_bytes());
    let called = Peer::called(seat);
    let mut both = Both::accept(place, client, called, &server());
    both.server.receive_end();
    assert_eq!(both.server.head(), request("/any"));
    both.answer(&bytes(4000));
    both.server.fin(b"");
    both.client.receive_end();
    both.server.wait_acknowledged();
    place.expect_migrated(&both.client);
}
