//! Messages of rtnetlink(7): one question, one answer.

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::IpAddr;
use std::time::Duration;

const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
/// `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 1;
pub(super) const ACKNOWLEDGE: u16 = 4;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const HEADER_BYTES: usize = 16;

pub(super) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

pub(super) fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(super) fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// One question, one answer: a message, or what the kernel says of an error or of none.
pub(super) fn ask(kind: u16, flags: u16, message: &[u8]) -> io::Result<Vec<u8>> {
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
