//! The VIP as a local address of this host: adopted sockets have it for their own. A route in the table `local`, as
//! `ip route add local VIP/32 dev lo`, by rtnetlink(7). With a protocol number of our own, so that only what the agent
//! added is taken away.

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::IpAddr;
use std::time::Duration;

const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
/// `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
/// `linux/rtnetlink.h`.
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const TABLE_LOCAL: u8 = 255;
const SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
/// Whose the route is: shown by `ip route show table local` as `proto 66`.
const PROTOCOL: u8 = 66;
/// The loopback device has number 1 in every network namespace.
const LOOPBACK: u32 = 1;
const HEADER_BYTES: usize = 16;

/// Makes an address local; fine if it is.
pub(crate) fn add(address: IpAddr) -> io::Result<()> {
    match change(RTM_NEWROUTE, CREATE | EXCLUSIVE, address) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Takes away what [`add`] added; fine if there is nothing.
pub(crate) fn remove(address: IpAddr) -> io::Result<()> {
    match change(RTM_DELROUTE, 0, address) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

/// Whether the kernel takes packets to an address for its own.
pub(crate) fn is_local(address: IpAddr) -> io::Result<bool> {
    let mut message = vec![0; 12];
    set(&mut message, 0, family(address));
    set(&mut message, 1, bits(address));
    attribute(&mut message, RTA_DST, &octets(address));
    match ask(RTM_GETROUTE, 0, &message) {
        // struct rtmsg: family, lengths, tos, table, protocol, scope, type.
        Ok(answer) => Ok(answer.get(HEADER_BYTES + 7) == Some(&RTN_LOCAL)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(false),
        Err(e) => Err(e),
    }
}

fn change(kind: u16, flags: u16, address: IpAddr) -> io::Result<()> {
    let mut message =
        vec![family(address), bits(address), 0, 0, TABLE_LOCAL, PROTOCOL, SCOPE_HOST, RTN_LOCAL];
    message.extend([0; 4]);
    attribute(&mut message, RTA_DST, &octets(address));
    attribute(&mut message, RTA_OIF, &LOOPBACK.to_ne_bytes());
    ask(kind, ACKNOWLEDGE | flags, &message).map(drop)
}

fn set(bytes: &mut [u8], at: usize, value: u8) {
    if let Some(place) = bytes.get_mut(at) {
        *place = value;
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// One question, one answer: a message, or what the kernel says of an error or of none.
fn ask(kind: u16, flags: u16, message: &[u8]) -> io::Result<Vec<u8>> {
    let socket =
        Socket::new(Domain::from(AF_NETLINK), Type::RAW.cloexec(), Some(Protocol::from(NETLINK_ROUTE)))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let length = u32::try_from(HEADER_BYTES + message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    // A socket for each question: no sequence number is needed.
    bytes.extend([0; 8]);
    bytes.extend(message);
    socket.send(&bytes)?;
    let mut answer = vec![0; 4096];
    let length = (&socket).read(&mut answer)?;
    answer.truncate(length);
    let code =
        answer.get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (answer.get(4..6), code) {
        (Some(kind), Some(0)) if kind == NLMSG_ERROR.to_ne_bytes() => Ok(answer),
        (Some(kind), Some(code)) if kind == NLMSG_ERROR.to_ne_bytes() => {
            Err(io::Error::from_raw_os_error(code.wrapping_neg()))
        }
        (Some(_), _) => Ok(answer),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer cut short")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local_and_a_documentation_address_is_not() {
        for (address, local) in
            [("127.0.0.1", true), ("::1", true), ("192.0.2.77", false), ("2001:db8::77", false)]
        {
            assert_eq!(is_local(address.parse().unwrap()).unwrap(), local, "{address}");
        }
    }
}
