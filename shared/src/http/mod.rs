//! HTTP/1 as a strict front end must see it: heads, the gate against request smuggling, framing.
//!
//! Bytes in, verdicts out, no I/O. Whoever stands in front of servers he does not know must refuse whatever two
//! readers could read in two ways; so the gate is stricter than RFC 9112 asks, and says why it refused.
//!
//! - [`HeadScanner`] goes over a head byte by byte as it arrives and refuses at the first byte that is wrong, so
//!   that the verdict does not depend on how the bytes were cut into segments;
//! - [`RequestHead`] is what is known of a complete, accepted head;
//! - [`RequestStream`] follows a whole connection: head, body, head, ...
//! - [`ResponseStream`] follows what the server answers, to know where each response ends.

mod body;
mod changes;
mod conduct;
mod downgrade;
mod gate;
mod head;
mod response;
mod rewrite;
mod rule;
mod scan;
mod statuses;
mod stream;
mod target;
mod traceparent;
mod tunnels;

pub use body::BodyScanner;
pub use changes::{Edits, Forwarded, HeaderChanges, Origin, TraceIds, check_change};
pub use conduct::Conduct;
pub use downgrade::{Http2Head, to_http11};
pub(crate) use head::lines;
pub use head::{ConnectionOptions, Framing, HeadStatus, RequestHead, Version, parse};
pub use response::{ResponseStream, Standing};
pub use rewrite::canonical;
pub use rule::{GateRule, Verdict};
pub use scan::HeadScanner;
pub use statuses::{KEPT_STATUSES, Statuses};
pub use stream::{RequestStream, Step, Switch};
pub use traceparent::{TraceParent, is_sampled};
pub use tunnels::{Tunnel, Tunnels, UPGRADE_LINES, check_upgrade, is_switch};

use scan::is_token;

/// Whether a text is a token (RFC 9110, section 5.6.2), as methods and header names are.
pub fn is_token_text(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token)
}

/// What a head may be at most, in bytes but for the count, and what it may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The whole head, with the empty line.
    pub head_bytes: usize,
    /// Header lines.
    pub header_count: usize,
    /// The request target.
    pub target_bytes: usize,
    /// Whether CONNECT is a request like another; else it is refused.
    pub connect: bool,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits { head_bytes: 16384, header_count: 100, target_bytes: 8192, connect: false }
    }
}

#[cfg(test)]
mod tests;
