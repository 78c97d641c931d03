//! The TUN devices and the addresses behind them.

use super::sys;
use super::wire::Packet;
use crate::lab::one_cpu_for_each_device;
use anyhow::{Context, Result};
use netns_lab::{Lab, plan};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tun_tap::{Iface, Mode};

/// The networks behind a client's device, which no lab has.
const NETWORK: &str = "10.91.0.0/16";
const NETWORK6: &str = "fd91::/64";
/// The device's name in a node's namespace.
const NAME: &str = "peer0";
/// The server behind a target's device, the only host there: its address in place of the target's own.
pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 92, 0, 1)), 80);
/// The same of IPv6.
pub const SERVER6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd92, 0, 0, 0, 0, 0, 0, 1)), 80);
/// How often the reader looks whether it shall end, ms.
const LOOK_MS: i32 = 50;

/// What came for one host: a packet, or what was wrong with it.
pub(super) type Arrival = Result<Packet, String>;

type Inboxes = Arc<Mutex<HashMap<IpAddr, Sender<Arrival>>>>;

/// By what the hosts behind a device are told apart.
#[derive(Debug, Clone, Copy)]
enum Side {
    /// Many clients: by the address a packet is for.
    Clients,
    /// One server: by the address of the client a packet is from.
    Server,
}

/// A TUN device in a node's namespace with a network of its own behind it. Dropping it ends its reader.
#[derive(Debug)]
pub struct Device {
    tun: Arc<Iface>,
    inboxes: Inboxes,
    next: AtomicU16,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Device {
    /// Makes the device in client1's namespace, which forwards from then on, and routes its network there.
    ///
    /// # Errors
    /// If the device or a route cannot be made.
    pub fn open(lab: &Lab) -> Result<Self> {
        let gateways = (plan::client_addr(1).into(), plan::client_addr6(1).into());
        let device =
            Self::make(lab, "client1", [(NETWORK, gateways.0), (NETWORK6, gateways.1)], Side::Clients)?;
        // What the client sends arrives in its order, and so does what a server sends.
        let targets = (1..=lab.spec().targets).map(plan::target);
        for node in ["client1".to_owned(), plan::ROUTER.to_owned()].into_iter().chain(targets) {
            one_cpu_for_each_device(lab, &node)?;
        }
        Ok(device)
    }

    /// Makes the device in target1's namespace, which forwards from then on, with [`SERVER`] and [`SERVER6`] behind it.
    /// What these send goes out by the uplink like what the target's kernel sends, and what is for them comes in by it;
    /// the kernel has no sockets for them, but for those made with [`hold`](super::hold).
    ///
    /// # Errors
    /// If the device or a route cannot be made.
    pub fn open_server(lab: &Lab) -> Result<Self> {
        let gateways = (plan::target_addr(1).into(), plan::target_addr6(1).into());
        let (v4, v6) = (SERVER.ip().to_string(), SERVER6.ip().to_string());
        let device =
            Self::make(lab, "target1", [(v4.as_str(), gateways.0), (v6.as_str(), gateways.1)], Side::Server)?;
        // A packet that is given a held socket before it is routed is not forwarded.
        lab.output("target1", &["sysctl", "-qw", "net.ipv4.tcp_early_demux=0"])?;
        one_cpu_for_each_device(lab, "target1")?;
        Ok(device)
    }

    fn make(lab: &Lab, node: &str, networks: [(&str, IpAddr); 2], side: Side) -> Result<Self> {
        let tun = lab
            .inside(node, || {
                std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
                let tun = Iface::without_packet_info(NAME, Mode::Tun)?;
                tun.set_non_blocking()?;
                Ok::<_, std::io::Error>(tun)
            })?
            .context("cannot make a TUN device")?;
        lab.output(node, &["ip", "link", "set", NAME, "up", "txqueuelen", "10000"])?;
        let family = lab.spec().family;
        if family.has_v6() {
            lab.output(node, &["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])?;
        }
        for (network, gateway) in networks {
            if if gateway.is_ipv4() { family.has_v4() } else { family.has_v6() } {
                lab.output(node, &["ip", "route", "add", network, "dev", NAME])?;
                lab.output("router", &["ip", "route", "add", network, "via", &gateway.to_string()])?;
            }
        }
        let (tun, inboxes, stop) = (Arc::new(tun), Inboxes::default(), Arc::new(AtomicBool::new(false)));
        let reader = std::thread::spawn({
            let (tun, inboxes, stop) = (tun.clone(), inboxes.clone(), stop.clone());
            move || read(&tun, side, &inboxes, &stop)
        });
        Ok(Device { tun, inboxes, next: AtomicU16::new(1), stop, reader: Some(reader) })
    }

    /// A client's address nobody used before, of IPv6 if `v6`.
    ///
    /// # Panics
    /// After 65 000 of them.
    pub fn host(&self, v6: bool) -> Host {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        assert_ne!(number, u16::MAX, "no address left");
        let address = if v6 {
            Ipv6Addr::new(0xfd91, 0, 0, 0, 0, 0, 0, number).into()
        } else {
            Ipv4Addr::new(10, 91, high, low).into()
        };
        self.register(address, address)
    }

    /// The server, as the client with this address sees it: what that one sends it comes here.
    pub fn seat(&self, client: IpAddr) -> Host {
        let address = if client.is_ipv4() { SERVER.ip() } else { SERVER6.ip() };
        self.register(address, client)
    }

    fn register(&self, address: IpAddr, told_by: IpAddr) -> Host {
        let (sender, inbox) = mpsc::channel();
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner).insert(told_by, sender);
        Host { address, tun: self.tun.clone(), inbox }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// One address behind the device.
#[derive(Debug)]
pub struct Host {
    /// The address.
    pub address: IpAddr,
    tun: Arc<Iface>,
    pub(super) inbox: Receiver<Arrival>,
}

impl Host {
    /// Sends a raw IP packet, whatever is in it.
    ///
    /// # Panics
    /// If the device does not take it.
    #[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
    pub fn send(&self, packet: &[u8]) {
        assert_eq!(self.tun.send(packet).unwrap(), packet.len());
    }
}

/// Gives every packet to the host it is for.
fn read(tun: &Iface, side: Side, inboxes: &Inboxes, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if !sys::readable(sys::borrow(tun), LOOK_MS) {
            continue;
        }
        let Ok(length) = tun.recv(&mut buffer) else { continue };
        let bytes = buffer.get(..length).unwrap_or_default();
        // The address, also where the rest cannot be read.
        let four = |at: usize| bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
        let sixteen = |at: usize| bytes.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok());
        let told_by = match (bytes.first().map(|b| b >> 4), side) {
            (Some(4), Side::Server) => four(12).map(IpAddr::from),
            (Some(4), Side::Clients) => four(16).map(IpAddr::from),
            (Some(6), Side::Server) => sixteen(8).map(IpAddr::from),
            (Some(6), Side::Clients) => sixteen(24).map(IpAddr::from),
            _ => None,
        };
        let Some(told_by) = told_by else { continue };
        let inboxes = inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inbox) = inboxes.get(&told_by) {
            // A host that is gone wants nothing more.
            let _ = inbox.send(Packet::parse(bytes));
        }
    }
}
