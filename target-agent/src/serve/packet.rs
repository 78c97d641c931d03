//! Segments to bytes and back: IP packets as the TUN carries them.

use baton_shared::packet::reply;
use baton_shared::state::replay::{SegmentOptions, SegmentToSend, ServerReply, flag};
use etherparse::checksum::Sum16BitWords;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Hops left to what is injected: it goes to the local stack only.
const HOP_LIMIT: u8 = 64;
/// The protocol's number.
const TCP: u8 = 6;
/// Headers without options, bytes.
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;
/// Where the checksum is in a TCP header.
const CHECKSUM_AT: usize = 16;
/// The flags that a segment may have.
const FLAGS: u8 = flag::FIN | flag::SYN | flag::RST | flag::PSH | flag::ACK | flag::ECE | flag::CWR;

/// Who sends to whom in the packets the agent injects; both of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The client, the source.
    client: SocketAddr,
    /// The server, the destination.
    server: SocketAddr,
}

impl Ends {
    /// `None` unless both are of one address family.
    pub(crate) fn new(client: SocketAddr, server: SocketAddr) -> Option<Self> {
        (client.is_ipv4() == server.is_ipv4()).then_some(Ends { client, server })
    }

    /// The client's address and port.
    pub(crate) fn client(&self) -> SocketAddr {
        self.client
    }

    /// The server's address and port.
    pub(crate) fn server(&self) -> SocketAddr {
        self.server
    }
}

/// Writes the packet of a segment into `packet`, which is emptied before.
pub(crate) fn build(
    ends: Ends,
    segment: &SegmentToSend,
    payload: &[u8],
    packet: &mut Vec<u8>,
) -> io::Result<()> {
    let header = TCP_BYTES + option_bytes(segment.options);
    let length = header + payload.len();
    packet.clear();
    let (tcp_at, addresses) = match (ends.client.ip(), ends.server.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            put_ipv4(packet, source, destination, length)?;
            let sum = Sum16BitWords::new().add_4bytes(source.octets()).add_4bytes(destination.octets());
            (IPV4_BYTES, sum)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            put_ipv6(packet, source, destination, length)?;
            let sum = Sum16BitWords::new().add_16bytes(source.octets()).add_16bytes(destination.octets());
            (IPV6_BYTES, sum)
        }
        // `Ends::new` lets none such be.
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let words = u8::try_from(header / 4).map_err(io::Error::other)?;
    let ([p0, p1], [q0, q1]) = (ends.client.port().to_be_bytes(), ends.server.port().to_be_bytes());
    let ([s0, s1, s2, s3], [a0, a1, a2, a3]) =
        (segment.seq.raw().to_be_bytes(), segment.ack.raw().to_be_bytes());
    let (flags, [w0, w1]) = (segment.flags & FLAGS, segment.window.to_be_bytes());
    // The checksum, which is filled in below, and the urgent pointer come last.
    packet.extend_from_slice(&[
        p0,
        p1,
        q0,
        q1,
        s0,
        s1,
        s2,
        s3,
        a0,
        a1,
        a2,
        a3,
        words << 4,
        flags,
        w0,
        w1,
        0,
        0,
        0,
        0,
    ]);
    put_options(packet, segment.options);
    packet.resize(tcp_at + header, 0);
    packet.extend_from_slice(payload);
    let sum = addresses
        .add_2bytes(u16::from(TCP).to_be_bytes())
        .add_4bytes(u32::try_from(length).map_err(io::Error::other)?.to_be_bytes())
        .add_slice(packet.get(tcp_at..).unwrap_or_default());
    if let Some(place) = packet.get_mut(tcp_at + CHECKSUM_AT..).and_then(<[u8]>::first_chunk_mut) {
        *place = sum.ones_complement().to_ne_bytes();
    }
    Ok(())
}

/// An IPv4 header before so many bytes of TCP.
fn put_ipv4(packet: &mut Vec<u8>, source: Ipv4Addr, destination: Ipv4Addr, length: usize) -> io::Result<()> {
    const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
    let [high, low] = u16::try_from(IPV4_BYTES + length).map_err(io::Error::other)?.to_be_bytes();
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (source.octets(), destination.octets());
    let [flags, fragment] = DONT_FRAGMENT;
    let with_checksum = |[c0, c1]: [u8; 2]| {
        [0x45, 0, high, low, 0, 0, flags, fragment, HOP_LIMIT, TCP, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3]
    };
    let checksum = Sum16BitWords::new().add_slice(&with_checksum([0; 2])).ones_complement();
    packet.extend_from_slice(&with_checksum(checksum.to_ne_bytes()));
    Ok(())
}

/// The same of IPv6.
fn put_ipv6(packet: &mut Vec<u8>, source: Ipv6Addr, destination: Ipv6Addr, length: usize) -> io::Result<()> {
    let [high, low] = u16::try_from(length).map_err(io::Error::other)?.to_be_bytes();
    packet.extend_from_slice(&[0x60, 0, 0, 0, high, low, TCP, HOP_LIMIT]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    Ok(())
}

/// How long a header's options are, filled up to whole words.
fn option_bytes(options: SegmentOptions) -> usize {
    match options {
        SegmentOptions::None => 0,
        SegmentOptions::Timestamps { .. } => 12,
        SegmentOptions::Syn { sack, tsval, window_scale, .. } => {
            let sack = if sack { 2 } else { 1 };
            let timestamps = if tsval.is_some() { 10 } else { 1 };
            let scale_bytes: usize = if window_scale.is_some() { 3 } else { 1 };
            (4 + sack + timestamps + 1 + scale_bytes).next_multiple_of(4)
        }
    }
}

/// Without what fills them up, which are ends of the list.
fn put_options(packet: &mut Vec<u8>, options: SegmentOptions) {
    const NOP: u8 = 1;
    let timestamps = |packet: &mut Vec<u8>, value: u32, echo: u32| {
        packet.extend_from_slice(&[8, 10]);
        packet.extend_from_slice(&value.to_be_bytes());
        packet.extend_from_slice(&echo.to_be_bytes());
    };
    match options {
        SegmentOptions::None => {}
        SegmentOptions::Timestamps { value, echo } => {
            packet.extend_from_slice(&[NOP, NOP]);
            timestamps(packet, value, echo);
        }
        SegmentOptions::Syn { mss, sack, tsval, window_scale } => {
            let [high, low] = mss.to_be_bytes();
            packet.extend_from_slice(&[2, 4, high, low]);
            // A missing option's place is taken by NOPs, which every receiver skips.
            packet.extend_from_slice(if sack { &[4, 2] } else { &[NOP] });
            match tsval {
                Some(value) => timestamps(packet, value, 0),
                None => packet.push(NOP),
            }
            packet.push(NOP);
            match window_scale {
                Some(scale) => packet.extend_from_slice(&[3, 3, scale]),
                None => packet.push(NOP),
            }
        }
    }
}

/// A segment of the server's kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FromServer<'a> {
    pub(crate) ends: Ends,
    pub(crate) reply: ServerReply,
    pub(crate) payload: &'a [u8],
}

/// Reads what the server's kernel sent to a client. `None` if it is not a whole TCP segment.
pub(crate) fn parse(packet: &[u8]) -> Option<FromServer<'_>> {
    let (key, reply, payload) = reply::read(packet)?;
    let (client, server) = (key.remote_addr(), key.local_addr());
    Some(FromServer { ends: Ends::new(client, server)?, reply, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::seq::Seq;
    use etherparse::{IpSlice, PacketBuilder, PacketBuilderStep, TcpHeader, TcpOptionElement, TcpSlice};

    fn ends() -> [Ends; 2] {
        let pair =
            |client: &str, server: &str| Ends::new(client.parse().unwrap(), server.parse().unwrap()).unwrap();
        [pair("10.0.0.1:4000", "10.0.1.2:80"), pair("[2001:db8::1]:4000", "[2001:db8:1::2]:80")]
    }

    #[test]
    fn ends_of_two_families_are_no_connection() {
        let [v4, v6] = ends();
        assert!(Ends::new(v4.client, v6.server).is_none() && Ends::new(v6.client, v4.server).is_none());
    }

    #[test]
    fn each_combination_of_options_comes_back_from_the_bytes() {
        for (bits, ends) in (0..8u8).flat_map(|bits| ends().map(|ends| (bits, ends))) {
            let options = SegmentOptions::Syn {
                mss: 1400,
                sack: bits & 1 != 0,
                tsval: (bits & 2 != 0).then_some(77),
                window_scale: (bits & 4 != 0).then_some(6),
            };
            let segment = SegmentToSend { seq: Seq::new(9), flags: flag::SYN, options, ..Default::default() };
            let mut packet = vec![1, 2, 3];
            build(ends, &segment, &[], &mut packet).unwrap();
            let FromServer { ends: turned, reply: facts, .. } = parse(&packet).unwrap();
            // `parse` is for the other direction: ends come out swapped.
            assert_eq!((turned.client, turned.server), (ends.server, ends.client));
            assert_eq!((facts.seq.raw(), facts.flags, facts.mss), (9, flag::SYN, Some(1400)));
            assert_eq!(facts.sack_permitted, bits & 1 != 0);
            assert_eq!(facts.timestamps, (bits & 2 != 0).then_some((77, 0)));
            assert_eq!(facts.window_scale, (bits & 4 != 0).then_some(6));
        }
    }

    #[test]
    fn data_has_right_checksums_in_both_families() {
        let segment = SegmentToSend {
            seq: Seq::new(u32::MAX),
            ack: Seq::new(5),
            flags: flag::ACK | flag::PSH | flag::FIN,
            window: 500,
            options: SegmentOptions::Timestamps { value: 1, echo: 2 },
            payload_from: 0,
            payload_to: 5,
        };
        for ends in ends() {
            let mut packet = Vec::new();
            build(ends, &segment, b"hello", &mut packet).unwrap();
            let ip = IpSlice::from_slice(&packet).unwrap();
            let tcp = TcpSlice::from_slice(ip.payload().payload).unwrap();
            let (header, sum) = match &ip {
                IpSlice::Ipv4(ip) => {
                    let header = ip.header();
                    assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                    (20, tcp.calc_checksum_ipv4(header.source(), header.destination()).unwrap())
                }
                IpSlice::Ipv6(ip) => {
                    (40, tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap())
                }
            };
            assert_eq!(packet.len(), header + 32 + 5);
            assert_eq!(tcp.checksum(), sum);
            assert_eq!(tcp.payload(), b"hello");
            assert!(tcp.fin() && tcp.psh() && tcp.ack() && !tcp.syn() && !tcp.rst());
        }
    }

    type Setter = fn(PacketBuilderStep<TcpHeader>) -> PacketBuilderStep<TcpHeader>;
    const SETTERS: [(u8, Setter); 6] = [
        (flag::FIN, PacketBuilderStep::<TcpHeader>::fin),
        (flag::SYN, PacketBuilderStep::<TcpHeader>::syn),
        (flag::RST, PacketBuilderStep::<TcpHeader>::rst),
        (flag::PSH, PacketBuilderStep::<TcpHeader>::psh),
        (flag::ECE, PacketBuilderStep::<TcpHeader>::ece),
        (flag::CWR, PacketBuilderStep::<TcpHeader>::cwr),
    ];

    #[test]
    fn a_packet_is_as_a_library_makes_it() {
        use TcpOptionElement::{
            MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
        };
        let payload: Vec<u8> = (0..=255).cycle().take(1400).collect();
        let syn = |bits: u8| SegmentOptions::Syn {
            mss: 1400,
            sack: bits & 1 != 0,
            tsval: (bits & 2 != 0).then_some(0xfeed_face),
            window_scale: (bits & 4 != 0).then_some(6),
        };
        let some = [SegmentOptions::None, SegmentOptions::Timestamps { value: u32::MAX, echo: 7 }];
        for (number, options) in (0..8).map(syn).chain(some).enumerate() {
            let elements = match options {
                SegmentOptions::None => vec![],
                SegmentOptions::Timestamps { value, echo } => vec![Noop, Noop, Timestamp(value, echo)],
                SegmentOptions::Syn { mss, sack, tsval, window_scale } => vec![
                    MaximumSegmentSize(mss),
                    if sack { SelectiveAcknowledgementPermitted } else { Noop },
                    tsval.map_or(Noop, |value| Timestamp(value, 0)),
                    Noop,
                    window_scale.map_or(Noop, WindowScale),
                ],
            };
            for (flags, length) in (0..=u8::MAX).zip([0, 1, 2, 3, 100, 1399, 1400].into_iter().cycle()) {
                let segment = SegmentToSend {
                    seq: Seq::new(0x0102_0304_u32.wrapping_mul(flags.into())),
                    ack: Seq::new(u32::MAX - u32::from(flags)),
                    flags,
                    window: 0xff00 + u16::from(flags),
                    options,
                    ..SegmentToSend::default()
                };
                for ends in ends() {
                    let mut made = vec![9; number];
                    build(ends, &segment, &payload[..length], &mut made).unwrap();
                    let ip = match (ends.client.ip(), ends.server.ip()) {
                        (IpAddr::V4(s), IpAddr::V4(d)) => {
                            PacketBuilder::ipv4(s.octets(), d.octets(), HOP_LIMIT)
                        }
                        (IpAddr::V6(s), IpAddr::V6(d)) => {
                            PacketBuilder::ipv6(s.octets(), d.octets(), HOP_LIMIT)
                        }
                        _ => unreachable!("of one family"),
                    };
                    let (from, to) = (ends.client.port(), ends.server.port());
                    let mut tcp = ip.tcp(from, to, segment.seq.raw(), segment.window);
                    for (bit, set) in SETTERS {
                        if flags & bit != 0 {
                            tcp = set(tcp);
                        }
                    }
                    if flags & flag::ACK == 0 || flags & flag::URG != 0 {
                        // The library sets the number with the flag alone; we never the urgent pointer.
                        continue;
                    }
                    let mut expected = Vec::new();
                    let tcp = tcp.ack(segment.ack.raw()).options(&elements).unwrap();
                    tcp.write(&mut expected, &payload[..length]).unwrap();
                    assert_eq!(made, expected, "{ends:?} {segment:?}");
                }
            }
        }
        for ends in ends() {
            let most = usize::from(u16::MAX) - if ends.client.is_ipv4() { 40 } else { 20 };
            let mut packet = Vec::new();
            build(ends, &SegmentToSend::default(), &vec![0; most], &mut packet).unwrap();
            build(ends, &SegmentToSend::default(), &vec![0; most + 1], &mut packet).unwrap_err();
        }
    }

    #[test]
    fn anything_else_is_none() {
        assert!(parse(&[]).is_none());
        assert!(parse(&[0x45; 19]).is_none());
        assert!(parse(&[0x60; 60]).is_none());
        let mut packet = Vec::new();
        for ends in ends() {
            build(ends, &SegmentToSend::default(), b"hello", &mut packet).unwrap();
            for cut in 0..packet.len() - 5 {
                assert!(parse(&packet[..cut]).is_none(), "{cut}");
            }
        }
    }
}
