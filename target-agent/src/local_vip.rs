//! The VIP as a local address of this host for what arrives by the uplink, and for nothing else: adopted sockets have it
//! for their own, but programs on this host that connect to it still reach the intermediate.
//!
//! Where the VIP stood in the table `local`, all of the host would take it for its own, answers from it would be martians
//! here, and the host would name it in its own ARP requests. So the route is in a table of its own, which a rule names for
//! the uplink alone. The kernel lets IPv4 sockets send from addresses only that the host has (`__ip_dev_find()`), so the
//! VIP is also put on the loopback device, and the route that the kernel makes of this in `local` is taken away again. As
//! `ip` says it:
//!
//! ```text
//! ip route add local VIP/32 dev lo table 66 proto 66
//! ip rule add pref 66 to VIP iif UPLINK lookup 66 proto 66
//! ip addr add VIP/32 dev lo scope host; ip route del local VIP dev lo table local      # IPv4 only
//! ```

mod netlink;

use netlink::{ACKNOWLEDGE, CREATE, EXCLUSIVE, HEADER_BYTES, ask, attribute, bits, family, octets};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `linux/rtnetlink.h`.
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const TABLE_LOCAL: u8 = 255;
const SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
/// Any protocol: what the kernel itself has made.
const ANYBODY: u8 = 0;
/// `linux/if_addr.h`.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `linux/fib_rules.h`.
const FR_ACT_TO_TBL: u8 = 1;
const FRA_DST: u16 = 1;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_PROTOCOL: u16 = 21;
/// Whose route and rule are (`proto 66`), in which table, and before which rules it comes.
const OURS: u8 = 66;
/// The loopback device has number 1 in every network namespace.
const LOOPBACK: u32 = 1;

/// Has what arrives for an address by the uplink delivered here; fine if it is.
pub(crate) fn add(address: IpAddr, uplink: &str) -> io::Result<()> {
    let create = CREATE | EXCLUSIVE;
    there(route(RTM_NEWROUTE, create, OURS, OURS, address))?;
    there(rule(RTM_NEWRULE, create, address, uplink))?;
    // Agents before this put it into `local`.
    gone(route(RTM_DELROUTE, 0, TABLE_LOCAL, OURS, address))?;
    if address.is_ipv4() && is_new(on_loopback(RTM_NEWADDR, create, address))? {
        gone(route(RTM_DELROUTE, 0, TABLE_LOCAL, ANYBODY, address))?;
    }
    Ok(())
}

/// Takes away what [`add`] added; fine if there is nothing.
pub(crate) fn remove(address: IpAddr, uplink: &str) -> io::Result<()> {
    gone(rule(RTM_DELRULE, 0, address, uplink))?;
    let ours = is_there(route(RTM_DELROUTE, 0, OURS, OURS, address))?;
    gone(route(RTM_DELROUTE, 0, TABLE_LOCAL, OURS, address))?;
    if ours && address.is_ipv4() {
        gone(on_loopback(RTM_DELADDR, 0, address))?;
    }
    Ok(())
}

/// Whether the host takes an address for its own throughout: its programs cannot reach anybody else under it.
pub(crate) fn is_own(address: IpAddr) -> io::Result<bool> {
    is_local(address, None)
}

/// Whether the kernel takes what arrives for an address by this device for its own.
pub(crate) fn is_delivered(address: IpAddr, device: u32) -> io::Result<bool> {
    Ok(is_local(address, None)? || is_local(address, Some(device))?)
}

fn is_local(address: IpAddr, arriving_by: Option<u32>) -> io::Result<bool> {
    let source = arriving_by.map(|_| stranger(address));
    let mut message = vec![family(address), bits(address), source.map_or(0, bits)];
    message.resize(12, 0);
    attribute(&mut message, RTA_DST, &octets(address));
    if let (Some(device), Some(source)) = (arriving_by, source) {
        attribute(&mut message, RTA_SRC, &octets(source));
        attribute(&mut message, RTA_IIF, &device.to_ne_bytes());
    }
    match ask(RTM_GETROUTE, 0, &message) {
        // struct rtmsg: family, lengths, tos, table, protocol, scope, type.
        Ok(answer) => Ok(answer.get(HEADER_BYTES + 7) == Some(&RTN_LOCAL)),
        // A filter of reverse paths answers so for the stranger too.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(false),
        Err(e) if arriving_by.is_some() && matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EXDEV)) => {
            Ok(false)
        }
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
    let mut message = vec![family(address), bits(address), 0, 0, table, protocol, SCOPE_HOST, RTN_LOCAL];
    message.extend([0; 4]);
    attribute(&mut message, RTA_DST, &octets(address));
    attribute(&mut message, RTA_OIF, &LOOPBACK.to_ne_bytes());
    ask(kind, ACKNOWLEDGE | flags, &message).map(drop)
}

/// `struct fib_rule_hdr`.
fn rule(kind: u16, flags: u16, address: IpAddr, uplink: &str) -> io::Result<()> {
    let mut message = vec![family(address), bits(address), 0, 0, OURS, 0, 0, FR_ACT_TO_TBL];
    message.extend([0; 4]);
    attribute(&mut message, FRA_DST, &octets(address));
    attribute(&mut message, FRA_IIFNAME, &[uplink.as_bytes(), &[0]].concat());
    attribute(&mut message, FRA_PRIORITY, &u32::from(OURS).to_ne_bytes());
    attribute(&mut message, FRA_PROTOCOL, &[OURS]);
    ask(kind, ACKNOWLEDGE | flags, &message).map(drop)
}

/// `struct ifaddrmsg`.
fn on_loopback(kind: u16, flags: u16, address: IpAddr) -> io::Result<()> {
    let mut message = vec![family(address), bits(address), 0, SCOPE_HOST];
    message.extend(LOOPBACK.to_ne_bytes());
    attribute(&mut message, IFA_LOCAL, &octets(address));
    attribute(&mut message, IFA_ADDRESS, &octets(address));
    ask(kind, ACKNOWLEDGE | flags, &message).map(drop)
}

/// Whether something was added that was not there before.
fn is_new(added: io::Result<()>) -> io::Result<bool> {
    match added {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

fn there(added: io::Result<()>) -> io::Result<()> {
    is_new(added).map(drop)
}

/// Whether something was taken away that was there before.
fn is_there(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL)) => {
            Ok(false)
        }
        other => other.map(|()| true),
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    is_there(removed).map(drop)
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
    }
}
