//! Somebody elsewhere who sends in a client's name and sees nothing of its connection.

use super::wire::Segment;
use netns_lab::Lab;
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::transport::{TransportChannelType, TransportSender, transport_channel};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

/// Raw sockets in a node's namespace.
pub struct Spoofer {
    v4: Mutex<TransportSender>,
    /// Of IPv6 pnet lets the kernel write the header, with an address of the kernel's choice.
    v6: Socket,
}

impl std::fmt::Debug for Spoofer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spoofer").finish_non_exhaustive()
    }
}

#[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
impl Spoofer {
    /// One on this node.
    ///
    /// # Panics
    /// Without root.
    pub fn at(lab: &Lab, node: &str) -> Self {
        let open = || {
            // Protocol 255 (IPPROTO_RAW): the IP header is ours, and nothing is ever received (raw(7)).
            let channel = TransportChannelType::Layer3(IpNextHeaderProtocols::Reserved);
            let (v4, _) = transport_channel(0, channel).unwrap();
            let raw = Some(Protocol::from(libc::IPPROTO_RAW));
            Spoofer { v4: Mutex::new(v4), v6: Socket::new(Domain::IPV6, Type::RAW, raw).unwrap() }
        };
        lab.inside(node, open).unwrap()
    }

    /// Sends a segment as if `from` had.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn send(&self, segment: &Segment, from: SocketAddr, to: SocketAddr) {
        let packet = segment.packet(from, to);
        let sent = if to.is_ipv4() {
            let mut socket = self.v4.lock().unwrap_or_else(PoisonError::into_inner);
            socket.send_to(Ipv4Packet::new(&packet).unwrap(), to.ip()).unwrap()
        } else {
            // Its port must be 0 or the protocol's number (`rawv6_sendmsg` in `net/ipv6/raw.c`).
            self.v6.send_to(&packet, &SocketAddr::new(to.ip(), 0).into()).unwrap()
        };
        assert_eq!(sent, packet.len());
    }
}
