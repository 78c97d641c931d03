//! The value of a sticky cookie: tells the pool's member to those who know the configuration, and nobody else anything.

use sha2::{Digest, Sha256};

/// Hexadecimal digits of a value: 80 bits, so that a guess does not hit.
const DIGITS: usize = 20;

/// What a pool's cookie values are made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyKey {
    /// Configured; all intermediates of a site must have the same. Without one, who guesses a target's name can check
    /// the guess.
    pub secret: String,
    /// The pool's name: the same target has another value in another pool.
    pub pool: String,
}

/// The value that leads to this member.
pub fn cookie_value(key: &StickyKey, target: &str) -> String {
    let mut digest = Sha256::new();
    for part in ["baton sticky 1", &key.secret, &key.pool, target] {
        // The length first: no two different lists give the same bytes.
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        digest.update(part.as_bytes());
    }
    let mut text: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(DIGITS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_by_secret_pool_and_target_and_are_opaque() {
        let key = |secret: &str, pool: &str| StickyKey { secret: secret.into(), pool: pool.into() };
        let all = [
            cookie_value(&key("", "static"), "web1"),
            cookie_value(&key("", "static"), "web2"),
            cookie_value(&key("", "api"), "web1"),
            cookie_value(&key("s", "static"), "web1"),
            cookie_value(&key("st", "atic"), "web1"),
        ];
        for (n, a) in all.iter().enumerate() {
            assert_eq!(a.len(), DIGITS);
            assert!(a.bytes().all(|b| b.is_ascii_hexdigit()));
            assert!(all[n + 1..].iter().all(|b| a != b));
        }
        assert_eq!(all[0], cookie_value(&key("", "static"), "web1"), "the same in every run");
    }
}
