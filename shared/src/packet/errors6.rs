//! ICMPv6 errors as a raw socket gives them: without the IP header they came in, which is made again here.

use crate::wire::PROTOCOL_ICMPV6;
use std::net::Ipv6Addr;

/// Bytes of an IPv6 header, and where its destination stands.
const HEADER: usize = 40;
const DESTINATION: std::ops::Range<usize> = 24..40;
/// Where the source of the quoted packet stands in a message: behind ICMP's own eight bytes.
const QUOTED_SOURCE: std::ops::Range<usize> = 16..32;
/// As it may still go: nobody but this host's neighbour and the target's routers see it.
const HOPS: u8 = 64;

/// The packet that a message came in, if it is an error about a packet of this host's: it was sent to whom that is from.
pub fn packet(message: &[u8], from: Ipv6Addr) -> Option<Vec<u8>> {
    // Errors, as opposed to all other messages (RFC 4443, section 2.1).
    let quoted: [u8; 16] = match message {
        [kind, ..] if *kind < 128 => message.get(QUOTED_SOURCE)?.try_into().ok()?,
        _ => return None,
    };
    let length = u16::try_from(message.len()).ok()?.to_be_bytes();
    let mut packet = Vec::with_capacity(HEADER + message.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0, length[0], length[1], PROTOCOL_ICMPV6, HOPS]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&quoted);
    packet.extend_from_slice(message);
    Some(packet)
}

/// Whether a packet that [`packet`] made goes to somebody else by now: it was about a flow, and is its target's. The kernel has
/// any other already.
pub fn is_redirected(made: &[u8], judged: &[u8]) -> bool {
    let to = |packet: &'_ [u8]| packet.get(DESTINATION).map(<[u8]>::to_vec);
    to(judged).is_some() && to(made) != to(judged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
    const VIP: [u8; 16] = [2; 16];

    fn too_big() -> Vec<u8> {
        let mut about = Vec::new();
        PacketBuilder::ipv6(VIP, [1; 16], 60).tcp(80, 1000, 7, 500).write(&mut about, b"data").unwrap();
        let mut whole = Vec::new();
        let kind = Icmpv6Type::PacketTooBig { mtu: 1280 };
        PacketBuilder::ipv6(ROUTER.octets(), VIP, HOPS).icmpv6(kind).write(&mut whole, &about).unwrap();
        whole
    }

    #[test]
    fn an_errors_packet_is_put_together_again() {
        let whole = too_big();
        let again = packet(&whole[HEADER..], ROUTER).unwrap();
        // But for the flow label, which etherparse leaves 0 too.
        assert_eq!(again, whole);
        let sliced = SlicedPacket::from_ip(&again).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
        assert!(icmp.is_checksum_valid(ROUTER.octets(), VIP));
    }

    #[test]
    fn other_messages_and_broken_ones_are_nobodys() {
        let mut solicitation = too_big()[HEADER..].to_vec();
        solicitation[0] = 135;
        assert_eq!(packet(&solicitation, ROUTER), None);
        for cut in 0..QUOTED_SOURCE.end {
            assert_eq!(packet(&too_big()[HEADER..HEADER + cut], ROUTER), None);
        }
    }

    #[test]
    fn only_what_has_another_destination_is_sent_again() {
        let made = too_big();
        let mut judged = made.clone();
        judged[HEADER + 3] ^= 1;
        assert!(!is_redirected(&made, &judged), "its destination is the VIP yet");
        judged[DESTINATION].copy_from_slice(&[9; 16]);
        assert!(is_redirected(&made, &judged));
        assert!(!is_redirected(&made, &judged[..HEADER - 1]));
    }
}
