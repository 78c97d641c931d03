//! The naive oracle: the client's stream written down whole, cut anyhow, sent anyhow.

use super::*;
use proptest::prelude::*;

const MOST: u32 = 1 << 20;

fn get(path: &str, head_bytes: usize) -> Vec<u8> {
    let mut bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Fill: ").into_bytes();
    bytes.resize(bytes.len() + head_bytes, b'f');
    bytes.extend(b"\r\n\r\n");
    bytes
}

fn put(path: &str, body: usize) -> Vec<u8> {
    let mut bytes = format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n").into_bytes();
    bytes.resize(bytes.len() + body, b'b');
    bytes
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0usize..3000).prop_map(|fill| get("/g", fill)),
        (0usize..3000).prop_map(|body| put("/p", body)),
    ]
}

/// Segments of a stream, cut at `cuts`, with `extra` of them repeated, in an order made of `seed`.
fn segments(stream: &[u8], cuts: &[usize], extra: usize, seed: u64) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    let mut at = 0;
    let mut sizes = cuts.iter().copied().cycle();
    while at < stream.len() {
        let end = (at + sizes.next().unwrap_or(1)).min(stream.len());
        all.push((at, end));
        at = end;
    }
    for n in 0..extra {
        // Overlaps that begin and end elsewhere.
        let (from, to) = all[n % all.len()];
        all.push((from.saturating_sub(n), (to + n).min(stream.len())));
    }
    let mut state = seed;
    for at in (1..all.len()).rev() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let other = usize::try_from(state >> 33).unwrap() % (at + 1);
        all.swap(at, other);
    }
    all
}

fn number(start: u32, at: usize) -> Seq<Client> {
    Seq::new(start.wrapping_add(u32::try_from(at).unwrap()))
}

proptest! {
    #[test]
    fn requests_come_out_whole_and_in_order_however_they_came_in(
        all in proptest::collection::vec(request(), 1..5),
        cuts in proptest::collection::vec(200usize..1500, 1..8),
        extra in 0usize..8,
        seed in any::<u64>(),
        start in prop_oneof![Just(0u32), Just(u32::MAX - 300), any::<u32>()],
        take in any::<bool>(),
    ) {
        let stream = all.concat();
        let mut later = LaterRequests::new(Seq::new(start), MOST);
        let (mut seen, mut ends) = (Vec::new(), vec![Seq::new(start)]);
        let parts = segments(&stream, &cuts, extra, seed);
        let last = parts.len() - 1;
        for (n, (from, to)) in parts.into_iter().enumerate() {
            // What is not kept was passed on before.
            let _ = later.on_segment(number(start, from), &stream[from..to], to == stream.len() && n == last);
            // All of a request is waited for here, so that it can be compared.
            while let Later::Request(head) = later.next(&HeadLimits::default()) {
                let whole = usize::try_from(request_length(&head).unwrap()).unwrap();
                if later.bytes().len() < whole {
                    break;
                }
                seen.extend_from_slice(&later.bytes()[..whole]);
                if take {
                    let taken = later.take(&head).unwrap();
                    prop_assert_eq!(taken.bytes.len(), whole);
                } else {
                    later.pass(&head).unwrap();
                }
                ends.push(later.end());
            }
        }
        prop_assert_eq!(&seen, &stream);
        prop_assert_eq!(ends.len(), all.len() + 1);
    }

    #[test]
    fn nothing_passes_before_a_whole_head_was_seen(cut in 0usize..300) {
        let whole = get("/x", 200);
        let cut = cut.min(whole.len() - 1);
        let mut later = LaterRequests::new(Seq::new(9), MOST);
        let _ = later.on_segment(Seq::new(9), &whole[..cut], false);
        let next = later.next(&HeadLimits::default());
        prop_assert!(matches!(next, Later::Nothing | Later::Partial), "{:?}", next);
        prop_assert_eq!(later.end(), Seq::new(9));
    }

    #[test]
    fn no_segments_panic(
        parts in proptest::collection::vec(
            (any::<u32>(), proptest::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..40,
        ),
        end in any::<u32>(),
    ) {
        let mut later = LaterRequests::new(Seq::new(end), 4096);
        for (seq, payload, fin) in parts {
            let near = end.wrapping_add(seq % 5000).wrapping_sub(500);
            let _ = later.on_segment(Seq::new(near), &payload, fin);
            let _ = later.on_segment(Seq::new(seq), &payload, fin);
            match later.next(&HeadLimits::default()) {
                Later::Request(head) => drop(later.take(&head)),
                Later::Fin => drop(later.pass_fin()),
                _ => {}
            }
            prop_assert!(later.bytes().len() <= 4096);
        }
    }
}

#[test]
fn what_lies_beyond_a_gap_can_be_forgotten_and_come_again() {
    let next = get("/next", 0);
    let end = Seq::new(u32::MAX - 3);
    let mut later = LaterRequests::new(end, MOST);
    let at = |place: usize| number(u32::MAX - 3, place);
    assert_eq!((later.gap(), later.forget_beyond_gap()), (None, None));
    later.on_segment(end, &next[..5], false).unwrap();
    assert_eq!(later.gap(), None, "a head that is not complete is none");
    later.on_segment(at(8), &next[8..12], false).unwrap();
    later.on_segment(at(15), &next[15..], true).unwrap();
    assert_eq!(later.gap(), Some(at(5)));
    assert_eq!(later.forget_beyond_gap(), Some(at(5)));
    assert_eq!((later.gap(), later.bytes()), (None, &next[..5]));
    later.on_segment(at(5), &next[5..15], false).unwrap();
    assert_eq!(later.next(&HeadLimits::default()), Later::Partial);
    later.on_segment(at(15), &next[15..], true).unwrap();
    assert!(matches!(later.next(&HeadLimits::default()), Later::Request(_)));
    // A FIN alone beyond a gap.
    let mut later = LaterRequests::new(end, MOST);
    later.on_segment(at(1), b"", true).unwrap();
    assert_eq!((later.gap(), later.next(&HeadLimits::default())), (Some(end), Later::Nothing));
    later.forget_beyond_gap();
    later.on_segment(end, b"", true).unwrap();
    assert_eq!((later.gap(), later.next(&HeadLimits::default())), (None, Later::Fin));
}

#[test]
fn a_segment_over_the_end_counts_from_the_end_on() {
    let next = get("/next", 0);
    let mut later = LaterRequests::new(Seq::new(3), MOST);
    let straddling = [b"body", &next[..]].concat();
    later.on_segment(Seq::new(u32::MAX), &straddling, false).unwrap();
    assert_eq!(later.bytes(), next);
    assert_eq!(later.on_segment(Seq::new(u32::MAX), b"body", false), Err(NotKept::Old));
    assert_eq!(later.on_segment(Seq::new(3).plus(MOST), b"x", false), Err(NotKept::TooFar));
}

#[test]
fn a_body_under_way_is_passed_with_its_head_and_what_follows_it_is_read() {
    let (request, next) = (put("/p", 1000), get("/n", 0));
    let stream = [&request[..], &next[..]].concat();
    let mut later = LaterRequests::new(Seq::new(0), MOST);
    later.on_segment(Seq::new(0), &stream[..200], false).unwrap();
    let Later::Request(head) = later.next(&HeadLimits::default()) else { panic!("no head") };
    let taken = later.take(&head).unwrap();
    assert_eq!((taken.bytes.len(), taken.taken_end), (200, Seq::new(200)));
    assert_eq!(later.end(), number(0, request.len()));
    assert_eq!(later.next(&HeadLimits::default()), Later::Nothing);
    let straddle = request.len() - 10;
    later.on_segment(number(0, straddle), &stream[straddle..], true).unwrap();
    let Later::Request(head) = later.next(&HeadLimits::default()) else { panic!("no head") };
    let taken = later.take(&head).unwrap();
    assert!(taken.fin);
    assert_eq!((taken.bytes, taken.taken_end), (next, number(0, stream.len() + 1)));
    assert_eq!(later.next(&HeadLimits::default()), Later::Nothing);
}

#[test]
fn the_clients_end_is_told_apart() {
    let limits = HeadLimits::default();
    let mut later = LaterRequests::new(Seq::new(5), MOST);
    later.on_segment(Seq::new(5), b"", true).unwrap();
    assert_eq!(later.next(&limits), Later::Fin);
    assert_eq!(later.pass_fin(), Seq::new(6));
    assert_eq!(later.next(&limits), Later::Nothing);

    let mut later = LaterRequests::new(Seq::new(5), MOST);
    later.on_segment(Seq::new(5), b"GET /", true).unwrap();
    assert_eq!(later.next(&limits), Later::CutShort);

    let mut later = LaterRequests::new(Seq::new(5), MOST);
    later.on_segment(Seq::new(5), b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", false).unwrap();
    assert!(matches!(later.next(&limits), Later::Bad(_)));
}

#[test]
fn what_the_client_was_told_arrived_must_be_delivered_by_us() {
    let both = [get("/a", 0), get("/b", 0)];
    let mut later = LaterRequests::new(Seq::new(100), MOST);
    assert!(!later.owes());
    later.on_acknowledged(&both.concat(), true);
    let fin = Seq::new(100 + u32::try_from(both.concat().len()).unwrap());
    for one in &both {
        assert!(later.owes());
        assert_eq!(later.owed_fin(), Some(fin));
        let Later::Request(head) = later.next(&HeadLimits::default()) else { panic!("no head") };
        assert_eq!(later.take(&head).unwrap().bytes, *one);
    }
    assert!(!later.owes());
    assert_eq!(later.acknowledged(), later.end());
    assert_eq!((later.owed_fin(), later.end()), (None, fin.plus(1)), "it went with the last");
    // One that was not acknowledged its client says again.
    let mut later = LaterRequests::new(Seq::new(100), MOST);
    later.on_acknowledged(&both.concat(), false);
    later.on_segment(fin, b"", true).unwrap();
    assert_eq!((later.owes(), later.owed_fin()), (true, None));
}

#[test]
fn chunked_and_endless_bodies_are_not_followed() {
    let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let long = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", BODY_BYTES + 1);
    for request in [chunked, long.into_bytes()] {
        let mut later = LaterRequests::new(Seq::new(0), MOST);
        later.on_segment(Seq::new(0), &request, false).unwrap();
        let Later::Request(head) = later.next(&HeadLimits::default()) else { panic!("no head") };
        assert_eq!(later.pass(&head), None);
        assert_eq!(later.take(&head), None);
    }
}

#[test]
fn a_chunked_body_is_followed_to_its_end_and_its_content_passes_unseen() {
    let limits = HeadLimits::default();
    let next = get("/n", 0);
    let stream = [&b"5\r\nhello\r\n3e8;x=y\r\n"[..], &[b'c'; 1000], b"\r\n0\r\nA: b\r\n\r\n", &next].concat();
    let body = stream.len() - next.len();
    for size in [1, 2, 7, 100, stream.len()] {
        let start = u32::MAX - 20;
        let mut later = LaterRequests::new(Seq::new(start), MOST).within(BodyScanner::new(Framing::Chunked));
        let mut shown = 0;
        let mut at = 0;
        while later.is_within_body() {
            // As the data plane: what lies before the end is not shown.
            let to = (at + size).min(stream.len());
            if later.end().before(number(start, to)) {
                later.on_segment(number(start, at), &stream[at..to], false).unwrap();
                shown += 1;
                while later.next(&limits) == Later::Body {}
            }
            at = to;
        }
        assert_eq!(later.end(), number(start, body), "cut into {size}");
        assert!(size > 1 || shown < 60, "content was shown: {shown}");
        let _ = later.on_segment(number(start, at), &stream[at..], false);
        let Later::Request(_) = later.next(&limits) else { panic!("the next request is not read") };
    }
}

#[test]
fn a_broken_body_and_one_cut_short_are_told() {
    let limits = HeadLimits::default();
    let chunked = || LaterRequests::new(Seq::new(0), MOST).within(BodyScanner::new(Framing::Chunked));
    let mut later = chunked();
    later.on_segment(Seq::new(0), b"5\r\nhelloGET / HTTP/1.1\r\n", false).unwrap();
    assert!(matches!(later.next(&limits), Later::BadBody(_)));
    let mut later = chunked();
    later.on_segment(Seq::new(0), b"5\r\nhel", true).unwrap();
    assert_eq!(later.next(&limits), Later::Body);
    assert!(later.is_within_body());
    let mut later = chunked();
    later.on_segment(Seq::new(0), b"", true).unwrap();
    assert_eq!(later.next(&limits), Later::Fin);
}

#[test]
fn whoever_has_sent_nothing_more_takes_no_memory_but_16_bytes() {
    assert_eq!(size_of::<LaterRequests>(), 16);
    let next = get("/next", 0);
    let mut later = LaterRequests::new(Seq::new(7), MOST);
    later.on_acknowledged(b"", false);
    assert!(later.kept.is_none());
    for from in [7, 7 + u32::try_from(next.len()).unwrap()] {
        later.on_segment(Seq::new(from), &next, false).unwrap();
        assert!(later.kept.is_some());
        let Later::Request(head) = later.next(&HeadLimits::default()) else { panic!("no request") };
        later.pass(&head).unwrap();
        assert!(later.kept.is_none(), "what came is passed on");
    }
}

#[test]
fn what_went_on_unread_moves_the_end_unless_it_is_no_news_or_within_a_body() {
    let mut later = LaterRequests::new(Seq::new(u32::MAX - 3), MOST);
    assert!(later.is_idle());
    assert!(!later.pass_unread(Seq::new(u32::MAX - 3)) && !later.pass_unread(Seq::new(u32::MAX - 4)));
    assert!(later.pass_unread(Seq::new(20)));
    assert_eq!((later.end(), later.next(&HeadLimits::default())), (Seq::new(20), Later::Nothing));
    let mut within = later.within(BodyScanner::new(Framing::Chunked));
    assert!(!within.pass_unread(Seq::new(30)));
    assert_eq!(within.end(), Seq::new(20));
}

/// Another processor may have sent a request on while this one brought what lies behind it, or a copy of it.
#[test]
fn of_what_went_on_unread_nothing_is_kept_and_what_lies_behind_it_is_read() {
    let (first, second) = (get("/first", 9), get("/second", 7));
    let stream = [&first[..], &second].concat();
    let (start, end) = (Seq::new(u32::MAX - 60), Seq::new(u32::MAX - 60).plus(length(&first)));
    // What is kept when the first is known to have gone on: pieces of both, from here to there.
    for (from, to) in [(first.len(), stream.len()), (0, 9), (0, stream.len()), (5, first.len() + 9), (9, 12)]
    {
        let mut later = LaterRequests::new(start, MOST);
        let at = |from: usize| start.plus(u32::try_from(from).unwrap());
        later.on_segment(at(from), &stream[from..to], false).unwrap();
        assert!(later.pass_unread(end));
        assert_eq!((later.end(), later.gap()), (end, None), "{from} to {to}");
        assert_eq!(later.bytes(), &second[..to.saturating_sub(first.len())], "{from} to {to}");
        later.on_segment(end, &second, true).unwrap();
        let Later::Request(head) = later.next(&HeadLimits::default()) else { panic!("{from} to {to}") };
        assert_eq!(later.pass(&head), Some(end.plus(length(&second))));
        assert_eq!(later.next(&HeadLimits::default()), Later::Fin);
    }
}
