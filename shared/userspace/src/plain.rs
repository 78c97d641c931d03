//! A later request, and a response's head, that are judged without the daemon: their bytes are read, as the eBPF programs do it
//! (`ebpf/src/programs/plain.rs`, `response.rs`).

use baton_shared::plain::PLAIN_BYTES;
use baton_shared::record::{FlowKey, FlowRecord};
use baton_shared::translate::{Account, PlainReading, Verdict, judge_plain, judge_response, may_be_plain};
use baton_shared::wire::{Segment, Sum, TcpWords};
use zerocopy::FromBytes;

/// The flow that a packet is of, and by what later requests are judged.
pub(crate) struct Ruled<'a> {
    pub(crate) record: &'a FlowRecord,
    pub(crate) ruling: u32,
    pub(crate) key: &'a FlowKey,
}

/// The verdict on a client's segment, which was judged by its header before. `raw_tcp` begins with its header.
pub(crate) fn judged(
    ruled: &Ruled<'_>,
    segment: &Segment,
    raw_tcp: &[u8],
    verdict: Verdict,
    account: &mut Account,
) -> Verdict {
    let may_be = may_be_plain(verdict, ruled.record, segment, ruled.ruling);
    if !may_be || !is_plain(ruled.key, segment, raw_tcp).unwrap_or(false) {
        return verdict;
    }
    judge_plain(ruled.record, segment, account)
}

/// A server's segment was judged by its header: as the program does it (`ebpf/src/programs/response.rs`). The daemon gets it whole
/// all the same.
pub(crate) fn judge_begun(record: &FlowRecord, segment: &Segment, raw_tcp: &[u8], account: &mut Account) {
    let Ok((tcp, _)) = TcpWords::read_from_prefix(raw_tcp) else { return };
    if let Some(payload) = raw_tcp.get(tcp.header_bytes() as usize..) {
        judge_response(record, segment, payload, account);
    }
}

/// Reads the segment; `None` if it is cut short, which its facts rule out.
fn is_plain(key: &FlowKey, segment: &Segment, raw_tcp: &[u8]) -> Option<bool> {
    let (tcp, _) = TcpWords::read_from_prefix(raw_tcp).ok()?;
    let (header, payload) = (tcp.header_bytes(), segment.payload);
    if payload > PLAIN_BYTES {
        return Some(false);
    }
    let words = raw_tcp.get(..header as usize)?.as_chunks::<4>().0;
    let sum = words.iter().fold(Sum::ZERO, |sum, word| sum.with(u32::from_ne_bytes(*word)));
    let mut reading = PlainReading::new(key, header + payload, sum.folded().into());
    for (at, byte) in (0..payload).zip(raw_tcp.get(header as usize..)?) {
        reading = reading.byte(at, *byte);
        if reading.is_over() {
            return Some(false);
        }
    }
    Some(reading.is_plain(tcp.checksum()))
}
