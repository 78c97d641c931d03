//! A later request that the program may judge by itself: its bytes are read.

use crate::maps::{PIECE, RULING, Scratch};
use crate::skb::{self, Skb};
use baton_shared::plain::PLAIN_BYTES;
use baton_shared::reason::PacketCounter;
use baton_shared::translate::{PlainReading, Verdict, judge_plain, may_be_plain};
use core::ptr;

/// The verdict on a client's segment, which was judged by its header before.
#[inline(always)]
pub(super) fn judged(skb: Skb, tcp_at: u32, scratch: &mut Scratch, verdict: Verdict) -> Verdict {
    if !matches!(verdict.counter, Some(PacketCounter::LaterRequest)) {
        return verdict;
    }
    let Some(ruling) = RULING.get_ptr(0) else { return verdict };
    // SAFETY: an element of the map, one aligned word, which the daemon may write.
    let ruling = unsafe { ptr::read_volatile(ruling) };
    let may_be = may_be_plain(verdict, &scratch.record, &scratch.segment, ruling);
    if !may_be || !is_plain(skb, tcp_at, scratch) {
        return verdict;
    }
    let scratch = skb::opaque(scratch);
    judge_plain(&scratch.record, &scratch.segment, &mut scratch.patch.account)
}

/// Reads the segment.
#[inline(always)]
fn is_plain(skb: Skb, tcp_at: u32, scratch: &Scratch) -> bool {
    let Some(piece) = PIECE.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's element of the map; programs do not interrupt each other on one CPU.
    let bytes = unsafe { &mut (*piece).bytes };
    let (header, payload) = (scratch.tcp.header_bytes(), scratch.segment.payload);
    let Some((bytes, _)) = bytes.split_first_chunk_mut::<{ PLAIN_BYTES as usize }>() else { return false };
    let Some(sum) = skb.sum_up_to(tcp_at, header, bytes) else { return false };
    let mut reading = PlainReading::new(&scratch.key, header + payload, sum);
    if !skb.load_up_to(tcp_at + header, payload, bytes) {
        return false;
    }
    for at in 0..PLAIN_BYTES {
        if at >= skb::opaque_number(payload) {
            break;
        }
        let Some(byte) = bytes.get(at as usize) else { return false };
        reading = reading.byte(at, *byte);
        if reading.is_over() {
            return false;
        }
    }
    reading.is_plain(scratch.tcp.checksum())
}
