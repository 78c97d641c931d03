//! Whole IP packets sent by this host in the VIP's name.

use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::transport::{TransportChannelType, TransportSender, transport_channel};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// A socket for each version of IP, opened at its first use.
#[derive(Default)]
pub struct RawSender {
    v4: Mutex<Option<TransportSender>>,
    v6: Mutex<Option<Socket>>,
}

impl std::fmt::Debug for RawSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawSender").finish_non_exhaustive()
    }
}

impl RawSender {
    /// One that has sent nothing.
    pub const fn new() -> Self {
        RawSender { v4: Mutex::new(None), v6: Mutex::new(None) }
    }

    /// Sends a packet that begins with its IP header. Never waits.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let sent = match to {
            IpAddr::V4(_) => {
                let mut sender = self.v4.lock().unwrap_or_else(PoisonError::into_inner);
                let open = sender.take().map_or_else(open_v4, Ok)?;
                let packet =
                    Ipv4Packet::new(packet).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
                sender.insert(open).send_to(packet, to)?
            }
            IpAddr::V6(_) => {
                let mut socket = self.v6.lock().unwrap_or_else(PoisonError::into_inner);
                let open = socket.take().map_or_else(open_v6, Ok)?;
                // The port must be 0 or the protocol's number (`rawv6_sendmsg` in `net/ipv6/raw.c`).
                socket.insert(open).send_to(packet, &SocketAddr::new(to, 0).into())?
            }
        };
        if sent == packet.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
    }
}

fn open_v4() -> io::Result<TransportSender> {
    // Protocol 255 (IPPROTO_RAW): we write the IP header, and nothing is ever received. With protocol TCP the
    // kernel would copy every TCP packet of the host to this socket.
    let channel = TransportChannelType::Layer3(IpNextHeaderProtocols::Reserved);
    transport_channel(0, channel).map(|(sender, _)| sender)
}

/// The same for IPv6, whose header pnet lets the kernel write alone, with an address of the kernel's choice.
fn open_v6() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
