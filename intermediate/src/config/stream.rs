//! What concerns bytes that are passed on as they are: times, and which requests may lead there.

use super::limits::within;
use super::listener::{Listener, Protocol};
use baton_daemon::config::{Problems, Spanned};
use baton_shared::http::{Tunnels, check_upgrade};
use std::sync::Arc;
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

/// Reports names of protocols that cannot be.
pub(super) fn validate_upgrade(upgrade: Option<&Vec<Spanned<String>>>, problems: &mut Problems<'_>) {
    for protocol in upgrade.into_iter().flatten() {
        if let Err(e) = check_upgrade(protocol.get_ref()) {
            problems.with(protocol, e);
        }
    }
}

/// The names alone.
pub(super) fn protocols(upgrade: &[Spanned<String>]) -> Arc<[String]> {
    upgrade.iter().map(|protocol| protocol.get_ref().clone()).collect()
}

impl Listener {
    /// What its routes let through if they say nothing else.
    pub fn tunnels(&self) -> Tunnels {
        let upgrade = self.upgrade.as_ref().map(|upgrade| protocols(upgrade)).unwrap_or_default();
        Tunnels { upgrade, connect: self.connect.as_ref().is_some_and(|connect| *connect.get_ref()) }
    }

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
        if let Some(deferred) = self.defer_accept.as_ref().filter(|deferred| *deferred.get_ref()) {
            problems.require(
                deferred,
                self.protocol() != Protocol::Tcp,
                "defer_accept is for clients that speak first: on a listener of protocol \"tcp\" silence_ms lets the server",
            );
        }
        if let Some(idle) = &self.idle_ms {
            within(problems, "idle_ms", idle, 1..=24 * HOUR);
        }
        validate_upgrade(self.upgrade.as_ref(), problems);
        let tunnels = [
            self.upgrade.as_ref().and_then(|u| u.first()).map(Spanned::span),
            self.connect.as_ref().map(Spanned::span),
        ];
        if let (Some(place), false) = (tunnels.into_iter().flatten().next(), self.protocol().is_http()) {
            problems.at(place, "upgrade and connect are about requests: a listener of protocol \"tls\" or \"tcp\" reads none");
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
