//! How large a packet the ways to the targets take.
//!
//! A router on the way to a target reports a packet that is too big to the packet's source, which is the client, about an
//! address that the client does not know. So this host finds out by itself, with datagrams as large as the way is known to
//! take, that must not be cut: about those the router reports to this host's kernel, which notes it for the destination.

use baton_shared::state::path_mtu::PathMtu;
use baton_shared::translate::Leg;
use rustix::net::sockopt;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a way is probed. The kernel forgets what it was told after ten minutes (`net.ipv4.route.mtu_expires`).
pub const INTERVAL: Duration = Duration::from_secs(30);
/// How long a router's answer may take, and how often it is looked for.
const ANSWER: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(10);
/// Links on the way that are each narrower than the one before.
const STEPS: usize = 5;
/// The discard protocol's port (RFC 863): whoever hears it does nothing, or says that nobody is there.
const DISCARD: u16 = 9;
/// The largest payload of a UDP datagram over IPv4.
const MOST_PAYLOAD: u32 = 65_507;

/// What is known of the ways, by the server's address: few, so that looking at them is less than hashing.
#[derive(Debug, Default)]
pub struct LegMtus(Mutex<BTreeMap<IpAddr, PathMtu>>);

impl LegMtus {
    fn ways(&self) -> MutexGuard<'_, BTreeMap<IpAddr, PathMtu>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record's `leg_mtu`: 0, any, as long as nothing is known.
    pub fn room(&self, server: IpAddr, leg: Leg) -> u32 {
        self.ways().get(&server).map_or(0, |way| way.room(leg, server.is_ipv4()))
    }

    /// A probe told this, bytes.
    pub fn on_probe(&self, server: IpAddr, told: u32) {
        self.ways().entry(server).and_modify(|way| way.on_probe(told)).or_insert(PathMtu::new(told));
    }
}

/// Asks what the way to a server takes, bytes of IP packets. Says so `at_once` each time it turns out to be less, and gives back
/// what it is in the end.
pub async fn probe(server: IpAddr, at_once: impl Fn(u32)) -> io::Result<u32> {
    let (any, headers): (IpAddr, u32) = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED.into(), 28)
    } else {
        (Ipv6Addr::UNSPECIFIED.into(), 48)
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    if server.is_ipv4() {
        sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DO)?;
    } else {
        sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DO)?;
    }
    socket.connect(SocketAddr::new(server, DISCARD))?;
    let noted = || {
        let noted = if server.is_ipv4() { sockopt::ip_mtu(&socket) } else { sockopt::ipv6_mtu(&socket) };
        noted.map_err(io::Error::from)
    };
    let mut told = noted()?;
    for _ in 0..STEPS {
        let payload = told.saturating_sub(headers).min(MOST_PAYLOAD);
        // What the kernel reports here is about the datagram before: nobody there, too big. Both are answers.
        let _ = socket.send(&vec![0; usize::try_from(payload).unwrap_or(0)]);
        let sent = Instant::now();
        let mut now = told;
        while now == told && sent.elapsed() < ANSWER {
            tokio::time::sleep(LOOK).await;
            now = noted()?;
        }
        if now == told {
            break;
        }
        if now < told {
            at_once(now);
        }
        told = now;
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_takes_what_its_device_takes() {
        let told = probe(Ipv4Addr::LOCALHOST.into(), |_| {}).await.unwrap();
        let device = baton_daemon::tun::interface_mtu("lo").unwrap();
        assert_eq!(told.min(65_535), device.min(65_535));
    }

    #[test]
    fn an_unknown_way_takes_anything() {
        let (mtus, server) = (LegMtus::default(), "10.0.0.1".parse().unwrap());
        assert_eq!(mtus.room(server, Leg::Udp), 0);
        mtus.on_probe(server, 1400);
        mtus.on_probe(server, 1500);
        assert_eq!(mtus.room(server, Leg::Udp), 1372);
    }
}
