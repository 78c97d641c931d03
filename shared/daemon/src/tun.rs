//! The TUN device: raw IP packets to and from the kernel.
//!
//! It has no address and needs none: packets come to it by the TC programs' redirection, and what is written to it
//! is taken over by the program `tun_reinject` on its ingress.
//!
//! With the data plane in user space policy routing leads packets to it, and a [`Carrier`] says what becomes of each:
//! the daemon is given only those that are its own.

use crate::sys::{self, AsyncTun, Device};
use baton_userspace::{Carrier, Fate};
use std::io;
use std::sync::{Arc, OnceLock};
use tun_tap::{Iface, Mode};

/// The usual MTU.
pub const DEFAULT_MTU: u32 = 1500;
/// Packets the device holds for its reader: a frozen upload at full rate must not lose any (default is 500).
const QUEUE_PACKETS: u32 = 10_000;
/// Packets carried before other tasks get their turn.
const BURST: u32 = 64;

/// What the kernel leaves to a network device's hardware of a packet: its segmentation, its checksum. The bytes of
/// `struct virtio_net_hdr` (linux/virtio_net.h), to be given back with the packet as they came. The default: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload(pub(crate) [u8; 10]);

impl Offload {
    /// Whether the kernel answers for the TCP checksum: it has looked at it, or it is yet to be made.
    pub fn is_checked(self) -> bool {
        // VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_DATA_VALID.
        const NEEDS_CSUM: u8 = 1;
        const DATA_VALID: u8 = 2;
        let [flags, ..] = self.0;
        flags & (NEEDS_CSUM | DATA_VALID) != 0
    }

    /// Payload bytes of each segment of a super-packet; `None`: it is none.
    pub fn segment_bytes(self) -> Option<u32> {
        // gso_type and gso_size; this host's byte order, as long as nobody asks for another (TUNSETVNETLE).
        let [_, kind, _, _, a, b, ..] = self.0;
        (kind != 0).then(|| u16::from_ne_bytes([a, b]).into())
    }
}

/// An open TUN device; it vanishes when this is dropped.
#[derive(Debug)]
pub struct Tun {
    device: AsyncTun,
    name: String,
    ifindex: u32,
    carrier: OnceLock<Arc<dyn Carrier>>,
}

impl Tun {
    /// Creates the device (CAP_NET_ADMIN) with [`DEFAULT_MTU`] and sets it up. Needs a tokio runtime.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::open_with_mtu(name, DEFAULT_MTU)
    }

    /// As [`Tun::open`], but packets pass as the kernel has them: up to 64 kB in one, with their checksums yet to be made
    /// where a device is to do that. They can be held and given back with their [`Offload`], not changed. One system call
    /// then moves what would take forty.
    pub fn open_offloading(name: &str) -> io::Result<Self> {
        let (device, name) = Device::offloading(name)?;
        Self::prepare(device, name, DEFAULT_MTU)
    }

    /// As [`Tun::open`] with an MTU in bytes. It should be no smaller than the uplink's.
    pub fn open_with_mtu(name: &str, mtu: u32) -> io::Result<Self> {
        let iface = Iface::without_packet_info(name, Mode::Tun)?;
        iface.set_non_blocking()?;
        let name = iface.name().to_owned();
        Self::prepare(Device::Plain(iface), name, mtu)
    }

    fn prepare(device: Device, name: String, mtu: u32) -> io::Result<Self> {
        disable_ipv6(&name);
        sys::set_interface_mtu(&name, mtu)?;
        let ifindex = sys::interface_index(&name)?;
        baton_userspace::set_queue_length(ifindex, QUEUE_PACKETS)?;
        sys::set_interface_up(&name)?;
        Ok(Tun { device: AsyncTun::register(device)?, name, ifindex, carrier: OnceLock::new() })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's number in its network namespace.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// From here on `carrier` judges every packet, read or written; one for the device's life.
    pub fn carry_by(&self, carrier: Arc<dyn Carrier>) {
        if self.carrier.set(carrier).is_err() {
            tracing::warn!(tun = self.name, "the device has a carrier already");
        }
    }

    /// Takes the device's MTU from another device, so that whatever goes out there fits here and nothing larger is
    /// taken in.
    pub fn copy_mtu_of(&self, other: &str) -> io::Result<()> {
        sys::set_interface_mtu(&self.name, sys::interface_mtu(other)?)
    }

    /// The next packet for the daemon; its length. A packet longer than the buffer is cut.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(carrier) = self.carrier.get() else { return self.device.recv(buffer).await };
        loop {
            for _ in 0..BURST {
                let length = self.device.recv(buffer).await?;
                if self.is_kept(carrier, buffer.get_mut(..length).unwrap_or_default()) {
                    return Ok(length);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits for packets and gives up to `most` of them to `take`, those the daemon is not given included.
    pub async fn recv_burst(
        &self,
        buffer: &mut [u8],
        most: usize,
        mut take: impl FnMut(&[u8], Offload),
    ) -> io::Result<()> {
        self.device
            .recv_burst(buffer, most, |packet, offload| {
                let kept = self.carrier.get().is_none_or(|carrier| self.is_kept(carrier, packet));
                if kept {
                    take(packet, offload);
                }
            })
            .await
    }

    /// The next packet for the daemon if one is waiting, else `WouldBlock`; that also if others were in its way for
    /// long.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let receive = |buffer: &mut [u8]| self.device.device().recv(buffer).map(|(length, _)| length);
        let Some(carrier) = self.carrier.get() else { return receive(buffer) };
        for _ in 0..BURST {
            let length = receive(buffer)?;
            if self.is_kept(carrier, buffer.get_mut(..length).unwrap_or_default()) {
                return Ok(length);
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Does with a packet from the kernel what the carrier says; whether it is the daemon's.
    fn is_kept(&self, carrier: &Arc<dyn Carrier>, packet: &mut [u8]) -> bool {
        match carrier.on_received(packet) {
            Fate::Keep => true,
            Fate::Drop => false,
            Fate::Write => {
                self.carry_on(packet);
                false
            }
            Fate::WriteAndShow(before) => {
                self.carry_on(packet);
                // No translation changes a packet's length.
                if before.len() == packet.len() {
                    packet.copy_from_slice(&before);
                }
                true
            }
        }
    }

    fn carry_on(&self, packet: &[u8]) {
        // As a full queue on any hop: the sender sends it again.
        if let Err(e) = self.device.device().send(packet, Offload::default()) {
            tracing::debug!(error = %e, bytes = packet.len(), "a packet was not taken back by the kernel");
        }
    }

    /// Writes one packet: the kernel sees it arrive on the device. One system call, never waits.
    pub fn send(&self, packet: &[u8]) -> io::Result<usize> {
        self.send_back(packet, Offload::default())
    }

    /// Writes a packet that the carrier has judged already.
    pub fn send_carried(&self, packet: &[u8]) -> io::Result<usize> {
        self.device.device().send(packet, Offload::default())
    }

    /// As [`Tun::send`], for a packet that came from this device with this [`Offload`].
    pub fn send_back(&self, packet: &[u8], offload: Offload) -> io::Result<usize> {
        let device = self.device.device();
        let Some(carrier) = self.carrier.get() else { return device.send(packet, offload) };
        let mut copy = packet.to_vec();
        match carrier.on_written(&mut copy) {
            // What the daemon writes it has seen.
            Fate::Write | Fate::WriteAndShow(_) => device.send(&copy, offload),
            Fate::Drop => Ok(packet.len()),
            // Held by a record that nobody holds packets for: it ends at its deadline.
            Fate::Keep => Err(io::Error::new(io::ErrorKind::WouldBlock, "the packet's flow is still frozen")),
        }
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

/// A network device's MTU, bytes of an IP packet.
pub fn interface_mtu(name: &str) -> io::Result<u32> {
    sys::interface_mtu(name)
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

    #[tokio::test]
    async fn an_offloading_device_takes_packets_as_any_other() {
        let tun = match Tun::open_offloading("batontest%d") {
            Ok(tun) => tun,
            Err(e) => return crate::skipped(&format!("no TUN device: {e}")),
        };
        // To nowhere. The kernel must not take the offload's bytes in front for the packet's.
        let mut packet = [0; 21];
        (packet[0], packet[3], packet[8], packet[9]) = (0x45, 21, 9, 17);
        assert_eq!(tun.send(&packet).unwrap(), packet.len());
        let path = format!("/sys/class/net/{}/statistics/", tun.name());
        let count = |what: &str| std::fs::read_to_string(format!("{path}{what}")).unwrap().trim().to_owned();
        assert_eq!((count("rx_packets"), count("rx_bytes")), ("1".into(), packet.len().to_string()));
        let mut buffer = [0; 2048];
        assert_eq!(tun.try_recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
