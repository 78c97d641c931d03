//! ICMPv6 errors about what a target sent in the VIP's name, for the plane in user space. No rule of policy routing can lead
//! them to the daemon without taking neighbour discovery along; but a raw socket gets a copy of each that the kernel delivers.

use baton_daemon::tun::Tun;
use baton_shared::packet::errors6::{is_redirected, packet};
use baton_userspace::{Carrier, Fate};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;

/// The longest message: an IPv6 packet's payload is 16 bits long.
const MESSAGE_BYTES: usize = 65_535;
/// A socket with a copy of every ICMPv6 message to this host. Needs CAP_NET_RAW.
fn open() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    // To the runtime it is a socket of datagrams like any other.
    UdpSocket::from_std(socket.into())
}

/// Has the plane judge it; the packet to send to the target, if it is about a migrated flow.
fn translated(carrier: &dyn Carrier, made: &[u8]) -> Option<Vec<u8>> {
    let mut packet = made.to_vec();
    let fate = carrier.on_received(&mut packet);
    (fate == Fate::Write && is_redirected(made, &packet)).then_some(packet)
}

/// Leads the errors to the plane, for ever: `carrier` judges what passes `tun`.
pub async fn carry_errors6(tun: Arc<Tun>, carrier: Arc<dyn Carrier>) {
    let socket = match open() {
        Ok(socket) => socket,
        Err(e) => {
            return tracing::warn!(error = %e,
                "no raw ICMPv6 socket: over IPv6 path-MTU discovery will not work for migrated connections");
        }
    };
    let mut message = vec![0; MESSAGE_BYTES];
    loop {
        let (length, from) = match socket.recv_from(&mut message).await {
            Ok((length, SocketAddr::V6(from))) => (length, *from.ip()),
            Ok(_) => continue,
            Err(e) => {
                tracing::debug!(error = %e, "the raw ICMPv6 socket cannot be read");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let error = packet(message.get(..length).unwrap_or_default(), from);
        if let Some(error) = error.and_then(|error| translated(&*carrier, &error))
            && let Err(e) = tun.send_carried(&error)
        {
            tracing::debug!(error = %e, "an ICMPv6 error was not taken by the kernel");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends what is for the VIP to a target, as a plane does with what is about a flow.
    #[derive(Debug)]
    struct Flow(bool);
    impl Carrier for Flow {
        fn on_received(&self, packet: &mut [u8]) -> Fate {
            if self.0 {
                packet[24..40].copy_from_slice(&[9; 16]);
            }
            Fate::Write
        }
        fn on_written(&self, _: &mut [u8]) -> Fate {
            Fate::Drop
        }
    }

    #[test]
    fn what_is_about_no_flow_is_not_sent_again() {
        let made = [2; 100];
        assert!(translated(&Flow(true), &made).is_some());
        assert_eq!(translated(&Flow(false), &made), None);
    }
}
