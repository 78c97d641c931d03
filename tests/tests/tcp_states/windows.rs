//! The window towards the client: what the intermediate promised, what the server's kernel has, and their scales. The
//! watch sees to it that the right edge never moves back.

use crate::place::{Place, Row};
use crate::rows;
use crate::scripted::put;
use baton_tests::peer::{Options, Peer, Start};
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![server_does_not_read, server_reads_slowly, server_pauses];

pub(crate) const ALONE: &[Row] = rows![
    server_with_scale_0,
    server_with_scale_14,
    vip_with_scale_0,
    vip_with_scale_14,
    server_with_a_tiny_buffer,
    server_with_a_fixed_buffer,
];

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 13 + n / 255) as u8).collect()
}

/// An upload within the windows promised, byte-exact, and a download back, with these buffers at the two kernels.
fn with_buffers(place: &Place, intermediate: &str, target: &str) {
    let _restore = [
        place.set_sysctl("intermediate", "net/ipv4/tcp_rmem", intermediate),
        place.set_sysctl("target1", "net/ipv4/tcp_rmem", target),
    ];
    for options in [Start::default().options, Options { window_scale: None, ..Start::default().options }] {
        let mut peer = place.open(&Start { options, ..Start::default() });
        let bytes = body(300_000);
        peer.data(&put("/any", bytes.len()));
        let mut server = place.server().accept(&peer);
        server.request();
        let read = std::thread::spawn(move || {
            let got = server.read(300_000);
            server.answer(&got);
            (server, got)
        });
        peer.watch_mut().allow_overtaking();
        peer.upload(&bytes);
        let (status, back) = peer.response();
        let (server, got) = read.join().unwrap();
        assert!(got == bytes && back == bytes && status == 200, "bytes differ");
        place.expect_migrated(&peer);
        drop(server);
        peer.receive_end();
        peer.fin(b"");
        peer.wait_acknowledged();
    }
}

const ORDINARY: &str = "4096 131072 6291456";
const SMALL: &str = "4096 32768 65536";
const HUGE: &str = "4096 131072 2147483647";

fn server_with_scale_0(place: &Place) {
    with_buffers(place, ORDINARY, SMALL);
}

fn server_with_scale_14(place: &Place) {
    with_buffers(place, ORDINARY, HUGE);
}

fn vip_with_scale_0(place: &Place) {
    with_buffers(place, SMALL, ORDINARY);
}

fn vip_with_scale_14(place: &Place) {
    with_buffers(place, HUGE, ORDINARY);
}

fn server_with_a_tiny_buffer(place: &Place) {
    let _restore = FixedBuffer::of(place, 4096);
    let mut peer = place.open(&Start::default());
    // Less than the intermediate promised: the edge moves back, and the client must see it.
    peer.watch_mut().allow_shrinking();
    let bytes = body(100_000);
    peer.data(&put("/any", bytes.len()));
    let mut server = place.server().accept(&peer);
    server.request();
    place.expect_migrated(&peer);
    while peer.watch().promised().wrapping_sub(peer.seq) >= 8192 {
        peer.wait("the server's window, not the intermediate's", |_| true);
    }
    let read = std::thread::spawn(move || (server.read(100_000), server));
    peer.watch_mut().allow_overtaking();
    peer.upload(&bytes);
    let (got, mut server) = read.join().unwrap();
    assert!(got == bytes, "bytes differ");
    server.answer(b"all");
    assert_eq!(peer.response(), (200, b"all".to_vec()));
}

/// Servers accept with receive buffers of a fixed size until this is dropped.
struct FixedBuffer<'a>(&'a Place);

impl<'a> FixedBuffer<'a> {
    fn of(place: &'a Place, bytes: usize) -> Self {
        place.server().listen(&place.t, Some(bytes));
        FixedBuffer(place)
    }
}

impl Drop for FixedBuffer<'_> {
    fn drop(&mut self) {
        self.0.server().listen(&self.0.t, None);
    }
}

/// Little more than what the intermediate promises, and without a chance to grow: the server's kernel must not promise
/// more, although the intermediate's scale is that of buffers that grow.
fn server_with_a_fixed_buffer(place: &Place) {
    let _restore = FixedBuffer::of(place, 66_000);
    place.expect_noticed();
    server_does_not_read(place);
    server_reads_slowly(place);
}

/// Fills the server's window to its last byte.
fn fill(peer: &mut Peer, bytes: &[u8]) -> usize {
    let mut sent = 0;
    loop {
        let room = peer.watch().promised().wrapping_sub(peer.seq) as usize;
        let piece = room.min(1400).min(bytes.len() - sent);
        if piece > 0 {
            peer.data(&bytes[sent..sent + piece]);
            sent += piece;
        } else {
            // Whether there is more room the last byte's acknowledgement says, however long a busy machine takes for it.
            peer.wait_acknowledged();
            if room > 0 || peer.watch().promised() == peer.seq {
                return sent;
            }
        }
        peer.listen(Duration::ZERO);
    }
}

fn server_does_not_read(place: &Place) {
    let mut peer = place.open(&Start::default());
    let bytes = body(3_000_000);
    peer.data(&put("/any", bytes.len()));
    let mut server = place.server().accept(&peer);
    server.request();
    place.expect_migrated(&peer);
    let mut sent = 0;
    loop {
        sent += fill(&mut peer, &bytes[sent..]);
        assert!(sent < bytes.len(), "the window never closed");
        peer.wait_acknowledged();
        // A probe against the closed window is answered and not taken.
        let mut probe = peer.segment();
        probe.payload = vec![bytes[sent]];
        peer.send(&probe);
        let answer = peer.wait("the answer to the probe", |p| p.length() == 0);
        // Rounding by the scale may have left room for the byte.
        let taken = answer.segment.ack.wrapping_sub(peer.seq);
        assert!(taken <= 1, "{answer:?}");
        peer.seq = answer.segment.ack;
        sent += taken as usize;
        // Asked, the server's kernel may find room, having packed closer what it holds: that is filled as well.
        if answer.segment.window == 0 {
            break;
        }
    }
    assert!(sent > 30_000, "the window closed after {sent} bytes");
    // The server resumes: its kernel says so by itself.
    let read = std::thread::spawn(move || (server.read(3_000_000), server));
    peer.watch_mut().allow_overtaking();
    peer.upload(&bytes[sent..]);
    let (got, mut server) = read.join().unwrap();
    assert!(got == bytes, "bytes differ");
    server.answer(b"all");
    assert_eq!(peer.response(), (200, b"all".to_vec()));
}

fn server_reads_slowly(place: &Place) {
    let mut peer = place.open(&Start::default());
    let bytes = body(400_000);
    peer.data(&put("/any", bytes.len()));
    let mut server = place.server().accept(&peer);
    server.request();
    let read = std::thread::spawn(move || {
        let mut got = Vec::new();
        while got.len() < 400_000 {
            std::thread::sleep(Duration::from_millis(2));
            got.extend(server.read(5_000));
        }
        (got, server)
    });
    peer.watch_mut().allow_overtaking();
    peer.upload(&bytes);
    let (got, mut server) = read.join().unwrap();
    assert!(got == bytes, "bytes differ");
    server.answer(b"all");
    assert_eq!(peer.response(), (200, b"all".to_vec()));
    place.expect_migrated(&peer);
}

fn server_pauses(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.get("/any");
    let mut server = place.server().accept(&peer);
    server.request();
    place.expect_migrated(&peer);
    assert!(peer.listen(Duration::from_millis(700)).iter().all(|p| p.length() == 0), "not asked for");
    let answer = std::thread::spawn(move || server.answer(&body(100_000)));
    assert_eq!(peer.response(), (200, body(100_000)));
    answer.join().unwrap();
}
