//! What is refused, with which status, and what is not.

use super::*;
use crate::reason::{CloseReason, ProxyReason};

#[test]
fn what_two_readers_could_read_in_two_ways_is_refused() {
    let table: &[(&str, &[u8], u16)] = &[
        (
            "TE beside CL",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "CL beside TE",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            400,
        ),
        ("two CL", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (
            "two equal CL",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            400,
        ),
        ("CL list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", 400),
        ("CL with plus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", 400),
        ("CL negative", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", 400),
        ("CL hexadecimal", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", 400),
        ("CL empty", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", 400),
        ("CL over 2^63", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", 400),
        ("CL over 2^64", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        (
            "two TE",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "TE twice chunked",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            400,
        ),
        (
            "TE chunked first",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            400,
        ),
        ("TE quoted", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 400),
        ("TE with parameter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\n\r\n", 400),
        ("TE empty", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 400),
        ("TE trailing comma", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", 400),
        ("TE in 1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("TE unknown", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
        ("TE gzip", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("bare LF in request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        ("bare LF in header", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
        ("bare CR in header", b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
        ("bare CR at end", b"GET / HTTP/1.1\r\nHost: a\r\n\rX", 400),
        ("bare LF at end", b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
        ("NUL in value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
        (
            "vertical tab before chunked",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
            400,
        ),
        ("DEL in value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", 400),
        ("NUL in name", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", 400),
        ("fold", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
        ("fold with tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", 400),
        ("space before the first header", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        ("space before colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("tab before colon", b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", 400),
        ("no colon", b"GET / HTTP/1.1\r\nHost\r\n\r\n", 400),
        ("no name", b"GET / HTTP/1.1\r\n: a\r\n\r\n", 400),
        ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
        ("Host list", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("Host with user", b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        ("Host with path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("Host with a strange port", b"GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", 400),
        ("Host with an open bracket", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        ("two Hosts in 1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("absolute against Host", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("absolute with another port", b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("absolute without authority", b"GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("absolute with user", b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("another scheme", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("no slash", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("asterisk with GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("backslash", b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("raw UTF-8 in target", "GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), 400),
        ("two spaces", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("tab", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("space in target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("space behind version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
        ("no version", b"GET /\r\nHost: a\r\n\r\n", 400),
        ("version 1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
        ("version 1.10", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
        ("version in small letters", b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
        ("version 2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        ("two empty lines in front", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "Connection names Content-Length",
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 1\r\n\r\n",
            400,
        ),
        ("Connection is no list", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n", 400),
        ("method of 33 letters", b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ];
    for (name, bytes, status) in table {
        assert_eq!(refused(bytes), *status, "{name}");
    }
}

#[test]
fn connect_is_refused_unless_configured() {
    let bytes = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    assert_eq!(refused(bytes), 501);
    let limits = HeadLimits { connect: true, ..HeadLimits::default() };
    assert!(matches!(parse(bytes, &limits), HeadStatus::Complete(head) if head.connect));
    for bad in ["a", "a:", ":443", "/", "http://a:443/", "a:443/", "u@a:443", "a:0", "*"] {
        let bytes = format!("CONNECT {bad} HTTP/1.1\r\nHost: a:443\r\n\r\n");
        let HeadStatus::Bad(verdict) = parse(bytes.as_bytes(), &limits) else { panic!("{bad}") };
        assert_eq!(verdict.rule, GateRule::AuthorityForm, "{bad}");
    }
}

#[test]
fn garbage_is_refused_at_its_first_byte() {
    for bytes in [&b"\x16\x03\x01"[..], b"\0", b"\x80", b" ", b"\n", b"{", b"\r\r", b"GET\r"] {
        assert_eq!(refused(bytes), 400, "{bytes:?}");
    }
    for bytes in [&b""[..], b"\r", b"\r\n", b"GE", b"GET / HTTP/1.", b"SSH-2.0-x"] {
        assert_eq!(parse(bytes, &HeadLimits::default()), HeadStatus::Incomplete, "{bytes:?}");
    }
}

#[test]
fn what_is_right_is_accepted() {
    let table: &[(&[u8], Framing)] = &[
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        (b"GET / HTTP/1.0\r\n\r\n", Framing::None),
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        (b"GET http://a/x?y HTTP/1.1\r\nHost: A\r\n\r\n", Framing::None),
        (b"GET http://a?y HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", Framing::None),
        (b"GET /a?b={c}|d^e HTTP/1.1\r\nHost: a\r\nX:\r\nY: \xe4\t b \r\n\r\n", Framing::None),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 12 \r\n\r\nbody", Framing::Length(12)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked),
    ];
    for (bytes, framing) in table {
        assert_eq!(accepted(bytes).framing, *framing, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn places_point_into_the_bytes() {
    let bytes = b"\r\nPUT /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let head = accepted(bytes);
    assert_eq!(&bytes[head.method.clone()], b"PUT");
    assert_eq!(&bytes[head.target.clone()], b"/x?y");
    assert_eq!(&bytes[head.head_len..], b"abc");
    assert_eq!(head.start, 2);
    assert_eq!(head.request_line(bytes), "PUT /x?y");
}

#[test]
fn limits_hold_to_the_byte() {
    let head = b"GET /12345 HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    let limits = HeadLimits { head_bytes: head.len(), header_count: 2, target_bytes: 6, connect: false };
    let reason = |limits: HeadLimits| match parse(head, &limits) {
        HeadStatus::Bad(verdict) => Some((verdict.status, verdict.reason)),
        HeadStatus::Complete(_) => None,
        HeadStatus::Incomplete => panic!("incomplete"),
    };
    assert_eq!(reason(limits), None);
    assert_eq!(
        reason(HeadLimits { head_bytes: head.len() - 1, ..limits }),
        Some((431, CloseReason::HeadTooLarge))
    );
    assert_eq!(reason(HeadLimits { header_count: 1, ..limits }), Some((431, CloseReason::HeadTooLarge)));
    assert_eq!(reason(HeadLimits { target_bytes: 5, ..limits }), Some((414, CloseReason::UriTooLong)));
}

#[test]
fn connect_and_old_keep_alive_are_not_migrated() {
    let table: &[(&[u8], bool)] = &[
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", true),
        (b"GET / HTTP/1.0\r\n\r\n", true),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", false),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", false),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", true),
    ];
    for (bytes, migrates) in table {
        let expected = if *migrates { Ok(()) } else { Err(ProxyReason::MethodNotMigrated) };
        let limits = HeadLimits { connect: true, ..HeadLimits::default() };
        let HeadStatus::Complete(head) = parse(bytes, &limits) else { panic!("{bytes:?}") };
        assert_eq!(head.migration(), expected, "{:?}", String::from_utf8_lossy(bytes));
    }
}
