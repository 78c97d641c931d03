//! The uplink and its settings, and addresses to listen on.

use super::{Check, Status};
use crate::sys;
use baton_shared::control::Role;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

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

/// Reverse-path filtering; the kernel takes the stricter of `all` and the device (Documentation/networking/ip-sysctl).
pub fn rp_filter(device: &str) -> Check {
    let read = |which: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{which}/rp_filter");
        std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<u32>().ok())
    };
    let why = "a packet of a client that comes by the intermediate is dropped if the route back is not by the uplink";
    let mend =
        "let the route to the clients leave by the uplink, or set net.ipv4.conf.UPLINK.rp_filter=2 (and all)";
    let (status, found) = match (read("all"), read(device)) {
        (Some(all), Some(own)) => {
            let (number, word) = match all.max(own) {
                0 => (0, "off"),
                1 => (1, "strict: fine while the route to the clients is by the uplink"),
                other => (other, "loose"),
            };
            (Status::Ok, format!("all={all}, {device}={own}: {number} counts, {word}"))
        }
        _ => (Status::Warn, format!("cannot be read for {device}")),
    };
    Check::new("rp_filter", status, found, why, mend)
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
