//! Slow and greedy clients against a running intermediate: memory and connections stay bounded, good clients unharmed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::http2::{self, Http2, kind};
use baton_tests::lab::{self, TestLab, VIP};
use baton_tests::weight;
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{LabSpec, Program};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// `limits.connections` here.
const CONNECTIONS: u64 = 150;
/// Bad clients at a time: more than those places.
const BAD: usize = 250;
/// The same of HTTP/2, of which each can be a hundred.
const BAD_HTTP2: usize = 75;
/// How many times the good client asks, at least.
const ASKED: u32 = 20;
/// How many bad clients must have been left while it asks.
const LEFT: u64 = 200;
/// For both.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the daemon's memory may grow by, kB, for each connection or stream it lets in: hyper's buffers at both ends (430
/// measured).
const GROWTH_EACH: u64 = 700;

fn order(s: LabSpec, connections: u64) -> LabSpec {
    s.clients(2)
        .intermediate_with("limits", "connections", connections)
        .intermediate_with("limits", "head_timeout_ms", 3000)
        .intermediate_with("limits", "body_min_rate", 2000)
        .intermediate_with("limits", "body_grace_ms", 1000)
        .intermediate_with("limits", "response_min_rate", 200_000)
        .intermediate_with("limits", "client_timeout_ms", 1000)
        // What is proxied keeps its place for as long as it is let.
        .intermediate_with("listener", "mode", "proxy")
}

/// While bad clients in client2's namespace each do `one` again and again, every request of client1's is served; at least
/// until [`LEFT`] of them were `left` for these reasons.
fn served_during(
    t: &TestLab,
    connections: u64,
    bad: usize,
    reasons: &[&str],
    one: impl Fn(&AtomicBool) + Send + Sync + 'static,
) {
    let want = t.sha256("1k");
    assert_eq!(t.get("/1k").unwrap().sha256, want);
    let before = weight::of(t, INTERMEDIATE, Program::Balancer);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut asked, mut slowest, mut most) = (0u32, Duration::ZERO, 0);
    let mut during = before;
    std::thread::scope(|scope| {
        let stopped = Arc::clone(&stop);
        let clients = scope.spawn(move || {
            let all = move || {
                std::thread::scope(|scope| {
                    for _ in 0..bad {
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
        t.eventually("the bad clients are there", PATIENCE, |t| {
            t.metric(INTERMEDIATE, "baton_connections") > bad as u64 / 8
        });
        let started = Instant::now();
        let left = || reasons.iter().map(|reason| t.closed(reason)).sum::<u64>();
        // Those that are left at once must not be all of them.
        let some_of_each = || reasons.iter().all(|reason| t.closed(reason) > 0);
        while asked < ASKED || left() < LEFT || !some_of_each() {
            assert!(started.elapsed() < PATIENCE, "{asked} asked, {} left for {reasons:?}", left());
            let began = Instant::now();
            asked += 1;
            let response = t.get("/1k").unwrap_or_else(|e| panic!("good request {asked}: {e}"));
            assert_eq!((response.status, &response.sha256), (200, &want), "good request {asked}");
            slowest = slowest.max(began.elapsed());
            most = most.max(t.metric(INTERMEDIATE, "baton_connections"));
            let now = weight::of(t, INTERMEDIATE, Program::Balancer);
            if now.memory > during.memory {
                during = now;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        stop.store(true, Ordering::Relaxed);
        clients.join().unwrap();
    });
    println!(
        "{asked} asked and served, the slowest in {slowest:?}; at most {most} connections; \
         {} kB before, at most {} kB",
        before.memory, during.memory
    );
    // Connections whose end is being told to them are counted until they are gone.
    assert!(most <= connections + 100, "{most} connections");
    assert!(during.memory < before.memory + GROWTH_EACH * connections.max(most), "{before:?}, {during:?}");
    t.eventually("all places are free", Duration::from_secs(30), |t| {
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
    // Places for all: with fewer, each makes way for the next long before its deadline, and so fast that a good client
    // that is slow to send its head loses its place as well. tests/floods.rs has that crowd.
    let places = BAD as u64 + 50;
    let Some(t) = lab::up_beside("slowloris", |s| order(s, places)) else { return };
    served_during(&t, places, BAD, &["head_timeout"], |stop| {
        drip(b"GET / HTTP/1.1\r\nHost: lab\r\nX: ", stop);
    });
    assert_eq!(t.closed("connection_limit"), 0);
}

#[test]
fn bodies_that_drip_are_left_for_their_rate() {
    let Some(t) = lab::up_beside("slowbody", |s| order(s, BAD as u64 + 50)) else {
        return;
    };
    served_during(&t, BAD as u64 + 50, BAD, &["slow_body"], |stop| {
        drip(b"PUT /upload/x HTTP/1.1\r\nHost: lab\r\nContent-Length: 1000000\r\n\r\n", stop);
    });
}

#[test]
fn responses_that_are_sipped_are_given_up_for_their_rate() {
    let Some(t) = lab::up_beside("slowread", |s| order(s, BAD as u64 + 50)) else {
        return;
    };
    let sips = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sips);
    served_during(&t, BAD as u64 + 50, BAD, &["slow_reader"], move |stop| {
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
    println!("{} sips", sips.load(Ordering::Relaxed));
}

#[test]
fn one_network_has_its_share_and_no_more() {
    let share = 40u64;
    let limit =
        |s: LabSpec| order(s, CONNECTIONS).intermediate_with("limits", "connections_per_source", share);
    let Some(t) = lab::up_beside("greedy", limit) else { return };
    served_during(&t, CONNECTIONS, BAD, &["source_limit"], |stop| {
        drip(b"GET / HTTP/1.1\r\nHost: lab\r\nX: ", stop);
    });
    assert_eq!(t.closed("connection_limit"), 0, "there were places for all others");
}

/// A bad client of HTTP/2: the `nth` kind of five.
fn abuse(mut client: Http2, nth: usize, stop: &AtomicBool) -> std::io::Result<()> {
    let stopped = || stop.load(Ordering::Relaxed);
    match nth {
        // A head in pieces that never ends.
        0 => {
            client.frames(1, kind::HEADERS, 0, 1, &[])?;
            while !stopped() {
                client.frames(1, kind::CONTINUATION, 0, 1, &[0])?;
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        // As many streams as it may open, whose windows are shut, or whose bodies do not come.
        1 | 2 => {
            for n in 0..100 {
                let (method, path) = if nth == 1 { ("GET", "/10m") } else { ("PUT", "/upload/h2") };
                client.ask(2 * n + 1, method, path, nth == 1)?;
            }
            client.until_over(stopped);
        }
        // Frames that ask for nothing.
        _ => {
            let (kind, payload) =
                if nth == 3 { (kind::PING, &[0; 8][..]) } else { (kind::SETTINGS, &[][..]) };
            while !stopped() {
                client.frames(1000, kind, 0, 0, payload)?;
            }
        }
    }
    Ok(())
}

#[test]
fn greedy_clients_of_http2_are_left_and_their_streams_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["lab".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (dir.path().join("lab.pem"), dir.path().join("lab.key"));
    std::fs::write(&cert_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let listener = format!(
        "\n[[listener]]\nname = \"https\"\nvip = \"10.90.1.100:443\"\nprotocol = \"https\"\n\
         [[listener.certificate]]\ncert = \"{}\"\nkey = \"{}\"\n",
        cert_file.display(),
        key_file.display()
    );
    let site = |s| {
        let s = order(s, CONNECTIONS).intermediate_with("limits", "idle_timeout_ms", 2000);
        s.intermediate_also(&listener)
    };
    let Some(t) = lab::up_beside("greedyh2", site) else { return };
    let config = http2::trusting(certificate.der().clone()).unwrap();
    let to = SocketAddr::new(VIP.ip(), 443);
    let next = AtomicUsize::new(0);
    let reasons = ["head_timeout", "slow_reader", "slow_body", "http2_flood"];
    served_during(&t, CONNECTIONS, BAD_HTTP2, &reasons, move |stop| {
        // No window at first: none of a response can be sent.
        let Ok(client) = Http2::open(to, "lab", &config, &[(4, 0)]) else { return };
        let _ = abuse(client, next.fetch_add(1, Ordering::Relaxed) % 5, stop);
        // Handshakes are not what is tried here.
        std::thread::sleep(Duration::from_millis(500));
    });
    for reason in reasons {
        println!("{} for {reason}", t.closed(reason));
        assert!(t.closed(reason) > 0, "none was left for {reason}");
    }
    // 30 clients that open 100 streams each had no more connections to servers than others may have.
    println!("{} streams refused", t.closed("stream_limit"));
    assert!(t.closed("stream_limit") > 0);
}
