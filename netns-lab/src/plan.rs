//! Names and addresses: the same in every lab, since each lab has namespaces of its own.

use crate::spec::Family;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::PathBuf;

/// Where labs keep what lives as long as they do: state, configurations, certificates, logs, sockets, bpffs.
pub const RUN_BASE: &str = "/run/baton-lab";
/// Where labs keep what is large: the files nginx serves and what is uploaded. Not in /run, which is often small memory.
pub const DATA_BASE: &str = "/var/lib/baton-lab";
/// Where iproute2 mounts namespaces.
pub const NETNS_BASE: &str = "/run/netns";

/// The router's name.
pub const ROUTER: &str = "router";
/// The intermediate's name.
pub const INTERMEDIATE: &str = "intermediate";
/// The address clients connect to.
pub const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 90, 1, 100), 80);
/// The intermediate's own address.
pub const INTERMEDIATE_ADDR: Ipv4Addr = Ipv4Addr::new(10, 90, 1, 2);
/// The IPv6 address clients connect to.
pub const VIP6: SocketAddrV6 = SocketAddrV6::new(addr6(1, 0x100), 80, 0, 0);
/// The intermediate's own IPv6 address.
pub const INTERMEDIATE_ADDR6: Ipv6Addr = addr6(1, 2);
/// The port agents wait on for the control channel.
pub const CONTROL_PORT: u16 = 7400;
/// Where nginx on a target swallows bodies that were POSTed to /upload.
pub const SINK: &str = "127.0.0.1:8081";

/// The name of client `i`, counted from 1.
pub fn client(i: u8) -> String {
    format!("client{i}")
}

/// The name of target `j`, counted from 1.
pub fn target(j: u8) -> String {
    format!("target{j}")
}

/// The address of client `i`, counted from 1, at most [`crate::spec::MOST_NODES`].
pub fn client_addr(i: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 10 + i, 2)
}

/// The address of target `j`, counted from 1, at most [`crate::spec::MOST_NODES`].
pub fn target_addr(j: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 100 + j, 2)
}

/// `fd90:SUBNET::HOST`.
const fn addr6(subnet: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd90, subnet, 0, 0, 0, 0, 0, host)
}

/// A number with the same digits in hexadecimal: 10.90.101.2 and fd90:101::2 are the same node.
const fn spelt(n: u8) -> u16 {
    let n = n as u16;
    n / 100 * 0x100 + n / 10 % 10 * 0x10 + n % 10
}

/// The IPv6 address of client `i`, as [`client_addr`].
pub fn client_addr6(i: u8) -> Ipv6Addr {
    addr6(spelt(10 + i), 2)
}

/// The IPv6 address of target `j`, as [`target_addr`].
pub fn target_addr6(j: u8) -> Ipv6Addr {
    addr6(spelt(100 + j), 2)
}

/// The VIPs of a lab, IPv4 first.
pub fn vips(family: Family) -> Vec<SocketAddr> {
    family.of(VIP, VIP6)
}

/// The addresses of target `j`, IPv4 first.
pub fn target_addrs(family: Family, j: u8) -> Vec<IpAddr> {
    family.of(target_addr(j), target_addr6(j))
}

/// The router's address in the subnet of `node`.
pub fn router_addr(node: IpAddr) -> IpAddr {
    match node {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Ipv4Addr::new(a, b, c, 1).into()
        }
        IpAddr::V6(v6) => addr6(v6.segments()[1], 1).into(),
    }
}

/// The namespace of a node.
pub fn netns_name(lab: &str, node: &str) -> String {
    format!("baton-{lab}-{node}")
}

/// The file a namespace is mounted on.
pub fn netns_path(netns: &str) -> PathBuf {
    PathBuf::from(NETNS_BASE).join(netns)
}

/// A lab's run directory.
pub fn run_dir(lab: &str) -> PathBuf {
    PathBuf::from(RUN_BASE).join(lab)
}

/// A lab's directory for large things.
pub fn data_dir(lab: &str) -> PathBuf {
    PathBuf::from(DATA_BASE).join(lab)
}

/// Whether this is a name a lab gives to a node.
pub fn is_node(name: &str) -> bool {
    let numbered = |kind: &str| {
        name.strip_prefix(kind).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    name == ROUTER || name == INTERMEDIATE || numbered("client") || numbered("target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_addresses_look_like_those_of_ipv4() {
        assert_eq!(client_addr6(1).to_string(), "fd90:11::2");
        assert_eq!(target_addr6(64).to_string(), "fd90:164::2");
        assert_eq!(VIP6.to_string(), "[fd90:1::100]:80");
        assert_eq!(router_addr(target_addr6(2).into()).to_string(), "fd90:102::1");
        assert_eq!(router_addr(target_addr(2).into()).to_string(), "10.90.102.1");
        assert_eq!((vips(Family::V6), vips(Family::Dual).len()), (vec![VIP6.into()], 2));
    }

    #[test]
    fn a_lab_does_not_take_the_namespaces_of_one_whose_name_begins_alike() {
        assert!(is_node("client1") && is_node("target64") && is_node("router"));
        // baton-a-b-client1 belongs to lab "a-b", not to lab "a".
        assert!(!is_node("b-client1") && !is_node("client") && !is_node("client1-router"));
    }
}
