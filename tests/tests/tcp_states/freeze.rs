//! What comes with the request and while the connection is frozen. The agent is stopped to make the freeze last. The
//! peer repeats nothing: what the hold queue lost would be missed.

use crate::place::{DEADLINE, Place, Row};
use crate::rows;
use crate::scripted::put;
use baton_tests::peer::{PATIENCE, Peer, Start, flag, request};
use std::time::Duration;

pub(crate) const ALONE: &[Row] = rows![
    half_close_with_the_request,
    fin_during_the_freeze,
    requests_during_the_freeze,
    body_during_the_freeze,
    sequence_wraps_in_a_body_over_the_freezes_end,
    segments_out_of_order_during_the_freeze,
    request_sent_again_during_the_freeze,
    overlapping_segment_during_the_freeze,
    data_and_fin_during_the_freeze,
    sequence_wraps_during_the_freeze,
    sequence_wraps_at_the_fin_during_the_freeze,
    keepalive_probe_during_the_freeze,
    old_syn_during_the_freeze,
    zero_window_with_the_request,
    window_update_during_the_freeze,
    segments_out_of_order_before_the_freeze,
    reset_before_any_request,
    reset_before_the_head_is_complete,
    reset_during_the_freeze,
    forged_reset_during_the_freeze,
    fin_then_reset_during_the_freeze,
    answer_after_the_deadline,
];

/// A connection whose request for this file was sent and whose freeze lasts; then `meanwhile`, then the agent goes on.
fn frozen(place: &Place, start: &Start, path: &str, meanwhile: impl FnOnce(&mut Peer)) -> Peer {
    let mut peer = place.open(start);
    let stall = place.stall();
    peer.get(path);
    place.expect_state(&peer, "frozen");
    meanwhile(&mut peer);
    drop(stall);
    peer
}

/// The flow is gone from both hosts; asked for with patience, since it lingers.
fn expect_gone(place: &Place, peer: &Peer) {
    let client = peer.from().to_string();
    place.t.eventually("the flow to end", PATIENCE, |t| {
        ["intermediate", "target1"]
            .iter()
            .all(|node| t.flows(node).iter().all(|f| f["client"] != client.as_str() || !f["end"].is_null()))
    });
}

fn half_close_with_the_request(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.fin(request("/10k").as_bytes());
    place.expect_file(&mut peer, "10k");
    peer.receive_end();
    place.expect_migrated(&peer);
    assert_eq!(peer.watch().acked(), peer.seq, "the FIN is acknowledged");
}

fn fin_during_the_freeze(place: &Place) {
    let mut peer = frozen(place, &Start::default(), "/10k", |peer| peer.fin(b""));
    place.expect_file(&mut peer, "10k");
    peer.receive_end();
    peer.wait_acknowledged();
    place.expect_migrated(&peer);
}

fn requests_during_the_freeze(place: &Place) {
    let files = ["1k", "100k", "1k", "10k", "1k"];
    let mut peer = frozen(place, &Start::default(), "/10k", |peer| {
        for file in files {
            peer.get(&format!("/{file}"));
        }
    });
    for file in ["10k"].iter().chain(&files) {
        place.expect_file(&mut peer, file);
    }
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

/// The upload's bytes, none like its neighbours.
fn body(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn body_during_the_freeze(place: &Place) {
    body_over_the_freeze(place, Start::default().isn);
}

fn sequence_wraps_in_a_body_over_the_freezes_end(place: &Place) {
    let before = u32::try_from(upload_head().len() + 50_000).unwrap();
    // The last byte held has 2^32 - 1; then the wrap is within what is held, then within what comes after.
    for further in [0, 10_000, 0u32.wrapping_sub(5_500)] {
        body_over_the_freeze(place, 0u32.wrapping_sub(1 + before).wrapping_add(further));
    }
}

fn upload_head() -> Vec<u8> {
    put("/upload/frozen", 60_000)
}

fn body_over_the_freeze(place: &Place, isn: u32) {
    let body = body(60_000);
    let mut peer = place.open(&Start { isn, ..Start::default() });
    let stall = place.stall();
    // Some of the body before the freeze, most in it, the rest after it.
    peer.data(&[&upload_head(), &body[..500]].concat());
    place.expect_state(&peer, "frozen");
    for piece in body[500..50_000].chunks(1400) {
        peer.data(piece);
    }
    peer.watch_mut().allow_overtaking();
    drop(stall);
    for piece in body[50_000..].chunks(1000) {
        peer.data(piece);
    }
    let (status, _) = peer.response();
    assert_eq!(status, 201);
    place.expect_uploaded("frozen", &body);
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn segments_out_of_order_during_the_freeze(place: &Place) {
    let mut peer = frozen(place, &Start::default(), "/1k", |peer| {
        let text = request("/100k");
        let pieces: Vec<_> =
            text.as_bytes().chunks(11).map(<[u8]>::to_vec).map(|p| peer.data_segment(&p)).collect();
        for piece in pieces.iter().rev() {
            peer.send(piece);
        }
    });
    place.expect_file(&mut peer, "1k");
    place.expect_file(&mut peer, "100k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn request_sent_again_during_the_freeze(place: &Place) {
    let mut peer = place.open(&Start::default());
    let stall = place.stall();
    let segment = peer.data_segment(request("/10k").as_bytes());
    peer.send(&segment);
    place.expect_state(&peer, "frozen");
    peer.send(&segment);
    peer.send(&segment);
    drop(stall);
    place.expect_file(&mut peer, "10k");
    place.fetch(&mut peer, "1k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn overlapping_segment_during_the_freeze(place: &Place) {
    let mut peer = place.open(&Start::default());
    let stall = place.stall();
    let first = request("/10k");
    peer.data(first.as_bytes());
    place.expect_state(&peer, "frozen");
    // The last bytes of the first request again, and behind them the second one.
    let mut both = peer.data_segment(request("/1k").as_bytes());
    let again = &first.as_bytes()[first.len() - 25..];
    both.seq = both.seq.wrapping_sub(25);
    both.payload = [again, &both.payload].concat();
    peer.send(&both);
    drop(stall);
    place.expect_file(&mut peer, "10k");
    place.expect_file(&mut peer, "1k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn data_and_fin_during_the_freeze(place: &Place) {
    let mut peer = frozen(place, &Start::default(), "/1k", |peer| {
        peer.get("/10k");
        peer.fin(request("/1k").as_bytes());
    });
    for file in ["1k", "10k", "1k"] {
        place.expect_file(&mut peer, file);
    }
    peer.receive_end();
    peer.wait_acknowledged();
    place.expect_migrated(&peer);
}

fn sequence_wraps_during_the_freeze(place: &Place) {
    let isn = u32::MAX - u32::try_from(request("/10k").len()).unwrap() - 10;
    let start = Start { isn, ..Start::default() };
    let mut peer = frozen(place, &start, "/10k", |peer| {
        assert!(peer.seq > u32::MAX - 12, "the wrap is within the next request");
        peer.get("/100k");
    });
    place.expect_file(&mut peer, "10k");
    place.expect_file(&mut peer, "100k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn sequence_wraps_at_the_fin_during_the_freeze(place: &Place) {
    let isn = u32::MAX - 1 - u32::try_from(request("/10k").len()).unwrap();
    let start = Start { isn, ..Start::default() };
    let mut peer = frozen(place, &start, "/10k", |peer| {
        assert_eq!(peer.seq, u32::MAX);
        peer.fin(b"");
    });
    place.expect_file(&mut peer, "10k");
    peer.receive_end();
    peer.wait_acknowledged();
    assert_eq!(peer.watch().acked(), 0);
    place.expect_migrated(&peer);
}

fn keepalive_probe_during_the_freeze(place: &Place) {
    let mut peer = frozen(place, &Start::default(), "/10k", |peer| {
        let mut probe = peer.segment();
        probe.seq = probe.seq.wrapping_sub(1);
        peer.send(&probe);
    });
    place.expect_file(&mut peer, "10k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn old_syn_during_the_freeze(place: &Place) {
    let start = Start::default();
    let mut peer = frozen(place, &start, "/10k", |peer| {
        let mut syn = peer.segment();
        (syn.seq, syn.ack, syn.flags) = (start.isn, 0, flag::SYN);
        syn.options = start.options.clone();
        peer.send(&syn);
    });
    place.expect_file(&mut peer, "10k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn zero_window_with_the_request(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.window = 0;
    peer.get("/10k");
    place.expect_migrated(&peer);
    let heard = peer.listen(Duration::from_millis(400));
    assert!(heard.iter().all(|p| p.length() == 0), "data against a closed window: {heard:?}");
    peer.window = 500;
    peer.acknowledge();
    place.expect_file(&mut peer, "10k");
    place.close(&mut peer);
}

fn window_update_during_the_freeze(place: &Place) {
    let mut peer = place.open(&Start::default());
    let stall = place.stall();
    peer.window = 0;
    peer.get("/10k");
    place.expect_state(&peer, "frozen");
    // The window opens in the freeze, and nobody says it again.
    peer.window = 500;
    peer.acknowledge();
    drop(stall);
    place.expect_file(&mut peer, "10k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn segments_out_of_order_before_the_freeze(place: &Place) {
    let mut peer = place.open(&Start::default());
    if place.adopts() {
        // The intermediate's kernel has acknowledged the next request's bytes, and the adopted socket, which gets them
        // later, acknowledges the first request alone: to the client an old acknowledgement, which it passes over (RFC
        // 9293, section 3.10.7.4). A replayed connection's is raised.
        peer.watch_mut().allow_overtaking();
    }
    segments_out_of_order(place, &mut peer);
}

pub(crate) fn segments_out_of_order(place: &Place, peer: &mut Peer) {
    let text = request("/10k");
    let (head, rest) = text.as_bytes().split_at(30);
    let (first, second) = (peer.data_segment(head), peer.data_segment(rest));
    // A byte of the next request lies behind it all when the head becomes complete.
    let third = peer.data_segment(request("/1k").as_bytes());
    for segment in [&third, &second, &first] {
        peer.send(segment);
    }
    place.expect_file(peer, "10k");
    place.expect_file(peer, "1k");
    place.close(peer);
}

fn reset_before_any_request(place: &Place) {
    reset_before_a_head(place, b"");
}

fn reset_before_the_head_is_complete(place: &Place) {
    reset_before_a_head(place, b"GET /10k HTTP/1.1\r\nHo");
}

fn reset_before_a_head(place: &Place, there: &[u8]) {
    let mut peer = place.open(&Start::default());
    let before = place.t.closed("client_gone");
    if !there.is_empty() {
        peer.data(there);
        peer.wait_acknowledged();
    }
    peer.reset();
    place.t.eventually("the connection to be given up", PATIENCE, |t| t.closed("client_gone") == before + 1);
    assert_eq!(peer.listen_for_news(Duration::from_millis(100)), [], "nothing follows a reset");
    assert_eq!(place.flow_state(&peer), None, "no record was made");
}

fn reset_during_the_freeze(place: &Place) {
    let mut peer = frozen(place, &Start::default(), "/10k", Peer::reset);
    place.expect_migrated(&peer);
    expect_gone(place, &peer);
    let late = peer.listen(Duration::from_millis(300));
    assert!(late.iter().all(|p| p.lacks(flag::FIN)), "the server's socket is gone: {late:?}");
}

fn forged_reset_during_the_freeze(place: &Place) {
    // In the window but not the very number expected: RFC 5961, section 3.2.
    let mut peer = frozen(place, &Start::default(), "/10k", |peer| {
        let mut forged = peer.segment();
        (forged.seq, forged.ack, forged.flags) = (peer.seq.wrapping_add(500), 0, flag::RST);
        peer.send(&forged);
    });
    place.expect_file(&mut peer, "10k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn fin_then_reset_during_the_freeze(place: &Place) {
    let peer = frozen(place, &Start::default(), "/10k", |peer| {
        peer.fin(b"");
        peer.reset();
    });
    place.expect_migrated(&peer);
    expect_gone(place, &peer);
}

fn answer_after_the_deadline(place: &Place) {
    // Past the deadline the intermediate asks the agent to let be, and goes by what it says.
    let mut peer = frozen(place, &Start::default(), "/10k", |peer| {
        peer.get("/1k");
        let early = peer.listen(DEADLINE + Duration::from_millis(300));
        assert!(early.iter().all(|p| p.length() == 0), "an answer from nowhere: {early:?}");
    });
    place.expect_file(&mut peer, "10k");
    place.expect_file(&mut peer, "1k");
    place.close(&mut peer);
}
