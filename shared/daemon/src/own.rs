//! This host's own addresses. A connection from one of them never passes a device's ingress, so no program sees it.

use crate::sys;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

/// As they were when they were last looked up: few, so that looking at them is less than hashing.
#[derive(Debug, Default)]
pub struct OwnAddresses(RwLock<BTreeSet<IpAddr>>);

impl OwnAddresses {
    /// Looked up now.
    pub fn new() -> Self {
        let own = OwnAddresses::default();
        own.look();
        own
    }

    /// Looks them up again; if the system does not tell, they stay what they were.
    pub fn look(&self) {
        match sys::device_addresses() {
            Ok(addresses) => {
                *self.0.write().unwrap_or_else(PoisonError::into_inner) = addresses.into_iter().collect();
            }
            Err(e) => tracing::warn!("getifaddrs: {e}"),
        }
    }

    /// Whether this is one of them. All of 127.0.0.0/8 is.
    pub fn has(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ones_own_and_a_documentation_address_is_not() {
        let own = OwnAddresses::new();
        assert!(own.0.read().unwrap().contains(&"127.0.0.1".parse().unwrap()));
        assert!(own.has("127.9.9.9".parse().unwrap()) && own.has("::1".parse().unwrap()));
        assert!(!own.has("192.0.2.1".parse().unwrap()) && !own.has("2001:db8::1".parse().unwrap()));
    }
}
