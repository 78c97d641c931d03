//! Segments to bytes and back: IP packets as the TUN carries them.

use baton_shared::packet::reply;
use baton_shared::state::replay::{SegmentOptions, SegmentToSend, ServerReply, flag};
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, TcpOptionElement};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Hops left to what is injected: it goes to the local stack only.
const HOP_LIMIT: u8 = 64;

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
    let mut tcp = TcpHeader::new(ends.client.port(), ends.server.port(), segment.seq.raw(), segment.window);
    tcp.acknowledgment_number = segment.ack.raw();
    tcp.fin = segment.flags & flag::FIN != 0;
    tcp.syn = segment.flags & flag::SYN != 0;
    tcp.rst = segment.flags & flag::RST != 0;
    tcp.psh = segment.flags & flag::PSH != 0;
    tcp.ack = segment.flags & flag::ACK != 0;
    tcp.ece = segment.flags & flag::ECE != 0;
    tcp.cwr = segment.flags & flag::CWR != 0;
    set_options(&mut tcp, segment.options)?;

    let length = u16::try_from(tcp.header_len() + payload.len()).map_err(io::Error::other)?;
    packet.clear();
    match (ends.client.ip(), ends.server.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            let mut ip = Ipv4Header::new(length, HOP_LIMIT, IpNumber::TCP, source, destination)
                .map_err(io::Error::other)?;
            ip.dont_fragment = true;
            ip.header_checksum = ip.calc_header_checksum();
            tcp.checksum =
                tcp.calc_checksum_ipv4_raw(source, destination, payload).map_err(io::Error::other)?;
            packet.extend_from_slice(&ip.to_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: length,
                next_header: IpNumber::TCP,
                hop_limit: HOP_LIMIT,
                source: source.octets(),
                destination: destination.octets(),
            };
            tcp.checksum = tcp.calc_checksum_ipv6(&ip, payload).map_err(io::Error::other)?;
            packet.extend_from_slice(&ip.to_bytes());
        }
        // `Ends::new` lets none such be.
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    packet.extend_from_slice(&tcp.to_bytes());
    packet.extend_from_slice(payload);
    Ok(())
}

fn set_options(tcp: &mut TcpHeader, options: SegmentOptions) -> io::Result<()> {
    use TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
    };
    match options {
        SegmentOptions::None => return Ok(()),
        SegmentOptions::Timestamps { value, echo } => tcp.set_options(&[Noop, Noop, Timestamp(value, echo)]),
        SegmentOptions::Syn { mss, sack, tsval, window_scale } => {
            // A missing option's place is taken by NOPs, which every receiver skips.
            tcp.set_options(&[
                MaximumSegmentSize(mss),
                if sack { SelectiveAcknowledgementPermitted } else { Noop },
                tsval.map_or(Noop, |value| Timestamp(value, 0)),
                Noop,
                window_scale.map_or(Noop, WindowScale),
            ])
        }
    }
    .map_err(io::Error::other)
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
    use etherparse::{IpSlice, TcpSlice};

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
