//! The gate: what a complete head must not say, because two readers could read it in two ways.

use super::scan::is_token;
use super::target::{absolute_authority, check_authority, check_path};
use super::{ConnectionOptions, Framing, GateRule, HeadLimits, RequestHead, Version};

/// Names that become the same variable as a framing header's where servers hand headers on as `HTTP_NAME`.
const FRAMING_ALIASES: [&str; 2] = ["content_length", "transfer_encoding"];

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

/// Judges the head `bytes[start..end]`, of which [`super::HeadScanner`] has found the end and counted the `headers`.
pub(super) fn judge(
    bytes: &[u8],
    start: usize,
    end: usize,
    headers: usize,
    limits: &HeadLimits,
) -> Result<RequestHead, GateRule> {
    let head = bytes.get(start..end).unwrap_or_default();
    let mut headers = vec![httparse::EMPTY_HEADER; headers];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(GateRule::NotHttp),
    }
    let method = request.method.unwrap_or_default();
    let target = request.path.unwrap_or_default();
    let version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let mut found = Found::default();
    for header in request.headers.iter() {
        on_header(&mut found, header.name, trim(header.value))?;
    }
    check_host(version, &found)?;
    check_target(method, target, &found, limits)?;
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

fn on_header<'a>(found: &mut Found<'a>, name: &str, value: &'a [u8]) -> Result<(), GateRule> {
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
    } else if FRAMING_ALIASES.iter().any(|alias| is(alias)) {
        return Err(GateRule::NameAlias);
    }
    Ok(())
}

fn on_connection_option(connection: &mut ConnectionOptions, option: &[u8]) -> Result<(), GateRule> {
    let is = |other: &str| option.eq_ignore_ascii_case(other.as_bytes());
    if is("close") {
        connection.close = true;
    } else if is("keep-alive") {
        connection.keep_alive = true;
    } else if is("upgrade") {
        connection.upgrade = true;
    } else if is("host") || is("content-length") || is("transfer-encoding") {
        // Whoever obeys it loses the framing between here and the server.
        return Err(GateRule::ConnectionFraming);
    } else if !option.iter().copied().all(is_token) {
        return Err(GateRule::ConnectionList);
    }
    Ok(())
}

/// RFC 9112, section 3.2: the four forms of a target, and the absolute one against `Host`.
fn check_target(method: &str, target: &str, found: &Found<'_>, limits: &HeadLimits) -> Result<(), GateRule> {
    if method == "CONNECT" {
        let has_port =
            target.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && !port.is_empty());
        return match check_authority(target.as_bytes()) {
            _ if !limits.connect => Err(GateRule::ConnectRefused),
            Ok(()) if has_port => Ok(()),
            _ => Err(GateRule::AuthorityForm),
        };
    }
    if method == "TRACE" {
        return Err(GateRule::MethodRefused);
    }
    if target == "*" {
        return if method == "OPTIONS" { Ok(()) } else { Err(GateRule::AsteriskForm) };
    }
    if target.starts_with('/') {
        return check_path(target);
    }
    let place = absolute_authority(target)?;
    let authority = target.as_bytes().get(place.clone()).unwrap_or_default();
    check_authority(authority).map_err(|_| GateRule::TargetAuthority)?;
    if found.hosts > 0 && !authority.eq_ignore_ascii_case(found.host) {
        return Err(GateRule::HostAgainstTarget);
    }
    check_path(target.get(place.end..).unwrap_or_default())
}

fn check_host(version: Version, found: &Found<'_>) -> Result<(), GateRule> {
    match (version, found.hosts) {
        (Version::Http11, 0) => Err(GateRule::HostMissing),
        (_, 0) => Ok(()),
        (_, 1) => check_authority(found.host),
        _ => Err(GateRule::HostSeveral),
    }
}

/// RFC 9112, section 6, with nothing left to choose.
fn framing(version: Version, found: &Found<'_>) -> Result<Framing, GateRule> {
    match (found.codings, found.lengths) {
        (0, 0) => Ok(Framing::None),
        (0, 1) => content_length(found.length),
        (0, _) => Err(GateRule::LengthSeveral),
        (_, lengths) if lengths > 0 => Err(GateRule::CodingBesideLength),
        _ if version == Version::Http10 => Err(GateRule::CodingInOld),
        (1, _) => transfer_coding(found.coding),
        _ => Err(GateRule::CodingSeveral),
    }
}

fn content_length(value: &[u8]) -> Result<Framing, GateRule> {
    // Digits only: `parse` would take a plus sign.
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(GateRule::LengthNumber);
    }
    // Octal for some reader.
    if value.len() > 1 && value.first() == Some(&b'0') {
        return Err(GateRule::LengthZeros);
    }
    let number = core::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
    // A length near 2^63 is negative for some reader.
    match number {
        Some(length) if length <= i64::MAX.unsigned_abs() => Ok(Framing::Length(length)),
        _ => Err(GateRule::LengthOverflow),
    }
}

fn transfer_coding(value: &[u8]) -> Result<Framing, GateRule> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(Framing::Chunked);
    }
    let mut others = 0usize;
    let mut chunked = 0usize;
    let mut ends_chunked = false;
    for coding in value.split(|b| *b == b',').map(trim) {
        if coding.is_empty() || !coding.iter().copied().all(is_token) {
            return Err(GateRule::CodingList);
        }
        ends_chunked = coding.eq_ignore_ascii_case(b"chunked");
        if ends_chunked { chunked += 1 } else { others += 1 }
    }
    if others == 0 || chunked > 1 || (chunked == 1 && !ends_chunked) {
        return Err(GateRule::CodingFinal);
    }
    Err(GateRule::CodingUnknown)
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
