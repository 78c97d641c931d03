//! A packet in pieces, as a sender or a router cuts it (RFC 791, section 3.2; RFC 8200, section 4.5).

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header};

/// The packet in fragments of `piece` payload bytes each, which must be a multiple of eight; the last one is the rest.
///
/// # Panics
/// If the bytes are no packet without options or extension headers.
#[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
pub(super) fn cut(packet: &[u8], piece: usize, id: u16) -> Vec<Vec<u8>> {
    assert!(piece.is_multiple_of(8) && piece > 0, "{piece} bytes cannot be told by an offset");
    let four = packet.first().is_some_and(|first| first >> 4 == 4);
    let (header, payload) = packet.split_at(if four { 20 } else { 40 });
    let last = payload.len().div_ceil(piece) - 1;
    let one = |(n, bytes): (usize, &[u8])| {
        let offset = IpFragOffset::try_new(u16::try_from(n * piece / 8).unwrap()).unwrap();
        let length = u16::try_from(bytes.len()).unwrap();
        let mut out = if four {
            let mut ip = Ipv4Header::from_slice(header).unwrap().0;
            (ip.identification, ip.dont_fragment) = (id, false);
            (ip.more_fragments, ip.fragment_offset) = (n < last, offset);
            ip.set_payload_len(bytes.len()).unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            ip.to_bytes().to_vec()
        } else {
            let mut ip = Ipv6Header::from_slice(header).unwrap().0;
            let fragment = Ipv6FragmentHeader::new(IpNumber::TCP, offset, n < last, id.into());
            ip.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
            ip.payload_length = length + 8;
            [&ip.to_bytes()[..], &fragment.to_bytes()].concat()
        };
        out.extend_from_slice(bytes);
        out
    };
    payload.chunks(piece).enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Segment, flag};
    use super::*;
    use etherparse::{NetSlice, SlicedPacket};
    use std::net::SocketAddr;

    #[test]
    fn the_pieces_put_together_are_the_packet() {
        for (from, to) in [("10.91.0.1:1000", "10.90.1.100:80"), ("[fd91::1]:1000", "[fd90:1::100]:80")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let segment = Segment { flags: flag::ACK, payload: vec![7; 1000], ..Segment::default() };
            let packet = segment.packet(from, to);
            let mut whole = Vec::new();
            let pieces = cut(&packet, 200, 9);
            for (n, piece) in pieces.iter().enumerate() {
                let sliced = SlicedPacket::from_ip(piece).unwrap();
                let payload = match sliced.net.as_ref().unwrap() {
                    NetSlice::Ipv4(ip) => {
                        assert_eq!(ip.header().more_fragments(), n + 1 < pieces.len());
                        ip.payload()
                    }
                    NetSlice::Ipv6(ip) => ip.payload(),
                    other => panic!("{other:?}"),
                };
                assert!(payload.fragmented);
                whole.extend_from_slice(payload.payload);
            }
            assert_eq!(whole, packet[if from.is_ipv4() { 20 } else { 40 }..]);
        }
    }
}
