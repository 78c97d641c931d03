//! The lab with Baton in it: that it comes up, what the demo claims, and that its mounts go with it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{Traces, able_with_daemons, name};
use netns_lab::{Lab, LabSpec, Program};
use serde_json::Value;
use std::process::Command;

#[test]
fn the_demo_holds_what_it_claims() {
    if !able_with_daemons("the_demo_holds_what_it_claims") {
        return;
    }
    let demo = Command::new(env!("CARGO_BIN_EXE_netns-lab"))
        .args(["demo", "--requests", "4", "--path", "/10m", "--json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&demo.stderr);
    let report: Value = serde_json::from_slice(&demo.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(report["problems"], serde_json::json!([]));
    assert!(demo.status.success());
    assert_eq!(
        (&report["requests"], &report["migrated"], &report["proxied"]),
        (&4.into(), &4.into(), &0.into())
    );
    assert!(report["handoff_us"]["p50"].as_f64().unwrap() > 0.0);
    let (targets, intermediate) =
        (&report["bytes_target_to_client"], &report["bytes_intermediate_to_client"]);
    assert!(intermediate.as_u64().unwrap() * 50 < targets.as_u64().unwrap());
}

#[test]
fn daemons_are_steered_and_asked_and_leave_nothing() {
    if !able_with_daemons("daemons_are_steered_and_asked_and_leave_nothing") {
        return;
    }
    let lab = Lab::up(&LabSpec::new(name("baton")).agents_with("plane", "flows", 1024)).unwrap();
    let traces = Traces::of(&lab.spec().name);
    assert!(
        lab.bpf_dir("target1").read_dir().unwrap().next().is_some(),
        "the agent pins its maps in the lab"
    );
    assert!(std::fs::read_to_string(lab.config("target2", Program::Agent)).unwrap().contains("flows = 1024"));
    for node in ["intermediate", "target1", "target2"] {
        assert_eq!(lab.admin_text(node, "/readyz").unwrap().0, 200);
        assert!(lab.admin_text(node, "/metrics").unwrap().1.contains("# EOF"));
    }
    assert!(lab.admin_get("intermediate", "/v1/migrations").unwrap()["migrations"].is_array());
    lab.kill_agent("target1").unwrap();
    assert!(lab.admin_text("target1", "/readyz").is_err());
    lab.start_agent("target1").unwrap();
    assert_eq!(lab.admin_text("target1", "/readyz").unwrap().0, 200);
    drop(lab);
    traces.assert_gone();
}
