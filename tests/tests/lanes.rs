//! An intermediate that hands off by several threads, each with a channel of its own to each agent.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{self, Connection};
use baton_tests::lab::{self, TestLab, VIP, both};
use baton_tests::thousand;
use baton_tests::two_pools::{served_by, two_pools};
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{LabSpec, Program};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LINGER: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(15);
const THREADS: u64 = 3;

fn threads(spec: LabSpec) -> LabSpec {
    let spec = spec.intermediate_with("", "workers", THREADS);
    spec.intermediate_with("", "handoff_workers", THREADS)
}

/// The lanes of the sessions that a target's agent has.
fn lanes(t: &TestLab, target: &str) -> Vec<u64> {
    let status = t.admin(target, "/v1/status");
    let mut lanes: Vec<u64> =
        status["sessions"].as_array().unwrap().iter().map(|s| s["lane"].as_u64().unwrap()).collect();
    lanes.sort_unstable();
    lanes
}

fn all_up(t: &TestLab, targets: &[&str]) {
    let all: Vec<u64> = (0..THREADS).collect();
    t.eventually("each thread has a channel to each agent", SOON, |t| {
        targets.iter().all(|target| lanes(t, target) == all)
    });
}

/// The lanes of the flows in a list.
fn lanes_of(flows: &[Value], key: &str) -> BTreeSet<u64> {
    flows.iter().map(|flow| u64::from_str_radix(flow[key].as_str().unwrap(), 16).unwrap() % 16).collect()
}

#[test]
fn a_thousand_requests_are_handed_off_by_all_threads_and_run_once() {
    let Some(t) = lab::up("lanes", |s| threads(both(s))) else { return };
    all_up(&t, &["target1", "target2"]);
    thousand::ask_and_find_logged_once(&t);
    let migrations = t.admin(INTERMEDIATE, "/v1/migrations");
    let used = lanes_of(migrations["migrations"].as_array().unwrap(), "id");
    assert_eq!(used, (0..THREADS).collect(), "all of them had some to do");
    thousand::expect_nothing_left(&t, LINGER);
}

#[test]
fn channels_that_break_again_and_again_cost_no_request() {
    let Some(t) = lab::up("lanecut", |s| threads(s.targets(1))) else { return };
    all_up(&t, &["target1"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (t, over) = (&t, &over);
        let cutting = scope.spawn(move || {
            let mut cuts = 0;
            while !over.load(Ordering::Relaxed) {
                // One of them, each time another.
                let all = t
                    .lab
                    .output("target1", &["ss", "-Htn", "state", "established", "sport", "=", ":7400"])
                    .unwrap();
                let peers: Vec<&str> =
                    all.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
                if let Some(peer) = peers.get(cuts % peers.len().max(1)) {
                    let _ = t.lab.exec("target1", &["ss", "-K", "-tn", "dst", peer, "sport", "=", ":7400"]);
                    cuts += 1;
                }
                std::thread::sleep(Duration::from_millis(30));
            }
            cuts
        });
        let clients: Vec<_> = (0..6)
            .map(|n| {
                scope.spawn(move || {
                    let want = t.sha256("10k");
                    for request in 0..150 {
                        let path = format!("/10k?c={n}.{request}");
                        let response = t.client(move || client::get(VIP, &path));
                        let response = response.unwrap_or_else(|e| panic!("{n}.{request}: {e}"));
                        assert_eq!((response.status, &response.sha256), (200, &want), "{n}.{request}");
                    }
                })
            })
            .collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::Relaxed);
        let cuts = cutting.join().unwrap();
        ended.into_iter().for_each(|ended| ended.unwrap());
        // On a machine that has other things to do `ss` takes its time.
        assert!(cuts > 2, "{cuts}");
    });
    t.eventually("all are logged", SOON, |t| t.access_log("target1").len() >= 900);
    let log = t.access_log("target1");
    let run: BTreeSet<&str> =
        log.iter().filter_map(|l| l.split(' ').find(|w| w.contains("/10k?c="))).collect();
    assert_eq!((log.len(), run.len()), (900, 900), "each request ran once");
    assert_eq!(t.closed("unresolved"), 0);
    all_up(&t, &["target1"]);
    t.eventually("nothing is left", SOON + LINGER, |t| t.flows(INTERMEDIATE).is_empty());
}

#[test]
fn flows_of_lanes_that_are_no_more_go_on_and_can_be_taken_back() {
    let Some(t) = lab::up("lanegone", |s| two_pools(threads(s))) else { return };
    all_up(&t, &["target1", "target2"]);
    let mut kept: Vec<Connection> = t.client(|| {
        let ask = |_| {
            let mut connection = Connection::open(VIP).unwrap();
            connection.get("/1k?to=a").unwrap();
            assert_eq!(connection.response().unwrap().served_by(), served_by('a'));
            connection
        };
        (0..24).map(ask).collect()
    });
    t.eventually("all are there", SOON, |t| t.flows("target1").len() == 24);
    assert_eq!(lanes_of(&t.flows(INTERMEDIATE), "id"), (0..THREADS).collect());
    t.lab.kill_intermediate().unwrap();
    let file = t.lab.node_dir(INTERMEDIATE).join("intermediate.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let after = before.replace(&format!("handoff_workers = {THREADS}"), "handoff_workers = 1");
    assert_ne!(before, after);
    std::fs::write(&file, after).unwrap();
    t.lab.start(INTERMEDIATE, Program::Balancer).unwrap();
    t.eventually("there is one channel", SOON, |t| lanes(t, "target1") == [0] && lanes(t, "target2") == [0]);
    for connection in &mut kept {
        for to in ['a', 'b'] {
            connection.get(&format!("/1k?to={to}")).unwrap();
            let response = connection.response().unwrap();
            assert_eq!((response.status, response.served_by()), (200, served_by(to)));
        }
    }
    assert_eq!(t.metric(INTERMEDIATE, "baton_later_requests_total{outcome=\"moved\"}"), 24);
    drop(kept);
    t.eventually("nothing is left", SOON + LINGER, |t| {
        [INTERMEDIATE, "target1", "target2"].iter().all(|node| t.flows(node).is_empty())
    });
}
