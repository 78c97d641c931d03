//! After thousands of handoffs, half of them over each version of IP, the daemons hold what they held before.
//!
//! `BATON_HANDOFFS` says how many; it should be 100 000 before a release.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIPS, both};
use baton_tests::weight::{self, Weight};
use netns_lab::Program;
use netns_lab::plan::INTERMEDIATE;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

const NODES: [(&str, Program, &str); 3] = [
    (INTERMEDIATE, Program::Balancer, "intermediate"),
    ("target1", Program::Agent, "target"),
    ("target2", Program::Agent, "target"),
];
const PARALLEL: u64 = 8;

/// So many requests, each on a connection of its own, of both VIPs in turn; every eighth client of either resets in the
/// middle.
fn handoffs(t: &TestLab, count: u64) {
    let want = t.sha256("1k");
    t.client(move || {
        std::thread::scope(|scope| {
            for worker in 0..PARALLEL {
                let want = &want;
                scope.spawn(move || {
                    for (n, vip) in (0..count / PARALLEL).zip(VIPS.into_iter().cycle()) {
                        let mut connection = loop {
                            match Connection::open(vip) {
                                // All ports are in TIME_WAIT.
                                Err(e) if e.kind() == ErrorKind::AddrNotAvailable => {
                                    std::thread::sleep(Duration::from_millis(20));
                                }
                                other => break other.unwrap_or_else(|e| panic!("{worker}: {n}: {e}")),
                            }
                        };
                        connection.get("/1k").unwrap();
                        let response = connection.response().unwrap_or_else(|e| panic!("{worker}: {n}: {e}"));
                        assert_eq!((response.status, &response.sha256), (200, want));
                        if n / 2 % 8 == 0 {
                            connection.reset().unwrap();
                        }
                    }
                });
            }
        });
    });
}

/// What all daemons weigh once nothing lingers.
fn weigh(t: &TestLab) -> Vec<Weight> {
    t.eventually("all records are freed", Duration::from_secs(40), |t| {
        NODES.iter().all(|(node, ..)| t.metric(node, "baton_flow_table_used") == 0)
    });
    for (node, _, side) in NODES {
        assert!(t.flows(node).is_empty(), "{node} knows flows");
        assert!(weight::keys(t, node, side).is_empty(), "{node} has keys in its map");
    }
    NODES.iter().map(|(node, program, _)| weight::of(t, node, *program)).collect()
}

#[test]
fn thousands_of_handoffs_leave_nothing_behind() {
    let Some(t) = lab::up("leaks", both) else { return };
    let count: u64 = std::env::var("BATON_HANDOFFS").map_or(3000, |n| n.parse().unwrap());
    t.client(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1025 65535").unwrap();
        std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1").unwrap();
    });
    // Threads, buffers and tables as they are in use; before many handoffs also the 10 000 records of the history.
    handoffs(&t, if count > 20_000 { 12_000 } else { 400 });
    let before = weigh(&t);
    let migrated = t.migrated();
    let started = Instant::now();
    handoffs(&t, count);
    let took = started.elapsed();
    let after = weigh(&t);
    let migrated = t.migrated() - migrated;
    println!("{migrated} of {count} migrated in {took:?}, {} proxied", t.all_proxied());
    assert!(migrated >= count / PARALLEL * PARALLEL - count / 100, "only {migrated} were migrated");
    // The agents remember answers for five minutes, in bounded number, so that a question asked again is answered the
    // same way; the rest is the allocator's.
    let memory = 6144 + count / 4;
    for (((node, ..), before), after) in NODES.iter().zip(&before).zip(&after) {
        println!("{node}: {before:?}, {after:?}");
        assert!(after.descriptors <= before.descriptors + 2, "{node}: {before:?}, {after:?}");
        assert!(after.memory <= before.memory + memory, "{node}: {before:?}, {after:?}");
    }
}
