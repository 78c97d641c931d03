//! Names and addresses: the same in every lab, since each lab has namespaces of its own.

use std::net::{Ipv4Addr, SocketAddrV4};
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

/// The router's address in the subnet of `node`.
pub fn router_addr(node: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = node.octets();
    Ipv4Addr::new(a, b, c, 1)
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
    fn a_lab_does_not_take_the_namespaces_of_one_whose_name_begins_alike() {
        assert!(is_node("client1") && is_node("target64") && is_node("router"));
        // baton-a-b-client1 belongs to lab "a-b", not to lab "a".
        assert!(!is_node("b-client1") && !is_node("client") && !is_node("client1-router"));
    }
}
