//! The addresses of one server, and in which order they are tried.

use std::net::SocketAddr;

/// One server's addresses, at most one of each family. A flow keeps its family, so the client's says which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// Of the IPv4 socket.
    pub v4: Option<SocketAddr>,
    /// Of the IPv6 socket.
    pub v6: Option<SocketAddr>,
}

impl Servers {
    /// Each into the place of its family; a later one replaces an earlier one.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut servers = Servers::default();
        for address in addresses {
            let place = if address.is_ipv4() { &mut servers.v4 } else { &mut servers.v6 };
            *place = Some(address);
        }
        servers
    }

    /// The one that can take over connections of this VIP.
    pub fn for_vip(&self, vip: SocketAddr) -> Option<SocketAddr> {
        if vip.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// The one to connect to for a client of this VIP, of its family if there is such a one, where it gets migrated
    /// connections as well; and the other one, if there are two, to be tried only after all servers of its pool.
    pub fn towards(&self, vip: SocketAddr) -> Option<(SocketAddr, Option<SocketAddr>)> {
        let (own, other) = if vip.is_ipv4() { (self.v4, self.v6) } else { (self.v6, self.v4) };
        own.map(|own| (own, other)).or(other.map(|other| (other, None)))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = SocketAddr> {
        self.v4.into_iter().chain(self.v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vips_own_family_comes_first_and_the_only_one_serves_both() {
        let [v4, v6] =
            ["192.0.2.1:80", "[2001:db8::1]:80"].map(|address| address.parse::<SocketAddr>().unwrap());
        let both = Servers::new([v6, v4]);
        assert_eq!(both.iter().collect::<Vec<_>>(), [v4, v6]);
        assert_eq!((both.towards(v4), both.towards(v6)), (Some((v4, Some(v6))), Some((v6, Some(v4)))));
        let only = Servers::new([v6]);
        assert_eq!((only.towards(v4), only.towards(v6)), (Some((v6, None)), Some((v6, None))));
        assert_eq!((only.for_vip(v4), only.for_vip(v6)), (None, Some(v6)));
        assert_eq!(Servers::default().towards(v4), None);
    }
}
