//! The naive oracle: a stream written down whole, with the places where its responses end.

use super::*;
use crate::record::FlowState;
use crate::translate::{Patch, judge_egress, judge_response};
use crate::wire::Segment;
use proptest::prelude::*;

const GOOD: RecallFacts = RecallFacts {
    requests: 1,
    request_end: Seq::new(500),
    server_ack: Seq::new(500),
    sent_end: Seq::new(0),
    note_flags: 0,
    acknowledged: true,
    silent_ns: 0,
};

fn sized(body: usize) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n").into_bytes();
    bytes.resize(bytes.len() + body, b'x');
    bytes
}

fn chunked(chunks: &[usize]) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for size in chunks.iter().filter(|size| **size > 0) {
        bytes.extend(format!("{size:x}\r\n").bytes());
        // Content that looks like the end of a response must not end it.
        let content = b"0\r\n\r\n".iter().cycle().take(*size);
        bytes.extend(content);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn bare(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Whatever\r\nServer: x\r\n\r\n").into_bytes()
}

fn response() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0usize..5000).prop_map(sized),
        proptest::collection::vec(1usize..400, 0..6).prop_map(|sizes| chunked(&sizes)),
        prop_oneof![Just(204), Just(304)].prop_map(bare),
        (0usize..300).prop_map(|body| [bare(103), bare(100), sized(body)].concat()),
    ]
}

/// What of a packet a program copies, by the record's `read_from` and `requests`, which it may move.
fn copied<'a>(told: &mut (u32, u32), seq: u32, payload: &'a [u8]) -> &'a [u8] {
    let record = FlowRecord {
        state: FlowState::Committed as u32,
        flags: FLAG_TRACKED,
        read_from: told.0,
        requests: told.1,
        bytes: 1,
        ..FlowRecord::default()
    };
    let segment = Segment { seq, payload: u32::try_from(payload.len()).unwrap(), ..Segment::default() };
    let mut patch = Patch::default();
    judge_egress(&record, &segment, &mut patch);
    judge_response(&record, &segment, payload, &mut patch.account);
    if patch.account.plain != 0 {
        *told = (patch.account.read_from, patch.account.requests);
    }
    &payload[..usize::try_from(patch.account.copy).unwrap()]
}

/// What the agent writes into the record.
fn tell(told: &mut (u32, u32), responses: &Responses) {
    if responses.is_news(told.0) {
        *told = (responses.read_from().raw(), responses.mark());
    }
}

/// Shows what a program would of each packet, by the record as it is when the packet passes, `late` packets after it was written.
fn play(start: u32, stream: &[u8], cuts: &[usize], late: usize) -> Responses {
    let mut responses = Responses::new(Seq::new(start), false);
    let mut told = (start, responses.mark());
    let mut queue: std::collections::VecDeque<(Seq<Server>, &[u8])> = std::collections::VecDeque::new();
    let mut at = 0;
    let mut sizes = cuts.iter().copied().cycle();
    while at < stream.len() || !queue.is_empty() {
        if at < stream.len() {
            let end = (at + sizes.next().unwrap_or(1).max(1)).min(stream.len());
            let seq = start.wrapping_add(u32::try_from(at).unwrap());
            let payload = copied(&mut told, seq, &stream[at..end]);
            if !payload.is_empty() {
                queue.push_back((Seq::new(seq), payload));
            }
            at = end;
        }
        if (queue.len() > late || at >= stream.len())
            && let Some((seq, payload)) = queue.pop_front()
        {
            responses.on_copy(seq, payload);
            tell(&mut told, &responses);
        }
    }
    assert_eq!(told, (responses.read_from().raw(), responses.mark()), "nobody is ahead of who has read all");
    responses
}

proptest! {
    #[test]
    fn every_response_is_counted_however_its_packets_are_cut_and_however_late_the_agent_is(
        all in proptest::collection::vec(response(), 1..6),
        cuts in proptest::collection::vec(prop_oneof![1usize..1500, 1500usize..9000], 1..8),
        late in 0usize..5,
        start in prop_oneof![Just(0u32), Just(u32::MAX - 100), any::<u32>()],
    ) {
        let stream = all.concat();
        let responses = play(start, &stream, &cuts, late);
        let count = u32::try_from(all.len()).unwrap();
        prop_assert_eq!(responses.standing(), Standing::Between { responses: count });
        let end = Seq::new(start.wrapping_add(u32::try_from(stream.len()).unwrap()));
        prop_assert_eq!(responses.read_from(), end);
    }

    #[test]
    fn a_stream_cut_anywhere_is_never_taken_for_complete(
        before in proptest::collection::vec(response(), 0..3),
        last in response(),
        cut in 0usize..6000,
        cuts in proptest::collection::vec(1usize..1500, 1..8),
    ) {
        let whole = [before.concat(), last.clone()].concat();
        let missing = 1 + cut % last.len();
        let seen = &whole[..whole.len() - missing];
        let responses = play(7, seen, &cuts, 0);
        let facts = RecallFacts {
            requests: u32::try_from(before.len()).unwrap() + 1,
            sent_end: Seq::new(7 + u32::try_from(seen.len()).unwrap()),
            ..GOOD
        };
        prop_assert_eq!(judge_recall(Some(&responses), &facts), RecallVerdict::Wait);
    }

    #[test]
    fn another_process_goes_on_only_behind_whole_responses_and_then_counts_alike(
        all in proptest::collection::vec(response(), 1..5),
        cuts in proptest::collection::vec(1usize..1500, 1..8),
        at in 0usize..20_000,
        unread in 0u32..3,
        head in any::<bool>(),
    ) {
        let stream = all.concat();
        let (seen, rest) = stream.split_at(at % stream.len());
        let before = play(7, seen, &cuts, 0);
        let sent_end = Seq::<Server>::new(7 + u32::try_from(seen.len()).unwrap());
        let record = FlowRecord {
            flags: FLAG_TRACKED,
            read_from: before.read_from().raw(),
            requests: before.mark(),
            note_seq_end: sent_end.plus(unread).raw(),
            ..FlowRecord::default()
        };
        let between = matches!(before.standing(), Standing::Between { .. });
        let whole = between && !before.read_from().before(sent_end.plus(unread));
        let after = Responses::resume(&record);
        prop_assert_eq!(after.is_some(), whole);
        if let Some(mut after) = after {
            prop_assert_eq!(after.standing(), before.standing());
            // What lies before is not shown again.
            let skipped = usize::try_from(after.read_from().since(sent_end)).unwrap();
            after.on_copy(after.read_from(), rest.get(skipped..).unwrap_or_default());
            let end = Standing::Between { responses: u32::try_from(all.len()).unwrap() };
            prop_assert_eq!(after.standing(), end);
            prop_assert_eq!(after.statuses().of(1).is_some(), before.mark() == 1);
        }
        // Records of a version that did not say, and of flows that nobody followed to the end.
        for not in [FlowRecord { requests: 0, ..record }, FlowRecord { flags: 0, ..record }] {
            prop_assert!(Responses::resume(&not).is_none());
        }
        // The answer to a HEAD is another one's to read.
        let none = Responses::new(Seq::new(7), head);
        prop_assert_eq!(none.mark(), u32::from(!head));
    }

    #[test]
    fn order_and_repetition_of_copies_do_not_matter(
        body in proptest::collection::vec(1usize..300, 1..8),
        seed in any::<u64>(),
    ) {
        let stream = chunked(&body);
        let mut packets: Vec<(u32, &[u8])> =
            (0u32..).step_by(100).zip(stream.chunks(100)).collect();
        packets.extend(packets.clone());
        let mut state = seed;
        for at in (1..packets.len()).rev() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            packets.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
        }
        let mut responses = Responses::new(Seq::new(0), false);
        for (seq, payload) in packets {
            responses.on_copy(Seq::new(seq), payload);
        }
        prop_assert_eq!(responses.standing(), Standing::Between { responses: 1 });
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), seq in any::<u32>()) {
        let mut responses = Responses::new(Seq::new(seq), false);
        responses.on_copy(Seq::new(seq), &bytes);
        responses.on_copy(Seq::new(seq.wrapping_add(7)), &bytes);
    }
}

fn standing(head: bool, bytes: &[u8]) -> Standing {
    let mut responses = Responses::new(Seq::new(9), head);
    responses.on_copy(Seq::new(9), bytes);
    responses.standing()
}

#[test]
fn the_head_response_has_no_body_and_the_next_one_has() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let read_from = |answers_head| {
        let mut responses = Responses::new(Seq::new(0), answers_head);
        responses.on_copy(Seq::new(0), head);
        assert_eq!(responses.standing(), Standing::Between { responses: 1 });
        usize::try_from(responses.read_from().raw()).unwrap()
    };
    assert_eq!(read_from(true), head.len());
    // Content of known length is passed over before it was sent; a recall compares with what was sent.
    assert_eq!(read_from(false), head.len() + 5);
    assert_eq!(standing(true, &[&head[..], &sized(5)].concat()), Standing::Between { responses: 2 });
}

#[test]
fn the_program_takes_no_heads_word_for_its_content_where_the_answer_is_to_head() {
    let packet = [&b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"[..], &sized(5000)].concat();
    let mut responses = Responses::new(Seq::new(0), true);
    let mut told = (0, responses.mark());
    let shown = copied(&mut told, 0, &packet);
    assert_eq!((shown, told), (&packet[..], (0, 0)), "all of it");
    responses.on_copy(Seq::new(0), shown);
    tell(&mut told, &responses);
    assert_eq!(responses.standing(), Standing::Between { responses: 2 });
    let end = u32::try_from(packet.len()).unwrap();
    assert_eq!(told, (end, 3));
    // Behind it no HEAD is answered any more.
    assert_eq!(copied(&mut told, end, &sized(7)).len(), sized(7).len() - 7);
    assert_eq!(told, (end + u32::try_from(sized(7).len()).unwrap(), 4));
}

#[test]
fn what_two_readers_could_read_in_two_ways_is_unknown() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
    ] {
        assert!(matches!(standing(false, head.as_bytes()), Standing::Unknown(_)), "{head}");
    }
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert_eq!(standing(false, head.as_bytes()), Standing::UntilClose, "{head}");
    }
}

#[test]
fn a_body_of_many_gigabytes_is_passed_over_in_steps_and_its_end_found() {
    let body = 5 * STEP + 12345;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n").into_bytes();
    let start = u32::MAX - 5;
    let low = |offset: u64, start: u32| start.wrapping_add(u32::try_from(offset & 0xffff_ffff).unwrap());
    let mut responses = Responses::new(Seq::new(start), false);
    responses.on_copy(Seq::new(start), &head);
    let mut sent = u64::try_from(head.len()).unwrap();
    let total = sent + body;
    while sent < total {
        let size = (total - sent).min(60_000);
        let seq = Seq::new(low(sent, start));
        sent += size;
        if responses.read_from().before(seq.plus(u32::try_from(size).unwrap())) {
            responses.on_copy(seq, &vec![b'x'; usize::try_from(size).unwrap()]);
        }
    }
    assert_eq!(responses.standing(), Standing::Between { responses: 1 });
    assert_eq!(responses.read_from(), Seq::new(low(total, start)));
}

#[test]
fn a_part_that_was_not_seen_makes_the_end_unknown_in_the_end() {
    let mut responses = Responses::new(Seq::new(0), false);
    for n in 1..=u32::try_from(EARLY).unwrap() + 1 {
        responses.on_copy(Seq::new(n * 1000), b"x");
    }
    assert!(matches!(responses.standing(), Standing::Unknown(_)));
    assert!(responses.is_settled());
}

#[test]
fn a_recall_is_granted_only_if_nothing_at_all_is_open() {
    let mut responses = Responses::new(Seq::new(100), false);
    responses.on_copy(Seq::new(100), &sized(10));
    let end = Seq::new(100 + u32::try_from(sized(10).len()).unwrap());
    let good = RecallFacts { sent_end: end, ..GOOD };
    let ask = |facts: &RecallFacts| judge_recall(Some(&responses), facts);
    assert_eq!(ask(&good), RecallVerdict::Take);
    for wait in [
        RecallFacts { acknowledged: false, ..good },
        RecallFacts { server_ack: Seq::new(499), ..good },
        RecallFacts { sent_end: end.plus(1), ..good },
        RecallFacts { sent_end: end.minus(1), ..good },
        RecallFacts { requests: 2, ..good },
        RecallFacts { requests: 2, silent_ns: u64::MAX, ..good },
    ] {
        assert_eq!(ask(&wait), RecallVerdict::Wait, "{wait:?}");
    }
    for note_flags in [NOTE_FIN, NOTE_RST] {
        let closed = RecallFacts { note_flags, ..good };
        assert_eq!(ask(&closed), RecallVerdict::Refuse(Refusal::ServerClosed));
    }
    let silent = RecallFacts { silent_ns: SILENCE_NS, ..good };
    // What was refused once is so for ever, whatever is counted later.
    let mut refused = responses.clone();
    for end in [Refusal::ServerClosed, Refusal::FlowGone] {
        refused.on_refused(end);
        assert_eq!((refused.mark(), judge_recall(Some(&refused), &good)), (2, RecallVerdict::Take));
    }
    refused.on_refused(Refusal::FramingUnknown);
    assert_eq!((refused.mark(), judge_recall(Some(&refused), &good)), (0, RecallVerdict::Wait));
    assert_eq!(judge_recall(Some(&refused), &silent), RecallVerdict::Refuse(Refusal::FramingUnknown));
    let too_many = RecallFacts { requests: 0, ..silent };
    assert_eq!(ask(&too_many), RecallVerdict::Refuse(Refusal::FramingUnknown));
    assert_eq!(judge_recall(None, &good), RecallVerdict::Wait);
    assert_eq!(judge_recall(None, &silent), RecallVerdict::Refuse(Refusal::NotTracked));
    let unacknowledged = RecallFacts { acknowledged: false, ..silent };
    assert_eq!(judge_recall(None, &unacknowledged), RecallVerdict::Wait);
}

#[test]
fn a_last_part_that_nobody_saw_is_waited_for_no_longer_than_a_server_is_silent() {
    let mut responses = Responses::new(Seq::new(100), false);
    let whole = sized(10);
    let end = Seq::new(100 + u32::try_from(whole.len()).unwrap());
    let judge = |responses: &Responses, silent_ns, acknowledged| {
        let facts = RecallFacts { sent_end: end, silent_ns, acknowledged, ..GOOD };
        judge_recall(Some(responses), &facts)
    };
    let given_up = RecallVerdict::Refuse(Refusal::FramingUnknown);
    for seen in [0, 5, whole.len() - 11] {
        responses.on_copy(Seq::new(100), &whole[..seen]);
        assert_eq!(judge(&responses, SILENCE_NS - 1, true), RecallVerdict::Wait);
        assert_eq!(judge(&responses, u64::MAX, false), RecallVerdict::Wait);
        assert_eq!(judge(&responses, SILENCE_NS, true), given_up);
    }
    // Then it was seen after all.
    responses.on_copy(Seq::new(100), &whole);
    assert_eq!(judge(&responses, SILENCE_NS, true), RecallVerdict::Take);
}

#[test]
fn pieces_of_large_packets_that_came_before_a_small_one_are_kept_as_few_parts() {
    let body = 200_000;
    let stream = [chunked(&[body]), sized(3)].concat();
    let pieces = |from: usize| {
        let packet = &stream[from..(from + 65_000).min(stream.len())];
        packet.chunks(1000).enumerate().map(move |(at, piece)| (from + at * 1000, piece))
    };
    let mut responses = Responses::new(Seq::new(0), false);
    // The second and third of three, in more pieces than parts are kept; the first is still to come.
    for (at, piece) in pieces(65_000).chain(pieces(130_000)) {
        responses.on_copy(Seq::new(u32::try_from(at).unwrap()), piece);
    }
    assert_eq!(responses.standing(), Standing::Between { responses: 0 });
    for (at, piece) in pieces(0).chain(pieces(195_000)) {
        responses.on_copy(Seq::new(u32::try_from(at).unwrap()), piece);
    }
    assert_eq!(responses.standing(), Standing::Between { responses: 2 });
}
