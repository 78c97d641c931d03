//! Ends of connections: who closes first, resets, what lingers, ports used again. The row plays the server too.

use crate::place::{Place, Row};
use crate::rows;
use crate::scripted::put;
use crate::server::head;
use baton_tests::peer::{PATIENCE, Peer, Start, flag};
use std::net::Shutdown;
use std::time::Duration;

pub(crate) const ROWS: &[Row] = rows![
    // First, since these take longest.
    port_again_after_the_client_closed_first,
    port_again_after_the_server_closed_first,
    port_again_after_both_closed_at_once,
    port_again_after_a_reset_by_the_server,
    port_again_after_a_reset_by_the_client,
    client_closes_first,
    clients_number_wraps_at_its_fin,
    server_closes_first,
    server_closes_with_its_last_data,
    both_close_at_once,
    server_closes_its_direction_only,
    client_closes_its_direction_only,
    fin_again_after_the_server_closed_first,
    fin_again_after_the_client_closed_first,
    server_resets_in_mid_response,
    server_closes_with_data_unread,
    client_resets_in_mid_response,
    client_resets_right_after_the_commit,
    client_resets_behind_its_fin,
    client_resets_in_mid_upload,
    acknowledgement_behind_the_clients_reset,
    fin_of_the_server_sent_again,
];

/// A connection with its answered request; both ends.
fn answered(place: &Place) -> (Peer, crate::server::Accepted) {
    answered_from(place, Start::default().isn)
}

/// The same, with this initial number.
fn answered_from(place: &Place, isn: u32) -> (Peer, crate::server::Accepted) {
    let mut peer = place.open(&Start { isn, ..Start::default() });
    peer.get("/any");
    let mut server = place.server().accept(&peer);
    assert!(server.request().starts_with("GET /any HTTP/1.1\r\n"));
    server.answer(b"answer");
    assert_eq!(peer.response(), (200, b"answer".to_vec()));
    place.expect_migrated(&peer);
    (peer, server)
}

fn client_closes_first(place: &Place) {
    the_client_closes(place, answered(place));
}

fn clients_number_wraps_at_its_fin(place: &Place) {
    let request = u32::try_from(baton_tests::peer::request("/any").len()).unwrap();
    let (peer, server) = answered_from(place, u32::MAX - 1 - request);
    assert_eq!(peer.seq, u32::MAX);
    the_client_closes(place, (peer, server));
}

fn the_client_closes(_: &Place, (mut peer, mut server): (Peer, crate::server::Accepted)) {
    peer.fin(b"");
    assert_eq!(server.read_to_end(), b"");
    drop(server);
    peer.receive_end();
    assert_eq!(peer.watch().acked(), peer.seq);
    assert_eq!(peer.listen_for_news(Duration::from_millis(300)), [], "nothing follows the end");
}

fn server_closes_first(place: &Place) {
    let (mut peer, server) = answered(place);
    drop(server);
    peer.receive_end();
    peer.fin(b"");
    peer.wait_acknowledged();
    assert_eq!(peer.listen_for_news(Duration::from_millis(300)), [], "nothing follows the end");
}

fn server_closes_with_its_last_data(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.get("/any");
    let mut server = place.server().accept(&peer);
    server.request();
    // Held together, so that the FIN is on the data.
    server.socket.set_nodelay(false).unwrap();
    server.write(b"HTTP/1.1 200 OK\r\n\r\n");
    server.write(&[7; 5000]);
    drop(server);
    peer.receive_end();
    assert_eq!(peer.watch().contiguous(), 19 + 5000);
    peer.fin(b"");
    peer.wait_acknowledged();
}

fn both_close_at_once(place: &Place) {
    let (mut peer, server) = answered(place);
    server.socket.shutdown(Shutdown::Write).unwrap();
    // Its FIN is out; ours does not acknowledge it (RFC 9293, figure 13).
    let theirs = peer.wait("the server's FIN", |p| p.has(flag::FIN));
    assert_eq!(theirs.segment.ack, peer.seq);
    peer.fin(b"");
    peer.wait_acknowledged();
    peer.ack = peer.watch().next_expected();
    peer.acknowledge();
    assert_eq!(peer.listen_for_news(Duration::from_millis(300)), [], "nothing follows the end");
}

fn server_closes_its_direction_only(place: &Place) {
    let more = vec![9; 20_000];
    let mut peer = place.open(&Start::default());
    peer.data(&put("/any", more.len()));
    let mut server = place.server().accept(&peer);
    server.request();
    // Before it has any of the body.
    server.answer(b"early");
    assert_eq!(peer.response(), (200, b"early".to_vec()));
    place.expect_migrated(&peer);
    server.socket.shutdown(Shutdown::Write).unwrap();
    peer.receive_end();
    peer.watch_mut().allow_overtaking();
    peer.upload(&more);
    assert!(server.read(more.len()) == more);
    peer.fin(b"");
    assert_eq!(server.read_to_end(), b"");
    peer.wait_acknowledged();
}

fn client_closes_its_direction_only(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.fin(b"GET /any HTTP/1.1\r\nHost: lab\r\n\r\n");
    let mut server = place.server().accept(&peer);
    server.request();
    assert_eq!(server.read_to_end(), b"");
    // The server takes its time, and pauses in between.
    std::thread::sleep(Duration::from_millis(300));
    server.write(head(60_000).as_bytes());
    server.write(&[1; 30_000]);
    std::thread::sleep(Duration::from_millis(300));
    server.write(&[1; 30_000]);
    drop(server);
    assert_eq!(peer.response(), (200, vec![1; 60_000]));
    peer.receive_end();
    place.expect_migrated(&peer);
}

/// What comes back for a FIN said again after the end, in both ways of reaching the server: flags and numbers.
fn fin_again(place: &Place, client_first: bool) {
    let mut answers = Vec::new();
    for to in [place.direct(), place.vip()] {
        let mut peer = Peer::open(place.host(), to, &Start::default());
        peer.get("/any");
        let mut server = place.server().accept(&peer);
        server.request();
        if client_first {
            let fin = peer.fin_segment(b"");
            peer.send(&fin);
            server.read_to_end();
            drop(server);
            peer.receive_end();
        } else {
            drop(server);
            peer.receive_end();
            peer.fin(b"");
            peer.wait_acknowledged();
        }
        peer.settle();
        let isn = peer.watch().peer_isn().unwrap();
        let mut again = peer.segment();
        again.seq = again.seq.wrapping_sub(1);
        again.flags |= flag::FIN;
        peer.send(&again);
        let mut heard = vec![peer.wait_for_news("an answer")];
        heard.extend(peer.listen_for_news(Duration::from_millis(200)));
        let said =
            |p: &baton_tests::peer::Packet| (p.segment.flags, p.segment.seq.wrapping_sub(isn), p.segment.ack);
        answers.push(heard.iter().map(said).collect::<Vec<_>>());
    }
    assert_eq!(answers[0].len(), 1, "the server's kernel answers: {answers:?}");
    assert_eq!(answers[0], answers[1], "direct, and through the VIP");
}

fn fin_again_after_the_server_closed_first(place: &Place) {
    fin_again(place, false);
}

fn fin_again_after_the_client_closed_first(place: &Place) {
    fin_again(place, true);
}

fn server_resets_in_mid_response(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.get("/any");
    let mut server = place.server().accept(&peer);
    server.request();
    server.write(head(1000).as_bytes());
    server.write(&[1; 500]);
    peer.receive(head(1000).len() + 500);
    server.reset();
    let reset = peer.wait("the reset", |p| p.has(flag::RST));
    assert_eq!(reset.segment.seq, peer.watch().next_expected(), "the client would take it");
    place.expect_migrated(&peer);
}

fn server_closes_with_data_unread(place: &Place) {
    let (mut peer, server) = answered(place);
    peer.get("/another");
    peer.wait_acknowledged();
    // RFC 1122, section 4.2.2.13: what was not read makes the close a reset.
    drop(server);
    let reset = peer.wait("the reset", |p| p.has(flag::RST));
    assert_eq!(reset.segment.seq, peer.watch().next_expected());
}

fn client_resets_in_mid_response(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.get("/any");
    let mut server = place.server().accept(&peer);
    server.request();
    server.write(head(1000).as_bytes());
    peer.receive(head(1000).len());
    place.expect_migrated(&peer);
    peer.reset();
    assert!(server.is_reset());
}

fn client_resets_right_after_the_commit(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.get("/any");
    place.expect_migrated(&peer);
    peer.reset();
    // Accepted and read: then the reset.
    let mut server = place.server().accept(&peer);
    server.request();
    assert!(server.is_reset());
}

/// The server has seen its client's reset: nothing is left of the connection.
fn is_let_go(place: &Place, peer: &Peer, server: crate::server::Accepted) {
    drop(server);
    place.expect_end_on_target(peer, "socket_gone");
    place.expect_ended(peer);
}

fn client_resets_behind_its_fin(place: &Place) {
    let mut peer = place.open(&Start::default());
    peer.get("/any");
    let mut server = place.server().accept(&peer);
    server.request();
    server.write(head(1000).as_bytes());
    peer.receive(head(1000).len());
    place.expect_migrated(&peer);
    peer.fin(b"");
    assert_eq!(server.read_to_end(), b"");
    peer.reset();
    assert!(server.is_broken());
    is_let_go(place, &peer, server);
}

fn client_resets_in_mid_upload(place: &Place) {
    let (mut peer, mut server) = answered(place);
    peer.data(&put("/any", 30_000));
    assert!(server.request().starts_with("PUT /any "));
    peer.watch_mut().allow_overtaking();
    peer.upload(&[5; 20_000]);
    assert!(server.read(20_000) == [5; 20_000]);
    peer.wait_acknowledged();
    peer.reset();
    assert!(server.is_reset());
    is_let_go(place, &peer, server);
}

/// What was held for the handoff may come behind a reset that was not. The server's kernel answers it with a reset of
/// its own, for want of a socket: it was the client who ended the flow.
fn acknowledgement_behind_the_clients_reset(place: &Place) {
    let (mut peer, mut server) = answered(place);
    let late = peer.segment();
    peer.reset();
    assert!(server.is_reset());
    peer.forge(&late);
    peer.wait("the kernel's answer to it", |p| p.has(flag::RST) && !p.has(flag::ACK));
    place.expect_end_on_target(&peer, "socket_gone");
}

fn fin_of_the_server_sent_again(place: &Place) {
    let (mut peer, server) = answered(place);
    drop(server);
    let first = peer.wait("the server's FIN", |p| p.has(flag::FIN));
    // Not acknowledged: it comes again, the same.
    let again = peer.wait("the server's FIN again", |p| p.has(flag::FIN));
    assert_eq!((again.segment.seq, again.segment.ack), (first.segment.seq, first.segment.ack));
    peer.ack = peer.watch().next_expected();
    peer.fin(b"");
    peer.wait_acknowledged();
}

/// How long a client waits before it says its SYN again: once more than it need be, since a busy machine may be slow, and before the
/// record of the port's former connection is gone by itself (the lab's `linger_ms` is 3 s).
const SYN_AGAIN: [Duration; 2] = [Duration::from_millis(1000), Duration::from_millis(1200)];

/// The port is used again at once, with a lower and with a higher initial number: each time a connection of its own,
/// migrated again.
fn port_again(place: &Place, mut end: impl FnMut(&mut Peer, crate::server::Accepted)) {
    let mut start = Start::default();
    let (mut peer, server) = answered(place);
    end(&mut peer, server);
    let mut at_once = 0;
    for isn in [5_000_000, 2_000_000, 2_000_100] {
        start.isn = isn;
        if let Some((clock, _)) = &mut start.options.timestamps {
            *clock += 10_000;
        }
        let host = peer.into_host();
        peer = Peer::dial(host, place.vip(), &start);
        // What the end before left under way is not of this connection.
        let mut repeated = 0;
        let answered = SYN_AGAIN.iter().any(|time| {
            let answer = peer.try_syn_ack(*time);
            if answer.is_none() {
                peer.repeat_syn(&start);
                repeated += 1;
            }
            answer.is_some()
        });
        at_once += u32::from(answered && repeated == 0);
        if !answered && peer.try_syn_ack(PATIENCE).is_none() {
            peer.fail("the port cannot be used again");
        }
        peer.acknowledge();
        peer.get("/again");
        let mut server = place.server().accept(&peer);
        assert!(server.request().starts_with("GET /again HTTP/1.1\r\n"));
        server.answer(b"again");
        assert_eq!(peer.response(), (200, b"again".to_vec()));
        place.expect_migrated(&peer);
        end(&mut peer, server);
    }
    // A SYN waits for the word of the end, a fifth of a second at most; a busy machine may take longer, but not each time.
    assert!(at_once > 0, "each SYN had to be sent again");
}

fn port_again_after_the_client_closed_first(place: &Place) {
    port_again(place, |peer, mut server| {
        peer.fin(b"");
        server.read_to_end();
        drop(server);
        peer.receive_end();
    });
}

fn port_again_after_the_server_closed_first(place: &Place) {
    port_again(place, |peer, server| {
        drop(server);
        peer.receive_end();
        peer.fin(b"");
        peer.wait_acknowledged();
    });
}

fn port_again_after_both_closed_at_once(place: &Place) {
    port_again(place, |peer, server| {
        server.socket.shutdown(Shutdown::Write).unwrap();
        peer.wait("the server's FIN", |p| p.has(flag::FIN));
        peer.fin(b"");
        peer.wait_acknowledged();
        peer.ack = peer.watch().next_expected();
        peer.acknowledge();
    });
}

fn port_again_after_a_reset_by_the_server(place: &Place) {
    port_again(place, |peer, server| {
        server.reset();
        peer.wait("the reset", |p| p.has(flag::RST));
    });
}

fn port_again_after_a_reset_by_the_client(place: &Place) {
    port_again(place, |peer, mut server| {
        peer.reset();
        assert!(server.is_reset());
    });
}
