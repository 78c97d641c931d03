//! Segments somebody who cannot see the connection sends in the client's name (RFC 5961), and other segments that must
//! not be taken. Each is played to the server directly and through the VIP: the answers are the same.

use crate::place::{Place, Row};
use crate::rows;
use baton_tests::peer::{Packet, Peer, Segment, Start, flag};
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![
    syn_with_the_old_number,
    syn_in_the_window,
    syn_with_the_next_number,
    syn_ack_in_the_window,
    reset_in_the_window,
    reset_below_the_window,
    reset_beyond_the_window,
    reset_with_the_next_number,
    data_beyond_the_window,
    data_below_the_window,
    data_that_acknowledges_the_past,
    data_without_acknowledgement,
    data_with_an_old_timestamp,
    data_without_timestamps,
    fin_beyond_the_window,
    acknowledgement_of_the_future,
    wrong_checksum,
];

/// What came back: flags, numbers relative to both initial ones, length, SACK blocks.
type Answer = (u8, u32, u32, u32, usize);

/// Plays a segment on a connection that has fetched a file; then the connection must go on, or be reset if `ends`.
///
/// With `answered` the first answer is waited for, else a while for anything.
fn alike(place: &Place, ends: bool, answered: bool, make: impl Fn(&mut Peer) -> Segment) -> Vec<Answer> {
    let start = Start::default();
    let mut answers = Vec::new();
    for to in [place.direct(), place.vip()] {
        let mut peer = Peer::open(place.host(), to, &start);
        place.fetch(&mut peer, "1k");
        if to == place.vip() {
            place.expect_migrated(&peer);
        }
        peer.settle();
        let segment = make(&mut peer);
        // It is not the client's: what it acknowledges or promises does not count.
        peer.forge(&segment);
        let isn = peer.watch().peer_isn().unwrap();
        let said = |p: &Packet| {
            let s = &p.segment;
            let relative = (s.seq.wrapping_sub(isn), s.ack.wrapping_sub(start.isn));
            (s.flags, relative.0, relative.1, p.length(), s.options.sack.len())
        };
        let mut heard = Vec::new();
        if answered {
            heard.push(peer.wait_for_news("an answer"));
        }
        heard.extend(peer.listen_for_news(Duration::from_millis(150)));
        answers.push(heard.iter().map(said).collect::<Vec<_>>());
        if ends {
            // What came before that is noticed would be kept as the beginning of a request.
            place.expect_ended(&peer);
            let probe = peer.data_segment(b"GET");
            peer.send(&probe);
            peer.wait("a reset: no such connection", |p| p.has(flag::RST));
        } else {
            place.fetch(&mut peer, "10k");
            place.close(&mut peer);
        }
    }
    let through = answers.pop().unwrap();
    assert_eq!(answers.pop().unwrap(), through, "direct, and through the VIP");
    through
}

/// The same, and it is answered by one acknowledgement that shows the true numbers: a challenge.
pub(crate) fn challenged(place: &Place, make: impl Fn(&mut Peer) -> Segment) {
    let answers = alike(place, false, true, make);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!((answers[0].0, answers[0].3), (flag::ACK, 0), "{answers:?}");
}

/// The same, and nobody answers.
fn ignored(place: &Place, make: impl Fn(&mut Peer) -> Segment) {
    assert_eq!(alike(place, false, false, make), []);
}

pub(crate) fn changed(change: impl Fn(&mut Segment)) -> impl Fn(&mut Peer) -> Segment {
    move |peer| {
        let mut segment = peer.segment();
        change(&mut segment);
        segment
    }
}

fn syn_with_the_old_number(place: &Place) {
    challenged(
        place,
        changed(|s| {
            (s.seq, s.ack, s.flags) = (Start::default().isn, 0, flag::SYN);
            s.options = Start::default().options;
        }),
    );
}

fn syn_in_the_window(place: &Place) {
    challenged(place, changed(|s| (s.seq, s.flags) = (s.seq.wrapping_add(1000), flag::SYN)));
}

fn syn_with_the_next_number(place: &Place) {
    challenged(place, changed(|s| s.flags = flag::SYN));
}

fn syn_ack_in_the_window(place: &Place) {
    challenged(place, changed(|s| (s.seq, s.flags) = (s.seq.wrapping_add(1), flag::SYN | flag::ACK)));
}

fn reset_in_the_window(place: &Place) {
    challenged(place, changed(|s| (s.seq, s.flags) = (s.seq.wrapping_add(1), flag::RST)));
}

fn reset_below_the_window(place: &Place) {
    ignored(place, changed(|s| (s.seq, s.flags) = (s.seq.wrapping_sub(1), flag::RST)));
}

fn reset_beyond_the_window(place: &Place) {
    ignored(place, changed(|s| (s.seq, s.flags) = (s.seq.wrapping_add(1 << 30), flag::RST)));
}

fn reset_with_the_next_number(place: &Place) {
    assert_eq!(alike(place, true, false, changed(|s| s.flags = flag::RST)), []);
}

fn data_beyond_the_window(place: &Place) {
    challenged(place, changed(|s| (s.seq, s.payload) = (s.seq.wrapping_add(1 << 30), b"x".to_vec())));
}

fn data_below_the_window(place: &Place) {
    challenged(place, changed(|s| (s.seq, s.payload) = (s.seq.wrapping_sub(1 << 30), b"x".to_vec())));
}

fn data_that_acknowledges_the_past(place: &Place) {
    challenged(place, changed(|s| (s.ack, s.payload) = (s.ack.wrapping_sub(1 << 30), b"x".to_vec())));
}

fn data_without_acknowledgement(place: &Place) {
    ignored(place, changed(|s| (s.flags, s.payload) = (flag::PSH, b"x".to_vec())));
}

fn data_with_an_old_timestamp(place: &Place) {
    // RFC 7323, section 5.3.
    challenged(
        place,
        changed(|s| {
            s.payload = b"x".to_vec();
            if let Some((value, _)) = &mut s.options.timestamps {
                *value = value.wrapping_sub(5000);
            }
        }),
    );
}

fn data_without_timestamps(place: &Place) {
    // Data the server takes, odd as it is: an ordinary request.
    let text = baton_tests::peer::request("/1k");
    let start = Start::default();
    for to in [place.direct(), place.vip()] {
        let mut peer = Peer::open(place.host(), to, &start);
        place.fetch(&mut peer, "1k");
        let mut segment = peer.data_segment(text.as_bytes());
        segment.options.timestamps = None;
        peer.send(&segment);
        place.expect_file(&mut peer, "1k");
        place.close(&mut peer);
    }
}

fn fin_beyond_the_window(place: &Place) {
    challenged(place, changed(|s| (s.seq, s.flags) = (s.seq.wrapping_add(1 << 30), flag::FIN | flag::ACK)));
}

fn acknowledgement_of_the_future(place: &Place) {
    challenged(place, changed(|s| s.ack = s.ack.wrapping_add(100_000)));
}

fn wrong_checksum(place: &Place) {
    for to in [place.direct(), place.vip()] {
        let mut peer = Peer::open(place.host(), to, &Start::default());
        place.fetch(&mut peer, "1k");
        peer.settle();
        let mut reset = peer.segment();
        reset.flags = flag::RST;
        // Without its checksum the reset would end the connection: a translation that mends it would be deadly.
        peer.corrupt(&reset);
        assert_eq!(peer.listen_for_news(Duration::from_millis(150)), []);
        place.fetch(&mut peer, "10k");
        place.close(&mut peer);
    }
}
