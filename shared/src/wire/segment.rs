//! A TCP segment as the judgement sees it.

use super::{ACK, FIN, HeaderChecksum, IpFacts, OptionValues, RST, SYN, TcpWords};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The header values of one segment, host order where not said otherwise. A GSO super-packet is one segment.
/// Addresses and ports are not here: they are the key under which the flow was found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; counts only with ACK.
    pub ack: u32,
    /// Payload, bytes.
    pub payload: u32,
    /// Window as in the header, not scaled.
    pub window: u16,
    /// TCP flags.
    pub flags: u8,
    /// Time to live (IPv4) or hop limit (IPv6).
    pub ttl: u8,
    /// IPv4: the header's checksum.
    pub header_checksum: HeaderChecksum,
    /// 1 if routers may cut it into fragments.
    pub may_fragment: u8,
    /// Explicit padding.
    pub reserved: u8,
    /// Bytes of the IP packet, of a super-packet those of its largest segment's: what must fit through each link.
    pub packet: u32,
    /// Timestamps and selective acknowledgements.
    pub options: OptionValues,
}

impl Segment {
    /// Takes over all but the options from an IP and a TCP header; `payload` and `packet` are in bytes.
    #[inline(always)]
    pub fn load(&mut self, ip: &IpFacts, tcp: &TcpWords, payload: u32, packet: u32) {
        self.seq = tcp.seq();
        self.ack = tcp.ack();
        self.payload = payload;
        self.window = tcp.window();
        self.flags = tcp.flags();
        self.ttl = ip.ttl;
        self.header_checksum = ip.header_checksum;
        self.may_fragment = ip.may_fragment;
        self.packet = packet;
    }

    /// Whether all of `flags` are set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Payload, and one for a FIN: what the hold accounts count.
    #[inline(always)]
    pub const fn held_length(&self) -> u32 {
        self.payload.wrapping_add(self.has(FIN) as u32)
    }

    /// Whether it begins a connection: a SYN that answers none.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN
    }

    /// What the segment takes of the sequence space (RFC 9293's SEG.LEN): payload, SYN and FIN.
    #[inline(always)]
    pub const fn sequence_length(&self) -> u32 {
        self.held_length().wrapping_add(self.has(SYN) as u32)
    }
}
