//! Slow and greedy clients against a running intermediate: memory and connections stay bounded, good clients unharmed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIP};
use baton_tests::weight;
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{LabSpec, Program};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// `limits.connections` here.
const CONNECTIONS: u64 = 150;
/// Bad clients at a time: more than there are places.
const BAD: usize = 250;
/// How long a test lasts.
const LASTS: Duration = Duration::from_secs(4);
/// What the daemon's memory may grow by, kB, for each connection it lets in: hyper's buffers at both ends (430 measured).
const GROWTH_EACH: u64 = 700;

fn order(s: LabSpec, connections: u64) -> LabSpec {
    s.clients(2)
        .intermediate_with("limits", "connections", connections)
        .intermediate_with("limits", "head_timeout_ms", 1500)
        .intermediate_with("limits", "body_min_rate", 2000)
        .intermediate_with("limits", "body_grace_ms", 1000)
        .intermediate_with("limits", "response_min_rate", 200_000)
        .intermediate_with("limits", "client_timeout_ms", 1000)
        // What is proxied keeps its place for as long as it is let.
        .intermediate_with("listener", "mode", "proxy")
}

/// While bad clients in client2's namespace each do `one` again and again, client1 is served.
fn served_during(t: &TestLab, connections: u64, one: impl Fn(&AtomicBool) + Send + Sync + 'static) {
    let want = t.sha256("1k");
    assert_eq!(t.get("/1k").unwrap().sha256, want);
    let before = weight::of(t, INTERMEDIATE, Program::Balancer);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut asked, mut served, mut slowest, mut most) = (0u32, 0u32, Duration::ZERO, 0);
    let mut during = before;
    std::thread::scope(|scope| {
        let stopped = Arc::clone(&stop);
        let bad = scope.spawn(move || {
            let all = move || {
                std::thread::scope(|scope| {
                    for _ in 0..BAD {
                        let (stopped, one) = (&stopped, &one);
                        scope.spawn(move || {
                            while !stopped.load(Ordering::Relaxed) {
                                one(stopped);
                                std::thread::sleep(Duration::from_millis(50));
                            }
                        });
                    }
                });
            };
            t.lab.inside("client2", all).unwrap();
        });
        std::thread::sleep(Duration::from_millis(700));
        let started = Instant::now();
        while started.elapsed() < LASTS {
            let began = Instant::now();
            asked += 1;
            if let Ok(response) = t.get("/1k") {
                assert_eq!((response.status, &response.sha256), (200, &want));
                served += 1;
                slowest = slowest.max(began.elapsed());
            }
            most = most.max(t.metric(INTERMEDIATE, "baton_connections"));
            let now = weight::of(t, INTERMEDIATE, Program::Balancer);
            if now.memory > during.memory {
                during = now;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        stop.store(true, Ordering::Relaxed);
        bad.join().unwrap();
    });
    println!(
        "{served} of {asked} served, the slowest in {slowest:?}; at most {most} connections; \
         {} kB before, at most {} kB",
        before.memory, during.memory
    );
    assert!(served >= 20 && served * 10 >= asked * 9, "{served} of {asked} were served");
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    // Connections whose end is being told to them are counted until they are gone.
    assert!(most <= connections + 100, "{most} connections");
    assert!(during.memory < before.memory + GROWTH_EACH * most, "{before:?}, {during:?}");
    t.eventually("all places are free", Duration::from_secs(8), |t| {
        t.metric(INTERMEDIATE, "baton_connections") == 0
    });
}

/// Sends bytes one by one until the connection is over.
fn drip(head: &[u8], stop: &AtomicBool) {
    let Ok(mut connection) = Connection::open(VIP) else { return };
    if connection.send(head).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) && connection.send(b"a").is_ok() {
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn heads_that_drip_are_left_at_their_deadline() {
    let Some(t) = lab::up("slowloris", |s| order(s, CONNECTIONS)) else { return };
    served_during(&t, CONNECTIONS, |stop| drip(b"GET / HTTP/1.1\r\nHost: lab\r\nX: ", stop));
    let (late, limit) = (t.closed("head_timeout"), t.closed("connection_limit"));
    println!("{late} for the head's deadline, {limit} made way");
    assert!(late + limit > 200, "{late} and {limit}");
}

#[test]
fn bodies_that_drip_are_left_for_their_rate() {
    let Some(t) = lab::up("slowbody", |s| order(s, BAD as u64 + 50)) else {
        return;
    };
    served_during(&t, BAD as u64 + 50, |stop| {
        drip(b"PUT /upload/x HTTP/1.1\r\nHost: lab\r\nContent-Length: 1000000\r\n\r\n", stop);
    });
    let slow = t.closed("slow_body");
    println!("{slow} for their rate");
    assert!(slow > 200, "{slow}");
}

#[test]
fn responses_that_are_sipped_are_given_up_for_their_rate() {
    let Some(t) = lab::up("slowread", |s| order(s, BAD as u64 + 50)) else {
        return;
    };
    let sips = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sips);
    served_during(&t, BAD as u64 + 50, move |stop| {
        let Ok(mut connection) = Connection::open(VIP) else { return };
        let socket = socket2::SockRef::from(connection.socket());
        let _ = socket.set_recv_buffer_size(4096);
        let _ = connection.get("/10m");
        let began = Instant::now();
        let mut piece = [0; 256];
        // A sip every 100 ms, as long as there is somebody who gives.
        while !stop.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(20) {
            match std::io::Read::read(&mut connection.socket(), &mut piece) {
                Ok(n) if n > 0 => count.fetch_add(1, Ordering::Relaxed),
                _ => break,
            };
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let slow = t.closed("slow_reader");
    println!("{slow} for their rate, after {} sips", sips.load(Ordering::Relaxed));
    assert!(slow > 100, "{slow}");
}

#[test]
fn one_network_has_its_share_and_no_more() {
    let share = 40u64;
    let limit =
        |s: LabSpec| order(s, CONNECTIONS).intermediate_with("limits", "connections_per_source", share);
    let Some(t) = lab::up("greedy", limit) else { return };
    served_during(&t, CONNECTIONS, |stop| drip(b"GET / HTTP/1.1\r\nHost: lab\r\nX: ", stop));
    let refused = t.closed("source_limit");
    println!("{refused} refused for their source");
    assert!(refused > 200, "{refused}");
    assert_eq!(t.closed("connection_limit"), 0, "there were places for all others");
}
