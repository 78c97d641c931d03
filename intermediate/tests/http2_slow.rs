//! Slow and greedy clients of HTTP/2, frame by frame: each is left for its own reason, its streams and buffers go, and
//! others are served meanwhile.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod frames;
mod support;

use baton_shared::pace::MinRate;
use baton_shared::reason::CloseReason;
use baton_shared::route::RequestLimits;
use frames::{CONTINUATION, DATA, HEADERS, Http2, PING, PRIORITY, SETTINGS};
use intermediate::front::{FrontLimits, SlowLimits};
use std::time::{Duration, Instant};
use support::tls::https_bed;
use support::{Bed, LARGE, limits, server};
use tokio::time::{sleep, timeout};

/// How long a state is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Limits that no good client meets on a busy machine.
fn wide() -> FrontLimits {
    let slow = SlowLimits {
        idle: Duration::from_secs(60),
        response: MinRate { bytes_per_second: 1000, grace_ns: 60_000_000_000 },
    };
    FrontLimits {
        head_timeout: Duration::from_secs(60),
        request: RequestLimits {
            body_rate: MinRate { bytes_per_second: 1000, grace_ns: 60_000_000_000 },
            upstream_timeout: Duration::from_secs(60),
            ..limits().request
        },
        client_timeout: Duration::from_secs(60),
        slow,
        ..limits()
    }
}

async fn bed(limits: FrontLimits) -> Bed {
    let (address, _) = server().await;
    https_bed(limits, &[address])
}

/// Waits until `done`.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "not in {PATIENCE:?}: {what}");
}

/// That a bad client was closed for this reason and for no other, and left nothing behind; and that another is served.
async fn closed_for(bed: &Bed, reason: CloseReason) {
    assert_eq!(Http2::open(bed.vip).await.get(1, "/a").await.0, 200);
    eventually("nothing is left", || {
        bed.front.metrics.open_connections() == 0 && bed.front.waiting.streams() == 0
    })
    .await;
    for other in CloseReason::ALL {
        let expected = u64::from(*other == reason);
        assert_eq!(bed.front.metrics.closed(*other), expected, "{}", other.name());
    }
}

#[tokio::test]
async fn a_first_head_in_pieces_is_left_after_the_head_timeout() {
    let bed = bed(FrontLimits { head_timeout: Duration::from_secs(1), ..wide() }).await;
    let mut slow = Http2::open(bed.vip).await;
    assert!(slow.frame(HEADERS, 0, 1, &[]).await);
    let mut good = Http2::open(bed.vip).await;
    assert_eq!(good.get(1, "/a").await.0, 200);
    // A byte of a literal header's name at a time.
    while slow.frame(CONTINUATION, 0, 1, &[0]).await {
        sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(good.get(3, "/b").await.0, 200);
    drop(good);
    closed_for(&bed, CloseReason::HeadTimeout).await;
}

#[tokio::test]
async fn a_later_head_in_pieces_is_left_after_the_idle_timeout() {
    let idle = SlowLimits { idle: Duration::from_secs(1), ..wide().slow };
    let bed = bed(FrontLimits { slow: idle, ..wide() }).await;
    let mut slow = Http2::open(bed.vip).await;
    assert_eq!(slow.get(1, "/a").await.0, 200);
    assert!(slow.frame(HEADERS, 0, 3, &[]).await);
    while slow.frame(CONTINUATION, 0, 3, &[0]).await {
        sleep(Duration::from_millis(300)).await;
    }
    closed_for(&bed, CloseReason::IdleTimeout).await;
}

#[tokio::test]
async fn floods_of_frames_that_ask_for_nothing_are_closed() {
    let bed = bed(wide()).await;
    let kinds: [(u8, u32, &[u8]); 3] =
        [(PING, 0, &[0; 8]), (SETTINGS, 0, &[]), (PRIORITY, 9, &[0, 0, 0, 0, 1])];
    for (n, (kind, stream, payload)) in kinds.into_iter().enumerate() {
        let mut bad = Http2::open(bed.vip).await;
        assert_eq!(bad.get(1, "/a").await.0, 200);
        // As long as it is let: the account is looked at four times a second.
        let flooding = async { while bad.frames(500, kind, 0, stream, payload).await {} };
        let mut good = Http2::open(bed.vip).await;
        let served = async {
            for m in 0..20 {
                assert_eq!(good.get(2 * m + 1, "/a").await.0, 200);
            }
        };
        let (flooded, ()) = tokio::join!(timeout(Duration::from_secs(60), flooding), served);
        assert!(flooded.is_ok(), "frames of kind {kind} are taken for ever");
        eventually("it is counted", || bed.front.metrics.closed(CloseReason::Http2Flood) == n as u64 + 1)
            .await;
    }
}

#[tokio::test]
async fn a_head_in_very_many_pieces_and_a_body_of_empty_ones_are_floods() {
    let bed = bed(wide()).await;
    let mut bad = Http2::open(bed.vip).await;
    assert!(bad.frame(HEADERS, 0, 1, &[]).await);
    bad.frames(10_000, CONTINUATION, 0, 1, &[]).await;
    assert!(bad.is_ended().await);
    closed_for(&bed, CloseReason::Http2Flood).await;

    let mut bad = Http2::open(bed.vip).await;
    let post =
        [(":method", "POST"), (":scheme", "https"), (":authority", "first.example"), (":path", "/count")];
    bad.headers(1, &post, false).await;
    while bad.frames(500, DATA, 0, 1, &[]).await {}
    assert!(bad.is_ended().await);
    eventually("it is counted", || bed.front.metrics.closed(CloseReason::Http2Flood) == 2).await;
    assert_eq!(Http2::open(bed.vip).await.get(1, "/a").await.0, 200);
}

#[tokio::test]
async fn who_gives_up_most_streams_is_closed_and_who_gives_up_some_is_not() {
    let bed = bed(wide()).await;
    let mut picky = Http2::open(bed.vip).await;
    for _ in 0..300 {
        let (given_up, kept) = (picky.next_stream(), picky.next_stream());
        picky.ask(given_up, "/silent").await;
        assert_eq!(picky.get(kept, "/a").await.0, 200);
        assert!(picky.reset(given_up).await);
    }
    assert!(picky.settled().await);
    drop(picky);

    let mut bad = Http2::open(bed.vip).await;
    let mut rounds = 0;
    loop {
        let streams: Vec<u32> = (0..20).map(|_| bad.next_stream()).collect();
        for stream in &streams {
            bad.ask(*stream, "/silent").await;
        }
        // All are with the server before they are given up.
        if !bad.settled().await {
            break;
        }
        for stream in streams {
            bad.reset(stream).await;
        }
        rounds += 1;
        // 201 streams are too many, seen within a quarter of a second.
        if rounds > 10 {
            sleep(Duration::from_millis(20)).await;
        }
        assert!(rounds < 1000, "streams are given up for ever");
    }
    assert!(rounds >= 10, "closed after {rounds} rounds");
    closed_for(&bed, CloseReason::Http2Flood).await;
}

#[tokio::test]
async fn windows_that_stay_shut_or_open_by_a_byte_are_left_and_their_buffers_go() {
    let bed = bed(FrontLimits { client_timeout: Duration::from_secs(1), ..wide() }).await;
    // A hundred responses, none of which may be sent.
    let mut shut = Http2::open_with(bed.vip, &[(4, 0)]).await;
    for _ in 0..100 {
        let stream = shut.next_stream();
        shut.ask(stream, "/large").await;
    }
    assert!(shut.is_ended().await);
    closed_for(&bed, CloseReason::SlowReader).await;

    let bed = self::bed(FrontLimits { client_timeout: Duration::from_secs(1), ..wide() }).await;
    let mut drips = Http2::open_with(bed.vip, &[(4, 1)]).await;
    drips.ask(1, "/large").await;
    while drips.frame(frames::WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()).await {
        sleep(Duration::from_millis(50)).await;
    }
    closed_for(&bed, CloseReason::SlowReader).await;
}

#[tokio::test]
async fn a_response_taken_in_at_the_rate_is_let_though_it_lasts_longer_than_the_grace() {
    let rate = MinRate { bytes_per_second: 10_000, grace_ns: 3_000_000_000 };
    let slow = SlowLimits { response: rate, ..wide().slow };
    let bed = bed(FrontLimits { slow, client_timeout: Duration::from_secs(3), ..wide() }).await;
    let mut steady = Http2::open_with(bed.vip, &[(4, 65_536)]).await;
    steady.ask(1, "/large").await;
    let mut taken = 0;
    // Far more than what is kept for it on the way, for longer than the grace.
    let (began, mut due) = (Instant::now(), 0);
    while taken < 3_000_000 || began.elapsed() < Duration::from_secs(4) {
        let bytes = timeout(PATIENCE, steady.some_data()).await.unwrap().expect("it goes on");
        (taken, due) = (taken + bytes, due + bytes);
        if due > 32_768 {
            assert!(steady.window(1, u32::try_from(std::mem::take(&mut due)).unwrap()).await);
            sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(bed.front.metrics.closed(CloseReason::SlowReader), 0);
    assert!(taken < LARGE, "the response was not yet over");
    // Then no more: what is kept for it goes too.
    assert!(steady.is_ended().await);
    closed_for(&bed, CloseReason::SlowReader).await;
}

#[tokio::test]
async fn bodies_that_never_come_are_answered_408_and_their_streams_go() {
    let body = MinRate { bytes_per_second: 1000, grace_ns: 1_000_000_000 };
    let bed =
        bed(FrontLimits { request: RequestLimits { body_rate: body, ..wide().request }, ..wide() }).await;
    let mut idle = Http2::open(bed.vip).await;
    let post =
        [(":method", "POST"), (":scheme", "https"), (":authority", "first.example"), (":path", "/count")];
    let streams: Vec<u32> = (0..100).map(|_| idle.next_stream()).collect();
    for stream in &streams {
        idle.headers(*stream, &post, false).await;
    }
    assert!(idle.settled().await);
    assert_eq!(Http2::open(bed.vip).await.get(1, "/a").await.0, 200);
    assert_eq!(idle.outcome(streams[99]).await.map(|(status, _)| status), Some(408));
    eventually("all are answered", || bed.front.metrics.closed(CloseReason::SlowBody) == 100).await;
    eventually("their places are free", || bed.front.waiting.streams() == 0).await;
    assert_eq!(idle.get(999, "/a").await.0, 200, "the connection goes on");
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_so_that_they_may_be_asked_again() {
    let bed = bed(FrontLimits { connections: 3, ..wide() }).await;
    let mut greedy = Http2::open(bed.vip).await;
    for stream in [1, 3, 5] {
        greedy.ask(stream, "/silent").await;
    }
    assert!(greedy.settled().await);
    let mut other = Http2::open(bed.vip).await;
    other.ask(1, "/a").await;
    // REFUSED_STREAM: nothing was done with it.
    assert_eq!(other.reset_code(1).await, Some(7));
    bed.closed_becomes(CloseReason::StreamLimit, 1).await;
    assert!(greedy.reset(1).await && greedy.settled().await);
    eventually("a place is free", || bed.front.waiting.streams() == 2).await;
    assert_eq!(other.get(3, "/a").await.0, 200);
}

#[tokio::test]
async fn what_breaks_the_protocol_is_closed_and_counted() {
    let bed = bed(wide()).await;
    let mut bad = Http2::open(bed.vip).await;
    // HEADERS belong to a stream (RFC 9113, section 6.2).
    assert!(bad.frame(HEADERS, 4, 0, &[0x82]).await);
    assert!(bad.is_ended().await);
    closed_for(&bed, CloseReason::Http2Error).await;
}

#[tokio::test]
async fn a_stalled_client_does_not_hold_up_a_stop() {
    let bed = bed(FrontLimits { client_timeout: Duration::from_secs(1), ..wide() }).await;
    let mut shut = Http2::open_with(bed.vip, &[(4, 0)]).await;
    shut.ask(1, "/large").await;
    assert!(shut.settled().await);
    assert!(bed.control.stop_and_wait(PATIENCE).await, "the stop waits for it");
    assert_eq!(bed.front.metrics.closed(CloseReason::SlowReader), 1);
}
