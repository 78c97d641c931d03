//! Whole requests that somebody who cannot see the connection sends in the client's name, just where its next one will
//! begin. On a tracked connection the intermediate reads them before any kernel has judged them.

use crate::place::{Place, Row};
use crate::rows;
use baton_tests::peer::{Segment, Start, flag, request};
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![
    request_that_acknowledges_the_past,
    request_that_acknowledges_the_future,
    request_without_acknowledgement,
    request_with_an_old_timestamp,
    request_beyond_what_is_kept,
    request_with_a_wrong_checksum,
    acknowledgement_ahead_and_a_request_with_it,
];

/// A forged request that is not to be taken; then the client's own, with the same number.
fn refused(place: &Place, before: Option<fn(&mut Segment)>, change: impl Fn(&mut Segment)) {
    let mut peer = place.open(&Start::default());
    place.fetch(&mut peer, "1k");
    place.expect_migrated(&peer);
    peer.settle();
    if let Some(first) = before {
        let mut segment = peer.segment();
        first(&mut segment);
        peer.forge(&segment);
    }
    let path = format!("/forged-{}", peer.from().port());
    let mut segment = peer.segment();
    segment.flags |= flag::PSH;
    segment.payload = request(&path).into_bytes();
    change(&mut segment);
    peer.forge(&segment);
    // Whatever is answered to it is no response.
    let heard = peer.listen_for_news(Duration::from_millis(150));
    assert!(heard.iter().all(|packet| packet.length() == 0 && !packet.has(flag::RST)), "{heard:?}");
    place.fetch(&mut peer, "1k");
    place.close(&mut peer);
    let seen = place.t.access_log("target1");
    assert!(seen.iter().all(|line| !line.contains(&path)), "{path} reached the server");
}

fn request_that_acknowledges_the_past(place: &Place) {
    refused(place, None, |s| s.ack = s.ack.wrapping_sub(1 << 30));
}

fn request_that_acknowledges_the_future(place: &Place) {
    refused(place, None, |s| s.ack = s.ack.wrapping_add(1 << 30));
}

fn request_without_acknowledgement(place: &Place) {
    refused(place, None, |s| s.flags = flag::PSH);
}

fn request_with_an_old_timestamp(place: &Place) {
    refused(place, None, |s| {
        if let Some((value, _)) = &mut s.options.timestamps {
            *value = value.wrapping_sub(5000);
        }
    });
}

fn request_beyond_what_is_kept(place: &Place) {
    refused(place, None, |s| s.seq = s.seq.wrapping_add(1 << 30));
}

/// Nobody forged it: a link did that. The server's kernel drops it, and the client sends it again.
fn request_with_a_wrong_checksum(place: &Place) {
    let mut peer = place.open(&Start::default());
    place.fetch(&mut peer, "1k");
    place.expect_migrated(&peer);
    peer.settle();
    let path = format!("/corrupt-{}", peer.from().port());
    // The first would be refused, had anybody read it.
    for payload in [b"GET\0/ HTTP/1.1\r\n\r\n".to_vec(), request(&path).into_bytes()] {
        let mut segment = peer.segment();
        segment.flags |= flag::PSH;
        segment.payload = payload;
        peer.corrupt(&segment);
        assert_eq!(peer.listen_for_news(Duration::from_millis(150)), [], "no kernel answers it");
    }
    place.fetch(&mut peer, "1k");
    place.close(&mut peer);
    let seen = place.t.access_log("target1");
    assert!(seen.iter().all(|line| !line.contains(&path)), "{path} reached the server");
}

/// What is known of the client follows no forger.
fn acknowledgement_ahead_and_a_request_with_it(place: &Place) {
    let ahead = |s: &mut Segment| s.ack = s.ack.wrapping_add(1 << 30);
    refused(place, Some(ahead), ahead);
}
