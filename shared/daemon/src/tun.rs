//! The TUN device: raw IP packets to and from the kernel, without packet information or vnet header.
//!
//! It has no address and needs none: packets come to it by the TC programs' redirection, and what is written to it
//! is taken over by the program `tun_reinject` on its ingress.

use crate::sys::{self, AsyncTun};
use std::io;
use tun_tap::{Iface, Mode};

/// The usual MTU.
pub const DEFAULT_MTU: u32 = 1500;
/// Packets the device holds for its reader: a frozen upload at full rate must not lose any (default is 500).
const QUEUE_PACKETS: u32 = 10_000;

/// An open TUN device; it vanishes when this is dropped.
#[derive(Debug)]
pub struct Tun {
    device: AsyncTun,
    name: String,
    ifindex: u32,
}

impl Tun {
    /// Creates the device (CAP_NET_ADMIN) with [`DEFAULT_MTU`] and sets it up. Needs a tokio runtime.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::open_with_mtu(name, DEFAULT_MTU)
    }

    /// As [`Tun::open`] with an MTU in bytes. It should be no smaller than the uplink's.
    pub fn open_with_mtu(name: &str, mtu: u32) -> io::Result<Self> {
        let iface = Iface::without_packet_info(name, Mode::Tun)?;
        iface.set_non_blocking()?;
        let name = iface.name().to_owned();
        disable_ipv6(&name);
        sys::set_interface_value(&name, sys::InterfaceValue::Mtu, mtu)?;
        sys::set_interface_value(&name, sys::InterfaceValue::QueueLength, QUEUE_PACKETS)?;
        sys::set_interface_up(&name)?;
        let ifindex = sys::interface_index(&name)?;
        Ok(Tun { device: AsyncTun::register(iface)?, name, ifindex })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's number in its network namespace.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The next packet; its length. A packet longer than the buffer is cut.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.recv(buffer).await
    }

    /// Waits until there are packets and gives them to `take`, at most `most` of them; perhaps none.
    pub async fn recv_burst(
        &self,
        buffer: &mut [u8],
        most: usize,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.device.recv_burst(buffer, most, |packet| take(packet)).await
    }

    /// The next packet if one is waiting, else `WouldBlock`.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.iface().recv(buffer)
    }

    /// Writes one packet: the kernel sees it arrive on the device. One system call, never waits.
    pub fn send(&self, packet: &[u8]) -> io::Result<usize> {
        self.device.iface().send(packet)
    }
}

/// Without this the kernel sends router solicitations to whoever reads the device. Where there is no IPv6, or /proc
/// is read-only, those are to be ignored.
fn disable_ipv6(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if let Err(e) = std::fs::write(&path, "1") {
        tracing::debug!("{path}: {e}");
    }
}

/// A device's number by its name.
pub fn interface_index(name: &str) -> io::Result<u32> {
    sys::interface_index(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_device_opens_up_and_silent() {
        let tun = match Tun::open_with_mtu("batontest%d", 9000) {
            Ok(tun) => tun,
            Err(e) => return crate::skipped(&format!("no TUN device: {e}")),
        };
        let class = |what: &str| {
            std::fs::read_to_string(format!("/sys/class/net/{}/{what}", tun.name()))
                .unwrap()
                .trim()
                .to_owned()
        };
        assert_eq!(class("mtu"), "9000");
        assert_eq!(class("tx_queue_len"), "10000");
        assert_eq!(class("ifindex"), tun.ifindex().to_string());
        assert_eq!(u32::from_str_radix(class("flags").trim_start_matches("0x"), 16).unwrap() & 1, 1);
        let mut buffer = [0; 2048];
        assert_eq!(tun.try_recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let wait = tokio::time::timeout(std::time::Duration::from_millis(300), tun.recv(&mut buffer)).await;
        assert!(wait.is_err(), "the kernel sent something by itself: {wait:?}");
    }
}
