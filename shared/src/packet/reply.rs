//! A packet of the server's kernel that was diverted to the agent while it replays a handshake, or copied to it.

use super::headers;
use crate::record::FlowKey;
use crate::seq::Seq;
use crate::state::replay::ServerReply;
use crate::translate::Direction;
use etherparse::TcpHeaderSlice;

/// Option kinds (RFC 9293, section 3.1; RFC 7323, section 2.2; RFC 2018, section 2).
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;

/// The flow, the facts of the segment, and its payload. `None` if it is not a whole TCP segment.
pub fn read(packet: &[u8]) -> Option<(FlowKey, ServerReply, &[u8])> {
    let (key, segment, tcp_at) = headers::read(packet, Direction::ToClient)?;
    let places = segment.options.places;
    let mut reply = ServerReply {
        seq: Seq::new(segment.seq),
        ack: Seq::new(segment.ack),
        flags: segment.flags,
        window: segment.window,
        timestamps: (places.timestamps != 0).then_some((segment.options.tsval, segment.options.tsecr)),
        ..ServerReply::default()
    };
    let tcp = TcpHeaderSlice::from_slice(packet.get(tcp_at..)?).ok()?;
    // As the kernel walks them (`tcp_parse_options()` in net/ipv4/tcp_input.c): over those it does not know, up to one that
    // cannot be right.
    let mut rest = tcp.options();
    while let Some((kind, tail)) = rest.split_first() {
        if *kind == NOP {
            rest = tail;
            continue;
        }
        let length = tail.first().map_or(0, |length| usize::from(*length));
        let Some(option) = rest.get(..length).filter(|option| *kind != END && option.len() >= 2) else {
            break;
        };
        match option {
            [MSS, _, high, low] => reply.mss = Some(u16::from_be_bytes([*high, *low])),
            [WINDOW_SCALE, _, shift] => reply.window_scale = Some(*shift),
            [SACK_PERMITTED, _] => reply.sack_permitted = true,
            _ => {}
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Some((key, reply, headers::payload(packet, &segment, tcp_at)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn with(options: &[u8]) -> Option<ServerReply> {
        let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(80, 1000, 7, 64_000).syn().ack(9);
        let mut bytes = Vec::new();
        builder.options_raw(options).unwrap().write(&mut bytes, &[]).unwrap();
        read(&bytes).map(|(_, reply, _)| reply)
    }

    #[test]
    fn options_are_found_behind_one_nobody_knows_and_not_behind_the_end() {
        let unknown = [253, 6, 1, 2, 3, 4];
        let known = [2, 4, 5, 180, 4, 2, 1, 3, 3, 7, 1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6];
        let reply = with(&[&unknown[..], &known[..]].concat()).unwrap();
        assert_eq!((reply.mss, reply.window_scale, reply.sack_permitted), (Some(1460), Some(7), true));
        assert_eq!(reply.timestamps, Some((5, 6)));
        let reply = with(&[&[0, 0][..], &known[..]].concat()).unwrap();
        assert_eq!((reply.mss, reply.window_scale, reply.sack_permitted), (None, None, false));
        assert_eq!(reply.timestamps, None);
    }

    #[test]
    fn broken_options_end_the_walk() {
        for broken in [&[3, 0][..], &[3, 1], &[3, 200, 1], &[99]] {
            let reply = with(&[&[2, 4, 5, 180], broken].concat()).unwrap();
            assert_eq!((reply.mss, reply.window_scale), (Some(1460), None), "{broken:?}");
        }
    }
}
