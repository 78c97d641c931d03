//! Agents, servers and whole hosts that are lost while flows are on them, of both versions of IP: who is gone ends, who
//! still answers stays.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use aya::programs::{SchedClassifier, TcAttachType};
use baton_tests::client::{Connection, Response};
use baton_tests::lab::{self, TestLab, VIPS, both, patient};
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{LabSpec, Program};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// `handoff.agent_lost_ms` here.
const AGENT_LOST: Duration = Duration::from_millis(1500);
/// How long a channel may be silent before its agent counts as gone, two attempts to connect to a silent host, the
/// asking and resetting of the client, and room for a busy machine.
const NOTICE: Duration = Duration::from_secs(3 + 2 + 2 + 13);
/// How long what must come is waited for.
const LIMIT: Duration = Duration::from_secs(30);

/// One target, from which two downloads take four seconds.
fn one_slow_target(spec: LabSpec) -> LabSpec {
    let rate = "400mbit".parse().ok();
    LabSpec { rate_target: rate, ..patient(both(spec.targets(1))) }.intermediate_with(
        "handoff",
        "agent_lost_ms",
        u64::try_from(AGENT_LOST.as_millis()).unwrap(),
    )
}

fn cut(t: &TestLab) -> u64 {
    t.metric(INTERMEDIATE, "baton_flows_cut_total")
}

/// Connections kept idle beside the busy ones, of both IP versions in turn.
const IDLE: u64 = 200;

/// Nothing of any flow is left on a node.
fn nothing_left(t: &TestLab, nodes: &[&str], within: Duration) {
    t.eventually("all records are freed", within, |t| {
        nodes.iter().all(|node| t.flows(node).is_empty() && t.metric(node, "baton_flow_table_used") == 0)
    });
}

/// What a boot leaves of programs and records on target1: nothing.
fn forget_all(t: &TestLab) {
    for entry in std::fs::read_dir(t.lab.bpf_dir("target1")).unwrap() {
        // bpffs has files of its own beside the directory of the ABI version.
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    // The kernel takes a program off its hook a moment after the last that refers to it is gone.
    t.eventually("no program is left", LIMIT, |t| {
        let left = |way| SchedClassifier::query_tcx("eth0", way).map_or(0, |(_, programs)| programs.len());
        let both = move || left(TcAttachType::Ingress) + left(TcAttachType::Egress);
        t.lab.inside("target1", both).unwrap() == 0
    });
}

/// A connection kept alive after one answered request.
fn kept_alive(vip: SocketAddr) -> Connection {
    let mut connection = Connection::open(vip).unwrap();
    connection.get("/1k").unwrap();
    assert_eq!(connection.response().unwrap().status, 200);
    connection
}

/// A download that goes on, at a pace at which it lasts half a minute, until `over` is set; then its end.
fn download_until(vip: SocketAddr, over: &AtomicBool) -> io::Result<Response> {
    let mut connection = Connection::open(vip)?;
    connection.get("/100m")?;
    while !over.load(Ordering::Relaxed) {
        assert!(connection.read_some()? > 0, "it ended");
        std::thread::sleep(Duration::from_millis(80));
    }
    connection.response()
}

/// Writes until the connection fails.
fn upload_until_it_fails(vip: SocketAddr) -> io::Error {
    let mut connection = Connection::open(vip).unwrap();
    connection
        .send(b"PUT /upload/endless HTTP/1.1\r\nHost: lab\r\nContent-Length: 2000000000\r\n\r\n")
        .unwrap();
    let piece = vec![7; 1 << 16];
    for _ in 0..30_000 {
        if let Err(e) = connection.send(&piece) {
            return e;
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    panic!("two gigabytes went through");
}

#[test]
fn a_target_host_that_is_gone_ends_its_flows_with_resets() {
    let Some(t) = lab::up("gone", one_slow_target) else { return };
    let over = Arc::new(AtomicBool::new(false));
    let (busy, idle, took) = std::thread::scope(|scope| {
        let t = &t;
        let uploads = VIPS.map(|vip| scope.spawn(move || t.client(move || upload_until_it_fails(vip))));
        let idle = scope.spawn(|| {
            t.client(move || {
                let vips = VIPS.into_iter().cycle().take(usize::try_from(IDLE).unwrap());
                let mut all: Vec<Connection> = vips.map(kept_alive).collect();
                all.iter_mut().map(|kept| kept.read_some().unwrap_err()).collect::<Vec<_>>()
            })
        });
        let downloads = VIPS.map(|vip| {
            let over = Arc::clone(&over);
            scope.spawn(move || t.client(move || download_until(vip, &over)).unwrap_err())
        });
        t.eventually("the migrations", LIMIT, |t| t.migrated() == IDLE + 4);
        std::thread::sleep(Duration::from_millis(300));
        let gone = Instant::now();
        t.lab.output("target1", &["ip", "link", "set", "eth0", "down"]).unwrap();
        over.store(true, Ordering::Relaxed);
        let downloads = downloads.map(|one| ("download", one.join().unwrap()));
        let uploads = uploads.map(|one| ("upload", one.join().unwrap()));
        (downloads.into_iter().chain(uploads), idle.join().unwrap(), gone.elapsed())
    });
    println!("reset after {took:?}");
    let idle = idle.into_iter().map(|error| ("idle", error));
    for (which, error) in busy.chain(idle) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{which}: {error}");
    }
    assert!(took >= AGENT_LOST && took < AGENT_LOST + NOTICE, "took {took:?}");
    nothing_left(&t, &[INTERMEDIATE], LIMIT);
    assert_eq!(cut(&t), IDLE + 4);
}

#[test]
fn a_dead_agent_costs_no_flow_neither_busy_nor_idle() {
    let Some(t) = lab::up("stays", one_slow_target) else { return };
    let want = t.sha256("100m");
    let kept = t.client(|| VIPS.map(kept_alive));
    let downloads = t.client(|| {
        VIPS.map(|vip| {
            let mut connection = Connection::open(vip).unwrap();
            connection.get("/100m").unwrap();
            connection
        })
    });
    t.eventually("the migrations", LIMIT, |t| t.migrated() == 4);
    t.lab.kill_agent("target1").unwrap();
    // They go on only now: nobody has read a byte of them.
    let downloads = std::thread::scope(|scope| {
        let reading =
            downloads.map(|mut connection| scope.spawn(move || connection.response().unwrap().sha256));
        std::thread::sleep(AGENT_LOST * 4);
        reading.map(|one| one.join().unwrap())
    });
    let after = kept.map(|mut kept| {
        kept.get("/10k").unwrap();
        kept.response().unwrap().sha256
    });
    let small = t.sha256("10k");
    assert_eq!((after, downloads), ([small.clone(), small], [want.clone(), want]));
    assert_eq!(cut(&t), 0);
    t.lab.start_agent("target1").unwrap();
    nothing_left(&t, &[INTERMEDIATE, "target1"], LIMIT);
    assert_eq!(cut(&t), 0);
}

#[test]
fn a_target_host_that_was_started_anew_has_its_old_flows_reset() {
    let Some(t) = lab::up("anew", one_slow_target) else { return };
    let errors = std::thread::scope(|scope| {
        let idle =
            scope.spawn(|| t.client(|| VIPS.map(kept_alive).map(|mut kept| kept.read_some().unwrap_err())));
        t.eventually("the migrations", LIMIT, |t| t.migrated() == 2);
        t.lab.kill_agent("target1").unwrap();
        forget_all(&t);
        t.lab.start_agent("target1").unwrap();
        idle.join().unwrap()
    });
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    nothing_left(&t, &[INTERMEDIATE, "target1"], LIMIT);
    assert_eq!(cut(&t), 2);
    t.eventually("the server is told", LIMIT, |t| {
        let list = ["ss", "-tnH", "state", "established", "sport", "=", ":80"];
        t.lab.output("target1", &list).unwrap().trim().is_empty()
    });
}

#[test]
fn a_client_nobody_hears_is_reset_though_the_host_answers() {
    let Some(t) = lab::up("unheard", one_slow_target) else { return };
    let mut kept = t.client(|| VIPS.map(kept_alive));
    t.eventually("the migrations", LIMIT, |t| t.migrated() == 2);
    t.lab.kill_agent("target1").unwrap();
    // The host is there, its server too, but nothing translates what it says, and no agent tells.
    forget_all(&t);
    let asked = Instant::now();
    kept.iter_mut().for_each(|kept| kept.get("/10k").unwrap());
    // Neither sooner: the first that is waited for need not be the first that is reset.
    let resets = std::thread::scope(|scope| {
        let waiting =
            kept.map(|mut kept| scope.spawn(move || (kept.response().unwrap_err(), Instant::now())));
        waiting.map(|one| one.join().unwrap())
    });
    for (error, at) in resets {
        println!("reset after {:?}", at - asked);
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        assert!(at - asked >= AGENT_LOST);
    }
    nothing_left(&t, &[INTERMEDIATE], LIMIT);
    assert_eq!(cut(&t), 2);
}

/// Downloads of 100 MB during which the server is killed.
fn server_killed(t: &TestLab, from: [SocketAddr; 2]) -> [io::Result<Response>; 2] {
    let connections = t.client(move || from.map(|from| Connection::open(from).unwrap()));
    let begun = connections.map(|mut connection| {
        connection.get("/100m").unwrap();
        assert!(connection.read_some().unwrap() > 0);
        connection
    });
    std::thread::sleep(Duration::from_millis(200));
    t.lab.kill("target1", Program::Server).unwrap();
    let responses = begun.map(|mut connection| connection.response());
    t.lab.start("target1", Program::Server).unwrap();
    responses
}

#[test]
fn a_server_killed_in_mid_download_looks_to_the_client_as_it_does_without_baton() {
    let Some(t) = lab::up("killsrv", one_slow_target) else { return };
    let servers =
        [plan::target_addr(1).into(), plan::target_addr6(1).into()].map(|ip| SocketAddr::new(ip, 80));
    let direct = server_killed(&t, servers);
    for (direct, migrated) in direct.into_iter().zip(server_killed(&t, VIPS)) {
        let (direct, migrated) = (direct.unwrap_err(), migrated.unwrap_err());
        println!("direct: {direct}; migrated: {migrated}");
        assert_eq!(direct.kind(), migrated.kind(), "direct: {direct}; migrated: {migrated}");
    }
    t.expect_requests(2, 0);
    nothing_left(&t, &[INTERMEDIATE, "target1"], LIMIT);
    assert_eq!(cut(&t), 0);
}
