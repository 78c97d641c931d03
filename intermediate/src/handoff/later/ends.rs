//! The two ends of a connection, kept in as little room as their family takes.

use crate::flows::flow_key;
use baton_shared::record::FlowKey;
use std::net::{SocketAddr, SocketAddrV4};

/// The client's address and port, and those it connected to.
#[derive(Debug)]
pub(super) enum Ends {
    V4(SocketAddrV4, SocketAddrV4),
    /// Apart, as what is larger than all the rest.
    V6(Box<FlowKey>),
}

impl Ends {
    pub(super) fn of(key: &FlowKey) -> Self {
        match (key.remote_addr(), key.local_addr()) {
            (SocketAddr::V4(client), SocketAddr::V4(vip)) => Ends::V4(client, vip),
            _ => Ends::V6(Box::new(*key)),
        }
    }

    pub(super) fn client(&self) -> SocketAddr {
        match self {
            Ends::V4(client, _) => SocketAddr::V4(*client),
            Ends::V6(key) => key.remote_addr(),
        }
    }

    pub(super) fn vip(&self) -> SocketAddr {
        match self {
            Ends::V4(_, vip) => SocketAddr::V4(*vip),
            Ends::V6(key) => key.local_addr(),
        }
    }

    pub(super) fn key(&self) -> FlowKey {
        flow_key(self.client(), self.vip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_those_of_the_key_in_both_families() {
        for (client, vip) in [("192.0.2.1:1000", "192.0.2.2:80"), ("[2001:db8::1]:1000", "[2001:db8::2]:80")]
        {
            let (client, vip) = (client.parse().unwrap(), vip.parse().unwrap());
            let ends = Ends::of(&flow_key(client, vip));
            assert_eq!((ends.client(), ends.vip(), ends.key()), (client, vip, flow_key(client, vip)));
        }
    }
}
