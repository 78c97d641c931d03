//! ICMPv6 errors about what a target sent in the VIP's name, for the plane in user space. No rule of policy routing can lead
//! them to the daemon without taking neighbour discovery along; but a raw socket gets a copy of each that the kernel delivers.

use baton_daemon::tun::Tun;
use baton_shared::wire::PROTOCOL_ICMPV6;
use baton_userspace::{Carrier, Fate};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;

/// The longest message: an IPv6 packet's payload is 16 bits long.
const MESSAGE_BYTES: usize = 65_535;
/// Bytes of an IPv6 header, and where its destination stands.
const HEADER: usize = 40;
const DESTINATION: std::ops::Range<usize> = 24..40;
/// Where the source of the quoted packet stands in a message: behind ICMP's own eight bytes.
const QUOTED_SOURCE: std::ops::Range<usize> = 16..32;
/// As it may still go: nobody but this host's neighbour and the target's routers see it.
const HOPS: u8 = 64;

/// A socket with a copy of every ICMPv6 message to this host. Needs CAP_NET_RAW.
fn open() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    // To the runtime it is a socket of datagrams like any other.
    UdpSocket::from_std(socket.into())
}

/// The packet that a message came in, if it is an error about a packet of this host's. It was sent to whom that is from.
fn packet(message: &[u8], from: Ipv6Addr) -> Option<Vec<u8>> {
    // Errors, as opposed to all other messages (RFC 4443, section 2.1).
    let quoted: [u8; 16] = match message {
        [kind, ..] if *kind < 128 => message.get(QUOTED_SOURCE)?.try_into().ok()?,
        _ => return None,
    };
    let length = u16::try_from(message.len()).ok()?.to_be_bytes();
    let mut packet = Vec::with_capacity(HEADER + message.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0, length[0], length[1], PROTOCOL_ICMPV6, HOPS]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&quoted);
    packet.extend_from_slice(message);
    Some(packet)
}

/// Has the plane judge it; the packet to send to the target, if it is about a migrated flow.
fn translated(carrier: &dyn Carrier, mut packet: Vec<u8>) -> Option<Vec<u8>> {
    let vip = packet.get(DESTINATION)?.to_vec();
    let fate = carrier.on_received(&mut packet);
    // Still for this host: about none of the flows, and the kernel has it already.
    (fate == Fate::Write && packet.get(DESTINATION)? != vip).then_some(packet)
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
        if let Some(error) = error.and_then(|error| translated(&*carrier, error))
            && let Err(e) = tun.send_carried(&error)
        {
            tracing::debug!(error = %e, "an ICMPv6 error was not taken by the kernel");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
    const VIP: [u8; 16] = [2; 16];

    fn too_big() -> Vec<u8> {
        let mut about = Vec::new();
        PacketBuilder::ipv6(VIP, [1; 16], 60).tcp(80, 1000, 7, 500).write(&mut about, b"data").unwrap();
        let mut whole = Vec::new();
        let kind = Icmpv6Type::PacketTooBig { mtu: 1280 };
        PacketBuilder::ipv6(ROUTER.octets(), VIP, HOPS).icmpv6(kind).write(&mut whole, &about).unwrap();
        whole
    }

    #[test]
    fn an_errors_packet_is_put_together_again() {
        let whole = too_big();
        let again = packet(&whole[HEADER..], ROUTER).unwrap();
        // But for the flow label, which etherparse leaves 0 too.
        assert_eq!(again, whole);
        let sliced = SlicedPacket::from_ip(&again).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
        assert!(icmp.is_checksum_valid(ROUTER.octets(), VIP));
    }

    #[test]
    fn other_messages_and_broken_ones_are_nobodys() {
        let mut solicitation = too_big()[HEADER..].to_vec();
        solicitation[0] = 135;
        assert_eq!(packet(&solicitation, ROUTER), None);
        for cut in 0..QUOTED_SOURCE.end {
            assert_eq!(packet(&too_big()[HEADER..HEADER + cut], ROUTER), None);
        }
    }

    /// Sends what is for the VIP to a target, as a plane does with what is about a flow.
    #[derive(Debug)]
    struct Flow(bool);
    impl Carrier for Flow {
        fn on_received(&self, packet: &mut [u8]) -> Fate {
            if self.0 {
                packet[DESTINATION].copy_from_slice(&[9; 16]);
            }
            Fate::Write
        }
        fn on_written(&self, _: &mut [u8]) -> Fate {
            Fate::Drop
        }
    }

    #[test]
    fn what_is_about_no_flow_is_not_sent_again() {
        assert!(translated(&Flow(true), too_big()).is_some());
        assert_eq!(translated(&Flow(false), too_big()), None);
    }
}
