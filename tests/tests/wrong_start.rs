//! What an operator does wrong at the start: one clear line each, and an exit code that is not 0.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::lab::{self, TestLab};
use netns_lab::Program;
use netns_lab::command;
use netns_lab::plan::INTERMEDIATE;
use std::time::Duration;

/// Runs a daemon's command on a node with a configuration changed by replacing, once each, the first by the second.
fn run(
    t: &TestLab,
    node: &str,
    verb: &str,
    changes: &[(&str, &str)],
    before: &[&str],
) -> (Option<i32>, String) {
    let program = if node == INTERMEDIATE { Program::Balancer } else { Program::Agent };
    let path = t.lab.config(node, program);
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from:?} is not in {text}");
        text = text.replacen(from, to, 1);
    }
    let changed = path.with_file_name("changed.toml");
    std::fs::write(&changed, text).unwrap();
    let name = t.lab.program_name(program);
    let binary = command::built(name).unwrap();
    let mut words = vec!["timeout", "60"];
    words.extend(before);
    let (binary, changed) = (binary.to_string_lossy().into_owned(), changed.to_string_lossy().into_owned());
    words.extend([binary.as_str(), verb, "--config", changed.as_str()]);
    let output = t.lab.exec(node, &words).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn wrong_configuration_is_named_with_file_line_and_column() {
    let Some(t) = lab::up("wrongconf", |s| s.targets(1)) else { return };
    for (node, from, to, say) in [
        (INTERMEDIATE, "uplink = \"eth0\"", "uplnik = \"eth0\"", "changed.toml:3:1"),
        (INTERMEDIATE, "vip = \"10.90.1.100:80\"", "vip = \"10.90.1.100\"", "changed.toml:"),
        (INTERMEDIATE, "uplink = \"eth0\"", "uplink = 7", "changed.toml:3:"),
        (INTERMEDIATE, "uplink = \"eth0\"", "uplink = \"eth0", "changed.toml:3:"),
        ("target1", "linger_ms = 3000", "linger_ms = -1", "changed.toml:"),
        ("target1", "[[allow]]", "[[alow]]", "changed.toml:"),
        ("target1", "[[allow]]", "[[allow]]\nleg = \"ipip\"", "leg_source is missing"),
        ("target1", "[[allow]]", "[[allow]]\nleg_source = \"10.90.1.2\"", "no meaning without leg"),
        ("target1", "ca.pem", "missing.pem", "missing.pem"),
    ] {
        for verb in ["check", "run"] {
            let (code, said) = run(&t, node, verb, &[(from, to)], &[]);
            assert_eq!(code, Some(2), "{node} {verb} {to}: {said}");
            assert!(said.contains(say) && said.trim().lines().count() == 1, "{node} {verb} {to}: {said}");
        }
    }
    for node in [INTERMEDIATE, "target1"] {
        let (code, said) = run(&t, node, "check", &[], &[]);
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn a_port_in_use_and_a_missing_capability_are_one_clear_line() {
    let Some(t) = lab::up("inuse", |s| s.targets(1)) else { return };
    // Its own TUN name, so that the port is what stands in the way; then another port, so that it is not.
    let tun = ("[plane]", "[plane]\ntun = \"other0\"");
    let without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    for (node, change, before, say) in [
        (INTERMEDIATE, tun, &[][..], "10.90.1.100:80"),
        ("target1", tun, &[][..], "10.90.101.2:7400"),
        (INTERMEDIATE, ("10.90.1.100:80", "10.90.1.100:8080"), &without[..], "CAP_NET_ADMIN"),
        ("target1", ("10.90.101.2:7400", "10.90.101.2:7401"), &without[..], "CAP_NET_ADMIN"),
    ] {
        let (code, said) = run(&t, node, "run", &[tun, change][usize::from(change == tun)..], before);
        assert_eq!(code, Some(1), "{node} {before:?}: {said}");
        let last = said.trim().lines().last().unwrap_or_default();
        assert!(last.contains(say), "{node} {before:?}: {said}");
    }
    assert_eq!(t.get("/1k").unwrap().status, 200, "the running daemons were not disturbed");
    t.expect_requests(1, 0);
}

/// Restarts target1's agent with its configuration changed, so that the intermediate is not its peer any more, until one line
/// of a log has all that it is to say.
fn refused_peer(t: &TestLab, changes: &[(&str, &str)], say: impl Fn(&str) -> bool) {
    let path = t.lab.config("target1", Program::Agent);
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = changes.iter().fold(text.clone(), |text, (from, to)| text.replace(from, to));
    assert_ne!(changed, text);
    std::fs::write(&path, changed).unwrap();
    t.lab.stop_agent("target1").unwrap();
    // Not waiting for a connection that is refused. It may refuse its own configuration and end.
    let _ = t.lab.start_with("target1", Program::Agent, &[]);
    t.eventually("the refusal is logged", Duration::from_secs(30), |t| {
        let log = |node, program| std::fs::read_to_string(t.lab.log(node, program)).unwrap_or_default();
        let all = log(INTERMEDIATE, Program::Balancer) + &log("target1", Program::Agent);
        all.lines().any(&say)
    });
    assert_eq!(t.get("/1k").unwrap().status, 200, "proxied");
    t.expect_requests(0, 1);
}

#[test]
fn a_certificate_of_the_wrong_role_is_refused_and_the_requests_are_proxied() {
    let Some(t) = lab::up("role", |s| s.targets(1)) else { return };
    let changes = [("/target1.pem", "/intermediate.pem"), ("/target1.key", "/intermediate.key")];
    refused_peer(&t, &changes, |line| line.contains("was made for intermediate"));
}

#[test]
fn a_peer_that_the_agent_does_not_name_is_refused() {
    let Some(t) = lab::up("unknown", |s| s.targets(1)) else { return };
    let changes = [("intermediate = \"intermediate\"", "intermediate = \"somebody-else\"")];
    refused_peer(&t, &changes, |line| line.contains("intermediate") && line.contains("allow"));
}

#[test]
fn doctor_finds_nothing_wrong_in_a_lab_that_works() {
    let Some(t) = lab::up("doctor", |s| s.targets(1)) else { return };
    for node in [INTERMEDIATE, "target1"] {
        let (code, said) = run(&t, node, "doctor", &[], &[]);
        assert_eq!(code, Some(0), "{node}: {said}");
    }
    t.lab.stop_agent("target1").unwrap();
    let (code, _) = run(&t, INTERMEDIATE, "doctor", &[], &[]);
    assert_eq!(code, Some(1), "an agent that cannot be reached is a failure");
}
