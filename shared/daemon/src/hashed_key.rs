//! A flow's key with its hash. Clients choose keys, so the hash has a key of its own that nobody knows; it is worked out once for each
//! key that comes, however many tables it is looked for in.

use baton_shared::record::FlowKey;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;

/// A key with its hash, the same in all tables of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedKey {
    key: FlowKey,
    hash: u64,
}

impl HashedKey {
    /// The key alone.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// The hash alone.
    pub fn hash(&self) -> u64 {
        self.hash
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

    use super::*;
    use baton_shared::addr::PortWord;
    use std::collections::HashMap;
    use std::net::IpAddr;

    #[test]
    fn keys_that_differ_have_hashes_of_their_own() {
        let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let (v4, other) = (IpAddr::from([203, 0, 113, 1]), IpAddr::from([203, 0, 113, 2]));
        let vip = IpAddr::from([192, 0, 2, 1]);
        let mut keys = HashMap::new();
        for (remote, local) in [(v4, vip), (other, vip), (vip, v4), (v6(1), v6(2)), (v6(2), v6(1))] {
            for (port, listener) in (1000..1100).map(|port| (port, 80)).chain([(80, 1000), (80, 80)]) {
                let key = FlowKey {
                    remote: remote.into(),
                    local: local.into(),
                    remote_port: PortWord::new(port),
                    local_port: PortWord::new(listener),
                };
                let hashed = HashedKey::from(key);
                assert_eq!((hashed, *hashed.key()), (HashedKey::from(key), key));
                assert_eq!(keys.insert(hashed.hash(), key), None);
            }
        }
    }
}
