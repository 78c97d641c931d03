//! What is asked of a request.

use crate::http::{RequestHead, lines};
use memchr::memchr;

/// Header lines, whatever holds them.
pub trait HeaderLines: Send + Sync {
    /// Whether `test` holds for the value of any line of this name (compared without regard to case).
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// Of what has no headers: a TLS or TCP connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeaders;

impl HeaderLines for NoHeaders {
    fn any(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}

/// The lines of a head that passed the gate.
#[derive(Clone, Copy, Debug)]
pub struct HeadLines<'a>(&'a [u8]);

impl<'a> HeadLines<'a> {
    /// `bytes` are those the head was parsed from.
    pub fn new(bytes: &'a [u8], head: &RequestHead) -> Self {
        HeadLines(bytes.get(head.start..head.head_len).unwrap_or_default())
    }

    /// Name and value of each, white space around the value cut off.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        lines(self.0).skip(1).filter_map(|line| {
            let colon = memchr(b':', line)?;
            let (name, value) = line.split_at_checked(colon)?;
            Some((name, value.get(1..).unwrap_or_default().trim_ascii()))
        })
    }
}

impl HeaderLines for HeadLines<'_> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.iter().any(|(found, value)| found.eq_ignore_ascii_case(name.as_bytes()) && test(value))
    }
}

/// Whether `test` holds for the value of any cookie of this name, as it came; `None` for one without an equals sign.
pub fn any_cookie(
    headers: &dyn HeaderLines,
    name: &str,
    test: &mut dyn FnMut(Option<&[u8]>) -> bool,
) -> bool {
    headers.any("cookie", &mut |line| {
        line.split(|b| *b == b';').map(<[u8]>::trim_ascii).any(|pair| {
            let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            let (found, value) = pair.split_at(at);
            found == name.as_bytes() && test(value.get(1..))
        })
    })
}

/// A request, or a TLS connection before it says what it is for.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The listener's number.
    pub listener: usize,
    /// The host as [`host_name`] gives it, of a TLS listener the SNI; `None` if the client named none.
    pub host: Option<&'a str>,
    /// The host as it was said, with its port.
    pub authority: Option<&'a str>,
    /// The path as it came, without the query; empty for CONNECT, `*` for `OPTIONS *`.
    pub path: &'a str,
    /// The query as it came, without the question mark.
    pub query: &'a str,
    /// The method; empty where there is none.
    pub method: &'a str,
    /// The headers.
    pub headers: &'a dyn HeaderLines,
    /// The protocols offered in the ClientHello.
    pub alpn: &'a [&'a str],
}

impl<'a> RequestFacts<'a> {
    /// Of an origin-form target, without a host.
    pub fn new(listener: usize, method: &'a str, target: &'a str, headers: &'a dyn HeaderLines) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        RequestFacts { listener, host: None, authority: None, path, query, method, headers, alpn: &[] }
    }

    /// Of a head that passed the gate; `bytes` are those it was parsed from and `lines` theirs.
    pub fn of_head(listener: usize, head: &RequestHead, bytes: &'a [u8], lines: &'a HeadLines<'a>) -> Self {
        let text = |range: &core::ops::Range<usize>| {
            core::str::from_utf8(bytes.get(range.clone()).unwrap_or_default()).unwrap_or_default()
        };
        let (method, target) = (text(&head.method), text(&head.target));
        let header_host = || {
            let found = lines.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"host"));
            found.and_then(|(_, value)| core::str::from_utf8(value).ok())
        };
        let (authority, target) = if head.connect {
            (Some(target), "")
        } else {
            // The gate let `scheme://` through as the beginning of an absolute target alone.
            match Some(target).filter(|target| !target.starts_with('/')).and_then(|t| t.split_once("://")) {
                Some((_, rest)) => {
                    let end = rest.find(['/', '?']).unwrap_or(rest.len());
                    let (authority, path) = rest.split_at(end);
                    (Some(authority), path)
                }
                None => (header_host(), target),
            }
        };
        let mut facts = RequestFacts::new(listener, method, target, lines);
        if facts.path.is_empty() && !head.connect {
            // `http://host?query` asks for the root; an OPTIONS of the host alone for `*` (RFC 9112, section 3.2.4).
            facts.path = if target.is_empty() && method == "OPTIONS" { "*" } else { "/" };
        }
        facts.authority = authority.filter(|authority| !authority.is_empty());
        facts.host = authority.map(host_name).filter(|name| !name.is_empty());
        facts
    }
}

impl core::fmt::Debug for RequestFacts<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RequestFacts")
            .field("listener", &self.listener)
            .field("host", &self.host)
            .field("path", &self.path)
            .field("query", &self.query)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// The name in a `host[:port]`: without port and without the dot at the end. Letters keep their case; comparisons do
/// not regard it.
pub fn host_name(authority: &str) -> &str {
    let name = if authority.starts_with('[') {
        authority.find(']').and_then(|end| authority.get(..=end)).unwrap_or(authority)
    } else {
        authority.split_once(':').map_or(authority, |(name, _)| name)
    };
    name.strip_suffix('.').unwrap_or(name)
}
