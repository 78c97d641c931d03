//! HTTP/1 as a strict front end must see it: heads, the gate against request smuggling, framing.
//!
//! Bytes in, verdicts out, no I/O. Whoever stands in front of servers he does not know must refuse whatever two
//! readers could read in two ways; so the gate is stricter than RFC 9112 asks, and says why it refused.
//!
//! - [`HeadScanner`] goes over a head byte by byte as it arrives and refuses at the first byte that is wrong, so
//!   that the verdict does not depend on how the bytes were cut into segments;
//! - [`RequestHead`] is what is known of a complete, accepted head;
//! - [`RequestStream`] follows a whole connection: head, body, head, ...

mod body;
mod gate;
mod head;
mod rewrite;
mod scan;
mod stream;

pub use body::BodyScanner;
pub use head::{ConnectionOptions, Framing, HeadStatus, RequestHead, Version, parse};
pub use rewrite::with_connection_close;
pub use scan::HeadScanner;
pub use stream::{RequestStream, Step, Switch};

use crate::reason::CloseReason;

/// What a head may be at most. All in bytes but for the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The whole head, with the empty line.
    pub head_bytes: usize,
    /// Header lines.
    pub header_count: usize,
    /// The request target.
    pub target_bytes: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits { head_bytes: 16384, header_count: 100, target_bytes: 8192 }
    }
}

/// Why a request is answered by us with an error and never reaches a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The status code of the answer.
    pub status: u16,
    /// Under what it is counted.
    pub reason: CloseReason,
    /// What was wrong, for the answer's body and the log. Names no byte of the request.
    pub detail: &'static str,
}

impl Verdict {
    /// 400: not HTTP, or ambiguous.
    pub const fn bad(detail: &'static str) -> Self {
        Verdict { status: 400, reason: CloseReason::BadRequest, detail }
    }

    /// 431: the head is over a limit.
    pub const fn too_large(detail: &'static str) -> Self {
        Verdict { status: 431, reason: CloseReason::HeadTooLarge, detail }
    }

    /// 414: the target is over its limit.
    pub const fn target_too_long() -> Self {
        let detail = "the request target is longer than this server accepts";
        Verdict { status: 414, reason: CloseReason::UriTooLong, detail }
    }

    /// 501: well-formed, but not to be had here.
    pub const fn not_implemented(detail: &'static str) -> Self {
        Verdict { status: 501, reason: CloseReason::NotImplemented, detail }
    }
}

#[cfg(test)]
mod tests;
