//! Urgent data (RFC 9293, section 3.8.5; RFC 6093): the last byte in front of the pointer is out of band, and a server
//! that does not ask for it reads the bytes around it. nginx itself does not read on behind it before more arrives, so
//! the row plays the server.

use crate::place::{Place, Row};
use crate::rows;
use crate::server::Accepted;
use baton_tests::peer::{PATIENCE, Peer, Segment, Start, flag};
use netns_lab::plan::INTERMEDIATE;

pub(crate) const ROWS: &[Row] = rows![
    urgent_byte_after_the_migration,
    urgent_byte_in_the_request,
    urgent_byte_in_the_body,
    urgent_byte_behind_a_request,
];

const TEXT: &str = "GET /a HTTP/1.1\r\nHost: lab\r\nX-Test: a!b\r\n\r\n";

/// The next segment, with its `!` as the urgent byte.
fn urgent(peer: &mut Peer, text: &str) -> Segment {
    let mut segment = peer.data_segment(text.as_bytes());
    segment.flags |= flag::URG;
    // Linux takes the pointer for the number behind the urgent byte.
    segment.urgent = u16::try_from(text.find('!').unwrap()).unwrap() + 1;
    segment
}

/// The server answers what it has read, each time with another body.
fn answered(peer: &mut Peer, server: &mut Accepted) {
    let body = format!("answer behind {}", peer.watch().next_expected()).into_bytes();
    server.answer(&body);
    assert_eq!(peer.response(), (200, body));
}

fn urgent_byte_after_the_migration(place: &Place) {
    for to in [place.direct(), place.vip()] {
        let mut peer = Peer::open(place.host(), to, &Start::default());
        peer.get("/first");
        let mut server = place.server().accept(&peer);
        server.request();
        answered(&mut peer, &mut server);
        let segment = urgent(&mut peer, TEXT);
        peer.send(&segment);
        assert_eq!(server.request(), TEXT.replace('!', ""));
        answered(&mut peer, &mut server);
    }
}

fn urgent_byte_in_the_request(place: &Place) {
    let mut peer = place.open(&Start::default());
    let (most, end) = TEXT.split_at(TEXT.len() - 4);
    let segment = urgent(&mut peer, most);
    peer.send(&segment);
    // A read ends before the urgent byte. What comes then makes the intermediate read on, as it makes nginx; what is
    // there already does not.
    let client = peer.from().to_string();
    let all = segment.payload.len();
    place.t.eventually("a part to be read", PATIENCE, |t| {
        let sockets =
            t.lab.output(INTERMEDIATE, &["ss", "-tnH", "state", "established", "dst", &client]).unwrap();
        let unread = sockets.split_whitespace().next().and_then(|queue| queue.parse::<usize>().ok());
        unread.is_some_and(|unread| unread < all)
    });
    peer.data(end.as_bytes());
    let mut server = place.server().accept(&peer);
    assert_eq!(server.request(), TEXT.replace('!', ""));
    answered(&mut peer, &mut server);
    peer.get("/b");
    assert!(server.request().starts_with("GET /b"));
    answered(&mut peer, &mut server);
    place.expect_migrated(&peer);
}

/// The head's read ends before the byte, and the kernel counts nothing behind it as unread: the handoff takes it along.
fn urgent_byte_in_the_body(place: &Place) {
    let mut peer = place.open(&Start::default());
    let segment = urgent(&mut peer, "POST /a HTTP/1.1\r\nHost: lab\r\nContent-Length: 10\r\n\r\n01234!56789");
    peer.send(&segment);
    let mut server = place.server().accept(&peer);
    assert!(server.request().starts_with("POST /a"));
    assert_eq!(server.read(10), b"0123456789");
    answered(&mut peer, &mut server);
    peer.get("/b");
    assert!(server.request().starts_with("GET /b"));
    answered(&mut peer, &mut server);
    place.expect_migrated(&peer);
}

fn urgent_byte_behind_a_request(place: &Place) {
    let mut peer = place.open(&Start::default());
    let segment =
        urgent(&mut peer, "GET /a HTTP/1.1\r\nHost: lab\r\n\r\n!GET /b HTTP/1.1\r\nHost: lab\r\n\r\n");
    peer.send(&segment);
    let mut server = place.server().accept(&peer);
    assert!(server.request().starts_with("GET /a"));
    answered(&mut peer, &mut server);
    let mut server = place.server().accept(&peer);
    assert!(server.request().starts_with("GET /b"));
    answered(&mut peer, &mut server);
    peer.get("/c");
    assert!(server.request().starts_with("GET /c"));
    answered(&mut peer, &mut server);
    place.expect_migrated(&peer);
}
