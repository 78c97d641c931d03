//! What the headers in front of TCP or ICMP say, of either version of IP.

use super::{
    HeaderChecksum, Ipv4Words, Ipv6Words, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP, NEXT_ROUTING,
};
use crate::addr::IpWords;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many extension headers are walked. No stack sends more; a receiver may refuse longer chains (RFC 8883,
/// section 3), and so do we.
pub const EXTENSIONS_MAX: u32 = 8;

/// What a packet is with regard to fragmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Whole.
    No,
    /// The first fragment: it has the ports, but not all of the segment.
    First,
    /// A later one: no ports.
    Later,
}

/// The IP header as values, of either version, with its options or extension headers behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IpFacts {
    /// The source address.
    pub source: IpWords,
    /// The destination address.
    pub destination: IpWords,
    /// Where the upper layer's header begins, bytes from the IP header's first. During an IPv6 walk: where the
    /// extension header in hand begins.
    pub upper_at: u32,
    /// Length of the packet with its IP header, bytes; 0 in a super-packet over 64 kB.
    pub total: u32,
    /// Which packet a fragment is of: IPv4's identification, or the fragment header's (memory order).
    pub identification: u32,
    /// IPv4: the header's checksum.
    pub header_checksum: HeaderChecksum,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Protocol number of what stands at `upper_at`.
    pub protocol: u8,
    /// See [`IpFacts::fragment`]: 0, 1, 2.
    fragment: u8,
    /// 1 if routers may cut it into fragments; never of IPv6.
    pub may_fragment: u8,
    /// Explicit padding.
    reserved: [u8; 2],
}

impl IpFacts {
    /// Takes over an IPv4 header; its options are skipped. The caller has asked [`Ipv4Words::is_sane`].
    #[inline(always)]
    pub fn load_v4(&mut self, ip: &Ipv4Words) {
        self.source = IpWords::from_v4_word(ip.source());
        self.destination = IpWords::from_v4_word(ip.destination());
        self.upper_at = ip.header_bytes();
        self.total = ip.total_bytes();
        self.identification = ip.identification();
        self.header_checksum = ip.checksum();
        self.ttl = ip.ttl();
        self.protocol = ip.protocol();
        self.set_fragment(ip.fragment());
        self.may_fragment = ip.may_fragment() as u8;
    }

    /// Takes over an IPv6 header, and begins the walk over the extension headers behind it. The caller has asked
    /// [`Ipv6Words::is_sane`].
    #[inline(always)]
    pub fn load_v6(&mut self, ip: &Ipv6Words) {
        self.source = ip.source();
        self.destination = ip.destination();
        self.upper_at = Ipv6Words::BYTES;
        self.total = ip.total_bytes();
        self.identification = 0;
        self.header_checksum = HeaderChecksum(0);
        self.ttl = ip.hop_limit();
        self.protocol = ip.next_header();
        self.set_fragment(Fragment::No);
        self.may_fragment = 0;
    }

    /// Whether an extension header stands at `upper_at` that must be walked over to find the upper layer.
    /// Not authentication and encapsulation (RFC 4302, 4303): what is behind them is not ours to change.
    #[inline(always)]
    pub const fn at_extension(&self) -> bool {
        matches!(self.protocol, NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_FRAGMENT | NEXT_DESTINATION)
            && !matches!(self.fragment(), Fragment::Later)
    }

    /// Walks over the extension header at `upper_at`, of which `words` are the first 8 bytes (RFC 8200, section 4).
    /// False ends the walk without an upper layer: a routing header whose way is not at its end, so that the
    /// packet's destination is another than the header says.
    #[inline(always)]
    pub const fn walk(&mut self, words: &[u32; 2]) -> bool {
        let first = words[0].to_ne_bytes();
        if self.protocol == NEXT_FRAGMENT {
            let offset_and_flags = u16::from_be_bytes([first[2], first[3]]);
            // Offset 0 and nothing to follow: whole after all (RFC 6946).
            if offset_and_flags & 0xfff8 != 0 {
                self.set_fragment(Fragment::Later);
            } else if offset_and_flags & 1 != 0 {
                self.set_fragment(Fragment::First);
            }
            self.identification = words[1];
            self.upper_at += 8;
        } else {
            if self.protocol == NEXT_ROUTING && first[3] != 0 {
                return false;
            }
            self.upper_at += 8 + 8 * first[1] as u32;
        }
        self.protocol = first[0];
        true
    }

    /// Whether a header cut short at `upper_at` may hide whose packet this is: in IPv6's first fragment, which the stack
    /// would put together with later ones that nobody has looked at. (Such fragments are to be discarded: RFC 7112,
    /// section 5. IPv4's have the ports, or are too short to be put together.)
    #[inline(always)]
    pub const fn hides_upper(&self) -> bool {
        matches!(self.fragment(), Fragment::First) && !self.source.is_v4()
    }

    /// How many bytes of this header no segment of a super-packet will have: IPv6's jumbo option, which the kernel puts into
    /// one over 64 kB and takes out of its segments (`ipv6_hopopt_jumbo_remove()`).
    #[inline(always)]
    pub const fn jumbo_bytes(&self) -> u32 {
        if self.total == 0 && !self.source.is_v4() && self.upper_at == Ipv6Words::BYTES + 8 { 8 } else { 0 }
    }

    /// Says whether this is a fragment.
    #[inline(always)]
    pub const fn set_fragment(&mut self, fragment: Fragment) {
        self.fragment = fragment as u8;
    }

    /// Whether this is a fragment.
    #[inline(always)]
    pub const fn fragment(&self) -> Fragment {
        match self.fragment {
            0 => Fragment::No,
            1 => Fragment::First,
            _ => Fragment::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpFragOffset, IpNumber, Ipv6Extensions, Ipv6FragmentHeader, Ipv6RawExtHeader};
    use etherparse::{Ipv6RoutingExtensions, ip_number};
    use proptest::prelude::*;

    /// Walks the bytes behind an IPv6 header; `None`: no upper layer found.
    fn walked(first: IpNumber, bytes: &[u8]) -> Option<IpFacts> {
        let mut facts = IpFacts { protocol: first.0, ..IpFacts::default() };
        for _ in 0..EXTENSIONS_MAX {
            if !facts.at_extension() {
                break;
            }
            let at = facts.upper_at as usize;
            let eight: [u8; 8] = bytes.get(at..at + 8)?.try_into().unwrap();
            if !facts.walk(&zerocopy::transmute!(eight)) {
                return None;
            }
        }
        (!facts.at_extension()).then_some(facts)
    }

    fn raw() -> impl Strategy<Value = Option<Ipv6RawExtHeader>> {
        // A length field counts 8 bytes beyond the first 8, two of which are not payload.
        prop::option::of(
            (0usize..=255)
                .prop_map(|n| Ipv6RawExtHeader::new_raw(IpNumber::TCP, &vec![0; 6 + 8 * n]).unwrap()),
        )
    }

    proptest! {
        #[test]
        fn agrees_with_etherparse(hop_by_hop in raw(), destination in raw(), routing in raw(), last in raw(),
                                  fragment in prop::option::of((0u16..0x1fff, any::<bool>()))) {
            // With segments left the walk ends; see below.
            let routing = routing.map(|routing| Ipv6RoutingExtensions {
                routing,
                final_destination_options: last,
            });
            let fragment = fragment.map(|(offset, more)| {
                Ipv6FragmentHeader::new(IpNumber::TCP, IpFragOffset::try_new(offset).unwrap(), more, 7)
            });
            let mut chain = Ipv6Extensions {
                hop_by_hop_options: hop_by_hop,
                destination_options: destination,
                routing,
                fragment,
                auth: None,
            };
            let first = chain.set_next_headers(IpNumber::TCP);
            let mut bytes = Vec::new();
            chain.write(&mut bytes, first).unwrap();
            bytes.resize(bytes.len() + 8, 0);
            let facts = walked(first, &bytes).unwrap();
            match chain.fragment {
                Some(f) if f.fragment_offset.value() != 0 => {
                    prop_assert_eq!(facts.fragment(), Fragment::Later);
                }
                fragment => {
                    prop_assert_eq!(facts.protocol, ip_number::TCP.0);
                    prop_assert_eq!(facts.upper_at as usize, bytes.len() - 8);
                    let first = fragment.is_some_and(|f| f.more_fragments);
                    prop_assert_eq!(facts.fragment() == Fragment::First, first);
                }
            }
        }

        #[test]
        fn any_bytes_are_survived(first in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some(facts) = walked(IpNumber(first), &bytes) {
                prop_assert!(facts.upper_at <= EXTENSIONS_MAX * 2048);
            }
        }
    }

    #[test]
    fn a_way_that_is_not_at_its_end_is_not_walked() {
        assert!(walked(IpNumber::IPV6_ROUTE_HEADER, &[6, 0, 0, 1, 0, 0, 0, 0]).is_none());
        assert!(walked(IpNumber::IPV6_ROUTE_HEADER, &[6, 0, 0, 0, 0, 0, 0, 0]).is_some());
    }

    #[test]
    fn what_is_not_ours_to_look_behind_ends_the_walk() {
        for protocol in [50, 51, 58, 59, 135, 139, 140, 253] {
            let facts = walked(IpNumber(protocol), &[]).unwrap();
            assert_eq!((facts.protocol, facts.upper_at), (protocol, 0));
        }
    }
}
