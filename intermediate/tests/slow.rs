//! Slow and greedy clients over loopback: each kind is left for its own reason, and others are not touched.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod support;

use baton_shared::admission::SourceLimits;
use baton_shared::pace::MinRate;
use baton_shared::reason::CloseReason;
use intermediate::front::FrontLimits;
use socket2::SockRef;
use std::time::{Duration, Instant};
use support::{Bed, limits, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

/// How long a state is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";

/// Sends `bytes` one by one until the connection is over; how long that took, and what came back.
async fn drip(bed: &Bed, head: &[u8], pause: Duration) -> (Duration, String) {
    let mut client = bed.client().await;
    client.send(head).await;
    let began = Instant::now();
    let (mut read, mut write) = client.0.split();
    let mut answer = Vec::new();
    let dripping = async {
        while write.write_all(b"x").await.is_ok() {
            sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = read.read_to_end(&mut answer) => {}
        () = dripping => {}
    }
    (began.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_body_that_drips_is_answered_408_and_its_server_sees_no_request_whole() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let head = b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n";
    // At most 100 bytes a second, of 1000, with a grace of a second.
    let (_, answer) = timeout(PATIENCE, drip(&bed, head, Duration::from_millis(10))).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    bed.closed_becomes(CloseReason::SlowBody, 1).await;
}

#[tokio::test]
async fn a_body_in_time_is_served_though_it_pauses() {
    let (address, _) = server().await;
    let mut slow = limits();
    // Far less than what comes, so that a machine may stand still meanwhile.
    slow.request.body_rate.bytes_per_second = 300;
    let bed = Bed::start(slow, &[address]);
    let mut client = bed.client().await;
    client
        .send(b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 6000\r\nConnection: close\r\n\r\n")
        .await;
    for _ in 0..6 {
        sleep(Duration::from_millis(400)).await;
        client.send(&[b'x'; 1000]).await;
    }
    assert!(client.rest().await.ends_with("\r\n\r\n6000"));
    assert_eq!(bed.front.metrics.closed(CloseReason::SlowBody), 0);
}

#[tokio::test]
async fn a_later_head_that_drips_is_left_after_the_head_timeout_and_not_the_idle_one() {
    let (address, _) = server().await;
    let slow = limits();
    let limits =
        FrontLimits { slow: intermediate::front::SlowLimits { idle: PATIENCE * 10, ..slow.slow }, ..slow };
    let bed = Bed::start(limits, &[address]);
    let heads = [GET, b"GET / HTTP/1.1\r\nX: "].concat();
    let (_, answer) = timeout(PATIENCE, drip(&bed, &heads, Duration::from_millis(20))).await.unwrap();
    assert!(answer.ends_with("asked for /a\n"), "{answer}");
    bed.closed_becomes(CloseReason::HeadTimeout, 1).await;
}

#[tokio::test]
async fn a_kept_connection_without_a_request_is_closed_after_the_idle_timeout() {
    let (address, _) = server().await;
    let slow = limits();
    let limits = FrontLimits {
        slow: intermediate::front::SlowLimits { idle: Duration::from_secs(3), ..slow.slow },
        ..slow
    };
    let bed = Bed::start(limits, &[address]);
    let mut client = bed.client().await;
    for _ in 0..3 {
        client.send(GET).await;
        client.until("asked for /a\n").await;
        // Longer than the head timeout, which is for heads.
        sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(client.rest().await, "");
    bed.closed_becomes(CloseReason::IdleTimeout, 1).await;
    assert_eq!(bed.front.metrics.closed(CloseReason::HeadTimeout), 0);
}

/// Takes a large response in, `bytes` every 50 ms; how long it was let, and whether it got all.
async fn sip(bed: &Bed, bytes: usize) -> (Duration, usize) {
    let mut client = bed.client().await;
    SockRef::from(&client.0).set_recv_buffer_size(8192).unwrap();
    client.send(b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    client.until("\r\n\r\n").await;
    let began = Instant::now();
    let mut taken = 0;
    let mut piece = vec![0; bytes];
    while bed.front.metrics.open_connections() > 0 && began.elapsed() < PATIENCE {
        if let Ok(Ok(n)) = timeout(Duration::from_millis(50), client.0.read(&mut piece)).await {
            taken += n;
            if n == 0 {
                break;
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    (began.elapsed(), taken)
}

#[tokio::test]
async fn a_response_sipped_is_given_up_and_its_buffers_go() {
    let (address, _) = server().await;
    let slow = limits();
    let rate = MinRate { bytes_per_second: 100_000, grace_ns: 1_000_000_000 };
    let limits = FrontLimits {
        slow: intermediate::front::SlowLimits { response: rate, ..slow.slow },
        // Not this one's business: something is taken in all the time.
        client_timeout: Duration::from_secs(60),
        ..slow
    };
    let bed = Bed::start(limits, &[address]);
    let (_, taken) = sip(&bed, 200).await;
    assert!(taken < support::LARGE, "{taken}");
    bed.closed_becomes(CloseReason::SlowReader, 1).await;
}

/// Waits until `done`.
async fn becomes(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "not in {PATIENCE:?}: {what}");
}

#[tokio::test]
async fn one_source_has_so_many_connections_and_gives_them_back() {
    let (address, _) = server().await;
    let limits = FrontLimits {
        sources: SourceLimits { connections: 3, ..SourceLimits::default() },
        head_timeout: Duration::from_secs(30),
        ..limits()
    };
    let bed = Bed::start(limits, &[address]);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(bed.client().await);
    }
    becomes("all are held", || bed.front.metrics.open_connections() == 3).await;
    let mut fourth = bed.client().await;
    assert_eq!(fourth.0.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed without a word");
    bed.closed_becomes(CloseReason::SourceLimit, 1).await;
    drop(held.pop());
    becomes("one place is free", || bed.front.metrics.open_connections() == 2).await;
    let mut client = bed.client().await;
    client.send(GET).await;
    client.until("asked for /a\n").await;
    drop((client, held));
    becomes("nothing is kept of a source without connections", || bed.front.waiting.sources() == 0).await;
}

#[tokio::test]
async fn good_clients_are_served_while_all_kinds_of_bad_ones_hold_what_they_can() {
    let (address, _) = server().await;
    let limits = FrontLimits { connections: 60, ..limits() };
    let bed = std::sync::Arc::new(Bed::start(limits, &[address]));
    let mut bad = Vec::new();
    let heads: [&[u8]; 3] = [
        b"GET / HTTP/1.1\r\nX: ",
        b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n",
        b"",
    ];
    for n in 0..90 {
        let (bed, head) = (std::sync::Arc::clone(&bed), heads[n % 3]);
        bad.push(tokio::spawn(async move {
            loop {
                if head.is_empty() {
                    let mut silent = bed.client().await;
                    let _ = timeout(Duration::from_secs(5), silent.0.read(&mut [0; 1])).await;
                } else {
                    let _ =
                        timeout(Duration::from_secs(5), drip(&bed, head, Duration::from_millis(50))).await;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }));
    }
    sleep(Duration::from_millis(300)).await;
    let (mut asked_for, mut served, mut slowest, mut most) = (0, 0, Duration::ZERO, 0);
    let began = Instant::now();
    let left = || {
        let reasons = [CloseReason::HeadTimeout, CloseReason::SlowBody, CloseReason::ConnectionLimit];
        reasons.iter().map(|reason| bed.front.metrics.closed(*reason)).sum::<u64>()
    };
    while asked_for < 40 || left() < 100 {
        assert!(began.elapsed() < PATIENCE, "{asked_for} asked, {} left", left());
        let asked = Instant::now();
        asked_for += 1;
        let mut client = bed.client().await;
        // All bad ones that were served may hold a place: then the new one is closed, and comes again.
        client.0.write_all(b"GET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, client.0.read_to_end(&mut answer)).await.unwrap();
        if answer.ends_with(b"asked for /b\n") {
            served += 1;
            slowest = slowest.max(asked.elapsed());
        }
        most = most.max(bed.front.metrics.open_connections());
        sleep(Duration::from_millis(20)).await;
    }
    bad.iter().for_each(tokio::task::JoinHandle::abort);
    println!("{served} of {asked_for} served, the slowest in {slowest:?}; at most {most} connections");
    assert!(served * 10 >= asked_for * 9, "only {served} of {asked_for} were served");
    // The limit, and those whose end is being told to them: at most one of each client.
    assert!(most <= 60 + 91, "{most} connections");
}
