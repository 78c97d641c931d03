#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use super::{Alert, ClientHello, HelloFault, HelloReader, HelloStatus};
use proptest::prelude::*;

const LIMIT: usize = 16 * 1024;

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out
}

fn sni(name: &str) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap();
    let mut data = (length + 3).to_be_bytes().to_vec();
    data.push(0);
    data.extend(length.to_be_bytes());
    data.extend(name.as_bytes());
    extension(0, &data)
}

fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> =
        protocols.iter().flat_map(|p| [&[u8::try_from(p.len()).unwrap()], *p].concat()).collect();
    let mut data = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    data.extend(list);
    extension(16, &data)
}

/// The handshake message with these extensions.
fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 0x01, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, length[1], length[2], length[3]], &body[..]].concat()
}

/// A message in records of so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record =
        |part: &[u8]| [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    message.chunks(size).flat_map(record).collect()
}

fn read(bytes: &[u8]) -> HelloStatus {
    HelloReader::new().status(bytes, LIMIT)
}

fn bad(bytes: &[u8]) -> HelloFault {
    match read(bytes) {
        HelloStatus::Bad(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn name_and_protocols_are_found_among_unknown_extensions() {
    let extensions = [
        extension(0x0a0a, &[]),
        sni("WWW.Example.com."),
        extension(51, &[1; 300]),
        alpn(&[b"h2", b"http/1.1"]),
    ];
    let bytes = records(&message(&extensions.concat()), 1 << 14);
    let hello = ClientHello {
        server_name: Some("www.example.com".into()),
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    assert_eq!(read(&bytes), HelloStatus::Complete(hello.clone()));
    // Early data behind it is the server's business.
    assert_eq!(read(&[&bytes[..], &[23, 3, 3, 0, 1, 9]].concat()), HelloStatus::Complete(hello));
}

#[test]
fn without_the_extensions_nothing_is_found() {
    let none = HelloStatus::Complete(ClientHello::default());
    assert_eq!(read(&records(&message(&[]), 1 << 14)), none);
    // TLS 1.2 allows a ClientHello that ends before them.
    let mut old = message(&[]);
    old.truncate(old.len() - 2);
    old[3] -= 2;
    assert_eq!(read(&records(&old, 1 << 14)), none);
}

#[test]
fn what_is_not_tls_is_told_at_the_first_wrong_byte() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x02", b"\x16\x03\x01\0\0", b"\x16\x03\x01\xff", b"\0"] {
        let expected =
            if bytes.len() == 4 { HelloStatus::Incomplete } else { HelloStatus::Bad(HelloFault::NotTls) };
        assert_eq!(read(bytes), expected, "{bytes:?}");
    }
    // A ServerHello.
    assert_eq!(bad(b"\x16\x03\x01\0\x01\x02"), HelloFault::NotTls);
    assert_eq!(HelloFault::NotTls.alert(), None);
    assert_eq!(Alert::UnrecognizedName.record(), [21, 3, 3, 0, 2, 2, 112]);
}

#[test]
fn what_two_readers_could_take_in_two_ways_is_refused() {
    let two_in_one = extension(0, b"\0\x08\0\0\x01a\0\0\x01b");
    for extensions in [
        [sni("a.example"), sni("b.example")].concat(),
        [alpn(&[b"h2"]), alpn(&[b"h3"])].concat(),
        two_in_one,
        extension(0, &[]),
        extension(0, b"\0\x04\0\0\x01a\0"),
        extension(0, b"\0\x04\x01\0\x01a"),
        sni(""),
        sni("."),
        sni("a b"),
        sni("a\0.example"),
        sni(&"a".repeat(254)),
        alpn(&[b""]),
        extension(16, b"\0\x04\x02h2\x05"),
        b"\0\0\0\x09\0".to_vec(),
        b"\0".to_vec(),
    ] {
        assert_eq!(bad(&records(&message(&extensions), 1 << 14)), HelloFault::Malformed, "{extensions:?}");
    }
    let whole = message(&sni("a.example"));
    // Something behind it in its own record, and a record of another kind in its middle.
    assert_eq!(bad(&records(&[&whole[..], &[1]].concat(), 1 << 14)), HelloFault::Malformed);
    let mut cut = records(&whole, 20);
    cut[25] = 23;
    assert_eq!(bad(&cut), HelloFault::Malformed);
}

#[test]
fn a_long_one_is_refused_before_it_has_all_come() {
    let announced = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 100]].concat();
    assert_eq!(bad(&announced), HelloFault::TooLong);
    // The length is not all there yet, but the records are.
    let tiny: Vec<u8> = records(&message(&extension(21, &[0; 4000])), 1);
    assert_eq!(bad(&tiny), HelloFault::TooLong);
    assert!(matches!(HelloReader::new().status(&tiny, tiny.len()), HelloStatus::Complete(_)));
    assert_eq!(HelloReader::new().status(&tiny, tiny.len() - 1), HelloStatus::Bad(HelloFault::TooLong));
}

proptest! {
    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        read(&bytes);
        read(&records(&message(&bytes), 1 << 14));
        read(&records(&[&[1, 0, 0, u8::try_from(bytes.len() % 256).unwrap()], &bytes[..]].concat(), 300));
    }

    #[test]
    fn the_verdict_does_not_depend_on_the_cuts(
        name in "[a-z]{1,40}(\\.[a-z]{1,20}){0,3}",
        padding in 0usize..2000,
        record in 1usize..3000,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        piece in 1usize..700,
    ) {
        let extensions = [extension(21, &vec![0; padding]), sni(&name), alpn(&[b"h2"])].concat();
        let mut bytes = records(&message(&extensions), record);
        if flips.is_empty() && bytes.len() <= LIMIT {
            let hello = ClientHello { server_name: Some(name), alpn: vec![b"h2".to_vec()] };
            prop_assert_eq!(read(&bytes), HelloStatus::Complete(hello));
        }
        for (place, byte) in flips {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let whole = read(&bytes);
        let mut reader = HelloReader::new();
        let mut cut = HelloStatus::Incomplete;
        let mut come = 0;
        while cut == HelloStatus::Incomplete && come < bytes.len() {
            come = (come + piece).min(bytes.len());
            cut = reader.status(&bytes[..come], LIMIT);
        }
        // Which of two faults is told first may depend on what had come; that there is one does not.
        match (&whole, &cut) {
            (HelloStatus::Bad(_), HelloStatus::Bad(_)) => {}
            _ => prop_assert_eq!(whole, cut),
        }
    }
}
