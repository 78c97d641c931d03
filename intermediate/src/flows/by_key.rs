//! By flows' keys, which come with their hash.

pub use baton_daemon::hashed_key::HashedKey;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// By flows' keys.
pub(crate) type ByKey<T> = HashMap<HashedKey, T, BuildHasherDefault<AsItIs>>;

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
    use baton_shared::record::FlowKey;

    #[test]
    fn a_key_is_found_by_its_equal_and_by_no_other() {
        let of = |port: u16| flow_key(([203, 0, 113, 1], port).into(), ([192, 0, 2, 1], 80).into());
        let keys: Vec<FlowKey> = (1000..1100).map(of).collect();
        let by_key: ByKey<FlowKey> = keys.iter().map(|key| (HashedKey::from(*key), *key)).collect();
        assert_eq!(by_key.len(), keys.len());
        assert!(keys.iter().all(|key| by_key.get(&HashedKey::from(*key)) == Some(key)));
        assert_eq!(by_key.get(&of(1100).into()), None);
    }
}
