//! What comes while a tracked connection leaves one target for another: while the first one's agent is asked to give it
//! back, and while the second one's does not have it yet. The agent in question is stopped to make that last. The peer
//! repeats nothing: what was lost would be missed.

use crate::place::{Place, Row};
use crate::rows;
use crate::scripted::put;
use baton_tests::peer::{PATIENCE, Peer, Start, flag};
use baton_tests::two_pools::served_by;
use netns_lab::Program;
use serde_json::Value;
use std::time::{Duration, Instant};

pub(crate) const ALONE: &[Row] = rows![
    requests_during_the_recall,
    body_during_the_recall,
    segments_out_of_order_during_the_recall,
    request_sent_again_during_the_recall,
    fin_during_the_recall,
    reset_during_the_recall,
    forged_reset_during_the_recall,
    window_update_during_the_recall,
    duplicate_acknowledgements_during_the_recall,
    last_acknowledgement_during_the_recall,
    keepalive_probe_during_the_recall,
    sequence_wraps_during_the_recall,
    // Last, since the server is started anew.
    server_closes_during_the_recall,
];

fn get(path: &str, to: char) -> String {
    baton_tests::peer::request(&format!("{path}?to={to}"))
}

/// Receives this file, from this target.
fn served(place: &Place, peer: &mut Peer, to: char, name: &str) {
    let head = peer.head();
    assert!(head.contains(&format!("X-Served-By: {}\r\n", served_by(to))), "not by {to}: {head}");
    let file = place.file(name);
    assert!(peer.body(file.len()) == file, "not {name}");
}

/// A connection whose first request the first target has answered.
fn answered(place: &Place) -> Peer {
    answered_from(place, Start::default().isn)
}

/// The same, with this initial number.
fn answered_from(place: &Place, isn: u32) -> Peer {
    let mut peer = place.open(&Start { isn, ..Start::default() });
    peer.data(get("/1k", 'a').as_bytes());
    served(place, &mut peer, 'a', "1k");
    place.expect_migrated(&peer);
    peer
}

/// Waits until the next request is held, and the first target's agent is asked for the flow.
fn expect_held(place: &Place, peer: &Peer) {
    let client = peer.from().to_string();
    let until = Instant::now() + PATIENCE;
    let held = |f: &Value| {
        f["client"] == client.as_str() && f["state"] == "committed" && f["diverted"] != f["released"]
    };
    while !place.t.flows("intermediate").iter().any(held) {
        if Instant::now() > until {
            peer.fail("its request is not held");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The next request is for the second target, and comes to a halt at each of the two agents; then `meanwhile`, then the
/// agent goes on, and `then` is what must come of it.
fn at_both(place: &Place, next: impl Fn(&mut Peer), meanwhile: impl Fn(&mut Peer), then: impl Fn(Peer)) {
    at_both_from(place, Start::default().isn, next, meanwhile, then);
}

/// The same, with this initial number.
fn at_both_from(
    place: &Place,
    isn: u32,
    next: impl Fn(&mut Peer),
    meanwhile: impl Fn(&mut Peer),
    then: impl Fn(Peer),
) {
    for agent in ["target1", "target2"] {
        let mut peer = answered_from(place, isn);
        let stall = place.stall_of(agent);
        next(&mut peer);
        match agent {
            "target1" => expect_held(place, &peer),
            _ => place.expect_state(&peer, "frozen"),
        }
        meanwhile(&mut peer);
        drop(stall);
        then(peer);
    }
}

/// The same; the second target answers, and the connection goes on at the first one.
fn undisturbed(place: &Place, meanwhile: impl Fn(&mut Peer)) {
    let next = |peer: &mut Peer| peer.data(get("/10k", 'b').as_bytes());
    at_both(place, next, meanwhile, |mut peer| {
        served(place, &mut peer, 'b', "10k");
        peer.data(get("/1k", 'a').as_bytes());
        served(place, &mut peer, 'a', "1k");
        place.close(&mut peer);
    });
}

fn requests_during_the_recall(place: &Place) {
    let meanwhile = |peer: &mut Peer| {
        for (path, to) in [("/1k", 'b'), ("/100k", 'a'), ("/1k", 'b')] {
            peer.data(get(path, to).as_bytes());
        }
    };
    let next = |peer: &mut Peer| peer.data(get("/10k", 'b').as_bytes());
    at_both(place, next, meanwhile, |mut peer| {
        for (to, name) in [('b', "10k"), ('b', "1k"), ('a', "100k"), ('b', "1k")] {
            served(place, &mut peer, to, name);
        }
        place.close(&mut peer);
    });
}

fn body_during_the_recall(place: &Place) {
    let body: Vec<u8> = (0..30_000u32).map(|n| (n * 7 + n / 251) as u8).collect();
    let head = put("/upload/recalled?to=b", body.len());
    let next = |peer: &mut Peer| peer.data(&[&head, &body[..500]].concat());
    let meanwhile = |peer: &mut Peer| {
        body[500..20_000].chunks(1300).for_each(|piece| peer.data(piece));
        peer.watch_mut().allow_overtaking();
    };
    at_both(place, next, meanwhile, |mut peer| {
        body[20_000..].chunks(1000).for_each(|piece| peer.data(piece));
        assert_eq!(peer.response().0, 201);
        place.expect_uploaded("recalled", &body);
        place.close(&mut peer);
    });
}

fn segments_out_of_order_during_the_recall(place: &Place) {
    let next = |peer: &mut Peer| peer.data(get("/1k", 'b').as_bytes());
    let meanwhile = |peer: &mut Peer| {
        let text = get("/100k", 'a');
        let pieces: Vec<_> = text.as_bytes().chunks(11).map(|piece| peer.data_segment(piece)).collect();
        pieces.iter().rev().for_each(|piece| peer.send(piece));
    };
    at_both(place, next, meanwhile, |mut peer| {
        served(place, &mut peer, 'b', "1k");
        served(place, &mut peer, 'a', "100k");
        place.close(&mut peer);
    });
}

fn request_sent_again_during_the_recall(place: &Place) {
    undisturbed(place, |peer| {
        let text = get("/10k", 'b');
        let mut again = peer.segment();
        again.seq = again.seq.wrapping_sub(u32::try_from(text.len()).unwrap());
        again.payload = text.into_bytes();
        peer.send(&again);
        peer.send(&again);
    });
}

fn fin_during_the_recall(place: &Place) {
    let next = |peer: &mut Peer| peer.data(get("/10k", 'b').as_bytes());
    at_both(
        place,
        next,
        |peer| peer.fin(b""),
        |mut peer| {
            served(place, &mut peer, 'b', "10k");
            peer.receive_end();
            peer.wait_acknowledged();
        },
    );
}

/// The client's socket is gone: it answers whatever comes with a reset, as its kernel does (RFC 9293, section 3.10.7.1).
fn expect_ended(place: &Place, peer: &mut Peer) {
    let client = peer.from().to_string();
    let until = Instant::now() + PATIENCE;
    let lives = |f: &Value| f["client"] == client.as_str() && f["end"].is_null();
    while ["intermediate", "target1", "target2"].iter().any(|node| place.t.flows(node).iter().any(lives)) {
        if Instant::now() > until {
            peer.fail("its flow has not ended");
        }
        if let Some(packet) = peer.next(Duration::from_millis(50)).filter(|packet| packet.lacks(flag::RST)) {
            assert!(packet.lacks(flag::FIN), "the server's socket is gone: {packet:?}");
            let mut reset = peer.segment();
            (reset.seq, reset.ack, reset.flags) = (packet.segment.ack, 0, flag::RST);
            reset.options.timestamps = None;
            peer.forge(&reset);
        }
    }
}

fn reset_during_the_recall(place: &Place) {
    let next = |peer: &mut Peer| peer.data(get("/10k", 'b').as_bytes());
    at_both(place, next, Peer::reset, |mut peer| expect_ended(place, &mut peer));
}

fn forged_reset_during_the_recall(place: &Place) {
    // In the window but not the very number expected: RFC 5961, section 3.2.
    undisturbed(place, |peer| {
        let mut forged = peer.segment();
        (forged.seq, forged.ack, forged.flags) = (peer.seq.wrapping_add(500), 0, flag::RST);
        peer.send(&forged);
    });
}

fn window_update_during_the_recall(place: &Place) {
    // The window opens meanwhile, and nobody says it again.
    let next = |peer: &mut Peer| {
        peer.window = 0;
        peer.data(get("/10k", 'b').as_bytes());
    };
    let meanwhile = |peer: &mut Peer| {
        peer.window = 500;
        peer.acknowledge();
    };
    at_both(place, next, meanwhile, |mut peer| {
        served(place, &mut peer, 'b', "10k");
        place.close(&mut peer);
    });
}

fn duplicate_acknowledgements_during_the_recall(place: &Place) {
    undisturbed(place, |peer| {
        for _ in 0..4 {
            let mut again = peer.segment();
            again.seq = again.seq.wrapping_sub(u32::try_from(get("/10k", 'b').len()).unwrap());
            peer.send(&again);
            peer.acknowledge();
        }
    });
}

/// The request is ahead of the acknowledgement of the response before it: until that comes the first target's server has
/// something to say again, and keeps the connection.
fn last_acknowledgement_during_the_recall(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.data(get("/1k", 'a').as_bytes());
    let size = place.file("1k").len();
    while peer.watch().contiguous() < size + 100 {
        peer.wait("the response", |p| p.has_data());
    }
    place.expect_migrated(&peer);
    peer.data(get("/10k", 'b').as_bytes());
    expect_held(place, &peer);
    // It comes again, from where it was.
    let first = peer.watch().peer_isn().unwrap().wrapping_add(1);
    peer.wait("the response again", |p| p.has_data() && p.segment.seq == first);
    peer.ack = peer.watch().next_expected();
    peer.acknowledge();
    served(place, &mut peer, 'a', "1k");
    served(place, &mut peer, 'b', "10k");
    place.close(&mut peer);
}

fn keepalive_probe_during_the_recall(place: &Place) {
    undisturbed(place, |peer| {
        let mut probe = peer.segment();
        probe.seq = probe.seq.wrapping_sub(1);
        peer.send(&probe);
    });
}

fn sequence_wraps_during_the_recall(place: &Place) {
    let [first, second] = [get("/1k", 'a'), get("/10k", 'b')].map(|text| u32::try_from(text.len()).unwrap());
    // Within the request that is held, at its end, and within what comes behind it.
    for wrap in [first + 10, first + second, first + second + 10] {
        let isn = 0u32.wrapping_sub(1 + wrap);
        let next = |peer: &mut Peer| peer.data(get("/10k", 'b').as_bytes());
        let meanwhile = |peer: &mut Peer| peer.data(get("/1k", 'a').as_bytes());
        at_both_from(place, isn, next, meanwhile, |mut peer| {
            served(place, &mut peer, 'b', "10k");
            served(place, &mut peer, 'a', "1k");
            assert!(peer.seq < 1 << 16, "the numbers have wrapped");
            place.close(&mut peer);
        });
    }
}

/// The first target's server closes the connection while its agent is asked for it. The request is the client's to ask again, as
/// whenever a server closes a kept connection in the moment of its use.
fn server_closes_during_the_recall(place: &Place) {
    let mut peer = answered(place);
    let stall = place.stall_of("target1");
    peer.data(get("/10k", 'b').as_bytes());
    expect_held(place, &peer);
    // It closes connections without a request, and ends.
    place.t.lab.signal("target1", Program::Server, libc::SIGQUIT).unwrap();
    place.t.eventually("the server to end", PATIENCE, |t| !t.lab.is_running("target1", Program::Server));
    // The plane in user space stands still with its agent.
    drop(stall);
    peer.wait("the server's FIN", |p| p.has(flag::FIN));
    peer.ack = peer.watch().next_expected();
    peer.fin(b"");
    expect_ended(place, &mut peer);
    place.t.lab.start("target1", Program::Server).unwrap();
}
