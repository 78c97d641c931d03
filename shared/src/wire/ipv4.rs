//! The IPv4 header (RFC 791, section 3.1).

use super::{Fragment, HeaderChecksum};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// The protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// The first 20 bytes of an IPv4 header, as words in memory order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ipv4Words(pub [u32; 5]);

impl Ipv4Words {
    /// Whether version and header length can be true.
    #[inline(always)]
    pub const fn is_sane(&self) -> bool {
        let first = self.0[0].to_ne_bytes()[0];
        first >> 4 == 4 && first & 15 >= 5
    }

    /// Length of the header with its options, bytes: 20 to 60 if [`Ipv4Words::is_sane`].
    #[inline(always)]
    pub const fn header_bytes(&self) -> u32 {
        (self.0[0].to_ne_bytes()[0] & 15) as u32 * 4
    }

    /// Length of the packet, bytes; 0 in a super-packet over 64 kB.
    #[inline(always)]
    pub const fn total_bytes(&self) -> u32 {
        u32::from_be(self.0[0]) & 0xffff
    }

    /// Which packet a fragment is of, for its addresses and protocol.
    #[inline(always)]
    pub const fn identification(&self) -> u32 {
        u32::from_be(self.0[1]) >> 16
    }

    /// Whether this is a fragment.
    #[inline(always)]
    pub const fn fragment(&self) -> Fragment {
        let bits = u32::from_be(self.0[1]);
        if bits & 0x1fff != 0 {
            Fragment::Later
        } else if bits & 0x2000 != 0 {
            Fragment::First
        } else {
            Fragment::No
        }
    }

    /// Whether routers may cut it into fragments.
    #[inline(always)]
    pub const fn may_fragment(&self) -> bool {
        u32::from_be(self.0[1]) & 0x4000 == 0
    }

    /// Time to live, hops.
    #[inline(always)]
    pub const fn ttl(&self) -> u8 {
        self.0[2].to_ne_bytes()[0]
    }

    /// Protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.0[2].to_ne_bytes()[1]
    }

    /// The header's checksum.
    #[inline(always)]
    pub const fn checksum(&self) -> HeaderChecksum {
        let bytes = self.0[2].to_ne_bytes();
        HeaderChecksum(u16::from_ne_bytes([bytes[2], bytes[3]]))
    }

    /// The source address, memory order.
    #[inline(always)]
    pub const fn source(&self) -> u32 {
        self.0[3]
    }

    /// The destination address, memory order.
    #[inline(always)]
    pub const fn destination(&self) -> u32 {
        self.0[4]
    }

    /// The third word with another TTL and checksum.
    #[inline(always)]
    pub const fn third_word(&self, ttl: u8, checksum: HeaderChecksum) -> u32 {
        let sum = checksum.0.to_ne_bytes();
        u32::from_ne_bytes([ttl, self.protocol(), sum[0], sum[1]])
    }
}
