//! Numbers for traces that begin here.

use baton_shared::http::TraceIds;
use std::hash::{BuildHasher, RandomState};

/// A random number that is not 0.
pub(super) fn random() -> u64 {
    // The standard library seeds each hasher from the system's random source.
    RandomState::new().hash_one(0u8).max(1)
}

/// New ones.
pub(crate) fn trace_ids() -> TraceIds {
    TraceIds { trace: u128::from(random()) << 64 | u128::from(random()), parent: random() }
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
