//! The gate: what a complete head must not say, because two readers could read it in two ways.

use super::scan::is_token;
use super::{ConnectionOptions, Framing, HeadLimits, RequestHead, Verdict, Version};
use core::ops::Range;

/// What the headers said, as far as it matters here.
#[derive(Default)]
struct Found<'a> {
    hosts: usize,
    host: &'a [u8],
    lengths: usize,
    length: &'a [u8],
    codings: usize,
    coding: &'a [u8],
    connection: ConnectionOptions,
    upgrade: bool,
    expect_continue: bool,
}

/// Judges the head `bytes[start..end]`, of which [`super::HeadScanner`] has found the end.
pub(super) fn judge(
    bytes: &[u8],
    start: usize,
    end: usize,
    limits: &HeadLimits,
) -> Result<RequestHead, Verdict> {
    let head = bytes.get(start..end).unwrap_or_default();
    let mut headers = vec![httparse::EMPTY_HEADER; limits.header_count];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(Verdict::bad("this is not an HTTP/1 request")),
    }
    let method = request.method.unwrap_or_default();
    let target = request.path.unwrap_or_default();
    let version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let mut found = Found::default();
    for header in request.headers.iter() {
        on_header(&mut found, header.name, trim(header.value))?;
    }
    check_target(method, target, &found)?;
    check_host(version, &found)?;
    let method_at = start..start + method.len();
    let target_at = method_at.end + 1..method_at.end + 1 + target.len();
    Ok(RequestHead {
        start,
        head_len: end,
        method: method_at,
        target: target_at,
        version,
        framing: framing(version, &found)?,
        connection: found.connection,
        upgrade: found.upgrade,
        connect: method == "CONNECT",
        expect_continue: found.expect_continue,
    })
}

fn on_header<'a>(found: &mut Found<'a>, name: &str, value: &'a [u8]) -> Result<(), Verdict> {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    if is("host") {
        found.hosts += 1;
        found.host = value;
    } else if is("content-length") {
        found.lengths += 1;
        found.length = value;
    } else if is("transfer-encoding") {
        found.codings += 1;
        found.coding = value;
    } else if is("connection") {
        for option in value.split(|b| *b == b',') {
            on_connection_option(&mut found.connection, trim(option))?;
        }
    } else if is("upgrade") {
        found.upgrade = true;
    } else if is("expect") {
        found.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
    }
    Ok(())
}

fn on_connection_option(connection: &mut ConnectionOptions, option: &[u8]) -> Result<(), Verdict> {
    let is = |other: &str| option.eq_ignore_ascii_case(other.as_bytes());
    if is("close") {
        connection.close = true;
    } else if is("keep-alive") {
        connection.keep_alive = true;
    } else if is("upgrade") {
        connection.upgrade = true;
    } else if is("host") || is("content-length") || is("transfer-encoding") {
        // Whoever obeys it loses the framing between here and the server.
        return Err(Verdict::bad("Connection names a header the message rests on"));
    } else if !option.iter().copied().all(is_token) {
        return Err(Verdict::bad("Connection is not a list of options"));
    }
    Ok(())
}

/// RFC 9112, section 3.2: the four forms of a target, and the absolute one against `Host`.
fn check_target(method: &str, target: &str, found: &Found<'_>) -> Result<(), Verdict> {
    if method == "CONNECT" {
        let authority = !target.is_empty() && valid_host(target.as_bytes()) && target.contains(':');
        return if authority { Ok(()) } else { Err(Verdict::bad("CONNECT needs host:port")) };
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(());
    }
    let Some(authority) = absolute_authority(target) else {
        return Err(Verdict::bad("the request target is neither a path nor an http URI"));
    };
    let authority = target.as_bytes().get(authority).unwrap_or_default();
    if authority.is_empty() || !valid_host(authority) {
        return Err(Verdict::bad("the request target's authority is not a host"));
    }
    if found.hosts > 0 && !authority.eq_ignore_ascii_case(found.host) {
        return Err(Verdict::bad("Host contradicts the request target"));
    }
    Ok(())
}

/// The authority's place in `http://AUTHORITY/...`.
fn absolute_authority(target: &str) -> Option<Range<usize>> {
    const SCHEME: &str = "http://";
    let scheme = target.get(..SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    let rest = target.get(SCHEME.len()..)?;
    let length = rest.find(['/', '?']).unwrap_or(rest.len());
    Some(SCHEME.len()..SCHEME.len() + length)
}

fn check_host(version: Version, found: &Found<'_>) -> Result<(), Verdict> {
    match (version, found.hosts) {
        (Version::Http11, 0) => Err(Verdict::bad("HTTP/1.1 without Host")),
        (_, 0) => Ok(()),
        (_, 1) if valid_host(found.host) => Ok(()),
        (_, 1) => Err(Verdict::bad("Host is not a host")),
        _ => Err(Verdict::bad("more than one Host")),
    }
}

/// `uri-host [ ":" port ]` of RFC 3986 as far as it can do harm; empty is allowed (RFC 9110, section 7.2).
fn valid_host(host: &[u8]) -> bool {
    let (name, port) = match host.first() {
        Some(b'[') => match host.iter().position(|b| *b == b']') {
            Some(end) => host.split_at(end + 1),
            None => return false,
        },
        _ => host.split_at(host.iter().position(|b| *b == b':').unwrap_or(host.len())),
    };
    let bracketed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'[' | b']' | b':' | b'.' | b'%' | b'_' | b'-');
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~' | b'%');
    let name_ok = match name.first() {
        Some(b'[') => name.iter().copied().all(bracketed),
        _ => name.iter().copied().all(plain),
    };
    let port_ok = match port.split_first() {
        None => true,
        Some((colon, digits)) => *colon == b':' && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
    };
    name_ok && port_ok
}

/// RFC 9112, section 6, with nothing left to choose.
fn framing(version: Version, found: &Found<'_>) -> Result<Framing, Verdict> {
    match (found.codings, found.lengths) {
        (0, 0) => Ok(Framing::None),
        (0, 1) => content_length(found.length),
        (0, _) => Err(Verdict::bad("more than one Content-Length")),
        (_, lengths) if lengths > 0 => Err(Verdict::bad("Transfer-Encoding beside Content-Length")),
        _ if version == Version::Http10 => Err(Verdict::bad("Transfer-Encoding in HTTP/1.0")),
        (1, _) => transfer_coding(found.coding),
        _ => Err(Verdict::bad("more than one Transfer-Encoding")),
    }
}

fn content_length(value: &[u8]) -> Result<Framing, Verdict> {
    let bad = Verdict::bad("Content-Length is not a number");
    // Digits only: `parse` would take a plus sign.
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    let number = core::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
    // A length near 2^63 is negative for some reader.
    match number {
        Some(length) if length <= i64::MAX.unsigned_abs() => Ok(Framing::Length(length)),
        _ => Err(bad),
    }
}

fn transfer_coding(value: &[u8]) -> Result<Framing, Verdict> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(Framing::Chunked);
    }
    let mut others = 0usize;
    let mut chunked = 0usize;
    let mut ends_chunked = false;
    for coding in value.split(|b| *b == b',').map(trim) {
        if coding.is_empty() || !coding.iter().copied().all(is_token) {
            return Err(Verdict::bad("Transfer-Encoding is not a list of codings"));
        }
        ends_chunked = coding.eq_ignore_ascii_case(b"chunked");
        if ends_chunked { chunked += 1 } else { others += 1 }
    }
    if others == 0 || chunked > 1 || (chunked == 1 && !ends_chunked) {
        return Err(Verdict::bad("Transfer-Encoding does not end in one chunked"));
    }
    Err(Verdict::not_implemented("a transfer coding other than chunked"))
}

/// Without the optional white space around (RFC 9110, section 5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
