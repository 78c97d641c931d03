//! Addresses as the programs and the records carry them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address: four words exactly as the 16 bytes stand on the wire (each word holds four bytes in memory
/// order). IPv4 is v4-mapped, `::ffff:a.b.c.d`, so IPv6 needs no other layout. Words, because byte arrays cost
/// the eBPF programs a third more code.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IpWords(pub [u32; 4]);

/// The third word of a v4-mapped address, as it stands in memory.
pub const V4_MAPPED_WORD: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl IpWords {
    /// A v4-mapped address from the four bytes as they stand in an IPv4 header (memory order).
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        IpWords([0, 0, V4_MAPPED_WORD, word])
    }

    /// Whether this is a v4-mapped address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == V4_MAPPED_WORD
    }

    /// The word to store into an IPv4 header, memory order. Meaningful if [`IpWords::is_v4`].
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }
}

/// A port exactly as it stands in a header: the two bytes in memory order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortWord(pub u16);

impl PortWord {
    /// From a port number in host order.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        PortWord(port.to_be())
    }

    /// The port number in host order.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

#[cfg(feature = "std")]
mod std_conversions {
    use super::{IpWords, PortWord};
    use core::net::{IpAddr, Ipv6Addr, SocketAddr};

    impl From<IpAddr> for IpWords {
        fn from(ip: IpAddr) -> Self {
            let bytes = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            IpWords(zerocopy::transmute!(bytes))
        }
    }

    impl From<IpWords> for IpAddr {
        fn from(words: IpWords) -> Self {
            let bytes: [u8; 16] = zerocopy::transmute!(words.0);
            Ipv6Addr::from(bytes).to_canonical()
        }
    }

    impl IpWords {
        /// This address with a port, in std's terms.
        pub fn socket_addr(self, port: PortWord) -> SocketAddr {
            SocketAddr::new(self.into(), port.number())
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use core::net::IpAddr;

    #[test]
    fn v4_and_v6_addresses_survive_the_words() {
        for text in ["10.1.2.3", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "fe80::1:2:3:4"] {
            let ip: IpAddr = text.parse().unwrap();
            let words = IpWords::from(ip);
            assert_eq!(IpAddr::from(words), ip);
            assert_eq!(words.is_v4(), ip.is_ipv4());
        }
        let v4: IpAddr = "10.1.2.3".parse().unwrap();
        assert_eq!(IpWords::from_v4_word(u32::from_ne_bytes([10, 1, 2, 3])), IpWords::from(v4));
    }
}
