//! A migrated connection in use: losses, windows, probes, odd segments. What the client does not acknowledge the
//! server's kernel must send again through the translation.

use crate::place::{Place, Row};
use crate::rows;
use crate::scripted::put;
use baton_tests::peer::{Options, Packet, Peer, Segment, Start, flag, request};
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![
    request_sent_again,
    overlapping_requests,
    request_out_of_order,
    body_out_of_order,
    request_byte_by_byte,
    duplicates_are_reported_by_sack,
    keepalive_probes,
    lost_segment_with_sack,
    lost_segment_without_sack,
    nothing_acknowledged,
    acknowledgements_held_back,
    one_acknowledgement_lost,
    zero_window_and_persist,
    zero_window_and_nobody_asks,
    window_of_one_byte,
    push_and_padding_and_no_data,
];

/// A connection that was migrated with a request for 1k, answered.
pub(crate) fn migrated(place: &Place, start: &Start) -> Peer {
    let mut peer = place.open(start);
    place.fetch(&mut peer, "1k");
    place.expect_migrated(&peer);
    peer
}

fn request_sent_again(place: &Place) {
    let mut peer = place.open(&Start::default());
    let first = peer.data_segment(request("/1k").as_bytes());
    peer.send(&first);
    place.expect_file(&mut peer, "1k");
    place.expect_migrated(&peer);
    // The answer to it is an acknowledgement, not another 1k.
    peer.send(&first);
    let answer = peer.wait("an acknowledgement", |p| p.length() == 0);
    let heard = peer.listen_for_news(Duration::from_millis(100));
    for packet in heard.iter().chain([&answer]) {
        assert_eq!((packet.length(), packet.segment.ack), (0, peer.seq), "{packet:?}");
    }
    place.fetch(&mut peer, "10k");
    place.close(&mut peer);
}

fn overlapping_requests(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    let text = request("/10k");
    let from = peer.seq;
    let all = peer.data_segment(text.as_bytes());
    for range in [0..20, 10..30, 5..25, 28..text.len() - 1, 0..text.len()] {
        let mut piece = all.clone();
        piece.seq = from.wrapping_add(range.start as u32);
        piece.payload = text.as_bytes()[range].to_vec();
        peer.send(&piece);
    }
    place.expect_file(&mut peer, "10k");
    place.fetch(&mut peer, "1k");
    place.close(&mut peer);
}

fn request_out_of_order(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    let text = request("/10k");
    let pieces: Vec<_> = text.as_bytes().chunks(16).map(|piece| peer.data_segment(piece)).collect();
    // All but the first, which are held until that comes.
    for piece in &pieces[1..] {
        peer.send(piece);
    }
    assert_eq!(peer.listen_for_news(Duration::from_millis(50)), []);
    peer.send(&pieces[0]);
    place.expect_file(&mut peer, "10k");
    place.close(&mut peer);
}

/// All but the first segment: the server says what it has.
pub(crate) fn expect_block(peer: &mut Peer, pieces: &[Segment]) {
    for piece in &pieces[1..] {
        peer.send(piece);
    }
    let behind = (pieces[1].seq, peer.seq);
    peer.wait("a block for all of it", |p| p.segment.options.sack.first() == Some(&behind));
    peer.send(&pieces[0]);
}

fn body_out_of_order(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    let name = format!("order{}", u8::from(place.vip().is_ipv6()));
    let body: Vec<u8> = (0..700u32).map(|n| (n % 251) as u8).collect();
    peer.data(&put(&format!("/upload/{name}"), body.len()));
    peer.wait_acknowledged();
    let pieces: Vec<_> = body.chunks(100).map(|piece| peer.data_segment(piece)).collect();
    expect_block(&mut peer, &pieces);
    assert!((200..300).contains(&peer.response().0));
    place.expect_uploaded(&name, &body);
    place.close(&mut peer);
}

fn request_byte_by_byte(place: &Place) {
    let mut peer = place.open(&Start::default());
    for byte in request("/1k").as_bytes() {
        peer.data(&[*byte]);
    }
    place.expect_file(&mut peer, "1k");
    place.expect_migrated(&peer);
    for byte in request("/10k").as_bytes() {
        peer.data(&[*byte]);
    }
    place.expect_file(&mut peer, "10k");
    place.close(&mut peer);
}

fn duplicates_are_reported_by_sack(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    let again = peer.data_segment(request("/1k").as_bytes());
    peer.send(&again);
    place.expect_file(&mut peer, "1k");
    peer.send(&again);
    // RFC 2883: the block below the acknowledgement is what came twice.
    let answer = peer.wait("the acknowledgement", |p| !p.segment.options.sack.is_empty());
    assert_eq!(answer.segment.options.sack, [(again.seq, peer.seq)]);
    place.close(&mut peer);
}

fn keepalive_probes(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    for garbage in [&b""[..], b"x"] {
        let mut probe = peer.segment();
        probe.seq = probe.seq.wrapping_sub(1);
        probe.payload = garbage.to_vec();
        peer.send(&probe);
        let answer = peer.wait("the answer to the probe", |p| p.length() == 0);
        assert_eq!((answer.segment.seq, answer.segment.ack), (peer.watch().next_expected(), peer.seq));
        // The kernel answers such segments at most every half second (net.ipv4.tcp_invalid_ratelimit).
        std::thread::sleep(Duration::from_millis(600));
    }
    place.fetch(&mut peer, "10k");
    place.close(&mut peer);
}

/// Asks for 100k and takes so many segments of the answer, one behind the other, without acknowledging any. (Where that takes
/// long the server says some again.)
fn some_segments(peer: &mut Peer, count: usize) -> Vec<Packet> {
    peer.get("/100k");
    let mut next = || {
        let next = peer.watch().next_expected();
        peer.wait("data", |p| p.has_data() && p.segment.seq == next)
    };
    (0..count).map(|_| next()).collect()
}

fn lost_segment_with_sack(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    let got = some_segments(&mut peer, 8);
    // The second one was "lost": the others are acknowledged selectively, one by one.
    let (lost, rest) = (&got[1], &got[2..]);
    peer.ack = lost.segment.seq;
    let left = rest[0].segment.seq;
    // What the server has been told when it has heard a timestamp of these.
    let mut told = Vec::new();
    for packet in rest {
        let mut block = peer.segment();
        let right = packet.segment.seq.wrapping_add(packet.length());
        block.options.sack = vec![(left, right)];
        told.push((block.options.timestamps.unwrap().0, right));
        peer.send(&block);
    }
    // Exactly the hole is sent again, though what lies behind it was not acknowledged by number. What the server sent before it
    // heard so, since a busy machine was slow, echoes an older timestamp.
    let is_before = |a: u32, b: u32| a.wrapping_sub(b) >= 1 << 31;
    let again = peer.wait("what was lost", |p| {
        let (seq, echo) = (p.segment.seq, p.segment.options.timestamps.unwrap().1);
        let knows = told.iter().rfind(|(clock, _)| !is_before(echo, *clock)).map(|(_, right)| *right);
        let in_vain = knows.is_some_and(|right| {
            p.length() > 0 && is_before(seq, right) && is_before(left, seq.wrapping_add(p.length()))
        });
        assert!(!in_vain, "sent again although selectively acknowledged: {p:?}");
        knows.is_some() && seq == lost.segment.seq && p.has_data()
    });
    assert_eq!(again.segment.payload, lost.segment.payload);
    peer.ack = peer.watch().next_expected();
    peer.acknowledge();
    place.expect_file(&mut peer, "100k");
    place.close(&mut peer);
}

fn lost_segment_without_sack(place: &Place) {
    let start =
        Start { options: Options { sack_permitted: false, ..Start::default().options }, ..Start::default() };
    let mut peer = migrated(place, &start);
    let got = some_segments(&mut peer, 8);
    let lost = &got[1];
    peer.ack = lost.segment.seq;
    for _ in &got[2..] {
        peer.acknowledge();
    }
    let again = peer.wait("what was lost", |p| p.segment.seq == lost.segment.seq && p.has_data());
    assert_eq!(again.segment.payload, lost.segment.payload);
    peer.ack = peer.watch().next_expected();
    peer.acknowledge();
    place.expect_file(&mut peer, "100k");
    place.close(&mut peer);
}

fn nothing_acknowledged(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    let first = peer.watch().next_expected();
    some_segments(&mut peer, 3);
    // The watch compares what is sent twice.
    for _ in 0..2 {
        peer.wait("the first segment again", |p| p.segment.seq == first && p.has_data());
    }
    peer.ack = peer.watch().next_expected();
    peer.acknowledge();
    place.expect_file(&mut peer, "100k");
    place.close(&mut peer);
}

fn acknowledgements_held_back(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    let got = some_segments(&mut peer, 6);
    // One for all, in the middle of the fourth segment, and then one for the rest.
    peer.ack = got[3].segment.seq.wrapping_add(100);
    peer.acknowledge();
    peer.ack = peer.watch().next_expected();
    peer.acknowledge();
    place.expect_file(&mut peer, "100k");
    place.close(&mut peer);
}

fn one_acknowledgement_lost(place: &Place) {
    // The handshake's last one: the request, which acknowledges as much, makes up for it, and the answer is
    // acknowledged with the next request only.
    let mut peer = Peer::dial(place.host(), place.vip(), &Start::default());
    peer.syn_ack();
    peer.get("/1k");
    peer.wait("the answer", |p| p.has_data());
    peer.ack = peer.watch().next_expected();
    peer.get("/10k");
    place.expect_file(&mut peer, "1k");
    place.expect_file(&mut peer, "10k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn zero_window_and_persist(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    some_segments(&mut peer, 4);
    let open = std::mem::take(&mut peer.window);
    peer.ack = peer.watch().next_expected();
    for _ in 0..2 {
        peer.acknowledge();
        wait_for_probe(&mut peer);
    }
    peer.window = open;
    peer.acknowledge();
    place.expect_file(&mut peer, "100k");
    place.close(&mut peer);
}

/// Waits for a window probe: it lies below what was acknowledged. What was under way when the window closed is taken, and said
/// to be there; what the server says again before it hears that is no probe.
fn wait_for_probe(peer: &mut Peer) {
    loop {
        let packet = peer.wait("a window probe below what was acknowledged", |_| true);
        if packet.segment.seq == peer.ack.wrapping_sub(1) {
            return;
        }
        peer.ack = peer.watch().next_expected();
        peer.acknowledge();
    }
}

fn zero_window_and_nobody_asks(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    some_segments(&mut peer, 4);
    let open = std::mem::take(&mut peer.window);
    peer.ack = peer.watch().next_expected();
    peer.acknowledge();
    wait_for_probe(&mut peer);
    // The update is lost: the probe's answer says it again.
    peer.window = open;
    peer.acknowledge();
    place.expect_file(&mut peer, "100k");
    place.close(&mut peer);
}

fn window_of_one_byte(place: &Place) {
    let options = Options { window_scale: None, ..Start::default().options };
    let mut peer = place.open(&Start { window: 1, options, ..Start::default() });
    peer.get("/1k");
    for _ in 0..3 {
        let (bytes, next) = (peer.watch().contiguous(), peer.watch().next_expected());
        // Not one that is said again.
        peer.wait("a byte", |p| p.has_data() && p.segment.seq == next);
        assert_eq!(peer.watch().contiguous(), bytes + 1);
        peer.ack = peer.watch().next_expected();
        peer.acknowledge();
    }
    peer.window = 60_000;
    peer.acknowledge();
    place.expect_file(&mut peer, "1k");
    place.expect_migrated(&peer);
    place.close(&mut peer);
}

fn push_and_padding_and_no_data(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    // Options padded to the longest header there is, no PSH, and empty segments with it.
    for (flags, payload) in
        [(flag::ACK | flag::PSH, ""), (flag::ACK, "GET /10k HTTP/1.1\r\n"), (flag::ACK, "Host: lab\r\n\r\n")]
    {
        let mut segment = peer.data_segment(payload.as_bytes());
        segment.flags = flags;
        segment.options.raw = vec![1; 28];
        peer.send(&segment);
    }
    place.expect_file(&mut peer, "10k");
    place.close(&mut peer);
}
