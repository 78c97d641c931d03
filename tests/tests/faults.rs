//! Agents, servers and daemons that stop, stall or die: every request has one answer or an error, never a mixed one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{self, Connection, Response};
use baton_tests::events;
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{Family, LabSpec, Program};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// One of each version of IP: requests take them in turns.
const VIPS: [SocketAddr; 2] = [VIP, SocketAddr::V6(plan::VIP6)];

fn up(name: &str, order: impl FnOnce(LabSpec) -> LabSpec) -> Option<TestLab> {
    lab::up(name, |s| order(s.family(Family::Dual)))
}

fn get(t: &TestLab, turn: usize, path: &str) -> io::Result<Response> {
    let (vip, path) = (VIPS[turn % 2], path.to_owned());
    t.client(move || client::get(vip, &path))
}

/// Requests to /1k on new connections; all must be right.
fn all_right(t: &TestLab, requests: usize) {
    let want = t.sha256("1k");
    for n in 0..requests {
        let response = get(t, n, "/1k").unwrap_or_else(|e| panic!("request {n}: {e}"));
        assert_eq!((response.status, &response.sha256), (200, &want), "request {n}");
    }
}

/// How often a path was asked for, on all targets.
fn times_run(t: &TestLab, path: &str) -> usize {
    ["target1", "target2"].iter().flat_map(|n| t.access_log(n)).filter(|line| line.contains(path)).count()
}

#[test]
fn with_one_agent_stopped_no_request_fails() {
    let Some(t) = up("oneagent", |s| s) else { return };
    let told = events::of(&t, INTERMEDIATE, "?kind=channel");
    all_right(&t, 10);
    t.lab.stop_agent("target1").unwrap();
    told.wait("channel", |channel| channel["agent"] == "target1" && channel["to"] == "gone");
    all_right(&t, 20);
    t.lab.start_agent("target1").unwrap();
    t.eventually("target1's agent is connected again", Duration::from_secs(15), |t| {
        let before = t.metric("target1", "baton_handoffs_migrated_total");
        all_right(t, 4);
        t.metric("target1", "baton_handoffs_migrated_total") > before
    });
}

#[test]
fn without_any_agent_requests_are_proxied_and_counted() {
    let Some(t) = up("noagent", |s| s) else { return };
    t.lab.stop_agent("target1").unwrap();
    t.lab.kill_agent("target2").unwrap();
    t.eventually("the intermediate has noticed", Duration::from_secs(15), |t| {
        all_right(t, 1);
        t.proxied("no_agent") > 0
    });
    let before = (t.migrated(), t.proxied("no_agent"));
    all_right(&t, 10);
    assert_eq!((t.migrated(), t.proxied("no_agent")), (before.0, before.1 + 10));
}

#[test]
fn an_agent_killed_between_handoff_and_answer_never_makes_a_request_run_twice() {
    let Some(t) = up("killed", |s| s.targets(1)) else { return };
    t.lab.signal("target1", Program::Agent, libc::SIGSTOP).unwrap();
    let waiting = std::thread::scope(|scope| {
        let asked = scope.spawn(|| get(&t, 1, "/1k?killed"));
        let is_frozen = |t: &TestLab| t.flows(INTERMEDIATE).iter().any(|flow| flow["state"] == "frozen");
        t.eventually("it is frozen", Duration::from_secs(10), |t| is_frozen(t) || asked.is_finished());
        // Soon after that the handoff lies in the stopped agent's socket.
        std::thread::sleep(Duration::from_millis(200));
        t.lab.kill_agent("target1").unwrap();
        asked.join().unwrap()
    });
    match waiting {
        Ok(response) => assert_eq!((response.status, response.sha256), (200, t.sha256("1k"))),
        Err(error) => println!("the client got an error, as it may: {error}"),
    }
    assert!(times_run(&t, "killed") <= 1, "ran {} times", times_run(&t, "killed"));
    t.lab.start_agent("target1").unwrap();
    t.eventually("migrations again", Duration::from_secs(15), |t| {
        all_right(t, 1);
        t.migrated() > 0
    });
}

#[test]
fn a_slow_agents_requests_are_answered_once() {
    // The longest of the stalls is over the agent's time to answer.
    let order = |s: LabSpec| s.targets(1).intermediate_with("handoff", "deadline_ms", 2000);
    let Some(t) = up("slow", order) else { return };
    for (n, stall) in [300, 1000, 2600].into_iter().enumerate() {
        t.lab.signal("target1", Program::Agent, libc::SIGSTOP).unwrap();
        let path = format!("/1k?stall={stall}");
        let response = std::thread::scope(|scope| {
            let asked = scope.spawn(|| get(&t, n + 1, &path));
            std::thread::sleep(Duration::from_millis(stall));
            t.lab.signal("target1", Program::Agent, libc::SIGCONT).unwrap();
            asked.join().unwrap()
        });
        let response = response.unwrap_or_else(|e| panic!("stalled for {stall} ms: {e}"));
        assert_eq!((response.status, response.sha256), (200, t.sha256("1k")));
        t.eventually("it is logged", Duration::from_secs(10), |t| times_run(t, &path) > 0);
        // Time for one too many.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(times_run(&t, &path), 1, "{path}");
    }
}

/// Lets the downloads end, also when the test has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A download of 100 MB, counted in `read`, whose last 20 MB are not taken in before it `may_end`.
fn download(vip: SocketAddr, read: &AtomicUsize, may_end: &AtomicBool) -> io::Result<Response> {
    let mut connection = Connection::open(vip)?;
    connection.get("/100m")?;
    let mut here = 0;
    while here < 80 << 20 {
        match connection.read_some()? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => here += more,
        }
        read.store(here, Ordering::Relaxed);
    }
    while !may_end.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
    }
    connection.response()
}

/// Two downloads of 100 MB, one over each version of IP, which are at 800 Mbit/s for a second and more, with `fault` in their
/// middle: none ends before it is over.
fn download_survives(name: &str, fault: impl FnOnce(&TestLab)) {
    let limited = |s: LabSpec| LabSpec { rate_target: "800mbit".parse().ok(), ..s.targets(1) };
    let Some(t) = up(name, limited) else { return };
    let read: Arc<[AtomicUsize; 2]> = Arc::default();
    let may_end = Arc::new(AtomicBool::new(false));
    let responses = std::thread::scope(|scope| {
        let asked = [0, 1].map(|turn| {
            let (t, read, may_end) = (&t, Arc::clone(&read), Arc::clone(&may_end));
            scope.spawn(move || t.client(move || download(VIPS[turn], &read[turn], &may_end)))
        });
        let begun = |one: &AtomicUsize| one.load(Ordering::Relaxed) > 10 << 20;
        t.eventually("both have begun", Duration::from_secs(20), |t| {
            t.migrated() == 2 && read.iter().all(begun)
        });
        let over = Over(&may_end);
        fault(&t);
        drop(over);
        asked.map(|one| one.join().unwrap())
    });
    let want = t.sha256("100m");
    for response in responses {
        let response = response.unwrap();
        assert_eq!((response.body_bytes, &response.sha256), (100 << 20, &want));
    }
    t.eventually("migrations go on", Duration::from_secs(20), |t| {
        let before = t.migrated();
        t.get("/1k").is_ok_and(|r| r.status == 200) && t.migrated() > before
    });
    t.eventually("all records are freed", Duration::from_secs(30), |t| {
        [INTERMEDIATE, "target1"].iter().all(|node| t.flows(node).is_empty())
    });
}

#[test]
fn a_download_outlives_its_agent_and_the_new_agent_takes_the_flow_over() {
    download_survives("dlagent", |t| {
        t.lab.kill_agent("target1").unwrap();
        std::thread::sleep(Duration::from_millis(300));
        t.lab.start_agent("target1").unwrap();
        assert_eq!(t.flows("target1").len(), 2, "the flows were found again");
    });
}

#[test]
fn a_download_outlives_the_intermediate_and_the_new_one_takes_the_flow_over() {
    download_survives("dlinter", |t| {
        t.lab.kill_intermediate().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        t.lab.start_intermediate().unwrap();
        assert_eq!(t.flows(INTERMEDIATE).len(), 2, "the flows were found again");
    });
}

#[test]
fn a_target_without_its_server_refuses_and_the_request_goes_elsewhere_or_fails_clearly() {
    let Some(t) = up("noserver", |s| s) else { return };
    t.lab.stop("target1", Program::Server).unwrap();
    all_right(&t, 10);
    assert!(t.metric(INTERMEDIATE, "baton_refusals_total{reason=\"server_refused\"}") > 0);
    t.lab.stop("target2", Program::Server).unwrap();
    for turn in 0..2 {
        let response = get(&t, turn, "/1k").unwrap();
        assert!(matches!(response.status, 502 | 503), "status {}", response.status);
    }
}

/// Ten connections open at the same time, each with a request to /1k; all must be right.
fn ten_at_once_all_right(t: &TestLab) {
    let want = t.sha256("1k");
    t.client(move || {
        let vips = VIPS.into_iter().cycle();
        let mut kept: Vec<_> = vips.take(10).map(|vip| Connection::open(vip).unwrap()).collect();
        for connection in &mut kept {
            connection.get("/1k").unwrap();
            assert_eq!(connection.response().unwrap().sha256, want);
        }
    });
}

#[test]
fn a_full_flow_table_means_proxying() {
    let Some(t) = up("full", |s| s.intermediate_with("plane", "flows", 4)) else { return };
    ten_at_once_all_right(&t);
    t.expect_requests(4, 6);
    assert_eq!(t.proxied("table_full"), 6);
}

#[test]
fn a_full_table_at_the_agent_means_proxying() {
    let Some(t) = up("fullt", |s| s.targets(1).agents_with("plane", "flows", 4)) else { return };
    ten_at_once_all_right(&t);
    t.expect_requests(4, 6);
    assert_eq!(t.proxied("refused"), 6);
    assert_eq!(t.metric(INTERMEDIATE, "baton_refusals_total{reason=\"table_full\"}"), 6);
}

#[test]
fn an_agent_takes_only_what_its_configuration_names() {
    let Some(t) = lab::up("allow", |s| s.agent_with("target1", "allow", "vip", "10.90.1.200:80")) else {
        return;
    };
    let told = [INTERMEDIATE, "target1"].map(|node| events::of(&t, node, "?kind=refusal"));
    // A lab of IPv4: one after the other, each the first.
    (0..10).for_each(|_| all_right(&t, 1));
    for events in told {
        events.wait("refusal", |refused| refused["refusal"] == "not_allowed");
    }
    // What one refuses is given to the other.
    assert_eq!(t.metric(INTERMEDIATE, "baton_refusals_total{reason=\"not_allowed\"}"), 5);
    assert_eq!(t.metric(INTERMEDIATE, "baton_handoffs_retried_total{reason=\"refused\"}"), 5);
    t.expect_requests(10, 0);
    assert_eq!(t.metric("target2", "baton_handoffs_migrated_total"), 10);
}
