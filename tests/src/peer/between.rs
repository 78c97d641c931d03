//! What may stand between a packet's IP header and TCP: options (RFC 791, section 3.1), extension headers (RFC 8200,
//! section 4).

use etherparse::{Ipv4Header, Ipv4Options, Ipv6Header};

/// The packet with these IPv4 options, or with these IPv6 extension headers: the number and the bytes behind "next header" of
/// each. Of either kind the packet's version takes its own.
///
/// # Panics
/// If the bytes are no packet without options or extension headers, or these are too long for it.
#[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
pub(super) fn insert(packet: &[u8], options: &[u8], extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    if packet.first().is_some_and(|first| first >> 4 == 4) {
        let (mut ip, upper) = Ipv4Header::from_slice(packet).unwrap();
        // No-operation bytes up to a whole word.
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 1);
        ip.options = Ipv4Options::try_from(&options[..]).unwrap();
        ip.set_payload_len(upper.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        return [&ip.to_bytes()[..], upper].concat();
    }
    let (mut ip, upper) = Ipv6Header::from_slice(packet).unwrap();
    let last = ip.next_header.0;
    let numbers = extensions.iter().map(|(number, _)| *number).chain([last]);
    let mut between = Vec::new();
    for (next, (_, bytes)) in numbers.clone().skip(1).zip(extensions) {
        between.push(next);
        between.extend_from_slice(bytes);
    }
    ip.next_header = numbers.clone().next().unwrap_or(last).into();
    ip.payload_length = u16::try_from(between.len() + upper.len()).unwrap();
    [&ip.to_bytes()[..], &between, upper].concat()
}

#[cfg(test)]
mod tests {
    use super::super::{Segment, flag};
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    #[test]
    fn behind_what_was_inserted_stands_the_segment() {
        let segment = Segment { flags: flag::ACK, payload: vec![7; 100], ..Segment::default() };
        let padding = |number| (number, vec![0, 1, 4, 0, 0, 0, 0]);
        for (from, to) in [("10.91.0.1:1000", "10.90.1.100:80"), ("[fd91::1]:1000", "[fd90:1::100]:80")] {
            let whole = segment.packet(from.parse().unwrap(), to.parse().unwrap());
            let packet = insert(&whole, &[148, 4, 0, 0, 1], &[padding(0), padding(60)]);
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            match sliced.net.as_ref().unwrap() {
                NetSlice::Ipv4(ip) => assert_eq!(ip.header().options(), [148, 4, 0, 0, 1, 1, 1, 1]),
                NetSlice::Ipv6(ip) => assert_eq!(ip.extensions().slice().len(), 16),
                other => panic!("{other:?}"),
            }
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no segment") };
            assert_eq!(tcp.payload(), segment.payload);
            assert!(insert(&whole, &[], &[]) == whole);
        }
    }
}
