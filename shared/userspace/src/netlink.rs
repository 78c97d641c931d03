//! The kernel's routing, asked by rtnetlink(7): messages, one answer or all there are.

pub mod numbers;

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
const DUMP: u16 = 0x300;
/// The length of a `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

/// A flag: the kernel answers an order that was carried out as well.
pub const ACKNOWLEDGE: u16 = 4;
/// A flag: make what is not there; what is there already is an error.
pub const CREATE: u16 = 0x400 | 0x200;

/// The kernel's number of an IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`.
    V4 = 2,
    /// `AF_INET6`.
    V6 = 10,
}

impl Family {
    /// An address's.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// An address's [`Family`].
pub fn family(address: IpAddr) -> u8 {
    Family::of(address) as u8
}

/// The length of the prefix that an address alone is in.
pub fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// What follows a `struct nlmsghdr`: a structure of the message's kind, and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// One without attributes as yet: the structure begins so, and is of so many bytes.
    pub fn new(start: &[u8], length: usize) -> Self {
        let mut bytes = start.to_vec();
        bytes.resize(length, 0);
        Message(bytes)
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Adds a number.
    pub fn word(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Adds an address.
    pub fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    /// Adds a device's name.
    pub fn name(&mut self, kind: u16, name: &str) {
        self.attribute(kind, &[name.as_bytes(), &[0]].concat());
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes in `bytes`, up to the first that is cut short: number and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes, 0)?);
        let found = (short(bytes, 2)?, bytes.get(4..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

/// An address in an attribute.
pub fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

/// A number in an attribute.
pub fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A socket to the kernel's routing, of the network namespace it was opened in.
#[derive(Debug)]
pub struct Netlink(Socket);

impl Netlink {
    /// Opens one, in this thread's network namespace. Questions need no capability, orders CAP_NET_ADMIN.
    ///
    /// # Errors
    /// Those of `socket`.
    pub fn open() -> io::Result<Self> {
        let kind = Type::RAW.cloexec();
        let socket = Socket::new(Domain::from(AF_NETLINK), kind, Some(Protocol::from(NETLINK_ROUTE)))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Netlink(socket))
    }

    /// One question, or an order with [`ACKNOWLEDGE`], and what follows the header of its answer: nothing of an order's.
    ///
    /// # Errors
    /// What the kernel says, and those of the socket.
    pub fn ask(&self, kind: u16, flags: u16, message: &Message) -> io::Result<Vec<u8>> {
        self.send(kind, flags, message)?;
        let mut answer = [0; 4096];
        let length = (&self.0).read(&mut answer)?;
        said(answer.get(..length).unwrap_or_default()).map(<[u8]>::to_vec)
    }

    /// All there are of a kind: `each` gets what follows the header of every message.
    ///
    /// # Errors
    /// As [`Netlink::ask`].
    pub fn dump(&self, kind: u16, message: &Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, DUMP, message)?;
        // The kernel fills up to 32 kB at a time.
        let mut answer = vec![0; 32 * 1024];
        loop {
            let length = (&self.0).read(&mut answer)?;
            let mut rest = answer.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let size = rest.get(..4).and_then(number).and_then(|size| usize::try_from(size).ok());
                let message = size.and_then(|size| rest.get(..size)).ok_or_else(cut_short)?;
                let body = said(message)?;
                if short(message, 4) == Some(NLMSG_DONE) {
                    return Ok(());
                }
                each(body);
                rest = rest.get(message.len().next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    fn send(&self, kind: u16, flags: u16, message: &Message) -> io::Result<()> {
        let length = u32::try_from(HEADER_BYTES + message.0.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        // One question at a time: no sequence number is needed to tell answers apart.
        bytes.extend([0; 8]);
        bytes.extend(&message.0);
        self.0.send(&bytes).map(drop)
    }
}

/// What follows the header of a message; nothing if it says that there was no error.
fn said(message: &[u8]) -> io::Result<&[u8]> {
    let (header, body) = message.split_at_checked(HEADER_BYTES).ok_or_else(cut_short)?;
    if short(header, 4) != Some(NLMSG_ERROR) {
        return Ok(body);
    }
    match body.get(..4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(&[]),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(cut_short()),
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut short")
}

#[cfg(test)]
mod tests {
    use super::numbers::{IFLA_IFNAME, LINK, RTM_GETLINK};
    use super::*;

    #[test]
    fn what_the_kernel_says_is_an_answer_or_an_error_and_never_a_panic() {
        let mut answer = vec![0; HEADER_BYTES];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer.extend((-101i32).to_ne_bytes());
        assert_eq!(said(&answer).unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
        for length in 0..answer.len() {
            assert_eq!(said(&answer[..length]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        answer[16..].fill(0);
        assert!(said(&answer).unwrap().is_empty(), "an acknowledgement");
        answer[4..6].copy_from_slice(&24u16.to_ne_bytes());
        assert_eq!(said(&answer).unwrap(), [0; 4]);
    }

    #[test]
    fn attributes_come_back_and_what_is_cut_short_ends_them() {
        let mut message = Message::new(&[], 0);
        message.address(1, [10, 90, 1, 100].into());
        message.name(3, "eth0");
        message.word(4, 7);
        let found: Vec<_> = attributes(message.bytes()).collect();
        assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(address(found[0].1), Some([10, 90, 1, 100].into()));
        assert_eq!((found[1].1, number(found[2].1)), (&b"eth0\0"[..], Some(7)));
        for length in 0..message.bytes().len() {
            assert!(attributes(&message.bytes()[..length]).count() < 3);
        }
        for nonsense in [&[0; 9][..], &[0xff; 9]] {
            assert_eq!(attributes(nonsense).count(), 0);
        }
    }

    #[test]
    fn the_kernel_tells_of_its_loopback_device() {
        let netlink = Netlink::open().unwrap();
        // Its number is 1.
        let message = Message::new(&[[0; 4], 1i32.to_ne_bytes()].concat(), LINK);
        let named = |body: &[u8]| attributes(&body[LINK..]).any(|found| found == (IFLA_IFNAME, b"lo\0"));
        assert!(named(&netlink.ask(RTM_GETLINK, 0, &message).unwrap()));
        let mut count = 0;
        netlink
            .dump(RTM_GETLINK, &Message::new(&[], LINK), |body| count += usize::from(named(body)))
            .unwrap();
        assert_eq!(count, 1);
    }
}
