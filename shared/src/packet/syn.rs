//! The client's timestamp from its saved SYN.

use crate::wire::{OPTION_BUFFER, OptionPlaces, OptionValues};
use etherparse::{SlicedPacket, TransportSlice};

/// The TSval (RFC 7323, section 3.2) of a SYN that begins with its IP header, as `TCP_SAVED_SYN` gives it; `None` if it has
/// none or cannot be read.
pub fn timestamp_value(syn: &[u8]) -> Option<u32> {
    let packet = SlicedPacket::from_ip(syn).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
    // As the kernel and the programs walk them: etherparse's walk ends at the first option it does not know, such as
    // multipath TCP's.
    let options = tcp.options();
    let mut buffer = [0; OPTION_BUFFER];
    buffer.get_mut(..options.len())?.copy_from_slice(options);
    let mut places = OptionPlaces::default();
    places.find(&buffer, u32::try_from(options.len()).ok()?);
    let mut values = OptionValues { places, ..OptionValues::default() };
    values.load(&buffer);
    (places.timestamps != 0).then_some(values.tsval)
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
    fn of_two_timestamps_the_last_counts_as_to_the_kernel() {
        let options = [TcpOptionElement::Timestamp(1, 0), TcpOptionElement::Timestamp(2, 0)];
        assert_eq!(timestamp_value(&syn(&options)), Some(2));
        // And what stands in front of broken options counts (`tcp_parse_options()` in net/ipv4/tcp_input.c).
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1000, 80, 7, 64_000).syn();
        let mut bytes = Vec::new();
        let broken = [8, 10, 0, 0, 0, 3, 0, 0, 0, 0, 99, 1];
        builder.options_raw(&broken).unwrap().write(&mut bytes, &[]).unwrap();
        assert_eq!(timestamp_value(&bytes), Some(3));
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
