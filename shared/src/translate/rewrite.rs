//! The one translation of a segment between the client's and the server's numbers.

use super::{Patch, adopt};
use crate::reason::PacketCounter;
use crate::record::{FLAG_FED, FlowRecord, NOTE_CAUGHT_UP};
use crate::seq::before;
use crate::wire::{ACK, SYN, Segment, Sum};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client, on the intermediate's ingress: a hop, so the time to live goes down by one (the judge has
    /// seen that it is more than one).
    FromClient,
    /// To the client, on the target's egress: the record's acknowledgement floor counts.
    ToClient,
}

/// Fills `patch` with the segment's header values in the other space. To be called where the judge said
/// [`Action::Translate`](super::Action::Translate), with the patch it was given.
#[inline(always)]
pub fn translate(record: &FlowRecord, segment: &Segment, direction: Direction, patch: &mut Patch) {
    if matches!(direction, Direction::ToClient) && adopt::is_adopted(record) {
        return adopt::rescale_sent(record, segment, rescale(record, segment, 0), patch);
    }
    let mut sum = Sum::ZERO;

    let seq = segment.seq.wrapping_add(record.seq_delta);
    patch.seq = seq;
    sum = sum.replaced(segment.seq.to_be(), seq.to_be());

    // Without ACK the field means nothing and stays (RFC 9293, section 3.1).
    let mut ack = segment.ack;
    let mut raised = 0u32;
    if segment.has(ACK) {
        ack = ack.wrapping_add(record.ack_delta);
        // The server is behind what the client knows only until it has the request, and what the client sent with it. From then on
        // the floor stays where it was, and 2 GiB later it would compare as ahead.
        let fed = record.flags & FLAG_FED != 0 && record.note_flags & NOTE_CAUGHT_UP != 0;
        if matches!(direction, Direction::ToClient) && !fed && before(ack, record.ack_floor) {
            raised = record.ack_floor.wrapping_sub(ack);
            ack = record.ack_floor;
            patch.account.also = PacketCounter::AckRaised.code();
        }
    }
    patch.ack = ack;
    sum = sum.replaced(segment.ack.to_be(), ack.to_be());

    let window = rescale(record, segment, raised);
    patch.window = window;
    sum = sum.replaced16(segment.window.to_be(), window.to_be());

    patch.new_port = record.new_port;
    sum = sum.replaced16(record.key.local_port.0, record.new_port.0);

    let places = segment.options.places;
    if places.timestamps != 0 {
        let (tsval, mut tsecr) = (segment.options.tsval, segment.options.tsecr);
        let new_tsval = tsval.wrapping_add(record.tsval_delta);
        let mut change = Sum::ZERO.replaced(tsval.to_be(), new_tsval.to_be());
        // The echo counts only with ACK (RFC 7323, section 3.2).
        if segment.has(ACK) {
            let old = tsecr;
            tsecr = tsecr.wrapping_add(record.tsecr_delta);
            change = change.replaced(old.to_be(), tsecr.to_be());
        }
        patch.tsval = new_tsval;
        patch.tsecr = tsecr;
        sum = sum.plus_at(change, places.timestamps);
    }
    if places.sack_blocks != 0 {
        let mut change = Sum::ZERO;
        let old_blocks = segment.options.sack_edges.as_chunks::<2>().0;
        let new_blocks = patch.sack_edges.as_chunks_mut::<2>().0;
        for (block, (old, new)) in (0u32..).zip(old_blocks.iter().zip(new_blocks)) {
            if block >= places.sack_blocks {
                break;
            }
            new[0] = old[0].wrapping_add(record.ack_delta);
            new[1] = old[1].wrapping_add(record.ack_delta);
            change = change.replaced(old[0].to_be(), new[0].to_be()).replaced(old[1].to_be(), new[1].to_be());
        }
        sum = sum.plus_at(change, places.sack);
    }
    patch.tcp_change = sum.folded() as u32;

    let mut addresses = Sum::ZERO;
    for (old, new) in record.key.local.0.iter().zip(record.new_addr.0) {
        addresses = addresses.replaced(*old, new);
    }
    patch.new_addr = record.new_addr;
    patch.address_change = addresses.folded() as u32;
    let ttl = match direction {
        Direction::FromClient => segment.ttl.wrapping_sub(1),
        Direction::ToClient => segment.ttl,
    };
    patch.ttl = ttl;
    let hops = addresses.replaced16(u16::from_ne_bytes([segment.ttl, 0]), u16::from_ne_bytes([ttl, 0]));
    patch.header_checksum = segment.header_checksum.changed(hops);
}

/// The window in the receiver's scale, its right edge moved back by as much as the acknowledgement was raised.
/// What a SYN says is never scaled (RFC 7323, section 2.2).
#[inline(always)]
fn rescale(record: &FlowRecord, segment: &Segment, raised: u32) -> u16 {
    let (shift_in, shift_out) = ((record.window_shift_in & 15) as u32, (record.window_shift_out & 15) as u32);
    if segment.has(SYN) || (shift_in == shift_out && raised == 0) {
        return segment.window;
    }
    let bytes = ((segment.window as u32) << shift_in).saturating_sub(raised);
    let window = bytes >> shift_out;
    #[expect(clippy::cast_possible_truncation, reason = "at most 65535")]
    {
        (if window > 0xffff { 0xffff } else { window }) as u16
    }
}
