//! Segments to bytes and back: IPv4 packets as the TUN carries them.

use baton_shared::seq::Seq;
use baton_shared::state::replay::{SegmentOptions, SegmentToSend, ServerReply, flag};
use etherparse::{IpNumber, Ipv4Header, Ipv4HeaderSlice, TcpHeader, TcpOptionElement, TcpSlice};
use std::io;
use std::net::{SocketAddr, SocketAddrV4};

/// Who sends to whom in the packets the agent injects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The client, the source.
    pub(crate) client: SocketAddrV4,
    /// The server, the destination.
    pub(crate) server: SocketAddrV4,
}

impl Ends {
    /// `None` unless both are IPv4.
    pub(crate) fn new(client: SocketAddr, server: SocketAddr) -> Option<Self> {
        match (client, server) {
            (SocketAddr::V4(client), SocketAddr::V4(server)) => Some(Ends { client, server }),
            _ => None,
        }
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

    let (source, destination) = (ends.client.ip().octets(), ends.server.ip().octets());
    let length = u16::try_from(tcp.header_len() + payload.len()).map_err(io::Error::other)?;
    let mut ip = Ipv4Header::new(length, 64, IpNumber::TCP, source, destination).map_err(io::Error::other)?;
    ip.dont_fragment = true;
    ip.header_checksum = ip.calc_header_checksum();
    tcp.checksum = tcp.calc_checksum_ipv4_raw(source, destination, payload).map_err(io::Error::other)?;

    packet.clear();
    packet.extend_from_slice(&ip.to_bytes());
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

/// Reads what the server's kernel sent to a client: who, and the facts of the segment. `None` if it is not a
/// whole IPv4 TCP segment.
pub(crate) fn parse(packet: &[u8]) -> Option<(Ends, ServerReply)> {
    let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
    if ip.protocol() != IpNumber::TCP || ip.is_fragmenting_payload() {
        return None;
    }
    let tcp = TcpSlice::from_slice(packet.get(ip.slice().len()..usize::from(ip.total_len()))?).ok()?;
    let mut reply = ServerReply {
        seq: Seq::new(tcp.sequence_number()),
        ack: Seq::new(tcp.acknowledgment_number()),
        window: tcp.window_size(),
        ..ServerReply::default()
    };
    for (set, bit) in [
        (tcp.fin(), flag::FIN),
        (tcp.syn(), flag::SYN),
        (tcp.rst(), flag::RST),
        (tcp.psh(), flag::PSH),
        (tcp.ack(), flag::ACK),
        (tcp.ece(), flag::ECE),
        (tcp.cwr(), flag::CWR),
    ] {
        if set {
            reply.flags |= bit;
        }
    }
    for option in tcp.options_iterator() {
        match option {
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => reply.mss = Some(mss),
            Ok(TcpOptionElement::WindowScale(shift)) => reply.window_scale = Some(shift),
            Ok(TcpOptionElement::SelectiveAcknowledgementPermitted) => reply.sack_permitted = true,
            Ok(TcpOptionElement::Timestamp(value, echo)) => reply.timestamps = Some((value, echo)),
            Ok(_) => {}
            // An option this parser does not know ends the walk; what matters stands before it.
            Err(_) => break,
        }
    }
    let ends = Ends {
        client: SocketAddrV4::new(ip.destination_addr(), tcp.destination_port()),
        server: SocketAddrV4::new(ip.source_addr(), tcp.source_port()),
    };
    Some((ends, reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Ends {
        Ends { client: "10.0.0.1:4000".parse().unwrap(), server: "10.0.1.2:80".parse().unwrap() }
    }

    #[test]
    fn each_combination_of_options_comes_back_from_the_bytes() {
        for bits in 0..8u8 {
            let options = SegmentOptions::Syn {
                mss: 1400,
                sack: bits & 1 != 0,
                tsval: (bits & 2 != 0).then_some(77),
                window_scale: (bits & 4 != 0).then_some(6),
            };
            let segment = SegmentToSend { seq: Seq::new(9), flags: flag::SYN, options, ..Default::default() };
            let mut packet = vec![1, 2, 3];
            build(ends(), &segment, &[], &mut packet).unwrap();
            let (turned, facts) = parse(&packet).unwrap();
            // `parse` is for the other direction: ends come out swapped.
            assert_eq!((turned.client, turned.server), (ends().server, ends().client));
            assert_eq!((facts.seq.raw(), facts.flags, facts.mss), (9, flag::SYN, Some(1400)));
            assert_eq!(facts.sack_permitted, bits & 1 != 0);
            assert_eq!(facts.timestamps, (bits & 2 != 0).then_some((77, 0)));
            assert_eq!(facts.window_scale, (bits & 4 != 0).then_some(6));
        }
    }

    #[test]
    fn data_has_right_checksums() {
        let segment = SegmentToSend {
            seq: Seq::new(u32::MAX),
            ack: Seq::new(5),
            flags: flag::ACK | flag::PSH | flag::FIN,
            window: 500,
            options: SegmentOptions::Timestamps { value: 1, echo: 2 },
            payload_from: 0,
            payload_to: 5,
        };
        let mut packet = Vec::new();
        build(ends(), &segment, b"hello", &mut packet).unwrap();
        assert_eq!(packet.len(), 20 + 32 + 5);
        let ip = Ipv4HeaderSlice::from_slice(&packet).unwrap();
        assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
        let tcp = TcpSlice::from_slice(&packet[20..]).unwrap();
        assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(ip.source(), ip.destination()).unwrap());
        assert_eq!(tcp.payload(), b"hello");
        assert!(tcp.fin() && tcp.psh() && tcp.ack() && !tcp.syn() && !tcp.rst());
    }

    #[test]
    fn anything_else_is_none() {
        assert!(parse(&[]).is_none());
        assert!(parse(&[0x45; 19]).is_none());
        assert!(parse(&[0x60; 60]).is_none());
        let mut packet = Vec::new();
        build(ends(), &SegmentToSend::default(), b"hello", &mut packet).unwrap();
        for cut in 0..40 {
            assert!(parse(&packet[..cut]).is_none(), "{cut}");
        }
    }
}
