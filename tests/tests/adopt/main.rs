//! Adopted connections, end to end: the server's kernel makes the accepted socket from one packet of the agent's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod ahead;
mod carried;
mod needs;

use baton_tests::lab::{self, TestLab};
use netns_lab::{LabSpec, Serve};
use std::time::Duration;

const LINGER: Duration = Duration::from_secs(3);
/// What is to be soon on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(15);
const TARGETS: [&str; 2] = ["target1", "target2"];

fn adopting(name: &str, order: impl FnOnce(LabSpec) -> LabSpec) -> Option<TestLab> {
    lab::up_beside(name, |s| order(s.serve(Serve::Adopt)))
}

/// How many connections the targets have adopted.
fn adopted(t: &TestLab, targets: &[&str]) -> u64 {
    targets.iter().map(|target| t.metric(target, "baton_handoffs_adopted_total")).sum()
}

/// How often a target's programs counted something.
fn counted(t: &TestLab, target: &str, what: &str) -> u64 {
    t.metric(target, &format!("baton_packets_total{{reason=\"{what}\"}}"))
}

fn expect_adopted(t: &TestLab, expected: u64) {
    t.eventually("all are counted", SOON, |t| adopted(t, &TARGETS) == expected);
    for target in TARGETS {
        assert_eq!(counted(t, target, "translated"), 0, "{target} translated nothing");
        assert_eq!(counted(t, target, "drop_adopt_reset"), 0, "{target}");
    }
}

/// Writes a value below /proc/sys in a node's network namespace.
fn sysctl(t: &TestLab, node: &str, key: &str, value: &str) {
    let (path, value) = (format!("/proc/sys/{}", key.replace('.', "/")), value.to_owned());
    t.lab
        .inside(node, move || std::fs::write(&path, &value).unwrap_or_else(|e| panic!("{path}: {e}")))
        .unwrap();
}
