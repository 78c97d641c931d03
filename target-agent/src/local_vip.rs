//! The VIP as a local address of this host for what arrives by the uplink, and for nothing else: adopted sockets have it
//! for their own, but programs on this host that connect to it still reach the intermediate.
//!
//! Where the VIP stood in the table `local`, all of the host would take it for its own, answers from it would be martians
//! here, and the host would name it in its own ARP requests. So the route is in a table of its own, which a rule names for
//! the uplink alone. The kernel lets IPv4 sockets send from addresses only that the host has (`__ip_dev_find()`), so the
//! VIP is also put on the loopback device, and the route that the kernel makes of this in `local` is taken away again. The
//! rule comes last: where there is one, all the rest is there. As `ip` says it:
//!
//! ```text
//! ip addr add VIP/32 dev lo scope host proto 66; ip route del local VIP dev lo table local proto kernel  # IPv4 only
//! ip route add local VIP/32 dev lo table 66 proto 66
//! ip rule add pref 66 to VIP iif UPLINK lookup 66 proto 66
//! ```
//!
//! All of it outlives the agent, for adopted flows do, and bears its protocol number, so that a later run finds it: what a
//! run left half done is completed, and what is of no use any more is taken away.

mod left;

use baton_userspace::netlink::numbers::{
    ADDRESS, FR_ACT_TO_TBL, FRA_DST, FRA_IIFNAME, FRA_PRIORITY, FRA_PROTOCOL, IFA_ADDRESS, IFA_LOCAL,
    IFA_PROTO, ROUTE, RTA_DST, RTA_IIF, RTA_OIF, RTA_SRC, RTM_DELADDR, RTM_DELROUTE, RTM_DELRULE,
    RTM_GETROUTE, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWRULE, RTN_LOCAL, RTPROT_KERNEL, RULE, SCOPE_HOST,
    TABLE_LOCAL,
};
use baton_userspace::netlink::{ACKNOWLEDGE, CREATE, Message, Netlink, bits, family};
use left::Left;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whose address, route and rule are (`proto 66`), in which table, and before which rules it comes.
const OURS: u8 = 66;
/// The loopback device has number 1 in every network namespace.
const LOOPBACK: u32 = 1;

/// Has what arrives for an address by the uplink delivered here; fine if it is.
pub(crate) fn add(address: IpAddr, uplink: &str) -> io::Result<()> {
    if address.is_ipv4() {
        let new = is_new(on_loopback(RTM_NEWADDR, CREATE, address))?;
        if new || left::addresses()?.contains(&address) {
            gone(route(RTM_DELROUTE, 0, TABLE_LOCAL, RTPROT_KERNEL, address))?;
        }
    }
    is_new(route(RTM_NEWROUTE, CREATE, OURS, OURS, address))?;
    is_new(rule(RTM_NEWRULE, CREATE, address, uplink))?;
    // Agents before this put it into `local`.
    gone(route(RTM_DELROUTE, 0, TABLE_LOCAL, OURS, address))
}

/// Brings what earlier runs left in order: what they set up for one of `wanted` is completed, and everything else of the
/// agent's is taken away. With nothing wanted: everything. Those of `wanted` for which something had been left.
pub(crate) fn settle(wanted: &[IpAddr], uplink: &str) -> io::Result<Vec<IpAddr>> {
    let left = Left::find()?;
    let is_wanted = |address: &IpAddr| wanted.contains(address);
    // First, so that nothing that lives is undelivered for a moment.
    let traces = || {
        let of_rules = left.rules.iter().map(|(to, _)| to);
        of_rules.chain(left.routes.iter().map(|(to, _)| to)).chain(&left.addresses)
    };
    let earlier: Vec<IpAddr> = wanted.iter().copied().filter(|a| traces().any(|trace| trace == a)).collect();
    for address in &earlier {
        add(*address, uplink)?;
    }
    for (to, of) in left.rules.iter().filter(|(to, of)| !is_wanted(to) || of != uplink) {
        gone(rule(RTM_DELRULE, 0, *to, of))?;
    }
    for (to, table) in left.routes.iter().filter(|(to, _)| !is_wanted(to)) {
        gone(route(RTM_DELROUTE, 0, *table, OURS, *to))?;
        // Before addresses bore the number, the route told whose they are.
        if to.is_ipv4() && *table == OURS {
            gone(on_loopback(RTM_DELADDR, 0, *to))?;
        }
    }
    for address in left.addresses.iter().filter(|a| !is_wanted(a)) {
        gone(on_loopback(RTM_DELADDR, 0, *address))?;
    }
    Ok(earlier)
}

/// Whether the host takes an address for its own throughout: its programs cannot reach anybody else under it.
pub(crate) fn is_own(address: IpAddr) -> io::Result<bool> {
    is_local(address, None)
}

/// Whether the kernel takes what arrives for an address by this device for its own, and lets sockets send from it.
pub(crate) fn is_delivered(address: IpAddr, uplink: &str, device: u32) -> io::Result<bool> {
    if is_local(address, None)? {
        return Ok(true);
    }
    let arrives = match is_local(address, Some(device)) {
        // The host has no way to the stranger by this device, and filters reverse paths. It may have one to the clients.
        // The kernel's word for it is EXDEV or, as for all that is wrong, EINVAL (Linux 6.13).
        Err(e) if matches!(e.raw_os_error(), Some(libc::EXDEV | libc::EINVAL)) => {
            left::rules()?.iter().any(|(to, of)| *to == address && of == uplink)
        }
        other => other?,
    };
    Ok(arrives && (address.is_ipv6() || is_sent_from(address)?))
}

/// Whether IPv4 sockets may send from an address (`__ip_dev_find()`).
fn is_sent_from(address: IpAddr) -> io::Result<bool> {
    let to = IpAddr::from(Ipv4Addr::LOCALHOST);
    let mut message = Message::new(&[family(address), bits(to), bits(address)], ROUTE);
    message.address(RTA_DST, to);
    message.address(RTA_SRC, address);
    match Netlink::open()?.ask(RTM_GETROUTE, 0, &message) {
        // The kernel's word for it, as for all that is wrong with a source; to itself the host has a way.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENETUNREACH)) => Ok(false),
        other => other.map(|_| true),
    }
}

fn is_local(address: IpAddr, arriving_by: Option<u32>) -> io::Result<bool> {
    let source = arriving_by.map(|_| stranger(address));
    let mut message = Message::new(&[family(address), bits(address), source.map_or(0, bits)], ROUTE);
    message.address(RTA_DST, address);
    if let (Some(device), Some(source)) = (arriving_by, source) {
        message.address(RTA_SRC, source);
        message.word(RTA_IIF, device);
    }
    match Netlink::open()?.ask(RTM_GETROUTE, 0, &message) {
        // struct rtmsg: family, lengths, tos, table, protocol, scope, type.
        Ok(answer) => Ok(answer.get(7) == Some(&RTN_LOCAL)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Some client or other, of the address's family (RFC 5737, RFC 3849).
fn stranger(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::new(198, 51, 100, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// `struct rtmsg`.
fn route(kind: u16, flags: u16, table: u8, protocol: u8, address: IpAddr) -> io::Result<()> {
    let structure = [family(address), bits(address), 0, 0, table, protocol, SCOPE_HOST, RTN_LOCAL];
    let mut message = Message::new(&structure, ROUTE);
    message.address(RTA_DST, address);
    message.word(RTA_OIF, LOOPBACK);
    order(kind, flags, &message)
}

/// `struct fib_rule_hdr`.
fn rule(kind: u16, flags: u16, address: IpAddr, uplink: &str) -> io::Result<()> {
    let mut message = Message::new(&[family(address), bits(address), 0, 0, OURS, 0, 0, FR_ACT_TO_TBL], RULE);
    message.address(FRA_DST, address);
    message.name(FRA_IIFNAME, uplink);
    message.word(FRA_PRIORITY, u32::from(OURS));
    message.attribute(FRA_PROTOCOL, &[OURS]);
    order(kind, flags, &message)
}

/// `struct ifaddrmsg`.
fn on_loopback(kind: u16, flags: u16, address: IpAddr) -> io::Result<()> {
    let [one, two, three, four] = LOOPBACK.to_ne_bytes();
    let structure = [family(address), bits(address), 0, SCOPE_HOST, one, two, three, four];
    let mut message = Message::new(&structure, ADDRESS);
    message.address(IFA_LOCAL, address);
    message.address(IFA_ADDRESS, address);
    if kind == RTM_NEWADDR {
        message.attribute(IFA_PROTO, &[OURS]);
    }
    order(kind, flags, &message)
}

fn order(kind: u16, flags: u16, message: &Message) -> io::Result<()> {
    Netlink::open()?.ask(kind, ACKNOWLEDGE | flags, message).map(drop)
}

/// Whether something was added that was not there before.
fn is_new(added: io::Result<()>) -> io::Result<bool> {
    match added {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

/// Fine if it was not there.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL)) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_the_hosts_own_and_a_documentation_address_is_not() {
        for (address, local) in
            [("127.0.0.1", true), ("::1", true), ("192.0.2.77", false), ("2001:db8::77", false)]
        {
            assert_eq!(is_own(address.parse().unwrap()).unwrap(), local, "{address}");
        }
        assert!(is_sent_from("127.0.0.1".parse().unwrap()).unwrap());
        assert!(!is_sent_from("192.0.2.77".parse().unwrap()).unwrap());
    }
}
