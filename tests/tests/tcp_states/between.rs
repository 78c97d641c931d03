//! A client's packets with something between IP header and TCP: walked over, or dropped and counted. What reached the
//! intermediate's own stack would be answered with a reset.

use crate::place::{Place, Row};
use crate::rows;
use crate::scripted::put;
use baton_tests::peer::{PATIENCE, Peer, Start, request};
use netns_lab::plan::INTERMEDIATE;

pub(crate) const ROWS: &[Row] =
    rows![first_request_behind_options, later_requests_behind_options, body_behind_options];

/// It counts what is dropped.
pub(crate) const ALONE: &[Row] = rows![more_extension_headers_than_are_walked];

/// Hop-by-hop options, routing header, fragment header, destination options.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// What is put between.
#[derive(Clone, Debug)]
pub(crate) struct Between {
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
}

/// Length 0 and eight bytes in all, the options are padding.
fn padding(number: u8) -> (u8, Vec<u8>) {
    (number, vec![0, 1, 4, 0, 0, 0, 0])
}

/// One after the other: for IPv4 no-operations, router alert, record route and a timestamp with room left and without,
/// and as much as there can be; for IPv6 each header that hosts send, an atomic fragment (RFC 6946), and a row of eight.
pub(crate) fn kinds() -> Vec<Between> {
    let route = |room: u8| {
        let mut route = vec![7, 3 + room * 4, 4];
        route.resize(route.len() + usize::from(room) * 4, 0);
        route
    };
    let stamps = vec![68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let options = [vec![1, 1, 1, 1], vec![148, 4, 0, 0], route(1), stamps, route(9), vec![1; 40]];
    let no_segments_left = (ROUTING, vec![0, 0, 0, 0, 0, 0, 0]);
    let atomic = (FRAGMENT, vec![0, 0, 0, 0, 0, 0, 9]);
    let extensions = [
        vec![padding(HOP_BY_HOP)],
        vec![padding(DESTINATION)],
        vec![no_segments_left.clone()],
        vec![atomic],
        vec![padding(HOP_BY_HOP), padding(DESTINATION), no_segments_left, padding(DESTINATION)],
        [vec![padding(HOP_BY_HOP)], vec![padding(DESTINATION); 7]].concat(),
    ];
    options.into_iter().zip(extensions).map(|(options, extensions)| Between { options, extensions }).collect()
}

pub(crate) fn send_behind(peer: &mut Peer, bytes: &[u8], between: &Between) {
    let segment = peer.data_segment(bytes);
    peer.send_behind(&segment, &between.options, &between.extensions);
}

fn first_request_behind_options(place: &Place) {
    for between in kinds() {
        let mut peer = place.open(&Start::default());
        send_behind(&mut peer, request("/10k").as_bytes(), &between);
        place.expect_file(&mut peer, "10k");
        place.expect_migrated(&peer);
        place.fetch(&mut peer, "1k");
        place.close(&mut peer);
    }
}

fn later_requests_behind_options(place: &Place) {
    let mut peer = place.open(&Start::default());
    place.fetch(&mut peer, "1k");
    place.expect_migrated(&peer);
    for between in kinds() {
        send_behind(&mut peer, request("/10k").as_bytes(), &between);
        place.expect_file(&mut peer, "10k");
        // Two in one segment: what is held is divided behind the options.
        send_behind(&mut peer, [request("/1k"), request("/10k")].concat().as_bytes(), &between);
        place.expect_file(&mut peer, "1k");
        place.expect_file(&mut peer, "10k");
    }
    place.close(&mut peer);
}

fn body_behind_options(place: &Place) {
    let piece: Vec<u8> = (0..700u32).map(|n| (n % 251) as u8).collect();
    let body = piece.repeat(kinds().len() + 1);
    let name = format!("between{}", u8::from(place.vip().is_ipv6()));
    let mut peer = place.open(&Start::default());
    let head = put(&format!("/upload/{name}"), body.len());
    peer.data(&[&head[..], &piece].concat());
    place.expect_migrated(&peer);
    for between in kinds() {
        send_behind(&mut peer, &piece, &between);
        peer.wait_acknowledged();
    }
    assert_eq!(peer.response().0, 201);
    place.expect_uploaded(&name, &body);
    place.close(&mut peer);
}

fn more_extension_headers_than_are_walked(place: &Place) {
    let mut peer = place.open(&Start::default());
    place.fetch(&mut peer, "1k");
    place.expect_migrated(&peer);
    peer.settle();
    let dropped = |place: &Place| place.t.packets(INTERMEDIATE, "drop_extensions");
    let before = dropped(place);
    let segment = peer.data_segment(request("/10k").as_bytes());
    peer.send_behind(&segment, &[], &vec![padding(DESTINATION); 9]);
    if place.vip().is_ipv6() {
        place.t.eventually("it is counted", PATIENCE, |_| dropped(place) == before + 1);
        assert_eq!(peer.listen_for_news(std::time::Duration::from_millis(100)), []);
        // As a client does that hears nothing.
        peer.send(&segment);
    }
    place.expect_file(&mut peer, "10k");
    assert_eq!(dropped(place), before + u64::from(place.vip().is_ipv6()));
    place.close(&mut peer);
}
