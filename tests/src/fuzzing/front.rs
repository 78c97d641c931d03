//! What clients say before their requests: TLS, and heads in HTTP/2's form.

use baton_shared::http::{HeadLimits, Http2Head, RequestStream, Step, to_http11};
use baton_shared::tls::{HelloReader, HelloStatus};

/// The most of a ClientHello that is read, bytes.
const HELLO_BYTES: usize = 16_384;

/// A TLS connection's first bytes: no panic, and the same names however they are cut.
///
/// # Panics
/// When that does not hold.
pub fn client_hello(bytes: &[u8]) {
    let read = |piece: usize| {
        let mut reader = HelloReader::new();
        let mut there = 0usize;
        loop {
            there = bytes.len().min(there.saturating_add(piece));
            let status = reader.status(bytes.get(..there).unwrap_or_default(), HELLO_BYTES);
            if status != HelloStatus::Incomplete || there == bytes.len() {
                return status;
            }
        }
    };
    let whole = read(usize::MAX);
    for piece in [1, 7] {
        assert_eq!(read(piece), whole, "in pieces of {piece}");
    }
    if let HelloStatus::Complete(hello) = whole {
        let name = hello.server_name.unwrap_or_default();
        assert!(name.len() <= 253 && !name.bytes().any(|b| b.is_ascii_uppercase()), "{name}");
    }
}

/// An HTTP/2 request, its parts divided by 0xff: method, authority, path, then names and values in turn; a first byte says
/// whether it has a body. No panic; what is passed is one request to the gate as well, to its last byte.
///
/// # Panics
/// When that does not hold.
pub fn http2_heads(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let mut parts = rest.split(|b| *b == 0xff);
    let mut text = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
    let (Some(method), Some(authority), Some(path)) = (text(), text(), text()) else { return };
    let ends = how & 1 == 0;
    let head = Http2Head {
        method,
        authority: (how & 2 == 0).then_some(authority),
        path,
        extended_connect: how & 4 != 0,
        ends,
    };
    let rest: Vec<&[u8]> = parts.collect();
    let headers = rest.chunks_exact(2).filter_map(|pair| match pair {
        [name, value] => Some((std::str::from_utf8(name).ok()?, *value)),
        _ => None,
    });
    let limits = HeadLimits::default();
    let Ok((one, judged)) = to_http11(&head, headers, &limits) else { return };
    assert_eq!(judged.head_len, one.len());
    let mut stream = RequestStream::new(limits);
    match stream.step(&one) {
        Step::Head(passed) => assert_eq!(passed.head_len, one.len()),
        other => panic!("the gate says {other:?} to {:?}", String::from_utf8_lossy(&one)),
    }
}
