//! The reference of both configuration files is what the daemons print.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

use netns_lab::command;
use std::process::Command;

const PAGE: &str = include_str!("../../docs/configuration-reference.md");

#[test]
fn the_configuration_reference_is_what_both_daemons_print() {
    let mut printed = String::new();
    for daemon in ["intermediate", "target-agent"] {
        let output =
            Command::new(command::built(daemon).unwrap()).args(["config", "reference"]).output().unwrap();
        assert!(output.status.success(), "{daemon}: {output:?}");
        printed.push_str(&String::from_utf8(output.stdout).unwrap());
    }
    let differ = printed.lines().zip(PAGE.lines()).find(|(printed, page)| printed != page);
    assert!(
        printed == PAGE,
        "docs/configuration-reference.md is out of date, first at {differ:?}; make it anew with: \
         (intermediate config reference; target-agent config reference) >docs/configuration-reference.md"
    );
}
