//! After thousands of handoffs, half of them over each version of IP, the daemons hold what they held before.
//!
//! `BATON_HANDOFFS` says how many; it should be 100 000 before a release.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_shared::control::FlowRef;
use baton_shared::state::replay::Answer;
use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIPS, both, patient};
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
    t.eventually("all records are freed, and no key is left in a map", Duration::from_secs(40), |t| {
        NODES.iter().all(|(node, _, side)| {
            t.metric(node, "baton_flow_table_used") == 0
                && t.flows(node).is_empty()
                && weight::keys(t, node, side).is_empty()
        })
    });
    NODES.iter().map(|(node, program, _)| weight::of(t, node, *program)).collect()
}

/// In how many parts the handoffs are made, with a look at the daemons' memory after each.
const PARTS: u64 = 8;
/// What the intermediate may grow by in most of the parts, kB; an agent, which takes half of the handoffs, by half of it. Where
/// 100 000 are made it is 21 bytes each. Tables that double, and more connections at once than before, take place in a few of
/// the parts; a leak in every one.
const STEADY: u64 = 256;
/// The history of the newest 10 000 handoffs, which the intermediate keeps, and what a record takes at most, kB.
const HISTORY: u64 = 10_000;
const RECORD: u64 = 2;
/// What a daemon may grow by in all, kB, whatever the number of handoffs: the allocator's.
const IN_ALL: u64 = 6144;
/// How many answers an agent remembers at most (`target-agent/src/flows/memory.rs`), for five minutes, so that a question
/// asked again is answered the same way.
const ANSWERS: u64 = 131_072;

/// Bytes of an answer's place in the order of age. `u64` stands for the intermediate's place in the list.
const ORDER: u64 = size_of::<(u64, (u64, FlowRef))>() as u64;

/// What an agent's remembered answers take at most, kB: a table of powers of two, full to seven eighths, and their order.
fn remembered(answers: u64) -> u64 {
    let entry = size_of::<((u64, FlowRef), Answer)>() as u64 + 1;
    let answers = answers.min(ANSWERS);
    ((answers * 8 / 7).next_power_of_two() * entry + answers.next_power_of_two() * ORDER) / 1024
}

/// Starts the daemons again, so that a table which became too small goes back to the kernel: in its place small leaks would
/// go unseen (`M_MMAP_THRESHOLD` in mallopt(3), which the allocator otherwise raises to the size of what was freed).
fn start_again(t: &TestLab) {
    for (node, program, _) in NODES {
        t.lab.stop(node, program).unwrap();
        t.lab.start_with(node, program, &[("MALLOC_MMAP_THRESHOLD_", "131072")]).unwrap();
    }
    t.eventually("both agents are reached", Duration::from_secs(40), |t| {
        t.admin(INTERMEDIATE, "/readyz")["targets_up"] == 2
    });
}

/// By how much the memory grew in each of the parts, but for the half of them in which it grew most.
fn steady(memory: &[u64]) -> u64 {
    let mut grown: Vec<u64> = memory.windows(2).map(|two| two[1].saturating_sub(two[0])).collect();
    grown.sort_unstable();
    grown[(grown.len() - 1) / 2]
}

#[test]
fn what_grows_in_most_parts_is_a_leak_and_a_table_that_doubles_is_none() {
    assert_eq!(steady(&[36_000, 36_012, 36_012, 38_356, 38_356, 38_356, 43_000, 43_000, 43_004]), 0);
    assert_eq!(steady(&[50_000, 50_700, 51_300, 52_000, 52_650, 53_300, 53_300, 54_600, 55_300]), 650);
    assert!(remembered(50_000) > remembered(20_000) && remembered(400_000) == remembered(ANSWERS));
}

#[test]
fn thousands_of_handoffs_leave_nothing_behind() {
    let Some(t) = lab::up("leaks", |s| patient(both(s))) else { return };
    start_again(&t);
    let count: u64 = std::env::var("BATON_HANDOFFS").map_or(3000, |n| n.parse().unwrap());
    t.client(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1025 65535").unwrap();
        std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1").unwrap();
    });
    // Threads, buffers and tables as they are in use; before many handoffs also the whole history.
    let first = if count > 2 * HISTORY { HISTORY + 2000 } else { 400 };
    handoffs(&t, first);
    let before = weigh(&t);
    let migrated = t.migrated();
    let started = Instant::now();
    let mut memory: Vec<Vec<u64>> = before.iter().map(|weight| vec![weight.memory]).collect();
    for _ in 0..PARTS {
        handoffs(&t, count / PARTS);
        for ((node, program, _), memory) in NODES.iter().zip(&mut memory) {
            memory.push(weight::of(&t, node, *program).memory);
        }
    }
    let took = started.elapsed();
    let after = weigh(&t);
    for ((node, program, _), before) in NODES.iter().zip(&before) {
        // Those of requests just asked of it may still be open.
        t.eventually(&format!("{node} has closed its descriptors"), Duration::from_secs(20), |t| {
            weight::of(t, node, *program).descriptors <= before.descriptors + 2
        });
    }
    let migrated = t.migrated() - migrated;
    println!("{migrated} of {count} migrated in {took:?}, {} proxied", t.all_proxied());
    let made = count / PARTS / PARALLEL * PARALLEL * PARTS;
    assert!(migrated >= made - count / 100, "only {migrated} of {made} were migrated");
    for (n, (node, program, _)) in NODES.iter().enumerate() {
        let (before, after, steady) = (before[n], after[n], steady(&memory[n]));
        // What most of the parts may leave, and what all of them leave where it is meant to be.
        let (parts, all) = match program {
            Program::Agent => (STEADY / 2 + count / PARTS / 2 * ORDER / 1024, remembered(first + count)),
            _ if first > HISTORY => (STEADY, 0),
            _ => (STEADY + count / PARTS * RECORD, count.min(HISTORY) * RECORD),
        };
        println!("{node}: {before:?}, {after:?}, {steady} kB in most parts of {:?}", memory[n]);
        assert!(steady <= parts, "{node}: {steady} kB for {} handoffs: {:?}", count / PARTS, memory[n]);
        assert!(after.memory <= before.memory + IN_ALL + all, "{node}: {before:?}, {after:?}");
    }
}
