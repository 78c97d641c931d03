//! Numbers for traces that begin here.

use baton_shared::http::TraceIds;
use std::hash::{BuildHasher, RandomState};

/// New ones.
pub(crate) fn trace_ids() -> TraceIds {
    // The standard library seeds each hasher from the system's random source.
    let random = |what: u8| RandomState::new().hash_one(what).max(1);
    TraceIds { trace: u128::from(random(0)) << 64 | u128::from(random(1)), parent: random(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike_and_none_is_zero() {
        let many: std::collections::HashSet<_> = (0..1000).map(|_| trace_ids().trace).collect();
        assert_eq!(many.len(), 1000);
        assert!((0..1000).map(|_| trace_ids()).all(|ids| ids.parent != 0 && ids.trace != 0));
    }
}
