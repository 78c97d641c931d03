//! `[listener.limits]` and `[route.limits]`: limits other than those of all. What must be known before a request's route
//! is known can be a listener's alone.

use super::limits::{
    BODY_BYTES, BODY_GRACE_MS, CONNECT_RETRIES, CONNECT_TIMEOUT_MS, CONNECTIONS_PER_SOURCE, HEAD_BYTES,
    HEAD_TIMEOUT_MS, HEADER_COUNT, IDLE_TIMEOUT_MS, Limits, MIN_RATE, SILENCE_MS, TARGET_BYTES, not_over,
    within,
};
use super::listener::{Listener, Protocol};
use baton_daemon::config::{Problems, Spanned};
use baton_shared::route::OwnLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

/// `[listener.limits]`: as `[limits]` where a key is not given.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerLimits {
    /// Bytes of a request head; over it 431.
    pub head_bytes: Option<Spanned<usize>>,
    /// Header lines of a request; over it 431.
    pub header_count: Option<Spanned<usize>>,
    /// Bytes of a request target; over it 414.
    pub target_bytes: Option<Spanned<usize>>,
    /// Milliseconds from accept to the complete head (of "tls" the ClientHello); of later heads, from their first byte.
    pub head_timeout_ms: Option<Spanned<u64>>,
    /// Milliseconds for which a kept connection that is proxied may go without a request.
    pub idle_timeout_ms: Option<Spanned<u64>>,
    /// Bytes per second that the client of a proxied response must take in; 0: any.
    pub response_min_rate: Option<Spanned<u64>>,
    /// Milliseconds a client of a proxied response may take in nothing.
    pub client_timeout_ms: Option<Spanned<u64>>,
    /// Connections that one source may have here, counted apart from those of other listeners; 0: any number.
    pub connections_per_source: Option<Spanned<u32>>,
    /// Bytes of a request's body; over it 413; 0: any number.
    pub body_bytes: Option<Spanned<u64>>,
    /// Bytes per second that the body of a proxied request must come with; 0: any.
    pub body_min_rate: Option<Spanned<u64>>,
    /// Milliseconds for which it may be waited for without a byte, or as many bytes too few.
    pub body_grace_ms: Option<Spanned<u64>>,
    /// Milliseconds for a connection to one server to be made.
    pub connect_timeout_ms: Option<Spanned<u64>>,
    /// How many further servers are tried if one cannot be reached.
    pub connect_retries: Option<Spanned<u32>>,
    /// Milliseconds without progress before a proxied request is given up.
    pub upstream_timeout_ms: Option<Spanned<u64>>,
}

/// `[route.limits]`: as the listener's where a key is not given.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteLimits {
    /// Bytes of a request's body; over it 413; 0: any number.
    pub body_bytes: Option<Spanned<u64>>,
    /// Bytes per second that the body of a proxied request must come with; 0: any.
    pub body_min_rate: Option<Spanned<u64>>,
    /// Milliseconds for which it may be waited for without a byte, or as many bytes too few.
    pub body_grace_ms: Option<Spanned<u64>>,
    /// Milliseconds for a connection to one server to be made.
    pub connect_timeout_ms: Option<Spanned<u64>>,
    /// How many further servers are tried if one cannot be reached.
    pub connect_retries: Option<Spanned<u32>>,
    /// Milliseconds without progress before a proxied request is given up.
    pub upstream_timeout_ms: Option<Spanned<u64>>,
}

fn check<T: PartialOrd + Display + Copy>(
    problems: &mut Problems<'_>,
    key: &str,
    value: Option<&Spanned<T>>,
    allowed: RangeInclusive<T>,
) {
    if let Some(value) = value {
        within(problems, key, value, allowed);
    }
}

fn place<T>(value: Option<&Spanned<T>>) -> Option<Range<usize>> {
    value.map(Spanned::span)
}

fn put<T: Clone>(into: &mut T, own: Option<&T>) {
    if let Some(own) = own {
        into.clone_from(own);
    }
}

fn ms(value: Option<&Spanned<u64>>) -> Option<Duration> {
    value.map(|ms| Duration::from_millis(*ms.get_ref()))
}

fn is<T: Copy>(value: Option<&Spanned<T>>) -> Option<T> {
    value.map(|value| *value.get_ref())
}

impl RouteLimits {
    /// For the route.
    pub(super) fn own(&self) -> OwnLimits {
        OwnLimits {
            body_bytes: is(self.body_bytes.as_ref()),
            body_min_rate: is(self.body_min_rate.as_ref()),
            body_grace: ms(self.body_grace_ms.as_ref()),
            connect_timeout: ms(self.connect_timeout_ms.as_ref()),
            connect_retries: is(self.connect_retries.as_ref()),
            upstream_timeout: ms(self.upstream_timeout_ms.as_ref()),
        }
    }

    pub(super) fn validate(&self, problems: &mut Problems<'_>) {
        check(problems, "body_bytes", self.body_bytes.as_ref(), BODY_BYTES);
        check(problems, "body_min_rate", self.body_min_rate.as_ref(), MIN_RATE);
        check(problems, "body_grace_ms", self.body_grace_ms.as_ref(), BODY_GRACE_MS);
        check(problems, "connect_timeout_ms", self.connect_timeout_ms.as_ref(), CONNECT_TIMEOUT_MS);
        check(problems, "connect_retries", self.connect_retries.as_ref(), CONNECT_RETRIES);
        check(problems, "upstream_timeout_ms", self.upstream_timeout_ms.as_ref(), SILENCE_MS);
    }
}

impl ListenerLimits {
    /// Those of all, with these in their place.
    pub(super) fn over(&self, all: &Limits) -> Limits {
        let mut limits = all.clone();
        put(&mut limits.head_bytes, self.head_bytes.as_ref());
        put(&mut limits.header_count, self.header_count.as_ref());
        put(&mut limits.target_bytes, self.target_bytes.as_ref());
        put(&mut limits.head_timeout_ms, self.head_timeout_ms.as_ref());
        put(&mut limits.idle_timeout_ms, self.idle_timeout_ms.as_ref());
        put(&mut limits.response_min_rate, self.response_min_rate.as_ref());
        put(&mut limits.client_timeout_ms, self.client_timeout_ms.as_ref());
        put(&mut limits.connections_per_source, self.connections_per_source.as_ref());
        put(&mut limits.body_bytes, self.body_bytes.as_ref());
        put(&mut limits.body_min_rate, self.body_min_rate.as_ref());
        put(&mut limits.body_grace_ms, self.body_grace_ms.as_ref());
        put(&mut limits.connect_timeout_ms, self.connect_timeout_ms.as_ref());
        put(&mut limits.connect_retries, self.connect_retries.as_ref());
        put(&mut limits.upstream_timeout_ms, self.upstream_timeout_ms.as_ref());
        limits
    }

    /// Each key written out, as they are in force; connections are counted apart only if they were before.
    pub(super) fn effective(own: Option<&Self>, all: &Limits) -> Self {
        let limits = own.map_or_else(|| all.clone(), |own| own.over(all));
        ListenerLimits {
            head_bytes: Some(limits.head_bytes),
            header_count: Some(limits.header_count),
            target_bytes: Some(limits.target_bytes),
            head_timeout_ms: Some(limits.head_timeout_ms),
            idle_timeout_ms: Some(limits.idle_timeout_ms),
            response_min_rate: Some(limits.response_min_rate),
            client_timeout_ms: Some(limits.client_timeout_ms),
            connections_per_source: own.and_then(|own| own.connections_per_source.clone()),
            body_bytes: Some(limits.body_bytes),
            body_min_rate: Some(limits.body_min_rate),
            body_grace_ms: Some(limits.body_grace_ms),
            connect_timeout_ms: Some(limits.connect_timeout_ms),
            connect_retries: Some(limits.connect_retries),
            upstream_timeout_ms: Some(limits.upstream_timeout_ms),
        }
    }

    fn validate(&self, all: &Limits, problems: &mut Problems<'_>) {
        check(problems, "head_bytes", self.head_bytes.as_ref(), HEAD_BYTES);
        check(problems, "header_count", self.header_count.as_ref(), HEADER_COUNT);
        check(problems, "target_bytes", self.target_bytes.as_ref(), TARGET_BYTES);
        check(problems, "head_timeout_ms", self.head_timeout_ms.as_ref(), HEAD_TIMEOUT_MS);
        check(problems, "idle_timeout_ms", self.idle_timeout_ms.as_ref(), IDLE_TIMEOUT_MS);
        check(problems, "response_min_rate", self.response_min_rate.as_ref(), MIN_RATE);
        check(problems, "client_timeout_ms", self.client_timeout_ms.as_ref(), SILENCE_MS);
        check(
            problems,
            "connections_per_source",
            self.connections_per_source.as_ref(),
            CONNECTIONS_PER_SOURCE,
        );
        self.of_requests().validate(problems);
        if let Some(head_bytes) = &self.head_bytes {
            not_over(problems, ("head_bytes", head_bytes), ("prefetch_bytes", &all.prefetch_bytes));
        }
    }

    /// Those that a route could have as well.
    fn of_requests(&self) -> RouteLimits {
        RouteLimits {
            body_bytes: self.body_bytes.clone(),
            body_min_rate: self.body_min_rate.clone(),
            body_grace_ms: self.body_grace_ms.clone(),
            connect_timeout_ms: self.connect_timeout_ms.clone(),
            connect_retries: self.connect_retries.clone(),
            upstream_timeout_ms: self.upstream_timeout_ms.clone(),
        }
    }

    /// The first of those that mean something only where requests are read.
    fn about_requests(&self) -> Option<Range<usize>> {
        let places = [
            place(self.head_bytes.as_ref()),
            place(self.header_count.as_ref()),
            place(self.target_bytes.as_ref()),
            place(self.idle_timeout_ms.as_ref()),
            place(self.response_min_rate.as_ref()),
            place(self.client_timeout_ms.as_ref()),
            place(self.body_bytes.as_ref()),
            place(self.body_min_rate.as_ref()),
            place(self.body_grace_ms.as_ref()),
            place(self.upstream_timeout_ms.as_ref()),
        ];
        places.into_iter().flatten().min_by_key(|place| place.start)
    }
}

impl Listener {
    pub(super) fn validate_limits(&self, all: &Limits, problems: &mut Problems<'_>) {
        let Some(own) = &self.limits else { return };
        own.validate(all, problems);
        if let (Some(place), false) = (own.about_requests(), self.protocol().is_http()) {
            problems.at(
                place,
                "this limit is about requests: a listener of protocol \"tls\" or \"tcp\" reads none",
            );
        }
        if let (Some(head), Protocol::Tcp) = (&own.head_timeout_ms, self.protocol()) {
            problems.with(head, "nothing is read on a listener of protocol \"tcp\": its silence_ms says how long a client may say nothing");
        }
    }
}
