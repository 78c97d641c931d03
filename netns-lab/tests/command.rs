//! The command: its JSON, its exit codes, and that signals leave nothing behind.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{Traces, able, name, namespaces};
use serde_json::Value;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn lab(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netns-lab"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    lab(args).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn up_exec_status_down() {
    if !able("up_exec_status_down") {
        return;
    }
    let name = name("cmd");
    let up = json(&run(&["up", "--name", &name, "--balancer", "haproxy", "--clients", "2", "--json"]));
    assert_eq!(up["name"], name.as_str());
    assert_eq!(up["vip"], "10.90.1.100:80");
    let nodes: Vec<_> = up["nodes"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert_eq!(nodes, ["client1", "client2", "router", "intermediate", "target1", "target2"]);
    assert_eq!(up["nodes"][0]["netns"], format!("baton-{name}-client1"));
    assert_eq!(up["nodes"][0]["addresses"], serde_json::json!(["10.90.11.2"]));
    let traces = Traces::of(&name);

    let exec = run(&["exec", "client2", "--name", &name, "--", "sh", "-c", "ip -br addr show eth0; exit 7"]);
    assert_eq!(exec.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&exec.stdout).contains("10.90.12.2/24"));
    assert!(!run(&["exec", "client3", "--name", &name, "--", "true"]).status.success());

    let status = json(&run(&["status", "--name", &name, "--json"]));
    let processes = status["labs"][0]["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 3);
    assert!(processes.iter().all(|p| p["running"] == true));

    assert!(run(&["down", "--name", &name]).status.success());
    traces.assert_gone();
    let again = run(&["down", "--name", &name]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is no lab called"));
}

#[test]
fn without_balancer_there_is_no_vip() {
    if !able("without_balancer_there_is_no_vip") {
        return;
    }
    let name = name("novip");
    let up = json(&run(&["up", "--name", &name, "--balancer", "none", "--targets", "1", "--json"]));
    assert_eq!(up["vip"], Value::Null);
    assert!(!up.to_string().contains("10.90.1.100"));
    assert!(run(&["down", "--name", &name]).status.success());
}

#[test]
fn the_demo_tells_in_json_what_it_saw() {
    if !able("the_demo_tells_in_json_what_it_saw") {
        return;
    }
    let report = json(&run(&["demo", "--balancer", "nginx", "--requests", "4", "--path", "/1m", "--json"]));
    assert_eq!(report["ok"], true);
    assert_eq!(report["requests"], 4);
    assert_eq!(report["sha256_ok"], true);
    assert_eq!(report["migrated"], 0);
    let (targets, intermediate) =
        (&report["bytes_target_to_client"], &report["bytes_intermediate_to_client"]);
    assert!(targets.as_u64().unwrap() > 4 << 20);
    assert!(intermediate.as_u64().unwrap() > 4 << 20, "a proxy carries every byte, and the counters show it");
    assert!(report["handoff_us"]["p50"].is_number() && report["handoff_us"]["p99"].is_number());
}

/// Starts a demo that would take long, and waits until it is at its downloads.
fn long_demo() -> (Child, String, Traces) {
    let mut command = lab(&["demo", "--balancer", "haproxy", "--requests", "100000", "--path", "/10m"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let name = format!("demo-{}", child.id());
    let log = netns_lab::plan::run_dir(&name).join("target1/access.log");
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::metadata(&log).map_or(0, |m| m.len()) == 0 {
        assert!(Instant::now() < end, "the demo does not get to its downloads");
        std::thread::sleep(Duration::from_millis(20));
    }
    let traces = Traces::of(&name);
    assert!(!traces.left().is_empty());
    (child, name, traces)
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn interrupted_demos_leave_nothing() {
    if !able("interrupted_demos_leave_nothing") {
        return;
    }
    for signal in ["-INT", "-TERM"] {
        let (mut child, _, traces) = long_demo();
        send(signal, &child);
        // A second one, as an impatient user sends it, does not hit the cleaning.
        std::thread::sleep(Duration::from_millis(30));
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(1));
        traces.assert_gone();
    }
}

#[test]
fn an_interrupted_up_leaves_nothing() {
    if !able("an_interrupted_up_leaves_nothing") {
        return;
    }
    let name = name("int");
    // So many that it is not done when it is interrupted, even if this is a second late.
    let mut child = lab(&["up", "--name", &name, "--balancer", "none", "--targets", "64"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while namespaces(&name).len() < 5 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let traces = Traces::of(&name);
    send("-INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    traces.assert_gone();
}

#[test]
fn the_next_lab_sweeps_away_what_a_killed_demo_left() {
    if !able("the_next_lab_sweeps_away_what_a_killed_demo_left") {
        return;
    }
    let (mut child, _, traces) = long_demo();
    send("-KILL", &child);
    child.wait().unwrap();
    assert!(!traces.left().is_empty());
    drop(common::small("sweep"));
    traces.assert_gone();
}

#[test]
fn wrong_arguments_are_refused_in_one_line() {
    let cases: [(&[&str], &str); 8] = [
        (&["up", "--plane", "userspace", "--serve", "adopt"], "needs --plane ebpf"),
        (&["up", "--targets", "0"], "0 is not in 1..=64"),
        (&["up", "--balancer", "traefik"], "is none of baton, haproxy, nginx, envoy, caddy, none"),
        (&["up", "--rate-target", "fast"], "is not a rate"),
        (&["exec", "client1"], "required"),
        (&["down", "--name", "a", "--all"], "cannot be used with"),
        (&["demo", "--requests", "0"], "0 is not in 1"),
        (&["demo", "--path", "/etc/passwd"], "the targets serve /1k"),
    ];
    for (args, words) in cases {
        let output = run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{args:?}: {said}");
    }
}
