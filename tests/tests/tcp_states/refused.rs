//! The agent refuses after a long freeze: the connection goes on at the intermediate, with what was held.

use crate::place::{Place, Row};
use crate::rows;
use baton_tests::peer::{Peer, Start, request};
use std::time::Duration;

pub(crate) const ALONE: &[Row] =
    rows![requests_held, fin_held, reset_held, segments_out_of_order_held, half_close_before_the_freeze];

fn frozen(place: &Place, meanwhile: impl FnOnce(&mut Peer)) -> Peer {
    let mut peer = place.open(&Start::default());
    let stall = place.stall();
    peer.get("/10k");
    place.expect_state(&peer, "frozen");
    meanwhile(&mut peer);
    drop(stall);
    peer
}

fn requests_held(place: &Place) {
    let mut peer = frozen(place, |peer| {
        peer.get("/100k");
        peer.get("/1k");
    });
    for file in ["10k", "100k", "1k"] {
        place.expect_file(&mut peer, file);
    }
    place.close(&mut peer);
}

fn fin_held(place: &Place) {
    let mut peer = frozen(place, |peer| peer.fin(b""));
    place.expect_file(&mut peer, "10k");
    peer.receive_end();
    peer.wait_acknowledged();
    place.expect_outcome(&peer, "proxied", Some("refused"));
}

fn reset_held(place: &Place) {
    let mut peer = frozen(place, Peer::reset);
    place.expect_outcome(&peer, "proxied", Some("refused"));
    let late = peer.listen(Duration::from_millis(200));
    assert!(late.iter().all(|p| p.length() == 0), "nothing follows a reset: {late:?}");
}

fn segments_out_of_order_held(place: &Place) {
    let mut peer = frozen(place, |peer| {
        let text = request("/100k");
        let (head, rest) = text.as_bytes().split_at(20);
        let (first, second) = (peer.data_segment(head), peer.data_segment(rest));
        peer.send(&second);
        peer.send(&first);
    });
    place.expect_file(&mut peer, "10k");
    place.expect_file(&mut peer, "100k");
    place.close(&mut peer);
}

fn half_close_before_the_freeze(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.fin(request("/10k").as_bytes());
    place.expect_file(&mut peer, "10k");
    peer.receive_end();
    place.expect_outcome(&peer, "proxied", Some("refused"));
}
