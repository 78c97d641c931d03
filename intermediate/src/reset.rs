//! Ends a client's connection by a reset, for a handoff nobody can tell the fate of; and the server's, should it
//! turn out to have it.
//!
//! A client takes a reset only at exactly its next expected sequence number (RFC 5961, section 3.2). The server may
//! have sent to the client already, so that number is known from the client's own acknowledgements, as far as they
//! were held; a reset elsewhere in the window makes the client answer with its exact number (the challenge
//! acknowledgement), which is held too, and then the reset is sent there.

use crate::hold::HeldFlow;
use crate::raw::RawSender;
use baton_shared::capture::CapturedConnection;
use baton_shared::record::FlowRecord;
use etherparse::PacketBuilder;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long to wait for the client to contradict a reset. One round trip and a delayed acknowledgement.
const ANSWER_TIME: Duration = Duration::from_millis(600);
/// How long to go on with a client that keeps sending.
const PATIENCE: Duration = Duration::from_secs(3);
/// Resets per connection at most.
const ATTEMPTS: u32 = 8;

/// What a reset needs to know of a client's connection. Numbers in the client's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Severed {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The VIP's address and port.
    pub vip: SocketAddr,
    /// The next number the client expects, as far as it is known.
    pub snd_nxt: u32,
    /// The end of what the client has sent.
    pub rcv_nxt: u32,
}

impl From<&CapturedConnection> for Severed {
    fn from(captured: &CapturedConnection) -> Self {
        Severed {
            client: captured.client,
            vip: captured.vip,
            snd_nxt: captured.snd_nxt.raw(),
            rcv_nxt: captured.rcv_nxt.raw(),
        }
    }
}

impl Severed {
    /// By the notes of a flow whose client's packets went on before its target was known to have it.
    pub(crate) fn catch_up(&mut self, record: &FlowRecord) {
        self.snd_nxt = record.note_ack;
        self.rcv_nxt = record.note_seq_end;
    }
}

/// Sends resets to clients.
pub struct Resetter {
    raw: RawSender,
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
        Resetter { raw: RawSender::new(), resets: AtomicU64::new(0), connections: AtomicU64::new(0) }
    }

    /// Connections ended so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Reset packets sent so far.
    pub fn packets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// Has a client say which number it expects next: sends an empty segment from before its window, as keepalive does
    /// (RFC 9293, section 3.8.4), and waits until something of the client's is held, not for long.
    pub async fn ask_client(&self, connection: &Severed, held: &HeldFlow) {
        let before = connection.snd_nxt.wrapping_sub(1);
        let probe = Kind::Probe { ack: connection.rcv_nxt };
        let sent = bare_packet(connection.vip, connection.client, before, probe)
            .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
            .and_then(|packet| self.raw.send(&packet, connection.client.ip()));
        match sent {
            // Without an answer the number known stands.
            Ok(()) => drop(tokio::time::timeout(ANSWER_TIME, held.packet_arrived()).await),
            Err(e) => tracing::error!(client = %connection.client, error = %e, "a client could not be asked"),
        }
    }

    /// Ends the client's connection; returns when the client has nothing to object any more. The flow must still be
    /// frozen, so that the client's answers are held.
    pub async fn reset_client(&self, connection: &Severed, held: &HeldFlow) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut sent_at = None;
        let mut attempts = 0;
        let until = Instant::now() + PATIENCE;
        while attempts < ATTEMPTS && Instant::now() < until {
            let seq = held.newest_ack().unwrap_or(connection.snd_nxt);
            if sent_at != Some(seq) {
                sent_at = Some(seq);
                attempts += 1;
                let kind = Kind::Reset { ack: Some(connection.rcv_nxt) };
                let sent = bare_packet(connection.vip, connection.client, seq, kind)
                    .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
                    .and_then(|packet| self.raw.send(&packet, connection.client.ip()));
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
    pub fn reset_server(&self, connection: &Severed, server: SocketAddr) {
        let (rcv_nxt, client) = (connection.rcv_nxt, connection.client);
        let sent = bare_packet(client, server, rcv_nxt, Kind::Reset { ack: None })
            .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
            .and_then(|packet| self.raw.send(&packet, server.ip()));
        match sent {
            Ok(()) => {
                self.resets.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => {
                tracing::warn!(%client, %server, error = %e, "a server could not be told of its client's end")
            }
        }
    }
}

/// What a packet without payload is for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Reset { ack: Option<u32> },
    Probe { ack: u32 },
}

/// A packet without payload; `None` for addresses of two families.
fn bare_packet(from: SocketAddr, to: SocketAddr, seq: u32, kind: Kind) -> Option<Vec<u8>> {
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => return None,
    };
    let builder = ip.tcp(from.port(), to.port(), seq, 0);
    let builder = match kind {
        Kind::Reset { ack: None } => builder.rst(),
        Kind::Reset { ack: Some(ack) } => builder.rst().ack(ack),
        Kind::Probe { ack } => builder.ack(ack),
    };
    let mut packet = Vec::with_capacity(builder.size(0));
    builder.write(&mut packet, &[]).ok()?;
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    #[test]
    fn a_reset_has_the_clients_numbers_and_right_checksums_in_both_families() {
        for (vip, client) in [("10.0.0.2:80", "10.0.0.1:1000"), ("[2001:db8::2]:80", "[2001:db8::1]:1000")] {
            let bytes =
                bare_packet(vip.parse().unwrap(), client.parse().unwrap(), 77, Kind::Reset { ack: Some(99) })
                    .unwrap();
            let packet = SlicedPacket::from_ip(&bytes).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
            assert!(tcp.rst() && tcp.ack() && !tcp.syn());
            assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (77, 99));
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 1000));
            let sum = match packet.net.unwrap() {
                NetSlice::Ipv4(ip) => {
                    tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap()
                }
                NetSlice::Ipv6(ip) => {
                    tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap()
                }
                NetSlice::Arp(_) => panic!("ARP"),
            };
            assert_eq!(sum, tcp.checksum());
        }
        let mixed = bare_packet(
            "[::1]:80".parse().unwrap(),
            "10.0.0.1:1000".parse().unwrap(),
            0,
            Kind::Probe { ack: 0 },
        );
        assert!(mixed.is_none());
    }

    #[test]
    fn raw_ipv6_packets_can_be_sent_and_a_reset_beside_the_window_harms_nobody() {
        let resetter = Resetter::new();
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (from, to) = (server.local_addr().unwrap(), client.local_addr().unwrap());
        // Anywhere in the window: the client answers that with its number, and nothing else happens.
        let packet = bare_packet(from, to, 1, Kind::Reset { ack: None }).unwrap();
        match resetter.raw.send(&packet, to.ip()) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return eprintln!("skipped: no raw sockets: {e}");
            }
            Err(e) => panic!("{e}"),
        }
        drop(server);
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut client, &mut rest).unwrap();
    }
}
