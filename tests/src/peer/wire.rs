//! Packets as the peer sends and receives them.

use etherparse::{
    IpEcn, IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket, TcpHeader, TcpOptionElement,
    TransportSlice,
};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use baton_shared::state::replay::flag;

/// Time to live, or hop limit, of what is sent.
const HOPS: u8 = 64;

/// TCP options of a segment, in the order they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size, bytes (RFC 9293, section 3.7.1).
    pub mss: Option<u16>,
    /// SACK permitted (RFC 2018, section 2).
    pub sack_permitted: bool,
    /// TSval and TSecr (RFC 7323, section 3).
    pub timestamps: Option<(u32, u32)>,
    /// Window scale (RFC 7323, section 2).
    pub window_scale: Option<u8>,
    /// SACK blocks, each from its left edge to behind its right one.
    pub sack: Vec<(u32, u32)>,
    /// Bytes of further options, as they are; on reception those that are none of the above.
    pub raw: Vec<u8>,
}

impl Options {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(mss) = self.mss {
            out.extend([2, 4]);
            out.extend(mss.to_be_bytes());
        }
        if self.sack_permitted {
            out.extend([4, 2]);
        }
        if let Some((value, echo)) = self.timestamps {
            out.extend([8, 10]);
            out.extend(value.to_be_bytes());
            out.extend(echo.to_be_bytes());
        }
        if let Some(scale) = self.window_scale {
            out.extend([3, 3, scale]);
        }
        if !self.sack.is_empty() {
            out.extend([5, u8::try_from(2 + 8 * self.sack.len()).unwrap_or(2)]);
            for (left, right) in &self.sack {
                out.extend(left.to_be_bytes());
                out.extend(right.to_be_bytes());
            }
        }
        out.extend(&self.raw);
        // No-operation bytes up to a whole word.
        out.resize(out.len().next_multiple_of(4), 1);
        out
    }

    fn parse(tcp: &etherparse::TcpSlice<'_>) -> Result<Self, String> {
        let mut options = Self::default();
        for element in tcp.options_iterator() {
            match element.map_err(|e| format!("options: {e}"))? {
                TcpOptionElement::Noop => {}
                TcpOptionElement::MaximumSegmentSize(mss) => options.mss = Some(mss),
                TcpOptionElement::WindowScale(scale) => options.window_scale = Some(scale),
                TcpOptionElement::SelectiveAcknowledgementPermitted => options.sack_permitted = true,
                TcpOptionElement::SelectiveAcknowledgement(first, more) => {
                    options.sack.push(first);
                    options.sack.extend(more.into_iter().flatten());
                }
                TcpOptionElement::Timestamp(value, echo) => options.timestamps = Some((value, echo)),
            }
        }
        Ok(options)
    }
}

/// One segment to be sent, every field the test's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; written even without the flag.
    pub ack: u32,
    /// [`flag`] bits.
    pub flags: u8,
    /// The window field as it stands in the header, not scaled.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// The ECN field of the IP header: 0 not capable, 1 ECT(1), 2 ECT(0), 3 CE (RFC 3168, section 5).
    pub ecn: u8,
    /// Options.
    pub options: Options,
    /// Data.
    pub payload: Vec<u8>,
}

impl Segment {
    /// The raw IP packet from `from` to `to`, checksums right.
    ///
    /// # Panics
    /// If the options or the payload are too long.
    #[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
    pub fn packet(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let mut tcp = TcpHeader::new(from.port(), to.port(), self.seq, self.window);
        let has = |bit| self.flags & bit != 0;
        tcp.fin = has(flag::FIN);
        tcp.syn = has(flag::SYN);
        tcp.rst = has(flag::RST);
        tcp.psh = has(flag::PSH);
        tcp.ack = has(flag::ACK);
        tcp.urg = has(flag::URG);
        tcp.ece = has(flag::ECE);
        tcp.cwr = has(flag::CWR);
        tcp.acknowledgment_number = self.ack;
        tcp.urgent_pointer = self.urgent;
        tcp.set_options_raw(&self.options.bytes()).unwrap();
        let length = u16::try_from(tcp.header_len() + self.payload.len()).unwrap();
        let mut bytes = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip =
                    Ipv4Header::new(length, HOPS, IpNumber::TCP, from.octets(), to.octets()).unwrap();
                ip.ecn = IpEcn::try_new(self.ecn).unwrap();
                ip.dont_fragment = true;
                ip.header_checksum = ip.calc_header_checksum();
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).unwrap();
                ip.to_bytes().to_vec()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    traffic_class: self.ecn,
                    payload_length: length,
                    next_header: IpNumber::TCP,
                    hop_limit: HOPS,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).unwrap();
                ip.to_bytes().to_vec()
            }
            _ => panic!("{from} and {to} are not of one family"),
        };
        bytes.extend_from_slice(&tcp.to_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// One packet received, its checksums right.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// Where it says it comes from.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// What it says.
    pub segment: Segment,
}

impl Packet {
    /// Reads a raw IP packet.
    ///
    /// # Errors
    /// What is wrong with it: no TCP over IP, a checksum that does not match.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let sliced = SlicedPacket::from_ip(bytes).map_err(|e| format!("{e} in {bytes:02x?}"))?;
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            return Err(format!("no TCP: {bytes:02x?}"));
        };
        let (source, destination, hops, ecn, right): (IpAddr, IpAddr, _, _, _) = match sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                if ones_sum(ip.header().slice()) != 0xffff {
                    return Err(format!("IP checksum {:04x}: {bytes:02x?}", header.header_checksum));
                }
                let right = tcp.calc_checksum_ipv4(header.source, header.destination);
                let (source, destination) =
                    (Ipv4Addr::from(header.source), Ipv4Addr::from(header.destination));
                (source.into(), destination.into(), header.time_to_live, header.ecn.value(), right)
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header().to_header();
                let right = tcp.calc_checksum_ipv6(header.source, header.destination);
                let (source, destination) =
                    (Ipv6Addr::from(header.source), Ipv6Addr::from(header.destination));
                (source.into(), destination.into(), header.hop_limit, header.traffic_class & 3, right)
            }
            _ => return Err(format!("no IP: {bytes:02x?}")),
        };
        let right = right.map_err(|e| e.to_string())?;
        // The two zeros of ones' complement are one number; a kernel that completes a checksum writes 0 as 0xffff
        // (CSUM_MANGLED_0 in skb_checksum_help()).
        if tcp.checksum() != right && (tcp.checksum(), right) != (0xffff, 0) {
            return Err(format!("TCP checksum {:04x}, not {right:04x}: {bytes:02x?}", tcp.checksum()));
        }
        let flags = tcp.slice().get(13).copied().unwrap_or(0);
        Ok(Self {
            from: SocketAddr::new(source, tcp.source_port()),
            to: SocketAddr::new(destination, tcp.destination_port()),
            hops,
            segment: Segment {
                seq: tcp.sequence_number(),
                ack: tcp.acknowledgment_number(),
                flags,
                window: tcp.window_size(),
                urgent: tcp.urgent_pointer(),
                ecn,
                options: Options::parse(&tcp)?,
                payload: tcp.payload().to_vec(),
            },
        })
    }

    /// Whether all these [`flag`] bits are set.
    pub fn has(&self, bits: u8) -> bool {
        self.segment.flags & bits == bits
    }

    /// Whether none of these [`flag`] bits is set.
    pub fn lacks(&self, bits: u8) -> bool {
        self.segment.flags & bits == 0
    }

    /// Whether it carries bytes of the stream, which a SYN said again does not.
    pub fn has_data(&self) -> bool {
        !self.segment.payload.is_empty()
    }

    /// Length in sequence space: data, and one each for SYN and FIN.
    pub fn length(&self) -> u32 {
        let payload = u32::try_from(self.segment.payload.len()).unwrap_or(u32::MAX);
        payload + u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN))
    }
}

/// The ones' complement sum of 16-bit words: all ones over a header with a right checksum (RFC 1071).
fn ones_sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|w| match w {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    (sum & 0xffff) + (sum >> 16)
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.from, Shown(&self.segment))
    }
}

/// A segment in one line, without its data.
pub(super) struct Shown<'a>(pub(super) &'a Segment);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0;
        for (bit, letter) in "FSRP.UEW".chars().enumerate() {
            if s.flags & (1 << bit) != 0 {
                write!(f, "{letter}")?;
            }
        }
        write!(f, " seq {} len {} ack {} win {}", s.seq, s.payload.len(), s.ack, s.window)?;
        if s.urgent != 0 || s.ecn != 0 {
            write!(f, " urg {} ecn {}", s.urgent, s.ecn)?;
        }
        if let Some((value, echo)) = s.options.timestamps {
            write!(f, " ts {value} {echo}")?;
        }
        if !s.options.sack.is_empty() {
            write!(f, " sack {:?}", s.options.sack)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> [(SocketAddr, SocketAddr); 2] {
        [("10.91.0.1:1000", "10.90.1.100:80"), ("[fd91::1]:1000", "[fd90:1::100]:80")]
            .map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap()))
    }

    #[test]
    fn what_is_built_is_read_again() {
        let segment = Segment {
            seq: u32::MAX,
            ack: 7,
            flags: flag::ACK | flag::URG | flag::CWR | flag::FIN,
            window: 99,
            urgent: 3,
            ecn: 2,
            options: Options {
                timestamps: Some((1, u32::MAX)),
                sack: vec![(1, 2), (u32::MAX, 3)],
                ..Options::default()
            },
            payload: b"odd".to_vec(),
        };
        let syn = Segment {
            flags: flag::SYN,
            options: Options {
                mss: Some(88),
                sack_permitted: true,
                timestamps: Some((1, 0)),
                window_scale: Some(14),
                ..Options::default()
            },
            ..Segment::default()
        };
        for (from, to) in ends() {
            let packet = Packet::parse(&segment.packet(from, to)).unwrap();
            assert_eq!((packet.from, packet.to, packet.length()), (from, to, 4));
            assert_eq!(packet.segment, segment);
            assert_eq!(Packet::parse(&syn.packet(from, to)).unwrap().segment, syn);
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let segment = Segment { flags: flag::ACK, payload: b"data".to_vec(), ..Segment::default() };
        for (from, to) in ends() {
            let good = segment.packet(from, to);
            let parsed = Packet::parse(&good).unwrap();
            for bit in 0..good.len() * 8 {
                // IPv6 has no checksum of its own: traffic class, flow label and hop limit may be anything.
                if from.is_ipv6() && ((4..32).contains(&bit) || (56..64).contains(&bit)) {
                    continue;
                }
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (7 - bit % 8);
                assert!(Packet::parse(&bad).is_err_and(|e| !e.is_empty()), "bit {bit} of {parsed:?}");
            }
        }
    }
}
