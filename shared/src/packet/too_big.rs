//! The answer to a packet that is larger than a link, as the router in front of that link gives it: ICMP "fragmentation
//! needed" (RFC 792, RFC 1191) or "packet too big" (RFC 4443, section 3.2).

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket};
use std::net::IpAddr;

/// Hops to the client at most.
const HOPS: u8 = 64;
/// How much of the packet is quoted: an IPv4 error has at most 576 bytes (RFC 1812, section 4.3.2.3), an IPv6 one 1280.
const QUOTED_V4: usize = 576 - 20 - 8;
const QUOTED_V6: usize = 1280 - 40 - 8;

/// From the packet's destination to its source, which is given back too. `None` if it has no IP header, or its source is one
/// that nobody answers.
pub fn answer(packet: &[u8], mtu: u32) -> Option<(Vec<u8>, IpAddr)> {
    let quote = |most: usize| packet.get(..most).unwrap_or(packet);
    let mut answer = Vec::new();
    let to = match SlicedPacket::from_ip(packet).ok()?.net? {
        NetSlice::Ipv4(ip) => {
            let (client, vip) = (ip.header().source_addr(), ip.header().destination_addr());
            if client.is_unspecified() || client.is_multicast() || client.is_broadcast() {
                return None;
            }
            let next_hop_mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
            let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
            PacketBuilder::ipv4(vip.octets(), client.octets(), HOPS)
                .icmpv4(Icmpv4Type::DestinationUnreachable(needed))
                .write(&mut answer, quote(QUOTED_V4))
                .ok()?;
            client.into()
        }
        NetSlice::Ipv6(ip) => {
            let (client, vip) = (ip.header().source_addr(), ip.header().destination_addr());
            if client.is_unspecified() || client.is_multicast() {
                return None;
            }
            PacketBuilder::ipv6(vip.octets(), client.octets(), HOPS)
                .icmpv6(Icmpv6Type::PacketTooBig { mtu })
                .write(&mut answer, quote(QUOTED_V6))
                .ok()?;
            client.into()
        }
        NetSlice::Arp(_) => return None,
    };
    Some((answer, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Slice, Icmpv6Slice, TransportSlice};
    use proptest::prelude::*;

    fn segment(v4: bool, payload: usize) -> Vec<u8> {
        let ip = if v4 {
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
        } else {
            PacketBuilder::ipv6([1; 16], [2; 16], 9)
        };
        let mut packet = Vec::new();
        ip.tcp(1000, 80, 0x0102_0304, 7).ack(9).write(&mut packet, &vec![b'x'; payload]).unwrap();
        packet
    }

    #[test]
    fn the_client_is_told_the_mtu_with_the_beginning_of_its_own_packet() {
        for (v4, payload) in [(true, 10), (true, 1460), (true, 60_000), (false, 10), (false, 60_000)] {
            let packet = segment(v4, payload);
            let (answer, client) = answer(&packet, 1372).unwrap();
            assert_eq!(client.is_ipv4(), v4);
            let sliced = SlicedPacket::from_ip(&answer).unwrap();
            match (sliced.net.unwrap(), sliced.transport.unwrap()) {
                (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
                    assert!(answer.len() <= 576);
                    assert_eq!(
                        (ip.header().source(), ip.header().destination()),
                        ([10, 0, 0, 2], [10, 0, 0, 1])
                    );
                    let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1372 };
                    assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(needed));
                    assert!(packet.starts_with(icmp.payload()) && icmp.payload().len() >= 28);
                    let header = Icmpv4Slice::from_slice(icmp.slice()).unwrap().header();
                    assert_eq!(header.checksum, header.icmp_type.calc_checksum(icmp.payload()));
                }
                (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
                    assert!(answer.len() <= 1280);
                    assert_eq!((ip.header().source(), ip.header().destination()), ([2; 16], [1; 16]));
                    assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1372 });
                    assert!(packet.starts_with(icmp.payload()) && icmp.payload().len() >= 48);
                    let icmp = Icmpv6Slice::from_slice(icmp.slice()).unwrap();
                    assert!(icmp.is_checksum_valid([2; 16], [1; 16]));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn nobody_is_told_who_is_everybody_or_nobody() {
        for source in [[0, 0, 0, 0], [255, 255, 255, 255], [224, 0, 0, 1]] {
            let mut packet = segment(true, 1);
            packet[12..16].copy_from_slice(&source);
            assert_eq!(answer(&packet, 1400), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), mtu in any::<u32>()) {
            let _ = answer(&bytes, mtu);
        }
    }
}
