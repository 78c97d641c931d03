//! A complete, accepted head, and how to come by one.

use super::gate;
use super::{BodyScanner, HeadLimits, HeadScanner, Verdict};
use crate::reason::ProxyReason;
use core::ops::Range;

/// The protocol version of the request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: closes after the answer unless asked otherwise.
    Http10,
    /// HTTP/1.1: stays open unless asked otherwise.
    Http11,
}

/// How a request's body ends (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

impl Framing {
    /// Bytes of the request with a head of so many bytes: `u64::MAX` where only its body's coding tells.
    pub fn announced(self, head_bytes: usize) -> u64 {
        let head_bytes = u64::try_from(head_bytes).unwrap_or(u64::MAX);
        match self {
            Framing::None => head_bytes,
            Framing::Length(body) => body.saturating_add(head_bytes),
            Framing::Chunked => u64::MAX,
        }
    }
}

/// What the `Connection` header asked for (RFC 9110, section 7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `close`.
    pub close: bool,
    /// `keep-alive`, which means something to HTTP/1.0 only.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
}

/// What is known of an accepted head. Ranges are places in the bytes it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Where the request line starts: 0, or 2 behind an empty line that is not to be passed on.
    pub start: usize,
    /// Where the body starts.
    pub head_len: usize,
    /// The method.
    pub method: Range<usize>,
    /// The request target.
    pub target: Range<usize>,
    /// The version.
    pub version: Version,
    /// How the body ends.
    pub framing: Framing,
    /// What `Connection` said.
    pub connection: ConnectionOptions,
    /// There is an `Upgrade` header.
    pub upgrade: bool,
    /// The method is `CONNECT`.
    pub connect: bool,
    /// There is `Expect: 100-continue`.
    pub expect_continue: bool,
}

impl RequestHead {
    /// Method and target as they came, for logs and records. `bytes` are those the head was parsed from.
    pub fn request_line(&self, bytes: &[u8]) -> String {
        let line = bytes.get(self.method.start..self.target.end).unwrap_or_default();
        String::from_utf8_lossy(line).into_owned()
    }

    /// Whether its response has no body, whatever its head says (RFC 9110, section 9.3.2). `bytes` are those the head was parsed
    /// from.
    pub fn is_head(&self, bytes: &[u8]) -> bool {
        bytes.get(self.method.clone()) == Some(b"HEAD")
    }

    /// Whether its target is in origin form or `*`: as a server expects it (RFC 9112, sections 3.2.1 and 3.2.4). `bytes` are those
    /// the head was parsed from.
    pub fn is_in_origin_form(&self, bytes: &[u8]) -> bool {
        matches!(bytes.get(self.target.start), Some(b'/' | b'*'))
    }

    /// Whether the connection is one to migrate, or why it is not. CONNECT is not, nor HTTP/1.0 with keep-alive, whose
    /// answer may be one that only the connection's end delimits. An upgrade is told from `Tunnels`.
    pub fn migration(&self) -> Result<(), ProxyReason> {
        let old_keep_alive = self.version == Version::Http10 && self.connection.keep_alive;
        if self.connect || old_keep_alive {
            return Err(ProxyReason::MethodNotMigrated);
        }
        Ok(())
    }

    /// Whether `bytes`, those the head was parsed from, go on behind the request's end.
    pub fn is_followed(&self, bytes: &[u8]) -> bool {
        let rest = bytes.get(self.head_len..).unwrap_or_default();
        let mut body = BodyScanner::new(self.framing);
        matches!(body.advance(rest), Ok(taken) if body.is_done() && taken < rest.len())
    }

    /// Whether what follows this request may be another protocol, so that nothing can be said of it before the
    /// answer.
    pub fn may_switch(&self) -> bool {
        self.connect || (self.upgrade && self.connection.upgrade && self.version == Version::Http11)
    }
}

/// What the bytes that have arrived are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadStatus {
    /// So far nothing is wrong; more is needed.
    Incomplete,
    /// A head that passes the gate; what follows it in the bytes is body or the next request.
    Complete(RequestHead),
    /// To be answered and closed.
    Bad(Verdict),
}

/// Judges a head. Pure: the same bytes get the same verdict, and if a part of them from the start is `Bad` or
/// `Complete`, so are they, in the same way. Who reads piece by piece keeps a [`HeadScanner`] instead.
pub fn parse(bytes: &[u8], limits: &HeadLimits) -> HeadStatus {
    HeadScanner::new().status(bytes, limits)
}

impl HeadScanner {
    /// As [`parse`], without looking again at what was looked at. `bytes` as for [`HeadScanner::advance`].
    pub fn status(&mut self, bytes: &[u8], limits: &HeadLimits) -> HeadStatus {
        match self.advance(bytes, limits) {
            Err(rule) => HeadStatus::Bad(rule.into()),
            Ok(None) => HeadStatus::Incomplete,
            Ok(Some((start, end))) => match gate::judge(bytes, start, end, self.headers(), limits) {
                Ok(head) => HeadStatus::Complete(head),
                Err(rule) => HeadStatus::Bad(rule.into()),
            },
        }
    }
}

/// The lines of a head, each with its end.
pub(crate) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', head).map(move |at| {
        let line = head.get(start..=at).unwrap_or_default();
        start = at + 1;
        line
    })
}
