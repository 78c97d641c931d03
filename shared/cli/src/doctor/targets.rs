//! What the intermediate sees of the targets, and the path to each.

use super::Finding;
use crate::endpoint::{Nodes, escaped};
use crate::table::{at, list, word};
use serde_json::Value;
use std::time::Duration;

/// For a probe of one target.
const PROBE: Duration = Duration::from_secs(10);

/// All targets.
pub(super) async fn look(nodes: &Nodes, probe: bool) -> Vec<Finding> {
    let told = match nodes.intermediate.get("/v1/targets").await {
        Ok(told) => told,
        Err(e) => return vec![Finding::unanswered(&nodes.intermediate.name, "targets", &e)],
    };
    let mut findings: Vec<Finding> = list(&told, "/targets").flat_map(target).collect();
    if probe {
        for name in list(&told, "/targets").filter_map(|target| word(target, "/name")) {
            findings.push(along_the_path(nodes, name).await);
        }
    }
    findings
}

/// What the intermediate sees of a target.
fn target(target: &Value) -> Vec<Finding> {
    let name = format!("target {}", at(target, "/name"));
    let mut findings = Vec::new();
    let up = word(target, "/agent_state") == Some("up");
    findings.push(Finding::new(
        "intermediate",
        &name,
        if up { "ok" } else { "fail" },
        format!("agent at {} is {}", at(target, "/agent"), at(target, "/agent_state")),
        "start the agent there; open its control port to this host; compare certificates (`doctor` on both)",
    ));
    if word(target, "/admin") != Some("ready") {
        let found = format!("ordered to be {}", at(target, "/admin"));
        findings.push(Finding::new(
            "intermediate",
            &name,
            "warn",
            found,
            "`baton undrain target NAME` takes it back",
        ));
    }
    for part in list(target, "/pools").filter(|part| word(part, "/standing") != Some("up")) {
        let last = at(part, "/last_check/failure");
        findings.push(Finding::new(
            "intermediate",
            &name,
            "warn",
            format!("{} in pool {}; last check: {last}", at(part, "/standing"), at(part, "/pool")),
            "look at the server; if it is well, compare the pool's health settings with what it answers",
        ));
    }
    for load in list(target, "/load") {
        if load.get("listening") == Some(&Value::Bool(false)) {
            findings.push(Finding::new(
                "intermediate",
                &name,
                "fail",
                format!("nothing listens at {} there", at(load, "/server")),
                "start the server; compare [[target]] and [[allow]] with the address and port it listens on",
            ));
        }
    }
    findings
}

async fn along_the_path(nodes: &Nodes, target: &str) -> Finding {
    let path = format!("/v1/targets/{}/probe?timeout_ms={}", escaped(target), PROBE.as_millis());
    let name = format!("path to {target}");
    match nodes.intermediate.post(&path, PROBE).await {
        Ok(answer) if answer.get("ok") == Some(&Value::Bool(true)) => Finding::new(
            "path",
            &name,
            "ok",
            format!(
                "a request from {} migrated and was answered {}",
                at(&answer, "/from"),
                at(&answer, "/status")
            ),
            "",
        ),
        Ok(answer) => Finding::new(
            "path",
            &name,
            "fail",
            at(&answer, "/reason"),
            "`baton capture` on both hosts shows where the packets end; docs: rp_filter, firewalls on one leg, MTU",
        ),
        // Not every site has a second agent to ask from.
        Err(e) => Finding::new("path", &name, "warn", format!("{e:#}"), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_target_without_agent_or_server_fails_and_says_how_to_mend_it() {
        let view = json!({ "name": "t1", "agent_state": "gone", "admin": "draining",
            "pools": [{ "standing": "failing", "pool": "web" }], "load": [{ "server": "a:1", "listening": false }] });
        let found = target(&view);
        let statuses: Vec<&str> = found.iter().map(|f| f.status.as_str()).collect();
        assert_eq!(statuses, ["fail", "warn", "warn", "fail"]);
        assert!(found.iter().all(|f| !f.mend.is_empty()));
        assert!(text(&found).contains("FAIL"));
    }
}
