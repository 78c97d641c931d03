//! `/v1/reasons`: reasons with their counts and what an operator does about them.

use crate::metrics::Reason;
use baton_shared::reason::PacketCounter;
use serde_json::{Value, json};

/// Each reason with its count.
pub fn counted<R: Reason>(all: &[R], count: impl Fn(R) -> u64) -> Vec<Value> {
    let one = |reason: &R| {
        json!({
            "name": reason.name(),
            "code": reason.code(),
            "count": count(*reason),
            "explanation": reason.explanation(),
        })
    };
    all.iter().map(one).collect()
}

/// What the data plane counted, each with whether such packets were dropped.
pub fn packets(counters: &[(PacketCounter, u64)]) -> Vec<Value> {
    let one = |(counter, count): &(PacketCounter, u64)| {
        json!({
            "name": counter.name(),
            "code": counter.code(),
            "count": count,
            "drop": counter.is_drop(),
            "explanation": counter.explanation(),
        })
    };
    counters.iter().map(one).collect()
}
