//! A client's packet that was diverted to the intermediate's hold queue.

use super::headers;
use crate::record::FlowKey;
use crate::translate::Direction;
use crate::wire::{ACK, FIN, RST, Segment};
use core::net::IpAddr;
use etherparse::TcpHeaderSlice;

/// Bytes of options that are timestamps and what aligns them (RFC 7323, appendix A).
const TIMESTAMPS_ALONE: usize = 12;

/// What the daemon needs to know of a held packet. Numbers in the client's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldFacts<'a> {
    /// The flow.
    pub key: FlowKey,
    /// Its sequence number.
    pub seq: u32,
    /// Its acknowledgement number, if it has one.
    pub ack: Option<u32>,
    /// It is a FIN.
    pub fin: bool,
    /// It is a reset.
    pub rst: bool,
    /// The window as in the header.
    pub window: u16,
    /// The timestamp value, if it has one.
    pub tsval: Option<u32>,
    /// It has no options, or timestamps alone.
    pub plain_options: bool,
    /// Its payload.
    pub payload: &'a [u8],
    /// All of its facts.
    pub segment: Segment,
}

/// Whether a TCP packet's checksum is right (RFC 9293, section 3.1; RFC 8200, section 8.1). A kernel looks at it last of all,
/// where a segment is received: what is diverted before that may have been corrupted on its way, and whoever reads it, or
/// makes other packets of it, with checksums of their own, must look by himself.
pub fn is_intact(packet: &[u8]) -> bool {
    let sum = || {
        let (key, segment, tcp_at) = headers::read(packet, Direction::FromClient)?;
        let payload = headers::payload(packet, &segment, tcp_at)?;
        let tcp = TcpHeaderSlice::from_slice(packet.get(tcp_at..)?).ok()?;
        let (remote, local) = (key.remote_addr(), key.local_addr());
        let right = match (remote.ip(), local.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload).ok()?
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                tcp.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload).ok()?
            }
            _ => return None,
        };
        Some((right, tcp.checksum()))
    };
    // The two zeros of ones' complement are one number.
    let one_zero = |sum: u16| if sum == u16::MAX { 0 } else { sum };
    sum().is_some_and(|(right, there)| one_zero(right) == one_zero(there))
}

/// Reads a raw IP packet; `None` if it is no whole TCP packet. A super-packet over 64 kB is one.
pub fn facts(packet: &[u8]) -> Option<HeldFacts<'_>> {
    let (key, segment, tcp_at) = headers::read(packet, Direction::FromClient)?;
    let timestamps = segment.options.places.timestamps != 0;
    let payload = headers::payload(packet, &segment, tcp_at)?;
    let options = headers::options(packet, tcp_at)?;
    Some(HeldFacts {
        key,
        seq: segment.seq,
        ack: segment.has(ACK).then_some(segment.ack),
        fin: segment.has(FIN),
        rst: segment.has(RST),
        window: segment.window,
        tsval: timestamps.then_some(segment.options.tsval),
        plain_options: options == if timestamps { TIMESTAMPS_ALONE } else { 0 },
        payload,
        segment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn packet(v6: bool, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let step = if v6 {
            PacketBuilder::ipv6([1; 16], [2; 16], 64)
        } else {
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        };
        step.tcp(1000, 80, 7, 1000).ack(9).write(&mut bytes, payload).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn a_packet_with_one_bit_changed_is_not_intact(
            v6: bool, payload in proptest::collection::vec(any::<u8>(), 0..100), at: prop::sample::Index, bit in 0..8u8,
        ) {
            let mut bytes = packet(v6, &payload);
            prop_assert!(is_intact(&bytes));
            // Trailing bytes of the link are no part of it.
            let mut longer = bytes.clone();
            longer.extend([0; 6]);
            prop_assert!(is_intact(&longer));
            let addresses = if v6 { 8 } else { 12 };
            let at = addresses + at.index(bytes.len() - addresses);
            bytes[at] ^= 1 << bit;
            prop_assert!(!is_intact(&bytes), "byte {at}");
        }

        #[test]
        fn no_bytes_make_it_fail(bytes: Vec<u8>) {
            prop_assert!(!is_intact(&bytes) || facts(&bytes).is_some());
        }
    }
}
