//! ICMP errors: a header, and the beginning of the packet that the error is about (RFC 792; RFC 4443, section 3).

use super::{HeaderChecksum, IpFacts};
use crate::addr::PortWord;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// The next header value of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Of an ICMP error, the header in front of the quoted packet, as words in memory order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IcmpWords(pub [u32; 2]);

impl IcmpWords {
    /// Its length, bytes; the quoted packet's IP header follows.
    pub const BYTES: u32 = 8;

    const fn kind(&self) -> u8 {
        self.0[0].to_ne_bytes()[0]
    }

    /// Whether, as ICMP for IPv4, it reports an error that TCP listens to: destination unreachable (with
    /// "fragmentation needed"), time exceeded, parameter problem. Not the deprecated source quench (RFC 6633), and
    /// not redirects, which are for the host that routes.
    #[inline(always)]
    pub const fn is_error_v4(&self) -> bool {
        matches!(self.kind(), 3 | 11 | 12)
    }

    /// Whether, as ICMPv6, it reports such an error: unreachable, packet too big, time exceeded, parameter problem.
    #[inline(always)]
    pub const fn is_error_v6(&self) -> bool {
        matches!(self.kind(), 1..=4)
    }

    /// The checksum: of the ICMP message, and for ICMPv6 of the pseudo-header too.
    #[inline(always)]
    pub const fn checksum(&self) -> HeaderChecksum {
        let bytes = self.0[0].to_ne_bytes();
        HeaderChecksum(u16::from_ne_bytes([bytes[2], bytes[3]]))
    }
}

/// What every error quotes of a TCP header at least: ports and sequence number, as words in memory order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QuotedTcp(pub [u32; 2]);

impl QuotedTcp {
    /// Its length, bytes.
    pub const BYTES: u32 = 8;

    /// The source port.
    #[inline(always)]
    pub const fn source(&self) -> PortWord {
        let b = self.0[0].to_ne_bytes();
        PortWord(u16::from_ne_bytes([b[0], b[1]]))
    }

    /// The destination port.
    #[inline(always)]
    pub const fn destination(&self) -> PortWord {
        let b = self.0[0].to_ne_bytes();
        PortWord(u16::from_ne_bytes([b[2], b[3]]))
    }

    /// The sequence number, host order.
    #[inline(always)]
    pub const fn seq(&self) -> u32 {
        u32::from_be(self.0[1])
    }
}

/// An ICMP error about a segment, as the judgement sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Report {
    /// The packet that carries the error. Its `upper_at` is where the ICMP header stands.
    pub outer: IpFacts,
    /// The quoted packet's IP header. Its `upper_at` counts from its own first byte.
    pub quoted: IpFacts,
    /// The ICMP header.
    pub icmp: IcmpWords,
    /// The quoted TCP header's beginning.
    pub tcp: QuotedTcp,
}

impl Report {
    /// Where the quoted IP header begins, bytes from the outer IP header's first.
    #[inline(always)]
    pub const fn quoted_at(&self) -> u32 {
        self.outer.upper_at + IcmpWords::BYTES
    }

    /// Where the quoted TCP header begins, likewise.
    #[inline(always)]
    pub const fn tcp_at(&self) -> u32 {
        self.quoted_at() + self.quoted.upper_at
    }

    /// How long the outer packet must be for all of this to be in it, bytes.
    #[inline(always)]
    pub const fn bytes(&self) -> u32 {
        self.tcp_at() + QuotedTcp::BYTES
    }
}
