//! `[limits]` and `[handoff]`.

use crate::front::{FrontLimits, SlowLimits};
use baton_daemon::config::{Problems, Spanned};
use baton_shared::admission::{Network, SourceLimits};
use baton_shared::control::MAX_FRAME_BYTES;
use baton_shared::http::HeadLimits;
use baton_shared::pace::MinRate;
use baton_shared::route::RequestLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What the rest of a handoff's frame takes at most.
const FRAME_ROOM: usize = 4096;
/// An hour, in milliseconds.
const HOUR: u64 = 3_600_000;

// What keys may be, wherever they stand.
pub(super) const HEAD_BYTES: RangeInclusive<usize> = 256..=262_144;
pub(super) const HEADER_COUNT: RangeInclusive<usize> = 1..=1_000;
/// To what the proxy's HTTP library takes at most.
pub(super) const TARGET_BYTES: RangeInclusive<usize> = 16..=65_000;
pub(super) const HEAD_TIMEOUT_MS: RangeInclusive<u64> = 1..=HOUR;
pub(super) const IDLE_TIMEOUT_MS: RangeInclusive<u64> = 1..=24 * HOUR;
pub(super) const MIN_RATE: RangeInclusive<u64> = 0..=1 << 30;
pub(super) const BODY_BYTES: RangeInclusive<u64> = 0..=1 << 50;
pub(super) const BODY_GRACE_MS: RangeInclusive<u64> = 1..=HOUR;
pub(super) const CONNECT_TIMEOUT_MS: RangeInclusive<u64> = 1..=HOUR;
pub(super) const CONNECT_RETRIES: RangeInclusive<u32> = 0..=1_000;
pub(super) const CONNECTIONS_PER_SOURCE: RangeInclusive<u32> = 0..=10_000_000;
/// Of a server, or of a client that takes in a response.
pub(super) const SILENCE_MS: RangeInclusive<u64> = 1..=24 * HOUR;

/// `[limits]`: what a client may ask of us. All keys have defaults.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request head; over it 431.
    pub head_bytes: Spanned<usize>,
    /// Header lines of a request; over it 431.
    pub header_count: Spanned<usize>,
    /// Bytes of a request target; over it 414.
    pub target_bytes: Spanned<usize>,
    /// Milliseconds from accept to the complete head; of later heads, from their first byte.
    pub head_timeout_ms: Spanned<u64>,
    /// Milliseconds for which a kept connection that is proxied may go without a request.
    pub idle_timeout_ms: Spanned<u64>,
    /// Bytes of a request's body; over it 413; 0: any number.
    pub body_bytes: Spanned<u64>,
    /// Bytes per second that the body of a proxied request must come with while it is waited for; 0: any.
    pub body_min_rate: Spanned<u64>,
    /// Milliseconds for which it may be waited for without a byte, or as many bytes too few.
    pub body_grace_ms: Spanned<u64>,
    /// Bytes per second that the client of a proxied response must take in while there are any; 0: any. Its grace is
    /// `client_timeout_ms`.
    pub response_min_rate: Spanned<u64>,
    /// Bytes of a request that may have arrived before its handoff; with more it is proxied.
    pub prefetch_bytes: Spanned<usize>,
    /// Connections of the intermediate's own sockets. For one more, the one that has waited longest for its first
    /// request head is closed; if none waits, the new one.
    pub connections: Spanned<usize>,
    /// Connections of the intermediate's own sockets that one source may have; 0: any number.
    pub connections_per_source: Spanned<u32>,
    /// How many bits of an IPv4 address are the source.
    pub source_prefix_v4: Spanned<u8>,
    /// How many bits of an IPv6 address are the source.
    pub source_prefix_v6: Spanned<u8>,
    /// Addresses and networks to which that does not apply: other proxies, monitoring.
    pub source_exempt: Vec<Spanned<String>>,
    /// Milliseconds for a connection to one server to be made, when a request is proxied.
    pub connect_timeout_ms: Spanned<u64>,
    /// How many further servers are tried if one cannot be reached.
    pub connect_retries: Spanned<u32>,
    /// Milliseconds without progress before a proxied request is given up.
    pub upstream_timeout_ms: Spanned<u64>,
    /// Milliseconds a client of a proxied response may take in nothing before its connection is given up.
    pub client_timeout_ms: Spanned<u64>,
    /// Bytes held for one frozen flow.
    pub hold_bytes_per_flow: Spanned<usize>,
    /// Bytes held for all frozen flows.
    pub hold_bytes: Spanned<usize>,
}

/// A value of the program, not of the file.
fn default<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes: default(16_384),
            header_count: default(100),
            target_bytes: default(8_192),
            head_timeout_ms: default(10_000),
            idle_timeout_ms: default(60_000),
            body_bytes: default(0),
            body_min_rate: default(240),
            body_grace_ms: default(30_000),
            response_min_rate: default(240),
            prefetch_bytes: default(262_144),
            connections: default(10_000),
            connections_per_source: default(0),
            source_prefix_v4: default(32),
            source_prefix_v6: default(64),
            source_exempt: Vec::new(),
            connect_timeout_ms: default(3_000),
            connect_retries: default(10),
            upstream_timeout_ms: default(60_000),
            client_timeout_ms: default(60_000),
            hold_bytes_per_flow: default(4_194_304),
            hold_bytes: default(67_108_864),
        }
    }
}

fn ms(value: &Spanned<u64>) -> Duration {
    Duration::from_millis(*value.get_ref())
}

fn rate(rate: &Spanned<u64>, grace: &Spanned<u64>) -> MinRate {
    MinRate { bytes_per_second: *rate.get_ref(), grace_ns: grace.get_ref().saturating_mul(1_000_000) }
}

impl Limits {
    pub(super) fn validate(&self, problems: &mut Problems<'_>) {
        let mut check = |key, value: &Spanned<usize>, allowed| within(problems, key, value, allowed);
        check("head_bytes", &self.head_bytes, HEAD_BYTES);
        check("header_count", &self.header_count, HEADER_COUNT);
        check("target_bytes", &self.target_bytes, TARGET_BYTES);
        check("prefetch_bytes", &self.prefetch_bytes, 256..=MAX_FRAME_BYTES - FRAME_ROOM);
        check("connections", &self.connections, 1..=10_000_000);
        check("hold_bytes_per_flow", &self.hold_bytes_per_flow, 65_536..=1 << 30);
        check("hold_bytes", &self.hold_bytes, 65_536..=1 << 36);
        within(problems, "head_timeout_ms", &self.head_timeout_ms, HEAD_TIMEOUT_MS);
        within(problems, "idle_timeout_ms", &self.idle_timeout_ms, IDLE_TIMEOUT_MS);
        within(problems, "body_bytes", &self.body_bytes, BODY_BYTES);
        within(problems, "body_min_rate", &self.body_min_rate, MIN_RATE);
        within(problems, "body_grace_ms", &self.body_grace_ms, BODY_GRACE_MS);
        within(problems, "response_min_rate", &self.response_min_rate, MIN_RATE);
        within(problems, "connections_per_source", &self.connections_per_source, CONNECTIONS_PER_SOURCE);
        within(problems, "source_prefix_v4", &self.source_prefix_v4, 1..=32);
        within(problems, "source_prefix_v6", &self.source_prefix_v6, 1..=128);
        for network in &self.source_exempt {
            if let Err(e) = network.get_ref().parse::<Network>() {
                problems.with(network, format!("source_exempt: {:?} {e}", network.get_ref()));
            }
        }
        within(problems, "connect_timeout_ms", &self.connect_timeout_ms, CONNECT_TIMEOUT_MS);
        within(problems, "connect_retries", &self.connect_retries, CONNECT_RETRIES);
        within(problems, "upstream_timeout_ms", &self.upstream_timeout_ms, SILENCE_MS);
        within(problems, "client_timeout_ms", &self.client_timeout_ms, SILENCE_MS);
        not_over(problems, ("head_bytes", &self.head_bytes), ("prefetch_bytes", &self.prefetch_bytes));
        let per_flow = ("hold_bytes_per_flow", &self.hold_bytes_per_flow);
        not_over(problems, per_flow, ("hold_bytes", &self.hold_bytes));
    }
}

impl Limits {
    /// For the front; `connect` says whether CONNECT is to be had anywhere.
    pub fn front(&self, connect: bool) -> FrontLimits {
        FrontLimits {
            head: HeadLimits {
                head_bytes: *self.head_bytes.get_ref(),
                header_count: *self.header_count.get_ref(),
                target_bytes: *self.target_bytes.get_ref(),
                connect,
            },
            head_timeout: ms(&self.head_timeout_ms),
            slow: SlowLimits {
                idle: ms(&self.idle_timeout_ms),
                response: rate(&self.response_min_rate, &self.client_timeout_ms),
            },
            sources: self.sources(),
            connections: *self.connections.get_ref(),
            client_timeout: ms(&self.client_timeout_ms),
            request: RequestLimits {
                body_bytes: *self.body_bytes.get_ref(),
                body_rate: rate(&self.body_min_rate, &self.body_grace_ms),
                connect_timeout: ms(&self.connect_timeout_ms),
                connect_retries: *self.connect_retries.get_ref(),
                upstream_timeout: ms(&self.upstream_timeout_ms),
            },
        }
    }

    /// How many connections a source may have.
    pub fn sources(&self) -> SourceLimits {
        SourceLimits {
            connections: *self.connections_per_source.get_ref(),
            prefix_v4: *self.source_prefix_v4.get_ref(),
            prefix_v6: *self.source_prefix_v6.get_ref(),
        }
    }

    /// The networks to which that does not apply.
    pub fn source_exempt(&self) -> Vec<Network> {
        self.source_exempt.iter().filter_map(|network| network.get_ref().parse().ok()).collect()
    }
}

/// `[handoff]`: how long a handoff may take. All keys have defaults; milliseconds.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HandoffTimes {
    /// What the agent gets to feed the request to the server.
    pub deadline_ms: Spanned<u64>,
    /// How long a freeze binds if this daemon dies; then the client's packets pass to the ordinary stack.
    pub freeze_ms: Spanned<u64>,
    /// How long to wait for the word of an agent that is gone, before the client is reset.
    pub agent_lost_ms: Spanned<u64>,
}

impl Default for HandoffTimes {
    fn default() -> Self {
        HandoffTimes { deadline_ms: default(2_000), freeze_ms: default(4_000), agent_lost_ms: default(5_000) }
    }
}

impl HandoffTimes {
    pub(super) fn validate(&self, problems: &mut Problems<'_>) {
        within(problems, "deadline_ms", &self.deadline_ms, 1..=60_000);
        within(problems, "freeze_ms", &self.freeze_ms, 1..=120_000);
        within(problems, "agent_lost_ms", &self.agent_lost_ms, 1..=120_000);
        not_over(problems, ("deadline_ms", &self.deadline_ms), ("freeze_ms", &self.freeze_ms));
    }
}

pub(super) fn within<T: PartialOrd + Display + Copy>(
    problems: &mut Problems<'_>,
    key: &str,
    value: &Spanned<T>,
    allowed: RangeInclusive<T>,
) {
    let is = *value.get_ref();
    let right = allowed.contains(&is);
    let (least, most) = allowed.into_inner();
    problems.require(value, right, format!("{key} must be between {least} and {most}, is {is}"));
}

/// Two keys of which the one must not be larger than the other; told at the one the file names.
pub(super) fn not_over<T: PartialOrd + Display>(
    problems: &mut Problems<'_>,
    (small_key, small): (&str, &Spanned<T>),
    (large_key, large): (&str, &Spanned<T>),
) {
    let place = if small.span().is_empty() { large } else { small };
    let (small, large) = (small.get_ref(), large.get_ref());
    problems.require(
        place,
        small <= large,
        format!("{small_key} ({small}) must not be over {large_key} ({large}); raise that, too"),
    );
}
