//! What is asked of a request, and of the server that gets it, once it is known which route takes it.

use crate::http::Framing;
use crate::pace::MinRate;
use std::time::Duration;

/// In force for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes of its body; 0: any number.
    pub body_bytes: u64,
    /// How fast a body must come.
    pub body_rate: MinRate,
    /// For a connection to one server to be made.
    pub connect_timeout: Duration,
    /// How many further servers are tried if one cannot be reached.
    pub connect_retries: u32,
    /// Without progress on the way to a server or from it.
    pub upstream_timeout: Duration,
}

/// What of these limits a route says itself; the rest is its listener's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnLimits {
    /// See [`RequestLimits::body_bytes`].
    pub body_bytes: Option<u64>,
    /// Bytes per second of a body; 0: any.
    pub body_min_rate: Option<u64>,
    /// How long a body may be waited for without a byte, or with as many too few.
    pub body_grace: Option<Duration>,
    /// See [`RequestLimits::connect_timeout`].
    pub connect_timeout: Option<Duration>,
    /// See [`RequestLimits::connect_retries`].
    pub connect_retries: Option<u32>,
    /// See [`RequestLimits::upstream_timeout`].
    pub upstream_timeout: Option<Duration>,
}

/// What is to be done about a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyVerdict {
    /// It is none of our business how long it is, or it is known to fit.
    Fits,
    /// Its length is told by its end alone: it must be counted as it comes, and so proxied.
    Count,
    /// It is known to be too long: answered 413.
    TooLarge,
}

impl RequestLimits {
    /// With what a route says itself in its place.
    #[must_use]
    pub fn with(self, own: &OwnLimits) -> Self {
        let grace = own.body_grace.map(|grace| u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX));
        RequestLimits {
            body_bytes: own.body_bytes.unwrap_or(self.body_bytes),
            body_rate: MinRate {
                bytes_per_second: own.body_min_rate.unwrap_or(self.body_rate.bytes_per_second),
                grace_ns: grace.unwrap_or(self.body_rate.grace_ns),
            },
            connect_timeout: own.connect_timeout.unwrap_or(self.connect_timeout),
            connect_retries: own.connect_retries.unwrap_or(self.connect_retries),
            upstream_timeout: own.upstream_timeout.unwrap_or(self.upstream_timeout),
        }
    }

    /// Of a body that is framed like this.
    pub fn judge_body(&self, framing: Framing) -> BodyVerdict {
        match framing {
            _ if self.body_bytes == 0 => BodyVerdict::Fits,
            Framing::None => BodyVerdict::Fits,
            Framing::Length(length) if length <= self.body_bytes => BodyVerdict::Fits,
            Framing::Length(_) => BodyVerdict::TooLarge,
            Framing::Chunked => BodyVerdict::Count,
        }
    }

    /// Whether so many bytes of a body are too many.
    pub fn is_over(&self, body_bytes: u64) -> bool {
        self.body_bytes > 0 && body_bytes > self.body_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RequestLimits = RequestLimits {
        body_bytes: 100,
        body_rate: MinRate { bytes_per_second: 10, grace_ns: 5 },
        connect_timeout: Duration::from_secs(1),
        connect_retries: 2,
        upstream_timeout: Duration::from_secs(3),
    };

    #[test]
    fn a_body_is_judged_by_its_length_and_counted_where_it_says_none() {
        let judge = |framing| LIMITS.judge_body(framing);
        assert_eq!(judge(Framing::None), BodyVerdict::Fits);
        assert_eq!(judge(Framing::Length(100)), BodyVerdict::Fits);
        assert_eq!(judge(Framing::Length(101)), BodyVerdict::TooLarge);
        assert_eq!(judge(Framing::Length(u64::MAX)), BodyVerdict::TooLarge);
        assert_eq!(judge(Framing::Chunked), BodyVerdict::Count);
        assert!(!LIMITS.is_over(100) && LIMITS.is_over(101));
        let any = RequestLimits { body_bytes: 0, ..LIMITS };
        for framing in [Framing::None, Framing::Length(u64::MAX), Framing::Chunked] {
            assert_eq!(any.judge_body(framing), BodyVerdict::Fits);
        }
        assert!(!any.is_over(u64::MAX));
    }

    #[test]
    fn what_a_route_says_is_in_force_and_the_rest_as_it_was() {
        assert_eq!(LIMITS.with(&OwnLimits::default()), LIMITS);
        let own = OwnLimits { body_bytes: Some(0), body_grace: Some(Duration::MAX), ..OwnLimits::default() };
        let rate = MinRate { bytes_per_second: 10, grace_ns: u64::MAX };
        assert_eq!(LIMITS.with(&own), RequestLimits { body_bytes: 0, body_rate: rate, ..LIMITS });
        let all = OwnLimits {
            body_bytes: Some(1),
            body_min_rate: Some(0),
            body_grace: Some(Duration::from_nanos(7)),
            connect_timeout: Some(Duration::from_secs(8)),
            connect_retries: Some(0),
            upstream_timeout: Some(Duration::from_secs(9)),
        };
        let with = RequestLimits {
            body_bytes: 1,
            body_rate: MinRate { bytes_per_second: 0, grace_ns: 7 },
            connect_timeout: Duration::from_secs(8),
            connect_retries: 0,
            upstream_timeout: Duration::from_secs(9),
        };
        assert_eq!(LIMITS.with(&all), with);
    }
}
