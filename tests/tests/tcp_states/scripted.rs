//! A server whose every segment the row decides: the peer behind a TUN device on the target, in nginx's place.

use crate::place::Place;
use baton_tests::peer::{Held, Peer, Start, hold, request};
use std::net::SocketAddr;

/// A client's and a server's end of one connection, and what the target's kernel believes of the server's.
pub(crate) struct Both {
    pub(crate) client: Peer,
    pub(crate) server: Peer,
    /// While it is there the kernel says that the connection is established.
    held: Option<Held>,
}

/// As an ordinary server begins.
pub(crate) fn server() -> Start {
    Start { isn: 7_000_000, ..Start::default() }
}

/// The same with other options.
pub(crate) fn server_with(change: impl FnOnce(&mut baton_tests::peer::Options)) -> Start {
    let mut start = server();
    change(&mut start.options);
    start
}

/// Bytes that tell their place.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// An answer's head.
pub(crate) fn head(length: usize) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}

/// The head of a PUT.
pub(crate) fn put(path: &str, length: usize) -> Vec<u8> {
    format!("PUT {path} HTTP/1.1\r\nHost: lab\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}

/// A client that has sent this, and the server that got the handoff's SYN and has not answered it.
pub(crate) fn called_with(place: &Place, start: &Start, sent: &[u8]) -> (Peer, Peer) {
    let mut client = place.open(start);
    let seat = place.seat(client.from().ip());
    for piece in sent.chunks(1400) {
        client.data(piece);
    }
    let server = Peer::called(seat);
    if server.to() != client.from() {
        server.fail("the SYN is not from the client's own address and port");
    }
    (client, server)
}

/// The same with an ordinary client and a GET.
pub(crate) fn called(place: &Place) -> (Peer, Peer) {
    called_with(place, &Start::default(), request("/any").as_bytes())
}

impl Both {
    /// The server answers the SYN; from here on the target's kernel has the connection.
    pub(crate) fn accept(place: &Place, client: Peer, mut server: Peer, start: &Start) -> Self {
        let held = place.hold(server.from(), server.to());
        // An acknowledgement that comes right behind the commit passes those that were held (docs/limits.md).
        server.watch_mut().allow_overtaking();
        server.accept(start);
        Both { client, server, held: Some(held) }
    }

    /// A connection whose first request the server has, acknowledged and not answered.
    pub(crate) fn asked(place: &Place, client: &Start, server: &Start) -> Self {
        let (client, called) = called_with(place, client, request("/any").as_bytes());
        let mut both = Self::accept(place, client, called, server);
        assert_eq!(both.server.head(), request("/any"));
        both
    }

    /// A connection whose first request was migrated and answered.
    pub(crate) fn answered(place: &Place, client: &Start, server: &Start) -> Self {
        let mut both = Self::asked(place, client, server);
        both.answer(b"first");
        place.expect_migrated(&both.client);
        // An agent that was slow may have said the request once more, before it learnt that it had arrived.
        both.server.settle();
        both
    }

    /// The server answers with this body, and the client has it.
    pub(crate) fn answer(&mut self, body: &[u8]) {
        self.server.upload(&[&head(body.len()), body].concat());
        let got = self.client.response();
        if got != (200, body.to_vec()) {
            self.client.fail(&format!("status {}, and {} bytes that are not the answer", got.0, got.1.len()));
        }
        self.server.wait_acknowledged();
    }

    /// The next request on the connection and its answer.
    pub(crate) fn again(&mut self) {
        self.client.get("/again");
        assert_eq!(self.server.head(), request("/again"));
        // Data passes nothing: all that was held is there.
        self.server.watch_mut().forbid_overtaking();
        self.answer(&bytes(3000));
    }

    /// The end in good order, the client's FIN first.
    pub(crate) fn close(mut self) {
        self.client.fin(b"");
        self.server.receive_end();
        self.server.fin(b"");
        self.client.receive_end();
        self.server.wait_acknowledged();
        self.client.wait_acknowledged();
    }

    /// The kernel has the connection no more.
    pub(crate) fn forget(&mut self) {
        self.held = None;
    }
}

impl Place {
    /// The connection of these ends is the target's kernel's.
    fn hold(&self, local: SocketAddr, remote: SocketAddr) -> Held {
        self.t.lab.inside("target1", move || hold(local, remote)).unwrap().unwrap()
    }
}

/// An upload of which a part follows after the migration, an answer, a second request with its answer, the end: with
/// servers and clients that begin so.
pub(crate) fn exchange(place: &Place, client: &Start, server: &Start) {
    let body = bytes(9000);
    let (at_once, later) = body.split_at(600);
    let (client, called) = called_with(place, client, &[&put("/any", body.len()), at_once].concat());
    let mut both = Both::accept(place, client, called, server);
    assert_eq!(both.server.head().into_bytes(), put("/any", body.len()));
    assert_eq!(both.server.body(at_once.len()), at_once);
    place.expect_migrated(&both.client);
    // The client's maximum is the VIP's.
    both.server.watch_mut().allow_long();
    let mut rest = later;
    while !rest.is_empty() {
        let window = both.client.watch().promised().wrapping_sub(both.client.seq) as usize;
        let (now, then) = rest.split_at(rest.len().min(1400).min(window));
        both.client.data(now);
        assert_eq!(both.server.body(now.len()), now);
        both.client.wait_acknowledged();
        rest = then;
    }
    both.answer(&bytes(5000));
    both.again();
    both.close();
}

/// A server that begins so cannot take the client's connection: the handoff is refused for this reason, the server's end
/// is reset with the very number it expects, and the intermediate, to which the server answers in the same way, serves the
/// client itself.
pub(crate) fn proxied(place: &Place, client: &Start, server: &Start, reason: &str) {
    let before = refused(place, reason);
    let (client, mut called) = called_with(place, client, request("/any").as_bytes());
    let seat = place.intermediates_seat();
    called.accept(server);
    let reset = called.wait("the reset", |p| p.has(baton_tests::peer::flag::RST));
    assert_eq!(reset.segment.seq, called.ack, "the server would take it: {reset:?}");
    serve_the_intermediate(place, client, seat, server);
    assert_eq!(refused(place, reason), before + 1, "refused as {reason}");
}

/// The intermediate's own connection to the server: the request is the client's, and the client has the answer.
pub(crate) fn serve_the_intermediate(
    place: &Place,
    mut client: Peer,
    seat: baton_tests::peer::Host,
    start: &Start,
) {
    let mut server = Peer::called(seat);
    server.accept(start);
    // The intermediate's kernel acknowledges what arrives on one processor and what is read on another.
    server.watch_mut().allow_overtaking();
    let head = server.head();
    assert!(head.starts_with("GET /any HTTP/1.1\r\n"), "{head}");
    let body = bytes(20_000);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    server.upload(&[answer.as_bytes(), &body].concat());
    server.fin(b"");
    let got = client.response();
    assert!(got == (200, body), "status {}, {} bytes", got.0, got.1.len());
    // Nothing of this connection is left on its way to the next row's.
    server.receive_end();
    place.expect_outcome(&client, "proxied", Some("refused"));
}

/// How many handoffs the agent has refused for this reason.
pub(crate) fn refused(place: &Place, reason: &str) -> u64 {
    place.t.metric("target1", &format!("baton_handoffs_refused_total{{reason=\"{reason}\"}}"))
}
