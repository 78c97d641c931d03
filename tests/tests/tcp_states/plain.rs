//! Requests that nobody reads, since they are plain and every request is treated alike there (docs/keepalive.md): the program
//! judges them by the segments in which they come. Which those are is counted, so that no other row may ask meanwhile.

use crate::after::migrated;
use crate::between::{kinds, send_behind};
use crate::place::{Place, Row};
use crate::rows;
use crate::scripted::put;
use baton_tests::peer::{PATIENCE, Packet, Peer, Segment, Start, flag, request};
use netns_lab::plan::INTERMEDIATE;
use std::time::{Duration, Instant};

pub(crate) const ALONE: &[Row] = rows![
    request_sent_again,
    request_sent_again_with_the_next_one,
    other_bytes_with_the_next_request,
    requests_one_behind_the_other,
    requests_in_wrong_order,
    request_with_a_wrong_checksum,
    request_that_acknowledges_the_future,
    other_bytes_for_what_the_server_did_not_take,
    sequence_wraps_in_a_request,
    requests_behind_options,
    fin_behind_a_request,
    requests_that_are_a_body,
];

/// How many requests nobody has read, on all connections.
fn unread(place: &Place) -> u64 {
    place.t.packets(INTERMEDIATE, "later_plain")
}

/// How many requests the intermediate knows of on this connection.
fn requests(place: &Place, peer: &Peer) -> u64 {
    let client = peer.from().to_string();
    let flows = place.t.flows(INTERMEDIATE);
    let flow = flows.iter().find(|flow| flow["client"] == client.as_str());
    flow.unwrap_or_else(|| peer.fail("the intermediate has no such flow"))["requests"].as_u64().unwrap()
}

/// How often a row is played until none of its requests is read that need not be: what is known of the target may change
/// meanwhile, and then the next request is read.
const TRIES: u32 = 10;

/// Asks until nobody has read the request: those that follow are not read either, if they are plain and nothing is done in
/// between. One that comes before the daemon has let go of the one before is read.
fn until_unread(place: &Place, peer: &mut Peer) {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let before = unread(place);
        place.fetch(peer, "1k");
        if unread(place) > before {
            return;
        }
    }
    peer.fail("each request was read");
}

/// Sends it, and waits until it has come: what is sent next may come on another CPU, and overtake it.
fn send_first(place: &Place, peer: &mut Peer, send: impl FnOnce(&mut Peer)) {
    let come = || -> u64 { place.t.packets_of(INTERMEDIATE, ["later_plain", "later_request"]).iter().sum() };
    let before = come();
    send(peer);
    place.t.eventually("it has come", PATIENCE, |_| come() > before);
}

/// A connection of which nobody reads plain requests.
fn opened(place: &Place, start: &Start) -> Peer {
    let mut peer = migrated(place, start);
    until_unread(place, &mut peer);
    peer
}

/// Played until as many requests are not read as can be; never more.
fn tried(place: &Place, without_reading: u64, mut play: impl FnMut() -> u64) {
    for _ in 0..TRIES {
        let got = play();
        assert!(got <= without_reading, "{got} requests were not read");
        if got == without_reading {
            return;
        }
    }
    panic!("some requests are read each time, with its target {}", place.t.standing("target1"));
}

/// What is done makes so many requests, of which so many are not read; then the connection goes on as before, and ends.
fn counted(
    place: &Place,
    [all, without_reading]: [u64; 2],
    open: impl Fn() -> Peer,
    done: impl Fn(&mut Peer),
) {
    tried(place, without_reading, || {
        let mut peer = open();
        let before = (requests(place, &peer), unread(place));
        done(&mut peer);
        let after = (requests(place, &peer), unread(place));
        assert_eq!(after.0 - before.0, all, "requests");
        until_unread(place, &mut peer);
        place.close(&mut peer);
        after.1 - before.1
    });
}

/// The same on an ordinary connection.
fn usual(place: &Place, counts: [u64; 2], done: impl Fn(&mut Peer)) {
    counted(place, counts, || opened(place, &Start::default()), done);
}

/// Nothing came but acknowledgements of all that was sent.
fn expect_acknowledged(peer: &mut Peer, first: &Packet) {
    let heard = peer.listen_for_news(Duration::from_millis(60));
    for packet in heard.iter().chain([first]) {
        assert_eq!((packet.length(), packet.segment.ack), (0, peer.seq), "{packet:?}");
    }
}

fn request_sent_again(place: &Place) {
    usual(place, [1, 1], |peer| {
        let segment = peer.data_segment(request("/10k").as_bytes());
        send_first(place, peer, |peer| peer.send(&segment));
        peer.send(&segment);
        peer.send(&segment);
        place.expect_file(peer, "10k");
        peer.settle();
        peer.send(&segment);
        let answer = peer.wait("an acknowledgement", |p| p.length() == 0);
        expect_acknowledged(peer, &answer);
    });
}

/// The segment again, with what follows it.
fn with_the_next(peer: &mut Peer, first: &Segment, next: &str) -> Segment {
    let mut merged = peer.data_segment(next.as_bytes());
    merged.seq = first.seq;
    merged.payload = [&first.payload[..], next.as_bytes()].concat();
    merged
}

fn request_sent_again_with_the_next_one(place: &Place) {
    usual(place, [3, 1], |peer| {
        let first = peer.data_segment(request("/10k").as_bytes());
        send_first(place, peer, |peer| peer.send(&first));
        // Before its answer is acknowledged, and again with one more.
        let second = with_the_next(peer, &first, &request("/1k"));
        peer.send(&second);
        place.expect_file(peer, "10k");
        place.expect_file(peer, "1k");
        let third = with_the_next(peer, &second, &request("/10k"));
        peer.send(&third);
        place.expect_file(peer, "10k");
    });
}

fn other_bytes_with_the_next_request(place: &Place) {
    usual(place, [2, 1], |peer| {
        let first = peer.data_segment(request("/10k").as_bytes());
        peer.send(&first);
        place.expect_file(peer, "10k");
        // The first bytes to come count.
        let mut other = with_the_next(peer, &first, &request("/1k"));
        other.seq = other.seq.wrapping_add(4);
        other.payload.drain(..4);
        other.payload[..first.payload.len() - 4].fill(b'\0');
        peer.send(&other);
        place.expect_file(peer, "1k");
    });
}

fn requests_one_behind_the_other(place: &Place) {
    usual(place, [3, 3], |peer| {
        for name in ["1k", "10k", "1k"] {
            let segment = peer.data_segment(request(&format!("/{name}")).as_bytes());
            send_first(place, peer, |peer| peer.send(&segment));
        }
        for name in ["1k", "10k", "1k"] {
            place.expect_file(peer, name);
        }
    });
}

fn requests_in_wrong_order(place: &Place) {
    // The second is held for the first, which nobody may let pass meanwhile.
    usual(place, [2, 0], |peer| {
        let [first, second] = ["/10k", "/1k"].map(|path| peer.data_segment(request(path).as_bytes()));
        send_first(place, peer, |peer| peer.send(&second));
        peer.send(&first);
        place.expect_file(peer, "10k");
        place.expect_file(peer, "1k");
    });
}

fn request_with_a_wrong_checksum(place: &Place) {
    usual(place, [1, 0], |peer| {
        peer.settle();
        let segment = peer.data_segment(request("/10k").as_bytes());
        send_first(place, peer, |peer| peer.corrupt(&segment));
        assert_eq!(peer.listen_for_news(Duration::from_millis(60)), [], "no kernel answers it");
        peer.send(&segment);
        place.expect_file(peer, "10k");
    });
}

fn request_that_acknowledges_the_future(place: &Place) {
    let path = format!("/plain-{}", u8::from(place.vip().is_ipv6()));
    usual(place, [1, 0], |peer| {
        peer.settle();
        let mut forged = peer.segment();
        forged.flags |= flag::PSH;
        forged.ack = forged.ack.wrapping_add(1 << 30);
        forged.payload = request(&path).into_bytes();
        peer.forge(&forged);
        let answer = peer.wait_for_news("a challenge");
        expect_acknowledged(peer, &answer);
        place.fetch(peer, "10k");
    });
    let seen = place.t.access_log("target1");
    assert!(seen.iter().all(|line| !line.contains(&path)), "{path} reached the server");
}

/// What a client does to itself: only the server knows how far it has sent, and what it has not taken may come again with other
/// bytes.
fn other_bytes_for_what_the_server_did_not_take(place: &Place) {
    usual(place, [1, 1], |peer| {
        peer.settle();
        let second = peer.data_segment(request("/10k").as_bytes());
        let mut first = second.clone();
        first.payload = request("/1k?").into_bytes();
        assert_eq!(first.payload.len(), second.payload.len());
        first.ack = first.ack.wrapping_add(5000);
        peer.forge(&first);
        let answer = peer.wait_for_news("a challenge");
        assert_eq!((answer.length(), answer.segment.ack), (0, second.seq), "{answer:?}");
        peer.send(&second);
        place.expect_file(peer, "10k");
    });
}

/// A request of this length.
fn long(path: &str, length: usize) -> String {
    let bare = request(path).replace("\r\n\r\n", "\r\nX-Fill: \r\n\r\n");
    let fill = "f".repeat(length - bare.len());
    bare.replace("X-Fill: ", &format!("X-Fill: {fill}"))
}

fn sequence_wraps_in_a_request(place: &Place) {
    // How many bytes lie behind the wrap; with none the next one's first number is 0.
    for behind in [0, 20] {
        let left = |peer: &Peer| peer.seq.wrapping_neg();
        let open = || {
            // It takes a while until none is read, and how long nobody knows.
            let mut peer = opened(place, &Start { isn: u32::MAX - 20_000, ..Start::default() });
            assert!(left(&peer) < 20_000, "it took longer");
            while left(&peer) > 1000 {
                peer.data(long("/1k", 900).as_bytes());
                place.expect_file(&mut peer, "1k");
            }
            peer
        };
        counted(place, [1, 1], open, |peer| {
            let length = left(peer) as usize + behind;
            peer.data(long("/10k", length).as_bytes());
            assert_eq!(peer.seq as usize, behind);
            place.expect_file(peer, "10k");
        });
    }
}

fn requests_behind_options(place: &Place) {
    let kinds = kinds();
    usual(place, [kinds.len() as u64; 2], |peer| {
        for between in &kinds {
            send_behind(peer, request("/10k").as_bytes(), between);
            place.expect_file(peer, "10k");
        }
    });
}

fn fin_behind_a_request(place: &Place) {
    // In a segment of its own, and in one with the request, which is read then.
    for (apart, without_reading) in [(true, 1), (false, 0)] {
        tried(place, without_reading, || {
            let mut peer = opened(place, &Start::default());
            let (before, text) = (unread(place), request("/10k"));
            if apart {
                send_first(place, &mut peer, |peer| peer.data(text.as_bytes()));
            }
            peer.fin(if apart { b"" } else { text.as_bytes() });
            place.expect_file(&mut peer, "10k");
            peer.receive_end();
            peer.wait_acknowledged();
            unread(place) - before
        });
    }
}

fn requests_that_are_a_body(place: &Place) {
    let name = format!("plain{}", u8::from(place.vip().is_ipv6()));
    let text = request("/1k");
    let body = text.repeat(4).into_bytes();
    // Those of the body are none. The last piece has a true one behind it.
    usual(place, [2, 0], |peer| {
        peer.data(&put(&format!("/upload/{name}"), body.len()));
        peer.wait_acknowledged();
        for _ in 1..4 {
            peer.data(text.as_bytes());
        }
        peer.data(text.repeat(2).as_bytes());
        assert!((200..300).contains(&peer.response().0));
        place.expect_file(peer, "1k");
        place.expect_uploaded(&name, &body);
    });
}
