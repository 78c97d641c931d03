//! By which device the kernel would send to an address: one question of rtnetlink(7).

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::IpAddr;
use std::time::Duration;

const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
/// `linux/netlink.h`, `linux/rtnetlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
/// Lengths of `nlmsghdr`, of `rtmsg` and of an attribute's head.
const HEADER: usize = 16;
const ROUTE: usize = 12;
const ATTRIBUTE: usize = 4;

/// The number of the device by which packets to this address leave.
///
/// # Errors
/// `NetworkUnreachable` and the like if there is no route; those of the socket.
pub(super) fn device_towards(address: IpAddr) -> io::Result<u32> {
    let socket =
        Socket::new(Domain::from(AF_NETLINK), Type::RAW.cloexec(), Some(Protocol::from(NETLINK_ROUTE)))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.send(&question(address))?;
    let mut answer = [0; 4096];
    let length = (&socket).read(&mut answer)?;
    device_in(answer.get(..length).unwrap_or_default())
}

fn question(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (2u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, v6.octets().to_vec()),
    };
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes();
    let length = HEADER + ROUTE + ATTRIBUTE + octets.len();
    let mut message = u32::from(u16::from_ne_bytes(short(length))).to_ne_bytes().to_vec();
    message.extend(RTM_GETROUTE.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    let bits = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
    message.extend([family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(short(ATTRIBUTE + octets.len()));
    message.extend(RTA_DST.to_ne_bytes());
    message.extend(octets);
    message
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
        assert_eq!(device_towards("127.0.0.1".parse().unwrap()).unwrap(), number);
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
