//! `/v1/reasons`: reasons with their counts and what an operator does about them.

use crate::metrics::Reason;
use baton_shared::reason::PacketCounter;
use serde_json::{Value, json};

/// Each reason with its count.
pub fn counted<R: Reason>(all: &[R], count: impl Fn(R) -> u64) -> Vec<Value> {
    all.iter().map(|reason| told(*reason, count(*reason))).collect()
}

/// What the data plane counted.
pub fn packets(counters: &[(PacketCounter, u64)]) -> Vec<Value> {
    counters.iter().map(|(counter, count)| told(*counter, *count)).collect()
}

fn told(reason: impl Reason, count: u64) -> Value {
    json!({
        "name": reason.name(),
        "code": reason.code(),
        "count": count,
        "telling": reason.is_telling(),
        "explanation": reason.explanation(),
    })
}
