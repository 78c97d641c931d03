//! Which packets are captured.

use baton_shared::packet::headers::read;
use baton_shared::packet::inside::inside;
use baton_shared::translate::{Direction, LEG_PORT, PROTOCOL_IPIP, PROTOCOL_IPV6};
use baton_shared::wire::PROTOCOL_UDP;
use socket2::{SockFilter, SockRef};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

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

    /// Whether a packet is from it or for it, as it is or in one outer header.
    pub(super) fn has(&self, packet: &[u8]) -> bool {
        ends(packet).or_else(|| ends(inside(packet)?)).is_some_and(|(from, to)| self.is(from) || self.is(to))
    }
}

/// Source and destination of a TCP packet.
pub(super) fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (key, ..) = read(packet, Direction::FromClient)?;
    Some((key.remote_addr(), key.local_addr()))
}

/// Has the kernel keep back, unseen, packets that [`Client::has`] would refuse: a busy device has many. What is in doubt
/// passes.
pub(super) fn attach(tap: &impl AsFd, client: &Client) -> io::Result<()> {
    SockRef::from(tap).attach_filter(&program(client.ip))
}

/// Passes packets with this address as source or destination, and those of a leg with it so inside (the outer header is of
/// the inner one's version, without options). A load beyond a packet's end refuses it.
fn program(client: IpAddr) -> [SockFilter; 22] {
    // linux/filter.h: load a byte, a half word, a word; with a mask; jump if equal; return.
    const BYTE: u16 = 0x30;
    const HALF: u16 = 0x28;
    const WORD: u16 = 0x20;
    const AND: u16 = 0x54;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALL: u32 = u32::MAX;
    const UDP_BYTES: u32 = 8;
    // Version, the protocol of IP in IP; where the protocol is, the last word of both addresses, and the header's end.
    let (version, ipip, protocol, source, destination, end, word) = match client {
        IpAddr::V4(v4) => (0x40, PROTOCOL_IPIP, 9, 12, 16, 20, v4.to_bits()),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            (0x60, PROTOCOL_IPV6, 6, 20, 36, 40, u32::from_be_bytes([a, b, c, d]))
        }
    };
    let load = |size, at| SockFilter::new(size, 0, 0, at);
    // Instructions to skip if it is so, and if not.
    let equal = |value, so, not| SockFilter::new(EQUAL, so, not, value);
    [
        load(BYTE, 0),
        load(AND, 0xf0),
        equal(version, 0, 18),
        load(WORD, source),
        equal(word, 15, 0),
        load(WORD, destination),
        equal(word, 13, 0),
        load(BYTE, protocol),
        equal(u32::from(ipip), 7, 0),
        equal(u32::from(PROTOCOL_UDP), 0, 11),
        load(HALF, end + 2),
        equal(u32::from(LEG_PORT.number()), 0, 9),
        load(WORD, end + UDP_BYTES + source),
        equal(word, 6, 0),
        load(WORD, end + UDP_BYTES + destination),
        equal(word, 4, 5),
        load(WORD, end + source),
        equal(word, 2, 0),
        load(WORD, end + destination),
        equal(word, 0, 1),
        SockFilter::new(RETURN, 0, 0, ALL),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
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

    fn in_udp(payload: &[u8], port: u16) -> Vec<u8> {
        let mut outer = Vec::new();
        PacketBuilder::ipv4([10, 9, 9, 9], [10, 0, 0, 3], 64)
            .udp(50_000, port)
            .write(&mut outer, payload)
            .unwrap();
        outer
    }

    fn in_ip(payload: &[u8]) -> Vec<u8> {
        let length = payload.len().try_into().unwrap();
        let number = PROTOCOL_IPIP.into();
        let header = etherparse::Ipv4Header::new(length, 64, number, [10, 9, 9, 9], [10, 0, 0, 3]);
        [header.unwrap().to_bytes().as_slice(), payload].concat()
    }

    fn v6(from: [u8; 16], to: [u8; 16]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv6(from, to, 64).tcp(1000, 80, 1, 1000).write(&mut packet, b"x").unwrap();
        packet
    }

    #[test]
    fn a_client_is_known_at_either_end_and_in_an_outer_header() {
        let (a, b) = (([10, 0, 0, 1], 1000), ([10, 0, 0, 2], 80));
        let one = Client::parse("10.0.0.1:1000").unwrap();
        let all = Client::parse("10.0.0.1").unwrap();
        let other = Client::parse("10.0.0.1:1001").unwrap();
        for packet in [packet(a, b), packet(b, a)] {
            assert!(one.has(&packet) && all.has(&packet) && !other.has(&packet));
            for outer in [in_udp(&packet, LEG_PORT.number()), in_ip(&packet)] {
                assert!(one.has(&outer) && !other.has(&outer));
                assert!(!one.has(&in_ip(&outer)), "one level is looked at");
            }
        }
        assert!(!all.has(&packet(([10, 0, 0, 3], 1), b)));
        assert_eq!(Client::parse("nonsense"), None);
        assert_eq!(Client::parse("[2001:db8::1]:5").unwrap().port, Some(5));
    }

    #[test]
    fn a_packet_that_seems_to_hold_itself_is_nobodys() {
        // Version 4 with a header of no bytes, then IP in IP.
        let itself = [0x40, 0, 0, 0, 0, 0, 0, 0, 64, PROTOCOL_IPIP];
        let all = Client::parse("10.0.0.1").unwrap();
        for junk in [&[][..], &[0x45], &[0x60; 50], &[0xff; 9], &itself, &itself.repeat(10)] {
            for packet in [junk.to_vec(), in_udp(junk, LEG_PORT.number()), in_ip(junk)] {
                assert!(!all.has(&packet), "{packet:x?}");
            }
        }
    }

    /// Which of these a socket with the client's filter is given. A Unix socket's datagrams go through the kernel's filter
    /// as a tap's packets do.
    fn passed(client: &str, packets: &[Vec<u8>]) -> Vec<bool> {
        let (from, to) = std::os::unix::net::UnixDatagram::pair().unwrap();
        to.set_nonblocking(true).unwrap();
        attach(&to, &Client::parse(client).unwrap()).unwrap();
        let passes = |packet: &Vec<u8>| {
            from.send(packet).unwrap();
            to.recv(&mut [0; 2048]).is_ok_and(|length| length == packet.len())
        };
        packets.iter().map(passes).collect()
    }

    #[test]
    fn the_kernel_keeps_back_what_is_not_the_clients() {
        let (a, b, c) = (([10, 0, 0, 1], 1000), ([10, 0, 0, 2], 80), ([10, 0, 0, 3], 80));
        let leg = LEG_PORT.number();
        let (one, two) = ([0x20; 16], [0x21; 16]);
        let packets = [
            (packet(a, b), true),
            (packet(b, a), true),
            (packet(b, c), false),
            (in_udp(&packet(a, b), leg), true),
            (in_udp(&packet(b, a), leg), true),
            (in_udp(&packet(b, c), leg), false),
            (in_udp(&packet(a, b), 53), false),
            (in_ip(&packet(a, b)), true),
            (in_ip(&packet(b, a)), true),
            (in_ip(&packet(b, c)), false),
            (in_udp(b"short", leg), false),
            (v6(one, two), false),
            (vec![0x45], false),
        ];
        let (sent, expected): (Vec<_>, Vec<_>) = packets.into_iter().unzip();
        assert_eq!(passed("10.0.0.1:1000", &sent), expected);
        let client = std::net::Ipv6Addr::from(one).to_string();
        let sent = [v6(one, two), v6(two, one), v6(two, two), packet(a, b)];
        assert_eq!(passed(&client, &sent), [true, true, false, false]);
    }
}
