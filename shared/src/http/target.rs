//! What a request target and a `Host` may say: places that mean the same to every reader.

use super::GateRule;
use core::net::Ipv6Addr;
use core::ops::Range;
use std::borrow::Cow;

/// The authority's place in `http://AUTHORITY/...`.
pub(super) fn absolute_authority(target: &str) -> Result<Range<usize>, GateRule> {
    const SCHEME: &str = "http://";
    let is_http = target.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME));
    if !is_http {
        let other_scheme = target.contains("://");
        return Err(if other_scheme { GateRule::TargetScheme } else { GateRule::TargetForm });
    }
    let rest = target.get(SCHEME.len()..).unwrap_or_default();
    let length = rest.find(['/', '?']).unwrap_or(rest.len());
    Ok(SCHEME.len()..SCHEME.len() + length)
}

/// `uri-host [ ":" port ]` of RFC 3986 without what can be read in two ways: no user, no percent-encoding, no
/// zone, no empty label, no empty port. The rules named are those for `Host`.
pub(super) fn check_authority(authority: &[u8]) -> Result<(), GateRule> {
    if is_name(authority) {
        return Ok(());
    }
    let Ok(text) = core::str::from_utf8(authority) else { return Err(GateRule::HostInvalid) };
    if text.is_empty() {
        return Err(GateRule::HostEmpty);
    }
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return Err(GateRule::HostInvalid) };
            if address.parse::<Ipv6Addr>().is_err() {
                return Err(GateRule::HostInvalid);
            }
            ("", port)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let in_brackets = text.starts_with('[');
    if !in_brackets && !is_name(name.as_bytes()) {
        return Err(GateRule::HostInvalid);
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        None => Err(GateRule::HostInvalid),
        Some(digits) if is_port(digits) => Ok(()),
        Some(_) => Err(GateRule::HostPort),
    }
}

/// Whether these are labels of which none is empty; the last may be followed by a dot.
fn is_name(name: &[u8]) -> bool {
    let mut behind_dot = true;
    let plain = |byte: &u8| {
        let is_empty = behind_dot && *byte == b'.';
        behind_dot = *byte == b'.';
        !is_empty && (byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    !name.is_empty() && name.iter().all(plain)
}

fn is_port(digits: &str) -> bool {
    digits.len() <= 5
        && digits.bytes().all(|b| b.is_ascii_digit())
        && digits.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The path, and the query that may follow it: percent signs in the path are escapes, none hides a NUL, and no
/// segment climbs or stands still, which every server resolves in its own way.
pub(super) fn check_path(target: &str) -> Result<(), GateRule> {
    let path = target.split_once('?').map_or(target, |(path, _)| path).as_bytes();
    let decoded = if path.contains(&b'%') { Cow::Owned(decode(path)?) } else { Cow::Borrowed(path) };
    let is_dots = |segment: &[u8]| {
        // Some servers cut a segment's parameters off before they resolve it.
        let name = segment.split(|b| *b == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    };
    let mut segments = decoded.split(|b| matches!(b, b'/' | b'\\'));
    if segments.any(is_dots) { Err(GateRule::TargetDots) } else { Ok(()) }
}

fn decode(path: &[u8]) -> Result<Vec<u8>, GateRule> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit =
            || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (digit(), digit()) {
            (Some(0), Some(0)) | (None, _) | (_, None) => return Err(GateRule::TargetPercent),
            (Some(high), Some(low)) => decoded.push(high << 4 | low),
        }
    }
    Ok(decoded)
}
