//! Processors are held awake on both hosts while handoffs come often, and as long as the configuration does not forbid it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::lab::{self, TestLab, VIP};
use baton_tests::skip::skip;
use netns_lab::plan::INTERMEDIATE;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
const DEVICE: &str = "/dev/cpu_dma_latency";
const NODES: [&str; 2] = [INTERMEDIATE, "target1"];

fn held(t: &TestLab) -> [u64; 2] {
    NODES.map(|node| t.metric(node, "baton_cpu_latency_held"))
}

/// For a minute if nobody ends it. So many at a time that ten come close upon each other on the slowest of machines.
fn load(t: &TestLab) -> Child {
    let url = format!("http://{VIP}/1k");
    t.lab.spawn("client1", &["ab", "-q", "-r", "-t", "60", "-n", "10000000", "-c", "64", &url]).unwrap()
}

fn end(mut load: Child) {
    load.kill().unwrap();
    load.wait().unwrap();
}

#[test]
fn both_hosts_hold_their_processors_awake_while_handoffs_come_often_and_let_them_sleep_then() {
    if !Path::new(DEVICE).exists() {
        let test = "both_hosts_hold_their_processors_awake_while_handoffs_come_often_and_let_them_sleep_then";
        return skip(
            test,
            &format!("this kernel lets nobody hold its processors awake: there is no {DEVICE}"),
        );
    }
    let Some(t) = lab::up("awake", |s| s.targets(1)) else { return };
    assert!(t.get("/1k").is_ok());
    assert_eq!(held(&t), [0, 0], "one handoff is not often");
    let load = load(&t);
    t.eventually("both hold", SOON, |t| held(t) == [1, 1]);
    // The least of all that are asked for; what a host's first sleep takes at most.
    let in_force = i32::from_ne_bytes(fs::read(DEVICE).unwrap().try_into().unwrap());
    end(load);
    assert!(in_force < 1000, "{in_force} us");
    t.eventually("both let go", SOON, |t| held(t) == [0, 0]);
}

#[test]
fn nobody_is_held_awake_where_processors_are_to_sleep_as_the_system_has_it() {
    let system = |s: netns_lab::LabSpec| {
        let s = s.targets(1).intermediate_with("", "cpu_latency", "system");
        s.agents_with("", "cpu_latency", "system")
    };
    let Some(t) = lab::up("asleep", system) else { return };
    let load = load(&t);
    t.eventually("many were handed off", SOON, |t| t.migrated() > 2000);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(held(&t), [0, 0]);
    }
    end(load);
}
