//! The IPv6 header (RFC 8200, section 3).

use crate::addr::IpWords;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Next header: hop-by-hop options (RFC 8200, section 4.3).
pub const NEXT_HOP_BY_HOP: u8 = 0;
/// Next header: routing (RFC 8200, section 4.4).
pub const NEXT_ROUTING: u8 = 43;
/// Next header: fragment (RFC 8200, section 4.5).
pub const NEXT_FRAGMENT: u8 = 44;
/// Next header: destination options (RFC 8200, section 4.6).
pub const NEXT_DESTINATION: u8 = 60;

/// An IPv6 header, as words in memory order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ipv6Words(pub [u32; 10]);

impl Ipv6Words {
    /// Its length, bytes.
    pub const BYTES: u32 = 40;

    /// Whether the version is right, and neither address is v4-mapped: on the wire such addresses mean nothing
    /// (RFC 4291, section 2.5.5.2; the kernel's `ipv6_rcv()` drops them), and here they would name an IPv4 flow.
    #[inline(always)]
    pub const fn is_sane(&self) -> bool {
        self.0[0].to_ne_bytes()[0] >> 4 == 6 && !self.source().is_v4() && !self.destination().is_v4()
    }

    /// Length of the packet with this header, bytes; 0 in a super-packet over 64 kB (a jumbogram to its stack).
    #[inline(always)]
    pub const fn total_bytes(&self) -> u32 {
        let b = self.0[1].to_ne_bytes();
        match u16::from_be_bytes([b[0], b[1]]) {
            0 => 0,
            payload => Self::BYTES + payload as u32,
        }
    }

    /// What follows this header: an extension header or the upper layer's protocol.
    #[inline(always)]
    pub const fn next_header(&self) -> u8 {
        self.0[1].to_ne_bytes()[2]
    }

    /// Hop limit.
    #[inline(always)]
    pub const fn hop_limit(&self) -> u8 {
        self.0[1].to_ne_bytes()[3]
    }

    /// The source address.
    #[inline(always)]
    pub const fn source(&self) -> IpWords {
        IpWords([self.0[2], self.0[3], self.0[4], self.0[5]])
    }

    /// The destination address.
    #[inline(always)]
    pub const fn destination(&self) -> IpWords {
        IpWords([self.0[6], self.0[7], self.0[8], self.0[9]])
    }

    /// The second word with another hop limit.
    #[inline(always)]
    pub const fn second_word(&self, hop_limit: u8) -> u32 {
        let b = self.0[1].to_ne_bytes();
        u32::from_ne_bytes([b[0], b[1], b[2], hop_limit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use etherparse::{IpNumber, Ipv6FlowLabel, Ipv6Header};

    #[test]
    fn agrees_with_etherparse() {
        let header = Ipv6Header {
            traffic_class: 0xfd,
            flow_label: Ipv6FlowLabel::try_new(0xabcde).unwrap(),
            payload_length: 0x1234,
            next_header: IpNumber::TCP,
            hop_limit: 57,
            source: "2001:db8::1".parse::<core::net::Ipv6Addr>().unwrap().octets(),
            destination: "2001:db8:1::2".parse::<core::net::Ipv6Addr>().unwrap().octets(),
        };
        let words = Ipv6Words(zerocopy::transmute!(header.to_bytes()));
        assert!(words.is_sane());
        assert_eq!(words.total_bytes(), 40 + 0x1234);
        assert_eq!((words.next_header(), words.hop_limit()), (6, 57));
        assert_eq!(IpAddr::from(words.source()), IpAddr::from(header.source));
        assert_eq!(IpAddr::from(words.destination()), IpAddr::from(header.destination));
        assert_eq!(words.second_word(9).to_ne_bytes(), [0x12, 0x34, 6, 9]);
        let mapped = Ipv6Header {
            source: "::ffff:1.2.3.4".parse::<core::net::Ipv6Addr>().unwrap().octets(),
            ..header
        };
        assert!(!Ipv6Words(zerocopy::transmute!(mapped.to_bytes())).is_sane());
    }
}
