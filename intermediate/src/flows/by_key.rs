//! By flows' keys. Clients choose them, so their hash has a key of its own that nobody knows; it is worked out once for each
//! that comes, however many tables it is looked for in.

use baton_shared::record::FlowKey;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::LazyLock;

/// A key with its hash, the same in all tables of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedKey {
    key: FlowKey,
    hash: u64,
}

/// By flows' keys.
pub(crate) type ByKey<T> = HashMap<HashedKey, T, BuildHasherDefault<AsItIs>>;

impl HashedKey {
    /// The key alone.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// The hash alone.
    pub(super) fn hashed(&self) -> u64 {
        self.hash
    }
}

impl From<FlowKey> for HashedKey {
    fn from(key: FlowKey) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        HashedKey { key, hash: KEYS.hash_one(key) }
    }
}

impl Hash for HashedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Hashes what is a hash.
#[derive(Debug, Default)]
pub(crate) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _: &[u8]) {
        debug_assert!(false, "nothing but a hash is hashed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::flow_key;

    #[test]
    fn a_key_is_found_by_its_equal_and_by_no_other() {
        let key = |port: u16| {
            HashedKey::from(flow_key(([203, 0, 113, 1], port).into(), ([192, 0, 2, 1], 80).into()))
        };
        let by_key: ByKey<u16> = (1000..1100).map(|port| (key(port), port)).collect();
        assert!((1000..1100).all(|port| by_key.get(&key(port)) == Some(&port)));
        assert_eq!(by_key.get(&key(1100)), None);
    }
}
