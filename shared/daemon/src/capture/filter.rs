//! Which packets are captured.

use baton_shared::packet::headers::read;
use baton_shared::translate::Direction;
use socket2::{SockFilter, SockRef};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

/// Protocol numbers (IANA): what may have the client's packet inside is looked at whole.
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPIP: u8 = 4;
const IPV6: u8 = 41;
/// Length of a UDP header, bytes.
const UDP_BYTES: usize = 8;

/// A client: any of its connections, or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) ip: IpAddr,
    pub(super) port: Option<u16>,
}

impl Client {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.parse::<SocketAddr>() {
            Ok(whole) => Some(Client { ip: whole.ip().to_canonical(), port: Some(whole.port()) }),
            Err(_) => text.parse::<IpAddr>().ok().map(|ip| Client { ip: ip.to_canonical(), port: None }),
        }
    }

    pub(super) fn is(&self, address: SocketAddr) -> bool {
        self.ip == address.ip().to_canonical() && self.port.is_none_or(|port| port == address.port())
    }

    /// Whether a packet is from it or for it, in an outer header or not.
    pub(super) fn has(&self, packet: &[u8]) -> bool {
        ends(packet).is_some_and(|(from, to)| self.is(from) || self.is(to))
            || inner(packet).is_some_and(|inner| self.has(inner))
    }
}

/// Source and destination of a TCP packet.
pub(super) fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (key, ..) = read(packet, Direction::FromClient)?;
    Some((key.remote.socket_addr(key.remote_port), key.local.socket_addr(key.local_port)))
}

/// The packet in an outer header's packet: IP in IP, or IP in UDP.
pub(super) fn inner(packet: &[u8]) -> Option<&[u8]> {
    let (protocol, at) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, usize::from(packet.first()? & 15) * 4),
        6 => (*packet.get(6)?, 40),
        _ => return None,
    };
    match protocol {
        IPIP | IPV6 => packet.get(at..),
        UDP => packet.get(at + UDP_BYTES..),
        _ => None,
    }
}

/// Has the kernel keep back, unseen, TCP packets of other addresses: a busy device has many. What is no TCP passes, and
/// so does what is in doubt; [`Client::has`] looks at it.
pub(super) fn attach(tap: &impl AsFd, client: &Client) -> io::Result<()> {
    // linux/filter.h: load a byte, load a word, jump if equal, and with a mask, return.
    const BYTE: u16 = 0x30;
    const WORD: u16 = 0x20;
    const AND: u16 = 0x54;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALL: u32 = u32::MAX;
    // Protocol field, and where the last word of both addresses is.
    let (version, protocol, source, destination, word) = match client.ip {
        IpAddr::V4(v4) => (0x40, 9, 12, 16, v4.to_bits()),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            (0x60, 6, 20, 36, u32::from_be_bytes([a, b, c, d]))
        }
    };
    let program = [
        SockFilter::new(BYTE, 0, 0, 0),
        SockFilter::new(AND, 0, 0, 0xf0),
        // Of the other version: pass (it may have the client's inside).
        SockFilter::new(EQUAL, 0, 6, version),
        SockFilter::new(BYTE, 0, 0, protocol),
        SockFilter::new(EQUAL, 0, 4, u32::from(TCP)),
        SockFilter::new(WORD, 0, 0, source),
        SockFilter::new(EQUAL, 2, 0, word),
        SockFilter::new(WORD, 0, 0, destination),
        SockFilter::new(EQUAL, 0, 1, word),
        SockFilter::new(RETURN, 0, 0, ALL),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    SockRef::from(tap).attach_filter(&program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn packet(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let builder = PacketBuilder::ipv4(from.0, to.0, 64).tcp(from.1, to.1, 1, 1000);
        let mut packet = Vec::new();
        builder.write(&mut packet, b"x").unwrap();
        packet
    }

    #[test]
    fn a_client_is_known_at_either_end_and_in_outer_headers() {
        let (a, b) = (([10, 0, 0, 1], 1000), ([10, 0, 0, 2], 80));
        let one = Client::parse("10.0.0.1:1000").unwrap();
        let all = Client::parse("10.0.0.1").unwrap();
        let other = Client::parse("10.0.0.1:1001").unwrap();
        for packet in [packet(a, b), packet(b, a)] {
            assert!(one.has(&packet) && all.has(&packet) && !other.has(&packet));
            let mut outer = Vec::new();
            PacketBuilder::ipv4([10, 9, 9, 9], [10, 0, 0, 3], 64)
                .udp(6080, 6080)
                .write(&mut outer, &packet)
                .unwrap();
            assert!(one.has(&outer) && !other.has(&outer));
        }
        assert!(!all.has(&packet(([10, 0, 0, 3], 1), b)) && !all.has(&[]) && !all.has(&[0x45]));
        assert_eq!(Client::parse("nonsense"), None);
        assert_eq!(Client::parse("[2001:db8::1]:5").unwrap().port, Some(5));
    }
}
