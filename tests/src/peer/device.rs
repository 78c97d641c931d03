//! The TUN device and the addresses behind it.

use super::sys;
use super::wire::Packet;
use anyhow::{Context, Result};
use netns_lab::Lab;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tun_tap::{Iface, Mode};

/// The networks behind the device, which no lab has.
const NETWORK: &str = "10.91.0.0/16";
const NETWORK6: &str = "fd91::/64";
/// The device's name in the client's namespace.
const NAME: &str = "peer0";
/// How often the reader looks whether it shall end, ms.
const LOOK_MS: i32 = 50;

/// What came for one host: a packet, or what was wrong with it.
pub(super) type Arrival = Result<Packet, String>;

type Inboxes = Arc<Mutex<HashMap<IpAddr, Sender<Arrival>>>>;

/// A TUN device in a client's namespace, with a network of its own behind it. Dropping it ends its reader.
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
        let tun = lab
            .inside("client1", || {
                std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
                let tun = Iface::without_packet_info(NAME, Mode::Tun)?;
                tun.set_non_blocking()?;
                Ok::<_, std::io::Error>(tun)
            })?
            .context("cannot make a TUN device")?;
        lab.output("client1", &["ip", "link", "set", NAME, "up", "txqueuelen", "10000"])?;
        let route = |network: &str, gateway: IpAddr| {
            lab.output("client1", &["ip", "route", "add", network, "dev", NAME])?;
            lab.output("router", &["ip", "route", "add", network, "via", &gateway.to_string()])
        };
        if lab.spec().family.has_v4() {
            route(NETWORK, netns_lab::plan::client_addr(1).into())?;
        }
        if lab.spec().family.has_v6() {
            lab.output("client1", &["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])?;
            route(NETWORK6, netns_lab::plan::client_addr6(1).into())?;
        }
        let (tun, inboxes, stop) = (Arc::new(tun), Inboxes::default(), Arc::new(AtomicBool::new(false)));
        let reader = std::thread::spawn({
            let (tun, inboxes, stop) = (tun.clone(), inboxes.clone(), stop.clone());
            move || read(&tun, &inboxes, &stop)
        });
        Ok(Device { tun, inboxes, next: AtomicU16::new(1), stop, reader: Some(reader) })
    }

    /// An address nobody used before, of IPv6 if `v6`.
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
        let (sender, inbox) = mpsc::channel();
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner).insert(address, sender);
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
fn read(tun: &Iface, inboxes: &Inboxes, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if !sys::readable(sys::borrow(tun), LOOK_MS) {
            continue;
        }
        let Ok(length) = tun.recv(&mut buffer) else { continue };
        let bytes = buffer.get(..length).unwrap_or_default();
        // The destination, also where the rest cannot be read.
        let four = || bytes.get(16..20).and_then(|b| <[u8; 4]>::try_from(b).ok());
        let sixteen = || bytes.get(24..40).and_then(|b| <[u8; 16]>::try_from(b).ok());
        let destination = match bytes.first().map(|b| b >> 4) {
            Some(4) => four().map(IpAddr::from),
            Some(6) => sixteen().map(IpAddr::from),
            _ => None,
        };
        let Some(destination) = destination else { continue };
        let inboxes = inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inbox) = inboxes.get(&destination) {
            // A host that is gone wants nothing more.
            let _ = inbox.send(Packet::parse(bytes));
        }
    }
}
