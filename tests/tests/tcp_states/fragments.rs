//! A client's packets in IP fragments, before the migration and after it: put together, or dropped and counted; never
//! anything else.

use crate::place::{Place, Row};
use crate::rows;
use crate::scripted::put;
use baton_tests::peer::{PATIENCE, Peer, Segment, Start, request};
use netns_lab::plan::INTERMEDIATE;
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![first_request_in_fragments];

/// They count what is dropped, so that no other row may send fragments meanwhile.
pub(crate) const ALONE: &[Row] = rows![
    later_request_in_fragments,
    later_request_in_fragments_last_first,
    body_in_fragments,
    fragments_with_other_bytes,
];

/// Bytes of a fragment: the TCP header is in the first one whole.
const PIECE: usize = 256;

fn dropped(place: &Place) -> u64 {
    place.t.packets(INTERMEDIATE, "drop_fragment")
}

/// How many fragments the intermediate's kernel was given to put together (`ReasmReqds`), or what else it counted.
fn in_the_kernel(place: &Place, what: &str) -> u64 {
    let group = if place.vip().is_ipv6() { "Ip6" } else { "Ip" };
    place.t.kernel_count(INTERMEDIATE, &format!("{group}{what}"))
}

/// Sends a segment of a migrated connection in fragments. All behind the first one are dropped with it and counted, and do
/// not come to the intermediate's kernel; those in front of it wait there in vain. None is answered.
fn lost(place: &Place, peer: &mut Peer, segment: &Segment, last_first: bool) {
    let before = (dropped(place), in_the_kernel(place, "ReasmReqds"));
    peer.settle();
    let pieces = peer.fragments(segment, PIECE, last_first) as u64;
    assert!(pieces > 2, "{pieces} fragments");
    let (counted, given) = if last_first { (1, pieces - 1) } else { (pieces, 0) };
    place.t.eventually("the fragments are counted", PATIENCE, |_| dropped(place) == before.0 + counted);
    place.t.eventually("those in front of the first have come to the kernel, and no other", PATIENCE, |_| {
        in_the_kernel(place, "ReasmReqds") == before.1 + given
    });
    // Neither a reset for those that passed nor a report of what is missing.
    let answers = peer.listen_for_news(Duration::from_millis(100));
    assert!(answers.is_empty(), "fragments were answered: {answers:?}");
}

/// A request that is some fragments long.
fn long_request(path: &str) -> Vec<u8> {
    request(path).replace("\r\n\r\n", &format!("\r\nX-Long: {}\r\n\r\n", "x".repeat(1000))).into_bytes()
}

fn first_request_in_fragments(place: &Place) {
    let mut peer = place.open(&Start::default());
    let segment = peer.data_segment(&long_request("/10k"));
    peer.fragments(&segment, PIECE, false);
    place.expect_file(&mut peer, "10k");
    place.expect_migrated(&peer);
    place.fetch(&mut peer, "1k");
    place.close(&mut peer);
}

fn later_request_in_fragments(place: &Place) {
    let mut peer = place.open(&Start::default());
    place.fetch(&mut peer, "1k");
    place.expect_migrated(&peer);
    let segment = peer.data_segment(&long_request("/10k"));
    lost(place, &mut peer, &segment, false);
    // As a client does that hears nothing.
    peer.send(&segment);
    place.expect_file(&mut peer, "10k");
    place.close(&mut peer);
}

fn later_request_in_fragments_last_first(place: &Place) {
    let sysctl = |words: &str| {
        let name = if place.vip().is_ipv6() { "net.ipv6.ip6frag_time" } else { "net.ipv4.ipfrag_time" };
        place.t.lab.output(INTERMEDIATE, &["sysctl", "-n", &format!("{name}{words}")]).unwrap()
    };
    let mut peer = place.open(&Start::default());
    place.fetch(&mut peer, "1k");
    place.expect_migrated(&peer);
    let segment = peer.data_segment(&long_request("/10k"));
    let (given_up, time) = (in_the_kernel(place, "ReasmTimeout"), sysctl(""));
    sysctl("=1");
    lost(place, &mut peer, &segment, true);
    place.t.eventually("the kernel gives up what came in front", PATIENCE, |_| {
        in_the_kernel(place, "ReasmTimeout") > given_up
    });
    sysctl(&format!("={}", time.trim()));
    // Without the first fragment it does so without a word (`ip_expire()`, `ip6frag_expire_frag_queue()`).
    let answers = peer.listen_for_news(Duration::from_millis(100));
    assert!(answers.is_empty(), "fragments were answered: {answers:?}");
    peer.send(&segment);
    place.expect_file(&mut peer, "10k");
    place.close(&mut peer);
}

fn body_in_fragments(place: &Place) {
    let body: Vec<u8> = (0..4000u32).map(|n| (n % 251) as u8).collect();
    let name = format!("fragments{}", u8::from(place.vip().is_ipv6()));
    let mut peer = place.open(&Start::default());
    let head = put(&format!("/upload/{name}"), body.len());
    peer.data(&[&head[..], &body[..1000]].concat());
    place.expect_migrated(&peer);
    for piece in body[1000..].chunks(1000) {
        let segment = peer.data_segment(piece);
        lost(place, &mut peer, &segment, false);
        peer.send(&segment);
        peer.wait_acknowledged();
    }
    assert_eq!(peer.response().0, 201);
    place.expect_uploaded(&name, &body);
    place.close(&mut peer);
}

/// Whoever cuts a packet so that its pieces contradict one another (RFC 5722) gets none of them through.
fn fragments_with_other_bytes(place: &Place) {
    let mut peer = place.open(&Start::default());
    place.fetch(&mut peer, "1k");
    place.expect_migrated(&peer);
    let segment = peer.data_segment(&long_request("/10k"));
    let other = Segment { payload: long_request("/1k"), ..segment.clone() };
    lost(place, &mut peer, &other, true);
    lost(place, &mut peer, &segment, false);
    peer.send(&segment);
    place.expect_file(&mut peer, "10k");
    place.close(&mut peer);
}
