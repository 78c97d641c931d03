//! By which device the kernel would send from one address to another: one question of rtnetlink(7).

use baton_userspace::netlink::numbers::{ROUTE, RTA_DST, RTA_OIF, RTA_SRC, RTM_GETROUTE};
use baton_userspace::netlink::{Message, Netlink, attributes, bits, family, number};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// Whether the host sends from an address. The kernel asks that of IPv4's alone, and has no error for it alone; to itself it
/// has a way.
pub(super) fn is_source(address: IpAddr) -> bool {
    address.is_ipv6() || device_towards(Ipv4Addr::LOCALHOST.into(), address).is_ok()
}

/// The number of the device by which packets from `source`, one of this host's addresses ([`is_source`]) and of the same version
/// of IP, leave for `address`: rules may route by it.
///
/// # Errors
/// `NetworkUnreachable` and the like if there is no route; those of the socket.
pub(super) fn device_towards(address: IpAddr, source: IpAddr) -> io::Result<u32> {
    let mut question = Message::new(&[family(address), bits(address), bits(source)], ROUTE);
    question.address(RTA_DST, address);
    question.address(RTA_SRC, source);
    let answer = Netlink::open()?.ask(RTM_GETROUTE, 0, &question)?;
    let device = attributes(answer.get(ROUTE..).unwrap_or_default()).find(|(kind, _)| *kind == RTA_OIF);
    device.and_then(|(_, value)| number(value)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NetworkUnreachable, "the route has no device (blackhole)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_ones_own_address_is_the_loopback_device() {
        let number: u32 =
            std::fs::read_to_string("/sys/class/net/lo/ifindex").unwrap().trim().parse().unwrap();
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(device_towards(own, own).unwrap(), number);
        assert!(is_source(own) && !is_source("192.0.2.77".parse().unwrap()));
    }
}
