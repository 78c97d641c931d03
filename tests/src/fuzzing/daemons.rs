//! Packets as the daemons read them: what was diverted to them is read as the data plane read it.

use super::EveryFlow;
use baton_shared::packet::{errors6, held, inside, reply, syn, too_big};
use baton_shared::record::{FlowKey, FlowState};
use baton_shared::translate::{Action, Direction, LEG_PORT};
use baton_shared::wire::{OptionPlaces, OptionValues};
use baton_userspace::carry;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use std::cell::Cell;
use std::net::{IpAddr, Ipv6Addr};

/// The packet's flow, if the plane diverts it while its flow is in this state.
fn diverted(packet: &[u8], direction: Direction, state: FlowState) -> Option<FlowKey> {
    let flows = EveryFlow { state: state as u32, asked: Cell::new(None) };
    let action = carry(&flows, direction, &mut packet.to_vec(), false, 0);
    flows.asked.take().filter(|_| action == Action::Divert)
}

/// The first byte says which: a client's packet that is held, one of the server's in the replayed handshake, a saved SYN, or
/// the options of one.
///
/// # Panics
/// When a diverted packet is not read, or read as another flow's; when the timestamp in a SYN's options is not the one that
/// the programs find there.
#[expect(clippy::expect_used, reason = "a fuzz target's panic is its report")]
pub fn daemon_packets(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which & 3 {
        0 => {
            let facts = held::facts(bytes);
            if let Some(key) = diverted(bytes, Direction::FromClient, FlowState::Frozen) {
                assert_eq!(facts.expect("what is diverted is read").key, key);
            }
        }
        1 => {
            let read = reply::read(bytes);
            if let Some(key) = diverted(bytes, Direction::ToClient, FlowState::Replaying) {
                assert_eq!(read.expect("what is diverted is read").0, key);
            }
        }
        2 => {
            let _ = syn::timestamp_value(bytes);
            if let Some(packet) = errors6::packet(bytes, Ipv6Addr::LOCALHOST) {
                assert!(packet.ends_with(bytes) && !errors6::is_redirected(&packet, &packet));
            }
        }
        _ => {
            let length = bytes.len().min(40) / 4 * 4;
            let options = bytes.get(..length).unwrap_or_default();
            let mut buffer = [0; 64];
            buffer.get_mut(..length).expect("at most 40").copy_from_slice(options);
            let mut places = OptionPlaces::default();
            places.find(&buffer, u32::try_from(length).expect("at most 40"));
            let mut values = OptionValues { places, ..OptionValues::default() };
            values.load(&buffer);
            let expected = (places.timestamps != 0).then_some(values.tsval);
            for v6 in [false, true] {
                assert_eq!(syn::timestamp_value(&syn_with(options, v6)), expected, "IPv6: {v6}");
            }
        }
    }
}

/// Packets that a capture looks into: what is inside is the packet's end without its outer header, so that looking further
/// and further in comes to an end; and what was put into a leg's outer header is what comes out.
///
/// # Panics
/// When that does not hold.
#[expect(clippy::expect_used, reason = "a fuzz target's panic is its report")]
pub fn outer_packets(bytes: &[u8]) {
    let mut packet = bytes;
    while let Some(inside) = inside::inside(packet) {
        assert!(inside.len() + 20 <= packet.len() && packet.ends_with(inside), "{packet:x?}");
        packet = inside;
    }
    let ip = match bytes.first().map(|first| first >> 4) {
        Some(4) => etherparse::PacketBuilder::ipv4([1; 4], [2; 4], 64),
        Some(6) => etherparse::PacketBuilder::ipv6([1; 16], [2; 16], 64),
        _ => return,
    };
    let builder = ip.udp(50_000, LEG_PORT.number());
    if builder.size(bytes.len()) > usize::from(u16::MAX) {
        return;
    }
    let mut outer = Vec::new();
    builder.write(&mut outer, bytes).expect("a vector takes it");
    assert_eq!(inside::inside(&outer), Some(bytes));
}

/// The answer to a packet that is too large, from what a client sent; the first two bytes are the link's MTU.
///
/// # Panics
/// When an answer is no ICMP error to the packet's sender with the packet's beginning in it, checksums right, or is longer than
/// such a one may be.
#[expect(clippy::expect_used, reason = "a fuzz target's panic is its report")]
pub fn too_big_answers(bytes: &[u8]) {
    let Some(([high, low], packet)) = bytes.split_first_chunk() else { return };
    let mtu = u16::from_be_bytes([*high, *low]);
    let Some((answer, to)) = too_big::answer(packet, mtu.into()) else { return };
    let sliced = SlicedPacket::from_ip(&answer).expect("an answer is a packet");
    match (sliced.net.expect("of IP"), sliced.transport.expect("with ICMP")) {
        (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
            assert!(answer.len() <= 576 && packet.starts_with(icmp.payload()));
            assert_eq!(
                (ip.header().destination_addr().into(), Some(&ip.header().source()[..])),
                (to, packet.get(16..20))
            );
            assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
            let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(needed));
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            assert!(answer.len() <= 1280 && packet.starts_with(icmp.payload()));
            let (source, destination) = (ip.header().source(), ip.header().destination());
            assert_eq!((IpAddr::from(destination), Some(&source[..])), (to, packet.get(24..40)));
            assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: mtu.into() });
            let checksum = icmp.icmp_type().calc_checksum(source, destination, icmp.payload());
            assert_eq!(Ok(icmp.checksum()), checksum);
        }
        other => panic!("{other:?}"),
    }
}

/// A SYN with these options, whole words.
#[expect(clippy::expect_used, reason = "a fuzz target's panic is its report")]
fn syn_with(options: &[u8], v6: bool) -> Vec<u8> {
    let ip = if v6 {
        etherparse::PacketBuilder::ipv6([1; 16], [2; 16], 64)
    } else {
        etherparse::PacketBuilder::ipv4([1; 4], [2; 4], 64)
    };
    let mut packet = Vec::new();
    let builder = ip.tcp(1000, 80, 7, 64_000).syn().options_raw(options).expect("at most 40 bytes");
    builder.write(&mut packet, &[]).expect("a vector takes it");
    packet
}
