//! What a handoff costs is what the ledger says. A change that makes it cheaper, or dearer, changes the ledger with it.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod common;

use common::able;
use std::process::Command;

/// docs/handoff-cost.json, written by `netns-lab cost --ledger docs/handoff-cost.json`.
const LEDGER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/handoff-cost.json");

/// Whether this kernel can make sockets from a handed-off connection: from Linux 6.9 on.
fn adopts() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.trim().parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 9)
}

#[test]
fn a_handoff_costs_the_system_calls_and_control_bytes_of_the_ledger() {
    if !able("a_handoff_costs_the_system_calls_and_control_bytes_of_the_ledger") {
        return;
    }
    let mut cost = Command::new(env!("CARGO_BIN_EXE_netns-lab"));
    let ways = if adopts() { "translate,adopt" } else { "translate" };
    cost.args(["cost", "--handoffs", "25", "--serve", ways, "--check", LEDGER]);
    let output = cost.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{said}\nIf that is meant: cargo run -p netns-lab -- cost --ledger docs/handoff-cost.json"
    );
}
