//! Numbers nobody can foresee.

use std::hash::{BuildHasher, RandomState};

/// One of them, never 0: that stands for none in a trace, and for a mere question on a control channel.
pub fn random() -> u64 {
    // The standard library seeds its hashers from the system's random source.
    RandomState::new().hash_one(0u8).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike_and_none_is_zero() {
        let many: std::collections::HashSet<_> = (0..1000).map(|_| random()).collect();
        assert!(many.len() == 1000 && !many.contains(&0));
    }
}
