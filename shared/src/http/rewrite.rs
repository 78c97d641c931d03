//! A head as the server shall see it.

use super::RequestHead;

/// The head with `Connection: close`, so that the server ends the connection after its answer (keepalive =
/// "single"). Whatever else `Connection` named stays named, `keep-alive` and the headers that go with it go;
/// every other line stays byte for byte. `bytes` are those `head` was parsed from; what follows the head is not
/// copied.
pub fn with_connection_close(bytes: &[u8], head: &RequestHead) -> Vec<u8> {
    let whole = bytes.get(head.start..head.head_len).unwrap_or_default();
    let mut lines = whole.split_inclusive(|b| *b == b'\n');
    let mut out = Vec::with_capacity(whole.len() + 24);
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut rest: Vec<&[u8]> = Vec::new();
    out.extend_from_slice(lines.next().unwrap_or_default());
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|b| *b == b':').unwrap_or(0));
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("connection") {
            let options = value.get(1..).unwrap_or_default().split(|b| *b == b',');
            kept.extend(options.map(<[u8]>::trim_ascii).filter(|option| !ours(option)));
        } else if !is("keep-alive") && !is("proxy-connection") {
            rest.push(line);
        }
    }
    out.extend_from_slice(b"Connection: close");
    for option in kept {
        out.extend_from_slice(b", ");
        out.extend_from_slice(option);
    }
    out.extend_from_slice(b"\r\n");
    for line in rest {
        out.extend_from_slice(line);
    }
    out
}

/// Options that `close` replaces.
fn ours(option: &[u8]) -> bool {
    option.is_empty()
        || option.eq_ignore_ascii_case(b"close")
        || option.eq_ignore_ascii_case(b"keep-alive")
        || option.eq_ignore_ascii_case(b"proxy-connection")
}
