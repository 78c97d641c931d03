//! The client's timestamp from its saved SYN.

use etherparse::{SlicedPacket, TcpOptionElement, TransportSlice};

/// The TSval (RFC 7323, section 3.2) of a SYN that begins with its IP header.
pub(super) fn timestamp_value(syn: &[u8]) -> Option<u32> {
    let packet = SlicedPacket::from_ip(syn).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
    tcp.options_iterator().map_while(Result::ok).find_map(|option| match option {
        TcpOptionElement::Timestamp(value, _) => Some(value),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

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
}
