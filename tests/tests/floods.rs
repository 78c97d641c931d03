//! Those who only begin: half-open connections and heads that never end are bounded, and others are served meanwhile.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{self, Connection};
use baton_tests::lab::{self, TestLab, VIP};
use baton_tests::weight;
use etherparse::PacketBuilder;
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{Family, Program};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One of each version of IP, in turns flooded and asked.
const VIPS: [SocketAddr; 2] = [VIP, SocketAddr::V6(plan::VIP6)];
/// `limits.connections` here.
const CONNECTIONS: u64 = 200;
/// How long a flood lasts at least.
const LASTS: Duration = Duration::from_secs(3);
/// How many requests are made meanwhile at least.
const REQUESTS: usize = 21;
/// How many SYNs there are at least.
const SYNS: u64 = 10_000;
/// What the daemon's memory may grow by, kB.
const GROWTH: u64 = 16_384;

/// No flow but of client1's network is in the kernel's map: whoever has not made a request has no entry.
fn no_entry_of_the_flooder(t: &TestLab) {
    for key in weight::keys(t, INTERMEDIATE, "intermediate") {
        let remote = key.remote_addr();
        let network = match remote.ip() {
            IpAddr::V4(address) => address.octets()[2].into(),
            IpAddr::V6(address) => address.segments()[1],
        };
        let client1 = if remote.is_ipv4() { 11 } else { 0x11 };
        assert_eq!(network, client1, "an entry of {remote}");
    }
}

/// While `flood` runs in client2's namespace until told to stop, client1 is served and nothing grows.
fn served_during(t: &TestLab, flood: impl FnOnce(&AtomicBool) + Send + 'static) {
    let want = t.sha256("1k");
    assert_eq!(t.get("/1k").unwrap().sha256, want);
    let before = weight::of(t, INTERMEDIATE, Program::Balancer);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut served, mut slowest) = (0, Duration::ZERO);
    std::thread::scope(|scope| {
        let stopped = Arc::clone(&stop);
        let flooder = scope.spawn(move || t.lab.inside("client2", move || flood(&stopped)).unwrap());
        std::thread::sleep(Duration::from_millis(500));
        let started = Instant::now();
        while started.elapsed() < LASTS || served < REQUESTS {
            let asked = Instant::now();
            let vip = VIPS[served % 2];
            let response =
                t.client(move || client::get(vip, "/1k")).unwrap_or_else(|e| panic!("request {served}: {e}"));
            assert_eq!((response.status, &response.sha256), (200, &want), "request {served}");
            slowest = slowest.max(asked.elapsed());
            served += 1;
            // Connections just given up are counted until their tasks have run.
            t.eventually("there are no more connections than may be", Duration::from_secs(10), |t| {
                t.metric(INTERMEDIATE, "baton_connections") <= CONNECTIONS + 50
            });
            no_entry_of_the_flooder(t);
            std::thread::sleep(Duration::from_millis(30));
        }
        stop.store(true, Ordering::Relaxed);
        flooder.join().unwrap();
    });
    let after = weight::of(t, INTERMEDIATE, Program::Balancer);
    println!("{served} served, the slowest in {slowest:?}; {before:?}, {after:?}");
    assert!(after.memory < before.memory + GROWTH, "{before:?}, {after:?}");
}

/// A SYN as from anybody; nobody has these addresses, so that no reset comes to take a half-open connection away.
fn syn(host: u8, vip: SocketAddr, port: u16, seq: u32) -> Vec<u8> {
    let builder = match vip {
        SocketAddr::V4(vip) => {
            PacketBuilder::ipv4(Ipv4Addr::new(10, 90, 12, host).octets(), vip.ip().octets(), 64)
        }
        SocketAddr::V6(vip) => {
            let from = Ipv6Addr::new(0xfd90, 0x12, 0, 0, 0, 0, 0, host.into());
            PacketBuilder::ipv6(from.octets(), vip.ip().octets(), 64)
        }
    };
    let builder =
        builder.tcp(port, vip.port(), seq, 64_240).syn().options_raw(&[2, 4, 5, 180, 4, 2, 1, 1]).unwrap();
    let mut packet = Vec::with_capacity(builder.size(0));
    builder.write(&mut packet, &[]).unwrap();
    packet
}

#[test]
fn half_open_connections_of_many_addresses_cost_the_daemon_nothing() {
    let Some(t) = lab::up("synflood", |s| s.clients(2).family(Family::Dual)) else { return };
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    served_during(&t, move |stop| {
        let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).unwrap();
        let sockets = [raw(Domain::IPV4), raw(Domain::IPV6)];
        let mut n = 0u32;
        let until = Instant::now() + Duration::from_secs(60);
        let enough = || count.load(Ordering::Relaxed) >= SYNS || Instant::now() > until;
        while !stop.load(Ordering::Relaxed) || !enough() {
            for turn in 0..20 {
                n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [a, b, c, _] = n.to_be_bytes();
                let vip = VIPS[turn % 2];
                let packet = syn(10 + a % 200, vip, 1024 | u16::from_be_bytes([b, c]), n);
                // The port of a raw socket of IPv6 must be 0. The device's queue may be full for a moment.
                if sockets[turn % 2].send_to(&packet, &SocketAddr::new(vip.ip(), 0).into()).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    println!("{} SYNs", sent.load(Ordering::Relaxed));
    assert!(sent.load(Ordering::Relaxed) >= SYNS);
}

/// One connection of a client that is never done with its head, as long as it is let.
fn never_done(vip: SocketAddr, stop: &AtomicBool) -> io::Result<()> {
    let mut connection = Connection::open(vip)?;
    connection.send(b"GET / HTTP/1.1\r\nHost: lab\r\nX-Long: ")?;
    while !stop.load(Ordering::Relaxed) {
        connection.send(b"a")?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn heads_that_never_end_take_no_more_than_the_limit_and_make_way() {
    let limit = |s: netns_lab::LabSpec| {
        s.clients(2).family(Family::Dual).intermediate_with("limits", "connections", CONNECTIONS)
    };
    let Some(t) = lab::up("slowheads", limit) else { return };
    let opened = Arc::new(Mutex::new(0u64));
    let count = Arc::clone(&opened);
    served_during(&t, move |stop| {
        std::thread::scope(|scope| {
            // More than the limit, each beginning anew when it was given up.
            for vip in VIPS.into_iter().cycle().take(300) {
                let count = Arc::clone(&count);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        *count.lock().unwrap() += 1;
                        // A reset or a close: it was given up.
                        let _ = never_done(vip, stop);
                        std::thread::sleep(Duration::from_millis(20));
                    }
                });
            }
        });
    });
    let (opened, given_up) = (*opened.lock().unwrap(), t.closed("connection_limit"));
    println!("{opened} connections opened, {given_up} given up");
    assert!(given_up >= 100, "only {given_up} were given up");
    t.eventually("all are gone", Duration::from_secs(15), |t| {
        t.metric(INTERMEDIATE, "baton_connections") == 0
    });
    assert_eq!(t.all_proxied(), 0);
}
