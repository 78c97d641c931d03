//! A packet of the leg from intermediate to target, taken out of its outer header by a daemon that only looks on.

use super::headers::load_ip;
use crate::translate::{LEG_PORT, Leg, leg_of};
use zerocopy::FromBytes;

/// What is in a packet that has the outer header of a leg: one level of it, of the outer header's version of IP and shorter
/// than the packet, whatever its bytes are. `None` if the packet has no such outer header, or nothing behind it.
pub fn inside(packet: &[u8]) -> Option<&[u8]> {
    let outer = load_ip(packet).ok()?;
    let v4 = packet.first()? >> 4 == 4;
    let leg = leg_of(&outer, v4);
    match leg {
        Leg::Rewrite => return None,
        Leg::Ipip => {}
        Leg::Udp => {
            let (ports, _) = <[u16; 2]>::read_from_prefix(packet.get(outer.upper_at as usize..)?).ok()?;
            if ports[1] != LEG_PORT.0 {
                return None;
            }
        }
    }
    let inside = packet.get(leg.overhead(v4) as usize..)?;
    (inside.first()? >> 4 == if v4 { 4 } else { 6 }).then_some(inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn tcp() -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1000, 80, 1, 1000)
            .write(&mut packet, b"x")
            .unwrap();
        packet
    }

    fn in_udp(payload: &[u8], port: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 9, 9, 9], [10, 0, 0, 3], 64)
            .udp(50_000, port)
            .write(&mut packet, payload)
            .unwrap();
        packet
    }

    #[test]
    fn one_outer_header_is_taken_off_and_no_other_packet_has_one() {
        let packet = tcp();
        let once = in_udp(&packet, LEG_PORT.number());
        assert_eq!(inside(&once), Some(packet.as_slice()));
        let twice = in_udp(&once, LEG_PORT.number());
        assert_eq!(inside(&twice), Some(once.as_slice()));
        assert_eq!(inside(&packet), None);
        assert_eq!(inside(&in_udp(&packet, 53)), None, "another port");
        assert_eq!(inside(&in_udp(b"query", LEG_PORT.number())), None, "no packet inside");
    }

    #[test]
    fn a_header_that_says_it_is_shorter_than_itself_holds_nothing() {
        // Version 4, length 0, protocol IP in IP: taken at its word it would hold itself.
        let itself = [0x40, 0, 0, 0, 0, 0, 0, 0, 64, 4];
        for junk in [&itself[..], &itself.repeat(6), &[0x45; 60], &[0x60; 60], &[], &[0x45]] {
            assert_eq!(inside(junk), None, "{junk:x?}");
        }
    }
}
