//! An HTTP/2 request as the HTTP/1.1 request a server gets in its place: nothing in it may be read otherwise there.
//!
//! HTTP/2 frames its messages, so names and values that would end a line or a message in HTTP/1.1 arrive intact; that
//! is the classic way to smuggle (RFC 9113, section 10.3). The head built here goes through the same gate as one that
//! came as text.

use super::scan::is_token;
use super::{Framing, GateRule, HeadLimits, HeadStatus, RequestHead, Verdict, parse};

/// An HTTP/2 request's head.
#[derive(Clone, Copy, Debug)]
pub struct Http2Head<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:authority`.
    pub authority: Option<&'a str>,
    /// `:path`.
    pub path: &'a str,
    /// `:protocol` was there, too (RFC 8441).
    pub extended_connect: bool,
    /// The stream ends with the head: there is no body.
    pub ends: bool,
}

/// Headers of an HTTP/1 hop, which HTTP/2 forbids (RFC 9113, section 8.2.2).
const FORBIDDEN: [&str; 5] = ["connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"];

/// The request in HTTP/1.1, its head judged like any other; the body will be chunked if its length is not told.
/// `headers` are names and values in their order.
pub fn to_http11<'a>(
    head: &Http2Head<'_>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    limits: &HeadLimits,
) -> Result<(Vec<u8>, RequestHead), Verdict> {
    if head.method == "CONNECT" || head.extended_connect {
        return Err(GateRule::ConnectRefused.into());
    }
    if !head.method.bytes().all(is_token) {
        return Err(GateRule::NotHttp.into());
    }
    let asterisk = head.path == "*" && head.method == "OPTIONS";
    if !head.path.starts_with('/') && !asterisk {
        return Err(GateRule::TargetForm.into());
    }
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if !visible(head.path) || !head.authority.is_none_or(visible) {
        return Err(GateRule::TargetByte.into());
    }
    let mut lines = Vec::with_capacity(512);
    let mut cookie = Vec::new();
    let mut host: Option<&[u8]> = head.authority.map(str::as_bytes);
    let mut length = false;
    for (name, value) in headers {
        if FORBIDDEN.contains(&name) {
            return Err(GateRule::Http2HopHeader.into());
        }
        if name.is_empty() || name.bytes().any(|b| b.is_ascii_uppercase() || !is_token(b)) {
            return Err(GateRule::NameByte.into());
        }
        if value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err(GateRule::ValueControl.into());
        }
        match name {
            "te" if value != b"trailers" => return Err(GateRule::Http2Te.into()),
            "host" if host.is_some_and(|h| !h.eq_ignore_ascii_case(value)) => {
                return Err(GateRule::HostAgainstTarget.into());
            }
            "host" => host = Some(value),
            "cookie" => {
                // Clients may cut it into pieces (RFC 9113, section 8.2.3), which HTTP/1 does not know.
                cookie.extend_from_slice(if cookie.is_empty() { b"" } else { b"; " });
                cookie.extend_from_slice(value);
            }
            _ => {
                length |= name == "content-length";
                line(&mut lines, name, value);
            }
        }
    }
    let mut bytes = Vec::with_capacity(lines.len() + 256);
    for part in [head.method, " ", head.path, " HTTP/1.1\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    line(&mut bytes, "host", host.ok_or(GateRule::HostMissing)?);
    bytes.extend_from_slice(&lines);
    if !cookie.is_empty() {
        line(&mut bytes, "cookie", &cookie);
    }
    if !head.ends && !length {
        line(&mut bytes, "transfer-encoding", b"chunked");
    }
    bytes.extend_from_slice(b"\r\n");
    judge(bytes, head, limits)
}

fn judge(
    bytes: Vec<u8>,
    head: &Http2Head<'_>,
    limits: &HeadLimits,
) -> Result<(Vec<u8>, RequestHead), Verdict> {
    match parse(&bytes, limits) {
        HeadStatus::Bad(verdict) => Err(verdict),
        HeadStatus::Complete(judged) if judged.start == 0 && judged.head_len == bytes.len() => {
            if head.ends && !matches!(judged.framing, Framing::None | Framing::Length(0)) {
                return Err(GateRule::Http2Length.into());
            }
            Ok((bytes, judged))
        }
        // A line end within the head: what should be one message would be more than one.
        HeadStatus::Complete(_) | HeadStatus::Incomplete => Err(GateRule::NotForwardable.into()),
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]
mod tests {
    use super::*;

    const GET: Http2Head<'static> = Http2Head {
        method: "GET",
        authority: Some("h.example"),
        path: "/a?b",
        extended_connect: false,
        ends: true,
    };

    fn built(head: Http2Head<'_>, headers: &[(&str, &str)]) -> Result<String, u16> {
        let headers = headers.iter().map(|(n, v)| (*n, v.as_bytes()));
        let (bytes, judged) = to_http11(&head, headers, &HeadLimits::default()).map_err(|v| v.status)?;
        assert_eq!(judged.head_len, bytes.len());
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_request_becomes_one_of_http_1_1_with_one_host_and_one_cookie() {
        let all = [
            ("cookie", "a=1"),
            ("accept", "*/*"),
            ("cookie", "b=2"),
            ("te", "trailers"),
            ("host", "H.example"),
        ];
        assert_eq!(
            built(GET, &all).unwrap(),
            "GET /a?b HTTP/1.1\r\nhost: H.example\r\naccept: */*\r\nte: trailers\r\ncookie: a=1; b=2\r\n\r\n"
        );
        let post = Http2Head { method: "POST", ends: false, ..GET };
        assert!(built(post, &[]).unwrap().contains("transfer-encoding: chunked\r\n"));
        assert!(!built(post, &[("content-length", "3")]).unwrap().contains("chunked"));
        assert!(built(Http2Head { method: "OPTIONS", path: "*", ..GET }, &[]).is_ok());
    }

    #[test]
    fn what_http_1_1_would_read_otherwise_is_refused() {
        for headers in [
            &[("transfer-encoding", "chunked")][..],
            &[("connection", "close")],
            &[("keep-alive", "1")],
            &[("proxy-connection", "x")],
            &[("upgrade", "h2c")],
            &[("te", "gzip")],
            &[("te", "trailers, chunked")],
            &[("X-Upper", "1")],
            &[("host", "other.example")],
            &[("host", "h.example"), ("host", "h2.example")],
            &[("x", "a\r\nhost: evil")],
            &[("x", "a\nb")],
            &[("x", "a\r\ny: z")],
            &[("x: 1\r\ny", "1")],
            &[("x", "a\r\n\r\nGET /evil HTTP/1.1")],
            &[("x", "a\0")],
            &[("x y", "1")],
            &[("x:y", "1")],
            &[("x\r\ny", "1")],
            &[("", "1")],
            &[("content-length", "1"), ("content-length", "1")],
            &[("content-length", "+1")],
            // A body is promised, and the stream has ended.
            &[("content-length", "1")],
        ] {
            assert_eq!(built(GET, headers), Err(400), "{headers:?}");
        }
        for head in [
            Http2Head { path: "", ..GET },
            Http2Head { path: "*", ..GET },
            Http2Head { path: "http://h.example/", ..GET },
            Http2Head { path: "/a b", ..GET },
            Http2Head { path: "/a HTTP/1.1\r\nx: y", ..GET },
            Http2Head { path: "/\u{e9}", ..GET },
            Http2Head { method: "GET /evil HTTP/1.1\r\n", ..GET },
            Http2Head { method: "", ..GET },
            Http2Head { authority: None, ..GET },
            Http2Head { authority: Some("user@h.example"), ..GET },
            Http2Head { authority: Some("h.example\r\nx: y"), ..GET },
            Http2Head { authority: Some("h.example\r\n\r\n"), ..GET },
        ] {
            assert_eq!(built(head, &[]), Err(400), "{head:?}");
        }
        assert_eq!(built(Http2Head { method: "CONNECT", ..GET }, &[]), Err(501));
        assert_eq!(built(Http2Head { extended_connect: true, ..GET }, &[]), Err(501));
    }
}
