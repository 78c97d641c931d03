//! The uplink and its settings, and addresses to listen on.

use super::listening::listens;
use super::{Check, Status, route};
use crate::sys;
use baton_shared::control::Role;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// Whether the device is there and up.
pub fn uplink(device: &str) -> Check {
    let result = match (
        sys::interface_index(device),
        std::fs::read_to_string(format!("/sys/class/net/{device}/operstate")),
    ) {
        (Ok(index), Ok(state)) if state.trim() == "down" => Err(format!("{device} (number {index}) is down")),
        (Ok(index), _) => Ok(format!("{device} is there, number {index}")),
        (Err(e), _) => Err(format!("{device}: {e}")),
    };
    let why = "the programs are attached to it: it is where clients' packets arrive or leave";
    Check::of(
        "uplink",
        result,
        why,
        "set `uplink` to the device that has the default route: ip route show default",
    )
}

/// A client somewhere else, if none is known (RFC 5737, RFC 3849).
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Whether what the servers send can leave for the clients by the uplink, and whether the kernel takes by the uplink what
/// comes from them. `clients`: some that were there lately. `sources`: the addresses that packets to clients are routed by,
/// the servers' and, where it is this host's too, the VIP.
pub fn ways_to_clients(device: &str, clients: &[IpAddr], sources: &[IpAddr]) -> Vec<Check> {
    let are_known = !clients.is_empty();
    let clients = if are_known { clients } else { &ELSEWHERE };
    let sources: Vec<IpAddr> = sources.iter().copied().filter(|source| route::is_source(*source)).collect();
    let uplink = sys::interface_index(device).ok();
    let mut wrong = Vec::new();
    let mut by_uplink = None;
    for client in clients {
        for source in sources.iter().filter(|source| source.is_ipv4() == client.is_ipv4()) {
            let way = match route::device_towards(*client, *source) {
                Ok(number) if Some(number) == uplink => None,
                Ok(number) => Some(format!("by {}", name_of(number))),
                Err(e) => Some(e.to_string()),
            };
            // The kernel filters by the way back that IPv4 packets take.
            if client.is_ipv4() && are_known {
                by_uplink = Some(by_uplink.unwrap_or(true) && way.is_none());
            }
            wrong.extend(way.map(|way| format!("from {source} to {client}: {way}")));
        }
    }
    let whom = if are_known { "the clients of late" } else { "networks elsewhere; no client is known" };
    let status = match (wrong.is_empty(), are_known) {
        (true, _) => Status::Ok,
        (false, true) => Status::Fail,
        // All clients may be near.
        (false, false) => Status::Warn,
    };
    let found = if wrong.is_empty() { format!("by {device} to {whom}") } else { wrong.join("; ") };
    let why = "what the server sends leaves past the intermediate, by the programs on the uplink";
    let mend = format!(
        "give this host a route to the clients by the uplink: ip route replace default via GATEWAY dev {device}"
    );
    vec![Check::new("way to clients", status, found, why, &mend), rp_filter(device, by_uplink)]
}

fn name_of(number: u32) -> String {
    // Unlike /sys, of this namespace however it was entered.
    let devices = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let mut names = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    let found = names.find(|name| sys::interface_index(name).ok() == Some(number));
    found.map_or_else(|| format!("device {number}"), str::to_owned)
}

/// Reverse-path filtering; the kernel takes the stricter of `all` and the device (Documentation/networking/ip-sysctl).
/// `by_uplink`: whether packets to the clients leave by the uplink, where that is known.
pub fn rp_filter(device: &str, by_uplink: Option<bool>) -> Check {
    let read = |which: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{which}/rp_filter");
        std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<u32>().ok())
    };
    let why = "a packet of a client that comes by the intermediate is dropped if the route back is not by the uplink";
    let mend = format!(
        "let the route to the clients leave by the uplink, or: sysctl -w net.ipv4.conf.{device}.rp_filter=2 net.ipv4.conf.all.rp_filter=2"
    );
    let (status, found) = match (read("all"), read(device)) {
        (Some(all), Some(own)) => {
            let (status, number, word) = match (all.max(own), by_uplink) {
                (0, _) => (Status::Ok, 0, "off"),
                (1, None) => (Status::Ok, 1, "strict: fine while the route to the clients is by the uplink"),
                (1, Some(true)) => (Status::Ok, 1, "strict, and the route to the clients is by the uplink"),
                (1, Some(false)) => {
                    (Status::Fail, 1, "strict, and the route to clients is not by the uplink: dropped")
                }
                (other, _) => (Status::Ok, other, "loose"),
            };
            (status, format!("all={all}, {device}={own}: {number} counts, {word}"))
        }
        _ => (Status::Warn, format!("cannot be read for {device}")),
    };
    Check::new("rp_filter", status, found, why, &mend)
}

/// Packets that connection tracking took for no part of a connection: rules like "ct state invalid drop" drop them. Of a
/// migrated connection each host sees one direction only, or its middle.
pub fn connection_tracking() -> Check {
    let loose = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_loose");
    let counts = std::fs::read_to_string("/proc/net/stat/nf_conntrack").ok();
    let invalid = counts.as_deref().map_or(0, |text| sum_of("invalid", text));
    let (status, found) = match (loose.map(|text| text.trim() == "0"), invalid) {
        (Err(_), _) => (Status::Ok, "the kernel has none here".to_owned()),
        (Ok(false), 0) => (Status::Ok, "no packet was invalid to it".to_owned()),
        (Ok(false), n) => (Status::Warn, format!("{n} packets were invalid to it since the start")),
        (Ok(true), n) => {
            (Status::Warn, format!("net.netfilter.nf_conntrack_tcp_loose=0; {n} packets were invalid to it"))
        }
    };
    let why = "a firewall that drops what is invalid to connection tracking stops migrated connections";
    let mend = "exempt the VIP's and the server's port from tracking (nft: in a raw prerouting and output chain `tcp dport 80 notrack`, \
                `tcp sport 80 notrack`), or sysctl -w net.netfilter.nf_conntrack_tcp_loose=1 net.netfilter.nf_conntrack_tcp_be_liberal=1";
    Check::new("connection tracking", status, found, why, mend)
}

/// The sum of a column over all processors; the numbers are hexadecimal.
pub(super) fn sum_of(column: &str, text: &str) -> u64 {
    let mut lines = text.lines();
    let place = lines.next().and_then(|heads| heads.split_whitespace().position(|head| head == column));
    let Some(place) = place else { return 0 };
    lines.filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(place)?, 16).ok()).sum()
}

/// Reverse-path filtering with the data plane in user space, where the agent's rule leads the way back to clients
/// into the TUN: a strict uplink would drop what clients send.
pub fn carried_rp_filter(role: Role, device: &str) -> Check {
    let is_strict = |which: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{which}/rp_filter");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    };
    let strict = is_strict(device) || is_strict("all");
    let (status, found) = match (strict, role) {
        (false, _) => (Status::Ok, "not strict".to_owned()),
        (true, Role::Agent) => {
            (Status::Warn, format!("strict; the agent sets {device} to loose (2) as long as it runs"))
        }
        (true, _) => (Status::Ok, "strict, which does no harm here".to_owned()),
    };
    let why =
        "policy routing leads what the server sends into the TUN, so clients' packets come by another way";
    Check::new("rp_filter", status, found, why, &format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2"))
}

/// Which offloads the device has on. Both ways are right; on is faster.
pub fn offloads(device: &str) -> Check {
    /// Commands of linux/ethtool.h.
    const FLAGS: [(&str, u32); 5] =
        [("rx-checksum", 0x14), ("tx-checksum", 0x16), ("TSO", 0x1e), ("GSO", 0x23), ("GRO", 0x2b)];
    let states: Vec<(&str, Option<bool>)> =
        FLAGS.iter().map(|(name, command)| (*name, sys::ethtool_flag(device, *command).ok())).collect();
    let found = states
        .iter()
        .map(|(name, on)| format!("{name} {}", on.map_or("unknown", |on| if on { "on" } else { "off" })))
        .collect::<Vec<_>>()
        .join(", ");
    let slow = states.iter().any(|(name, on)| matches!(*name, "GSO" | "GRO") && *on == Some(false));
    let status = if slow { Status::Warn } else { Status::Ok };
    let why = "with GRO and GSO one program run translates many segments at once";
    Check::new("offloads", status, found, why, &format!("ethtool -K {device} gro on gso on"))
}

/// Whether an address can be listened on, or its daemon is there already.
pub fn listen_address(name: &str, addr: SocketAddr) -> Check {
    let (status, found) = match TcpListener::bind(addr) {
        Ok(_) => (Status::Ok, format!("{addr} is free")),
        Err(e) if e.kind() == ErrorKind::AddrInUse && listens(addr) => {
            (Status::Ok, format!("this daemon listens on {addr}"))
        }
        Err(e) if e.kind() == ErrorKind::AddrInUse => {
            (Status::Warn, format!("{addr} is in use; if the daemon is running that is right"))
        }
        Err(e) => (Status::Fail, format!("{addr}: {e}")),
    };
    let why = "the daemon listens on it";
    Check::new(
        name,
        status,
        found,
        why,
        &format!("see who listens (ss -ltnp), and that the host has {}", addr.ip()),
    )
}
