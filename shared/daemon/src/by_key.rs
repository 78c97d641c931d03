//! By flows' keys. Clients choose them, so their hash has a key of its own that nobody knows; it is worked out once for each
//! that comes, however many tables it is looked for in and however often they grow.

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
pub type ByKey<T> = HashMap<HashedKey, T, BuildHasherDefault<AsItIs>>;

impl HashedKey {
    /// The key alone.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }
}

impl From<FlowKey> for HashedKey {
    fn from(key: FlowKey) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = match of_ipv4(&key) {
            Some(number) => KEYS.hash_one(number),
            None => KEYS.hash_one(key),
        };
        HashedKey { key, hash }
    }
}

/// All that keys of IPv4 differ by, as one number: hashing it takes half the time.
fn of_ipv4(key: &FlowKey) -> Option<u128> {
    let FlowKey { remote, local, remote_port, local_port } = key;
    let words = [remote.v4_word(), local.v4_word(), u32::from(remote_port.0) << 16 | u32::from(local_port.0)];
    let number = words.iter().fold(0, |number, word| number << 32 | u128::from(*word));
    (remote.is_v4() && local.is_v4()).then_some(number)
}

impl Hash for HashedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Hashes what is a hash.
#[derive(Debug, Default)]
pub struct AsItIs(u64);

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
    use baton_shared::addr::{IpWords, PortWord};
    use std::collections::HashSet;
    use std::net::IpAddr;

    #[test]
    fn a_key_is_found_by_its_equal_and_by_no_other() {
        let key = |(remote, remote_port), (local, local_port)| FlowKey {
            remote: IpWords::from(remote),
            local: IpWords::from(local),
            remote_port: PortWord::new(remote_port),
            local_port: PortWord::new(local_port),
        };
        let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let (v4, other) = (IpAddr::from([203, 0, 113, 1]), IpAddr::from([203, 0, 113, 2]));
        let vip = IpAddr::from([192, 0, 2, 1]);
        let mut keys = Vec::new();
        for (client, vip) in [(v4, vip), (other, vip), (vip, v4), (v6(1), v6(2)), (v6(2), v6(1))] {
            for (port, listener) in (1000..1100).map(|port| (port, 80)).chain([(80, 1000), (80, 80)]) {
                keys.push(key((client, port), (vip, listener)));
            }
        }
        let by_key: ByKey<FlowKey> = keys.iter().map(|key| (HashedKey::from(*key), *key)).collect();
        assert_eq!(by_key.len(), keys.len());
        assert!(keys.iter().all(|key| by_key.get(&HashedKey::from(*key)) == Some(key)));
        let hashes: HashSet<u64> = keys.iter().map(|key| HashedKey::from(*key).hash).collect();
        assert_eq!(hashes.len(), keys.len(), "each has its own");
        assert_eq!(by_key.get(&key((v4, 1100), (vip, 80)).into()), None);
    }
}
