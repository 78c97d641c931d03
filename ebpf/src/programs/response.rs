//! The head of a response of which the program may see by itself where it ends: its bytes are read.

use super::ETHERNET;
use crate::maps::{PIECE, Scratch};
use crate::skb::{self, Skb};
use baton_shared::plain::response::{HeadScanner, PLAIN_HEAD_BYTES};
use baton_shared::translate::{judge_head, may_begin_plain};

/// Bytes between which the reading may end.
const BLOCK: usize = 16;

/// A server's segment was judged by its header: how much of it is to be copied is judged by its first bytes.
#[inline(always)]
pub(super) fn judge(skb: Skb, scratch: &mut Scratch) {
    if !may_begin_plain(&scratch.record, &scratch.segment, &scratch.patch.account) {
        return;
    }
    let Some(piece) = PIECE.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's element of the map; programs do not interrupt each other on one CPU.
    let bytes = unsafe { &mut (*piece).bytes };
    let Some((bytes, _)) = bytes.split_first_chunk_mut::<{ PLAIN_HEAD_BYTES as usize }>() else { return };
    let at = ETHERNET + scratch.ip.upper_at + scratch.tcp.header_bytes();
    // Behind them stands what another packet left there.
    if !skb.load_up_to(at, scratch.segment.payload.min(PLAIN_HEAD_BYTES), bytes) {
        return;
    }
    let mut scanner = HeadScanner::new();
    // The verifier goes on from wherever the loop may end: not from behind each byte.
    for block in bytes.as_chunks::<BLOCK>().0 {
        for byte in block {
            scanner = scanner.advance(*byte);
        }
        if scanner.is_settled() {
            break;
        }
    }
    // What is kept in the map is any number to the verifier, so that what follows is the same wherever the head ends.
    (scratch.head, scratch.content) = scanner.found().unwrap_or_default();
    let scratch = skb::opaque(scratch);
    if scratch.head != 0 {
        let (head, content) = (scratch.head, scratch.content);
        judge_head(&scratch.record, &scratch.segment, head, content, &mut scratch.patch.account);
    }
}
