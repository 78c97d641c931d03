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
    use std::net::IpAddr;

    #[test]
    fn a_key_is_found_by_its_equal_and_by_no_other() {
        let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let (v4, other) = (IpAddr::from([203, 0, 113, 1]), IpAddr::from([203, 0, 113, 2]));
        let vip = IpAddr::from([192, 0, 2, 1]);
        let mut keys = Vec::new();
        for (client, vip) in [(v4, vip), (other, vip), (vip, v4), (v6(1), v6(2)), (v6(2), v6(1))] {
            for (port, listener) in (1000..1100).map(|port| (port, 80)).chain([(80, 1000), (80, 80)]) {
                keys.push(flow_key((client, port).into(), (vip, listener).into()));
            }
        }
        let by_key: ByKey<FlowKey> = keys.iter().map(|key| (HashedKey::from(*key), *key)).collect();
        assert_eq!(by_key.len(), keys.len());
        assert!(keys.iter().all(|key| by_key.get(&HashedKey::from(*key)) == Some(key)));
        assert_eq!(by_key.get(&flow_key((v4, 1100).into(), (vip, 80).into()).into()), None);
    }
}
