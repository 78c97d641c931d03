//! Ends a client's connection by a reset, for a handoff nobody can tell the fate of; and the server's, should it
//! turn out to have it.
//!
//! A client takes a reset only at exactly its next expected sequence number (RFC 5961, section 3.2). The server may
//! have sent to the client already, so that number is known from the client's own acknowledgements, as far as they
//! were held; a reset elsewhere in the window makes the client answer with its exact number (the challenge
//! acknowledgement), which is held too, and then the reset is sent there.

use crate::hold::HeldFlow;
use baton_shared::capture::CapturedConnection;
use etherparse::PacketBuilder;
use pnet::packet::Packet as _;
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::transport::{TransportChannelType, TransportSender, transport_channel};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long to wait for the client to contradict a reset. One round trip and a delayed acknowledgement.
const ANSWER_TIME: Duration = Duration::from_millis(600);
/// How long to go on with a client that keeps sending.
const PATIENCE: Duration = Duration::from_secs(3);
/// Resets per connection at most.
const ATTEMPTS: u32 = 8;

/// Sends resets to clients.
pub struct Resetter {
    /// Opened at the first use: it is rarely needed.
    sender: Mutex<Option<TransportSender>>,
    resets: AtomicU64,
    connections: AtomicU64,
}

impl std::fmt::Debug for Resetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resetter").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Default for Resetter {
    fn default() -> Self {
        Self::new()
    }
}

impl Resetter {
    /// One that has not sent any.
    pub const fn new() -> Self {
        Resetter { sender: Mutex::new(None), resets: AtomicU64::new(0), connections: AtomicU64::new(0) }
    }

    /// Connections ended so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Reset packets sent so far.
    pub fn packets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// Ends the client's connection; returns when the client has nothing to object any more. The flow must still be
    /// frozen, so that the client's answers are held.
    pub async fn reset_client(&self, connection: &CapturedConnection, held: &HeldFlow) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut sent_at = None;
        let mut attempts = 0;
        let until = Instant::now() + PATIENCE;
        while attempts < ATTEMPTS && Instant::now() < until {
            let seq = held.newest_ack().unwrap_or(connection.snd_nxt.raw());
            if sent_at != Some(seq) {
                sent_at = Some(seq);
                attempts += 1;
                let sent =
                    reset_packet(connection.vip, connection.client, seq, Some(connection.rcv_nxt.raw()))
                        .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
                        .and_then(|packet| self.send(&packet, connection.client.ip()));
                match sent {
                    Ok(()) => self.resets.fetch_add(1, Ordering::Relaxed),
                    Err(e) => {
                        tracing::error!(client = %connection.client, error = %e, "a reset could not be sent");
                        return;
                    }
                };
            }
            if tokio::time::timeout(ANSWER_TIME, held.packet_arrived()).await.is_err() {
                return;
            }
        }
    }

    /// Tells a server that its client is gone: a reset as from the client, at the number after the last byte the
    /// server was fed. The client was reset before.
    pub fn reset_server(&self, connection: &CapturedConnection, server: SocketAddr) {
        let (rcv_nxt, client) = (connection.rcv_nxt.raw(), connection.client);
        let sent = reset_packet(client, server, rcv_nxt, None)
            .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
            .and_then(|packet| self.send(&packet, server.ip()));
        match sent {
            Ok(()) => {
                self.resets.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => {
                tracing::warn!(%client, %server, error = %e, "a server could not be told of its client's end")
            }
        }
    }

    fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match sender.take() {
            Some(open) => open,
            None => open()?,
        };
        let packet = Ipv4Packet::new(packet).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let length = packet.packet().len();
        let sent = sender.insert(open).send_to(packet, to)?;
        if sent == length { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
    }
}

fn open() -> io::Result<TransportSender> {
    // Protocol 255 (IPPROTO_RAW): we write the IP header, and nothing is ever received. With protocol TCP the
    // kernel would copy every TCP packet of the host to this socket.
    let channel = TransportChannelType::Layer3(IpNextHeaderProtocols::Reserved);
    transport_channel(0, channel).map(|(sender, _)| sender)
}

/// A reset; `None` for addresses of mixed or other families than IPv4.
fn reset_packet(from: SocketAddr, to: SocketAddr, seq: u32, ack: Option<u32>) -> Option<Vec<u8>> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { return None };
    let mut builder = PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
        .tcp(from.port(), to.port(), seq, 0)
        .rst();
    if let Some(ack) = ack {
        builder = builder.ack(ack);
    }
    let mut packet = Vec::with_capacity(builder.size(0));
    builder.write(&mut packet, &[]).ok()?;
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{SlicedPacket, TransportSlice};

    #[test]
    fn a_reset_has_the_clients_numbers_and_right_checksums() {
        let vip = "10.0.0.2:80".parse().unwrap();
        let client = "10.0.0.1:1000".parse().unwrap();
        let bytes = reset_packet(vip, client, 77, Some(99)).unwrap();
        let packet = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
        assert!(tcp.rst() && tcp.ack() && !tcp.syn());
        assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (77, 99));
        let sum = tcp.to_header().calc_checksum_ipv4_raw([10, 0, 0, 2], [10, 0, 0, 1], &[]).unwrap();
        assert_eq!(sum, tcp.checksum());
        assert!(reset_packet("[::1]:80".parse().unwrap(), client, 0, None).is_none());
    }
}
