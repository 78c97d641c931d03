//! Plain responses: those of which the program on the target sees by itself where they end.
//!
//! The agent follows a tracked flow's responses by copies of packets that reach beyond the record's `read_from`. Until it has
//! read a head, all behind it would be copied, though content of a known length tells it nothing. So of a packet with which a
//! response begins, by a head that [`HeadScanner`](crate::plain::response::HeadScanner) takes, only that is copied, and
//! `read_from` and the count go to the response's end, to which the agent brings them when it reads the head: not where `HEAD`
//! may have been asked, whose answer has no content whatever its head says, which is so while the count is 0.

use super::Account;
use crate::plain::response;
use crate::record::{COPY_BYTES, FlowRecord};
use crate::wire::Segment;

/// Whether the segment that is to be copied begins a response that has the content which its head says, and this is likely to be
/// much: it is large itself, or those before it were. To read the head of a small one costs as much as to copy it.
#[inline(always)]
pub fn may_begin_plain(record: &FlowRecord, segment: &Segment, account: &Account) -> bool {
    let is_large = account.copy > COPY_BYTES || record.bytes > record.packets.wrapping_mul(COPY_BYTES as u64);
    account.copy != 0 && is_large && record.requests != 0 && segment.seq == record.read_from
}

/// The bytes with which the segment begins, and perhaps others behind them, begin with a plain head of so many, behind which so
/// much content follows.
#[inline(always)]
pub fn judge_head(record: &FlowRecord, segment: &Segment, head: u32, content: u32, account: &mut Account) {
    let whole = head.wrapping_add(content);
    // Else it is not all there, or the next response begins in the segment.
    if head <= segment.payload && segment.payload <= whole {
        account.copy = head;
        account.plain = 1;
        account.read_from = segment.seq.wrapping_add(whole);
        account.requests = record.requests.wrapping_add(1);
    }
}

/// Both, where the segment's payload is at hand.
pub fn judge_response(record: &FlowRecord, segment: &Segment, payload: &[u8], account: &mut Account) {
    if may_begin_plain(record, segment, account)
        && let Some((head, content)) = response::head(payload)
    {
        judge_head(record, segment, head, content, account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{FLAG_TRACKED, FlowState, NOTE_SYN_ACK};
    use crate::translate::{Patch, judge_egress};

    const SEQ: u32 = u32::MAX - 99;

    fn record() -> FlowRecord {
        FlowRecord {
            state: FlowState::Committed as u32,
            flags: FLAG_TRACKED,
            read_from: SEQ,
            requests: 3,
            note_flags: NOTE_SYN_ACK,
            packets: 2,
            bytes: 2 * u64::from(COPY_BYTES) + 1,
            ..FlowRecord::default()
        }
    }

    fn judged(record: &FlowRecord, segment: &Segment) -> (bool, Account) {
        let mut patch = Patch::default();
        judge_egress(record, segment, &mut patch);
        (may_begin_plain(record, segment, &patch.account), patch.account)
    }

    fn segment(payload: u32) -> Segment {
        Segment { seq: SEQ, payload, ..Segment::default() }
    }

    #[test]
    fn only_a_packet_that_begins_with_a_responses_first_byte_is_looked_at() {
        let (looked_at, account) = judged(&record(), &segment(300));
        assert_eq!((looked_at, account.copy), (true, 300));
        for seq in [SEQ.wrapping_add(1), SEQ.wrapping_sub(1)] {
            let (looked_at, account) = judged(&record(), &Segment { seq, ..segment(300) });
            assert_eq!((looked_at, account.copy), (false, 300), "{seq}");
        }
        let behind = FlowRecord { read_from: SEQ.wrapping_add(300), ..record() };
        let (looked_at, account) = judged(&behind, &segment(300));
        assert_eq!((looked_at, account.copy), (false, 0), "it is content");
        assert!(!judged(&FlowRecord { flags: 0, ..record() }, &segment(300)).0, "nobody follows it");
        assert!(
            !judged(&FlowRecord { requests: 0, ..record() }, &segment(300)).0,
            "HEAD may have been asked"
        );
    }

    #[test]
    fn where_packets_were_small_only_a_large_one_is_looked_at() {
        for bytes in [0, 2 * u64::from(COPY_BYTES)] {
            let small = FlowRecord { bytes, ..record() };
            assert!(!judged(&small, &segment(COPY_BYTES)).0);
            assert!(judged(&small, &segment(COPY_BYTES + 1)).0);
        }
        assert!(!judged(&FlowRecord { packets: 0, bytes: 0, ..record() }, &segment(300)).0, "the first");
    }

    #[test]
    fn a_head_alone_is_copied_if_all_behind_it_is_its_content() {
        for (payload, content, is_passed) in [
            (3000, 2900, true),
            (3000, 900_000_000, true),
            (3000, 2899, false),
            (3000, 0, false),
            (100, 0, true),
            (100, 5, true),
            (99, 5, false),
        ] {
            let segment = segment(payload);
            let (_, before) = judged(&record(), &segment);
            let mut account = before;
            judge_head(&record(), &segment, 100, content, &mut account);
            let after = Account { copy: 100, plain: 1, read_from: content, requests: 4, ..before };
            assert_eq!(account, if is_passed { after } else { before }, "{content} bytes, {payload} there");
        }
    }
}
