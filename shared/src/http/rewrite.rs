//! A head as the server shall see it.

use super::{Edits, RequestHead, lines};
use core::ops::Range;
use memchr::memchr;

/// The head in canonical form with these changes: what the gate reads from it is what it read before but for them.
///
/// - The target is in origin form; an absolute one's authority becomes `Host` where there was none.
/// - `Connection` is one line of what is still to be said: `close` if `close` is given or the client said so, and what
///   else the client named. `Keep-Alive` and `Proxy-Connection` go.
/// - What is taken out is not named in `Connection` either.
/// - Every other line stays byte for byte, in its place; what is put in comes at the end.
///
/// `bytes` are those `head` was parsed from; what follows the head is not copied.
pub fn canonical(bytes: &[u8], head: &RequestHead, edits: &Edits, close: bool) -> Vec<u8> {
    let whole = bytes.get(head.start..head.head_len).unwrap_or_default();
    let mut out = Vec::with_capacity(whole.len() + 256);
    let mut lines = lines(whole);
    let request_line = lines.next().unwrap_or_default();
    let target = bytes.get(head.target.clone()).unwrap_or_default();
    let authority = put_request_line(&mut out, bytes, head, target, request_line);

    let close = close || head.connection.close;
    let mut options: Vec<&[u8]> = Vec::new();
    // Their places, those that follow each other as one.
    let mut kept: Vec<Range<usize>> = Vec::new();
    let mut hosts = 0;
    let mut end = request_line.len();
    for line in lines {
        let start = end;
        end += line.len();
        let (name, value) = line.split_at(memchr(b':', line).unwrap_or(0));
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("connection") {
            let named = value.get(1..).unwrap_or_default().split(|b| *b == b',');
            let removed =
                |option: &[u8]| edits.remove.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()));
            options.extend(named.map(<[u8]>::trim_ascii).filter(|option| !ours(option) && !removed(option)));
        } else if is("keep-alive") || is("proxy-connection") || edits.remove.iter().any(|other| is(other)) {
            // Gone. The empty line at the end has no name and stays for the last.
        } else if !name.is_empty() {
            hosts += usize::from(is("host"));
            match kept.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => kept.push(start..end),
            }
        }
    }
    if close || !options.is_empty() {
        out.extend_from_slice(if close { b"Connection: close" } else { b"Connection: " });
        for (at, option) in options.iter().enumerate() {
            out.extend_from_slice(if at == 0 && !close { b"" } else { b", " });
            out.extend_from_slice(option);
        }
        out.extend_from_slice(b"\r\n");
    }
    let sets_host = edits.append.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    if let (0, false, Some(authority)) = (hosts, sets_host, authority) {
        put_line(&mut out, b"Host", authority);
    }
    for lines in kept {
        out.extend_from_slice(whole.get(lines).unwrap_or_default());
    }
    for (name, value) in &edits.append {
        put_line(&mut out, name.as_bytes(), value);
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Gives the authority of an absolute target.
fn put_request_line<'a>(
    out: &mut Vec<u8>,
    bytes: &[u8],
    head: &RequestHead,
    target: &'a [u8],
    line: &[u8],
) -> Option<&'a [u8]> {
    const SCHEME: &[u8] = b"http://";
    let absolute = target.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME));
    if !absolute || head.connect {
        out.extend_from_slice(line);
        return None;
    }
    let rest = target.get(SCHEME.len()..).unwrap_or_default();
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, b""));
    let method = bytes.get(head.method.clone()).unwrap_or_default();
    out.extend_from_slice(method);
    out.push(b' ');
    match path.first() {
        // RFC 9112, section 3.2.4.
        None if method == b"OPTIONS" => out.push(b'*'),
        None | Some(b'?') => out.push(b'/'),
        Some(_) => {}
    }
    out.extend_from_slice(path);
    out.extend_from_slice(bytes.get(head.target.end..head.start + line.len()).unwrap_or_default());
    Some(authority)
}

fn put_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Options that are said by us, or to nobody.
fn ours(option: &[u8]) -> bool {
    option.is_empty()
        || option.eq_ignore_ascii_case(b"close")
        || option.eq_ignore_ascii_case(b"keep-alive")
        || option.eq_ignore_ascii_case(b"proxy-connection")
}
