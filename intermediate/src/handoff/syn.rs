//! The client's timestamp from its saved SYN.

use etherparse::{SlicedPacket, TransportSlice};

/// Option kinds (RFC 9293, section 3.1; RFC 7323, section 3.2).
const END: u8 = 0;
const NOP: u8 = 1;
const TIMESTAMPS: u8 = 8;

/// The TSval (RFC 7323, section 3.2) of a SYN that begins with its IP header.
pub(super) fn timestamp_value(syn: &[u8]) -> Option<u32> {
    let packet = SlicedPacket::from_ip(syn).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
    // By hand: etherparse's walk ends at the first option it does not know, such as multipath TCP's.
    let mut rest = tcp.options();
    while let Some((kind, tail)) = rest.split_first() {
        match *kind {
            END => return None,
            NOP => rest = tail,
            kind => {
                let length = usize::from(*tail.first()?);
                let option = rest.get(..length).filter(|option| option.len() >= 2)?;
                if let (TIMESTAMPS, [_, _, a, b, c, d, _, _, _, _]) = (kind, option) {
                    return Some(u32::from_be_bytes([*a, *b, *c, *d]));
                }
                rest = rest.get(length..)?;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, TcpOptionElement};

    fn syn(options: &[TcpOptionElement]) -> Vec<u8> {
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1000, 80, 7, 64_000)
            .syn()
            .options(options)
            .unwrap();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[]).unwrap();
        bytes
    }

    #[test]
    fn the_timestamp_is_found_among_other_options() {
        let options = [
            TcpOptionElement::MaximumSegmentSize(1460),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            TcpOptionElement::Timestamp(0xfeed_beef, 0),
            TcpOptionElement::Noop,
            TcpOptionElement::WindowScale(7),
        ];
        assert_eq!(timestamp_value(&syn(&options)), Some(0xfeed_beef));
    }

    #[test]
    fn without_one_or_cut_short_there_is_none() {
        let without = syn(&[TcpOptionElement::MaximumSegmentSize(1460)]);
        assert_eq!(timestamp_value(&without), None);
        let whole = syn(&[TcpOptionElement::Timestamp(1, 0)]);
        for cut in 0..whole.len() {
            assert_eq!(timestamp_value(&whole[..cut]), None);
        }
        assert_eq!(timestamp_value(&[]), None);
    }

    #[test]
    fn options_nobody_knows_are_passed_over_and_broken_ones_end_the_walk() {
        let with = |options: &[u8]| {
            let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(1000, 80, 7, 64_000).syn();
            let mut bytes = Vec::new();
            builder.options_raw(options).unwrap().write(&mut bytes, &[]).unwrap();
            timestamp_value(&bytes)
        };
        // Multipath TCP's MP_CAPABLE (RFC 8684, section 3.1) in front.
        let capable = [30, 12, 0x01, 0x01, 1, 2, 3, 4, 5, 6, 7, 8];
        let timestamps = [8, 10, 0, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(with(&[&capable[..], &[1], &timestamps[..], &[0]].concat()), Some(256));
        for broken in [&[30, 0][..], &[30, 1], &[30, 200, 1], &[8, 9, 0, 0, 1, 0, 0, 0, 0], &[30]] {
            assert_eq!(with(broken), None, "{broken:?}");
        }
        assert_eq!(with(&[&[0][..], &timestamps[..]].concat()), None, "nothing counts behind the end");
    }
}
