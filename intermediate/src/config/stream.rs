//! What a listener has whose bytes are passed on as they are: times.

use super::limits::within;
use super::listener::{Listener, Protocol};
use baton_daemon::config::{Problems, Spanned};
use std::time::Duration;

/// An hour, in milliseconds; as long as agents keep a silent migrated flow by default.
const HOUR: u64 = 3_600_000;

/// Times of a connection that is relayed byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamTimes {
    /// For which a client of a TCP listener may say nothing before the server is asked to.
    pub silence: Duration,
    /// For which nothing may pass in either direction.
    pub idle: Duration,
}

impl Default for StreamTimes {
    fn default() -> Self {
        StreamTimes { silence: Duration::from_secs(1), idle: Duration::from_millis(HOUR) }
    }
}

impl Listener {
    /// As configured.
    pub fn times(&self) -> StreamTimes {
        let defaults = StreamTimes::default();
        let ms = |value: &Option<Spanned<u64>>, or| {
            value.as_ref().map_or(or, |v| Duration::from_millis(*v.get_ref()))
        };
        StreamTimes {
            silence: ms(&self.silence_ms, defaults.silence),
            idle: ms(&self.idle_ms, defaults.idle),
        }
    }

    pub(super) fn validate_stream(&self, problems: &mut Problems<'_>) {
        if let Some(silence) = &self.silence_ms {
            within(problems, "silence_ms", silence, 1..=HOUR);
            problems.require(
                silence,
                self.protocol() == Protocol::Tcp,
                "silence_ms means something only on a listener of protocol \"tcp\"",
            );
        }
        if let Some(idle) = &self.idle_ms {
            within(problems, "idle_ms", idle, 1..=24 * HOUR);
        }
        if let Some(keepalive) = &self.keepalive {
            problems.require(
                keepalive,
                self.protocol().is_http(),
                "keepalive is about requests: a listener of protocol \"tls\" or \"tcp\" reads none",
            );
        }
        if let (Some(mode), Protocol::Https) = (&self.mode, self.protocol()) {
            problems.require(
                mode,
                self.mode() == *mode.get_ref(),
                "what comes over TLS that ends here is proxied: mode \"proxy\", or protocol \"tls\" for TLS that ends at the target",
            );
        }
    }
}
