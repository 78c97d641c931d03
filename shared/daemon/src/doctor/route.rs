//! By which device the kernel would send from one address to another: one question of rtnetlink(7).

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
/// `linux/netlink.h`, `linux/rtnetlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
/// Lengths of `nlmsghdr`, of `rtmsg` and of an attribute's head.
const HEADER: usize = 16;
const ROUTE: usize = 12;
const ATTRIBUTE: usize = 4;

/// Whether the host sends from an address. The kernel asks that of IPv4's alone, and has no error for it alone; to itself it
/// has a way.
pub(super) fn is_source(address: IpAddr) -> bool {
    address.is_ipv6() || device_towards(Ipv4Addr::LOCALHOST.into(), address).is_ok()
}

/// The number of the device by which packets from `source`, one of this host's addresses ([`is_source`]) and of the same version
/// of IP, leave for `address`: rules may route by it.
///
/// # Errors
/// `NetworkUnreachable` and the like if there is no route; those of the socket.
pub(super) fn device_towards(address: IpAddr, source: IpAddr) -> io::Result<u32> {
    let socket =
        Socket::new(Domain::from(AF_NETLINK), Type::RAW.cloexec(), Some(Protocol::from(NETLINK_ROUTE)))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.send(&question(address, source))?;
    let mut answer = [0; 4096];
    let length = (&socket).read(&mut answer)?;
    device_in(answer.get(..length).unwrap_or_default())
}

fn question(address: IpAddr, source: IpAddr) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (family, bits) = if address.is_ipv4() { (2, 32) } else { (10, 128) };
    // struct rtmsg: family, lengths of destination and source.
    let mut message = vec![family, bits, bits];
    message.resize(ROUTE, 0);
    for (kind, value) in [(RTA_DST, octets(address)), (RTA_SRC, octets(source))] {
        message.extend(u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value);
    }
    let length = u32::try_from(HEADER + message.len()).unwrap_or(u32::MAX);
    let mut header = length.to_ne_bytes().to_vec();
    header.extend(RTM_GETROUTE.to_ne_bytes());
    header.extend(NLM_F_REQUEST.to_ne_bytes());
    header.extend([0; 8]);
    [header, message].concat()
}

fn device_in(answer: &[u8]) -> io::Result<u32> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer cannot be read");
    let short = |bytes: &[u8], at: usize| {
        Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
    };
    let long = |bytes: &[u8]| Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?));
    match short(answer, 4) {
        Some(NLMSG_ERROR) => {
            let code = answer.get(HEADER..).and_then(long).ok_or_else(odd)?;
            Err(io::Error::from_raw_os_error(code.cast_signed().wrapping_neg()))
        }
        Some(RTM_NEWROUTE) => {
            let mut rest = answer.get(HEADER + ROUTE..).unwrap_or_default();
            while let (Some(length), Some(kind)) = (short(rest, 0), short(rest, 2)) {
                let length = usize::from(length).max(ATTRIBUTE);
                if kind == RTA_OIF {
                    return rest.get(ATTRIBUTE..).and_then(long).ok_or_else(odd);
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
            Err(io::Error::new(io::ErrorKind::NetworkUnreachable, "the route has no device (blackhole)"))
        }
        _ => Err(odd()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_ones_own_address_is_the_loopback_device() {
        let number: u32 =
            std::fs::read_to_string("/sys/class/net/lo/ifindex").unwrap().trim().parse().unwrap();
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(device_towards(own, own).unwrap(), number);
        assert!(is_source(own) && !is_source("192.0.2.77".parse().unwrap()));
    }

    #[test]
    fn no_way_is_an_error_and_nothing_the_kernel_says_panics() {
        let mut answer = vec![0; HEADER];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer.extend((-101i32).to_ne_bytes());
        assert_eq!(device_in(&answer).unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
        for length in 0..answer.len() {
            device_in(&answer[..length]).unwrap_err();
        }
        answer[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        answer.resize(HEADER + ROUTE, 0);
        answer.extend([0xff; 9]);
        device_in(&answer).unwrap_err();
    }
}
