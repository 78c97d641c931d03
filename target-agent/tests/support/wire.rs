//! The client's end of the wire: what arrives for it is checked and put together, what it sends goes to the server as
//! the intermediate would have translated it.

use super::{CLIENT_IP, SERVER, VIP};
use baton_shared::control::{Handoff, MigratedAnswer};
use etherparse::{IpNumber, Ipv4Header, Ipv4HeaderSlice, TcpHeader, TcpOptionElement, TcpSlice};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

pub(crate) struct Wire {
    capture: Socket,
    raw: Socket,
}

/// What a client has received.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fin: bool,
    pub(crate) reset: bool,
    pub(crate) segments: usize,
}

impl Wire {
    pub(crate) fn open() -> Self {
        // ETH_P_IP in network order.
        let protocol = Protocol::from(i32::from(0x0800u16.to_be()));
        let capture = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).unwrap();
        capture.set_recv_buffer_size(8 << 20).unwrap();
        capture.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        raw.set_header_included_v4(true).unwrap();
        Wire { capture, raw }
    }

    /// Receives the flow's response to its end, acknowledging like a client; closes when the server has.
    pub(crate) fn receive(&self, handoff: &Handoff, migrated: &MigratedAnswer, limit: Duration) -> Received {
        self.receive_up_to(handoff, migrated, usize::MAX, limit)
    }

    /// The same, but no longer than until so many bytes are there.
    pub(crate) fn receive_up_to(
        &self,
        handoff: &Handoff,
        migrated: &MigratedAnswer,
        bytes: usize,
        limit: Duration,
    ) -> Received {
        self.receive_more(handoff, migrated, Received::default(), bytes, limit)
    }

    /// The same, behind what was received before.
    pub(crate) fn receive_more(
        &self,
        handoff: &Handoff,
        migrated: &MigratedAnswer,
        mut got: Received,
        bytes: usize,
        limit: Duration,
    ) -> Received {
        let until = Instant::now() + limit;
        let mut packet = vec![0; 65_536];
        while Instant::now() < until && !got.fin && !got.reset && got.bytes.len() < bytes {
            let Ok(length) = (&self.capture).read(&mut packet) else { continue };
            self.take(handoff, migrated, &packet[..length], &mut got);
        }
        if got.fin {
            // The client's FIN, and then the server's answer to it.
            self.send(handoff, migrated, &got, true);
        }
        got
    }

    fn take(&self, handoff: &Handoff, migrated: &MigratedAnswer, packet: &[u8], got: &mut Received) {
        let Ok(ip) = Ipv4HeaderSlice::from_slice(packet) else { return };
        let client = handoff.connection.client;
        if ip.protocol() != IpNumber::TCP || SocketAddr::from((ip.destination_addr(), 0)).ip() != client.ip()
        {
            return;
        }
        let Ok(tcp) = TcpSlice::from_slice(&packet[20..usize::from(ip.total_len())]) else { return };
        if tcp.destination_port() != client.port() {
            return;
        }
        let source = SocketAddrV4::new(ip.source_addr(), tcp.source_port());
        assert_eq!(source.to_string(), VIP, "the server's own address is on the wire");
        assert!(!tcp.syn(), "a SYN-ACK is on the wire");
        // Checksums over veth may be left to the receiver: the header's is then a part only. With offloads off
        // it must be whole.
        got.segments += 1;
        got.reset |= tcp.rst();
        if tcp.rst() {
            return;
        }
        // The answer to the FIN of the connection before on the same port counts it.
        let beyond = tcp.acknowledgment_number().wrapping_sub(handoff.connection.rcv_nxt.raw());
        assert!(beyond <= 1, "the floor does not hold: {beyond}");
        let timestamp = tcp.options_iterator().find_map(|o| match o {
            Ok(TcpOptionElement::Timestamp(value, echo)) => Some((value, echo)),
            _ => None,
        });
        assert_eq!(timestamp.is_some(), handoff.connection.options.timestamps);
        if let Some((value, echo)) = timestamp {
            let ahead = value.wrapping_sub(handoff.connection.vip_tsval);
            assert!((2..60_000).contains(&ahead), "timestamp {ahead} ahead");
            assert_eq!(echo, handoff.connection.client_tsval);
        }
        let expected = handoff.connection.snd_nxt.raw().wrapping_add(u32::try_from(got.bytes.len()).unwrap());
        if tcp.sequence_number() == expected {
            got.bytes.extend_from_slice(tcp.payload());
            got.fin |= tcp.fin();
            if !tcp.payload().is_empty() || tcp.fin() {
                self.send(handoff, migrated, got, false);
            }
        }
    }

    /// An acknowledgement of all received, with the numbers the intermediate would put in.
    fn send(&self, handoff: &Handoff, migrated: &MigratedAnswer, got: &Received, fin: bool) {
        let connection = &handoff.connection;
        let server: SocketAddrV4 = SERVER.parse().unwrap();
        let mut tcp = TcpHeader::new(connection.client.port(), server.port(), connection.rcv_nxt.raw(), 500);
        let received = u32::try_from(got.bytes.len()).unwrap().wrapping_add(u32::from(got.fin));
        tcp.ack = true;
        tcp.fin = fin;
        tcp.acknowledgment_number = migrated.server_snd_nxt.raw().wrapping_add(received);
        if connection.options.timestamps {
            let echo = connection.vip_tsval.wrapping_add(2).wrapping_sub(migrated.ts_delta);
            let now = TcpOptionElement::Timestamp(connection.client_tsval, echo);
            tcp.set_options(&[TcpOptionElement::Noop, TcpOptionElement::Noop, now]).unwrap();
        }
        self.write(tcp, &[]);
    }

    pub(crate) fn reset(&self, handoff: &Handoff) {
        let connection = &handoff.connection;
        let mut tcp = TcpHeader::new(connection.client.port(), 8080, connection.rcv_nxt.raw(), 0);
        tcp.rst = true;
        self.write(tcp, &[]);
    }

    fn write(&self, mut tcp: TcpHeader, payload: &[u8]) {
        let client: std::net::Ipv4Addr = CLIENT_IP.parse().unwrap();
        let server: SocketAddrV4 = SERVER.parse().unwrap();
        let length = u16::try_from(tcp.header_len() + payload.len()).unwrap();
        let ip = Ipv4Header::new(length, 63, IpNumber::TCP, client.octets(), server.ip().octets()).unwrap();
        tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap();
        let mut packet = ip.to_bytes().to_vec();
        packet.extend_from_slice(&tcp.to_bytes());
        packet.extend_from_slice(payload);
        self.raw.send_to(&packet, &SocketAddr::V4(server).into()).unwrap();
    }
}
