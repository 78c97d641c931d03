//! Messages of rtnetlink(7): one question and its answer, or its answers.

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::IpAddr;
use std::time::Duration;

const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
/// `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
pub(super) const ACKNOWLEDGE: u16 = 4;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;
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

/// The attributes in `bytes`: number and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(word(bytes, 0)?);
        let found = (word(bytes, 2)?, bytes.get(4..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

/// An address in an attribute.
pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A socket on which the question waits for its answer.
fn question(kind: u16, flags: u16, message: &[u8]) -> io::Result<Socket> {
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
    Ok(socket)
}

/// What the kernel says of an error, 0: of none; `None`: it says something else.
fn error_code(message: &[u8]) -> Option<i32> {
    let code = message.get(HEADER_BYTES..HEADER_BYTES + 4)?.try_into().ok().map(i32::from_ne_bytes);
    code.filter(|_| word(message, 4) == Some(NLMSG_ERROR))
}

/// One question, one answer: a message, or what the kernel says of an error or of none.
pub(super) fn ask(kind: u16, flags: u16, message: &[u8]) -> io::Result<Vec<u8>> {
    let socket = question(kind, flags, message)?;
    let mut answer = vec![0; 4096];
    let length = (&socket).read(&mut answer)?;
    answer.truncate(length);
    match error_code(&answer) {
        Some(0) => Ok(answer),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None if word(&answer, 4).is_some() => Ok(answer),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer cut short")),
    }
}

/// All there are of a kind: `each` gets what follows the header of every message.
pub(super) fn dump(kind: u16, message: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let socket = question(kind, DUMP, message)?;
    // The kernel fills up to 32 kB at a time.
    let mut answer = vec![0; 32 * 1024];
    loop {
        let length = (&socket).read(&mut answer)?;
        let mut rest = answer.get(..length).unwrap_or_default();
        while let Some(size) = rest.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes) {
            let size = usize::try_from(size).map_err(io::Error::other)?;
            let Some(message) = rest.get(..size).filter(|m| m.len() >= HEADER_BYTES) else { break };
            if word(message, 4) == Some(NLMSG_DONE) {
                return Ok(());
            }
            match error_code(message) {
                Some(0) => return Ok(()),
                Some(code) => return Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                None => each(message.get(HEADER_BYTES..).unwrap_or_default()),
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
