//! `baton doctor`: what both hosts find, what they say of each other, and the path between them.

use crate::Done;
use crate::endpoint::{Nodes, escaped};
use crate::numbers::now_ms;
use crate::table::{Table, at, list, number};
use anyhow::Result;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// For a probe of one target.
const PROBE: Duration = Duration::from_secs(10);
/// A reason is of the past if its count does not grow while this looks twice; one that grows is told louder.
const BETWEEN: Duration = Duration::from_secs(1);

/// One thing that was found.
struct Finding {
    host: String,
    name: String,
    /// `ok`, `warn` or `fail`.
    status: String,
    found: String,
    mend: String,
}

impl Finding {
    fn new(host: &str, name: &str, status: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding {
            host: host.to_owned(),
            name: name.to_owned(),
            status: status.to_owned(),
            found: found.into(),
            mend: mend.into(),
        }
    }
}

pub(crate) async fn run(nodes: &Nodes, as_json: bool, probe: bool) -> Done {
    let mut findings = Vec::new();
    let mut versions = Vec::new();
    for node in nodes.all() {
        match node.get("/v1/status").await {
            Ok(status) => versions.push((node.name.clone(), status)),
            Err(e) => findings.push(Finding::new(
                &node.name,
                "daemon",
                "fail",
                format!("{e:#}"),
                "start it (its log says why it ended), or name its endpoint rightly",
            )),
        }
    }
    let reached: Vec<_> =
        nodes.all().filter(|node| versions.iter().any(|(name, _)| *name == node.name)).collect();
    for node in &reached {
        match node.get("/v1/doctor").await {
            Ok(told) => findings.extend(list(&told, "/checks").map(|check| {
                Finding::new(
                    &node.name,
                    &at(check, "/name"),
                    &at(check, "/status"),
                    at(check, "/found"),
                    at(check, "/mend"),
                )
            })),
            Err(e) => findings.push(Finding::new(&node.name, "doctor", "warn", format!("{e:#}"), "")),
        }
    }
    findings.extend(between(&versions));
    if let Ok(told) = nodes.intermediate.get("/v1/targets").await {
        findings.extend(list(&told, "/targets").flat_map(target));
        if probe {
            for target in list(&told, "/targets") {
                findings.push(along_the_path(nodes, &at(target, "/name")).await);
            }
        }
    }
    findings.extend(drops(nodes, &reached).await?);
    let failed = findings.iter().any(|finding| finding.status == "fail");
    if as_json {
        let all: Vec<Value> = findings
            .iter()
            .map(|f| json!({ "host": f.host, "name": f.name, "status": f.status, "found": f.found, "mend": f.mend }))
            .collect();
        println!("{}", json!({ "findings": all }));
    } else {
        print!("{}", text(&findings));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(findings: &[Finding]) -> String {
    let mut table = Table::new(&["", "HOST", "WHAT", "FOUND"]);
    for f in findings {
        let status = if f.status == "fail" { "FAIL" } else { f.status.as_str() };
        table.row([status.to_owned(), f.host.clone(), f.name.clone(), f.found.clone()]);
        if f.status != "ok" && !f.mend.is_empty() && f.mend != "-" {
            table.row([String::new(), String::new(), String::new(), format!("mend: {}", f.mend)]);
        }
    }
    let count = |status: &str| findings.iter().filter(|f| f.status == status).count();
    format!("{}{} ok, {} to look at, {} failed\n", table.text(), count("ok"), count("warn"), count("fail"))
}

/// What the daemons say of each other.
fn between(versions: &[(String, Value)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some((front, intermediate)) =
        versions.iter().find(|(_, status)| at(status, "/daemon") == "intermediate")
    else {
        return findings;
    };
    for (name, agent) in versions.iter().filter(|(_, status)| at(status, "/daemon") == "target-agent") {
        let same = number(agent, "/protocol") == number(intermediate, "/protocol");
        findings.push(Finding::new(
            name,
            "protocol",
            if same { "ok" } else { "fail" },
            format!(
                "version {} here, {} on {front} (software {} and {})",
                number(agent, "/protocol"),
                number(intermediate, "/protocol"),
                at(agent, "/version"),
                at(intermediate, "/version")
            ),
            "run the same release on both hosts",
        ));
        let connected = list(agent, "/sessions").any(|s| at(s, "/intermediate") == at(intermediate, "/name"));
        findings.push(Finding::new(
            name,
            "control channel",
            if connected { "ok" } else { "fail" },
            if connected { format!("{front} is connected") } else { format!("{front} is not connected") },
            "see the two logs: a refused certificate, a wrong [[target]] agent address, a firewall on the control port",
        ));
        if list(agent, "/sessions").any(|s| s.get("allowed") == Some(&Value::Bool(false))) {
            findings.push(Finding::new(
                name,
                "allow",
                "fail",
                "a connected intermediate is named in no [[allow]]",
                "name it there, with the VIP and the server it may hand over to",
            ));
        }
        let ahead = i128::from(number(agent, "/started")) - i128::from(now_ms());
        if ahead > 1000 {
            findings.push(Finding::new(
                name,
                "clock",
                "warn",
                format!("it was started {} s in the future by this host's clock", ahead / 1000),
                "synchronise the clocks: certificates and captures go by them",
            ));
        }
    }
    for (name, status) in versions {
        let (used, slots) = (number(status, "/flows/slots_used"), number(status, "/flows/slots"));
        if slots > 0 {
            let full = used.saturating_mul(10) >= slots.saturating_mul(9);
            findings.push(Finding::new(
                name,
                "flow table",
                if full { "warn" } else { "ok" },
                format!("{used} of {slots} slots in use"),
                "raise plane.flows: connections that find no slot are proxied",
            ));
        }
    }
    findings
}

/// What the intermediate sees of a target.
fn target(target: &Value) -> Vec<Finding> {
    let name = format!("target {}", at(target, "/name"));
    let mut findings = Vec::new();
    let up = at(target, "/agent_state") == "up";
    findings.push(Finding::new(
        "intermediate",
        &name,
        if up { "ok" } else { "fail" },
        format!("agent at {} is {}", at(target, "/agent"), at(target, "/agent_state")),
        "start the agent there; open its control port to this host; compare certificates (`doctor` on both)",
    ));
    if at(target, "/admin") != "ready" {
        let found = format!("ordered to be {}", at(target, "/admin"));
        findings.push(Finding::new(
            "intermediate",
            &name,
            "warn",
            found,
            "`baton undrain target NAME` takes it back",
        ));
    }
    for part in list(target, "/pools").filter(|part| at(part, "/standing") != "up") {
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

/// Drops, refusals and reasons not to migrate: those that grow now are told first.
async fn drops(nodes: &Nodes, reached: &[&crate::endpoint::Node]) -> Result<Vec<Finding>> {
    let mut before = Vec::new();
    for node in reached {
        before.push(node.get("/v1/reasons").await?);
    }
    tokio::time::sleep(BETWEEN).await;
    let mut findings = Vec::new();
    for (node, before) in reached.iter().zip(&before) {
        let now = node.get("/v1/reasons").await?;
        for (family, reasons) in now.as_object().into_iter().flatten() {
            for (n, reason) in reasons.as_array().into_iter().flatten().enumerate() {
                let is_bad = match family.as_str() {
                    "packets" => reason.get("drop") == Some(&Value::Bool(true)),
                    "refused" | "recalls_refused" | "proxied" | "closed" => true,
                    _ => false,
                };
                let count = number(reason, "/count");
                if !is_bad || count == 0 {
                    continue;
                }
                let grown = count.saturating_sub(number(before, &format!("/{family}/{n}/count")));
                findings.push(Finding::new(
                    &node.name,
                    &format!("{family} {}", at(reason, "/name")),
                    "warn",
                    if grown > 0 {
                        format!("{count}, and {grown} more this second")
                    } else {
                        count.to_string()
                    },
                    at(reason, "/explanation"),
                ));
            }
        }
    }
    if nodes.agents.is_empty() {
        findings.push(Finding::new(
            "this tool",
            "agents",
            "warn",
            "no agent was asked",
            "name their admin endpoints: --agent NAME=ENDPOINT, or BATON_AGENT",
        ));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemons_say_of_each_other_is_compared() {
        let front = |protocol: u64| {
            (
                "front".to_owned(),
                json!({ "daemon": "intermediate", "name": "front", "protocol": protocol,
                "flows": { "slots": 10, "slots_used": 9 } }),
            )
        };
        let agent = |protocol: u64, of: &str| {
            (
                "t1".to_owned(),
                json!({ "daemon": "target-agent", "protocol": protocol,
                "sessions": [{ "intermediate": of, "allowed": of == "front" }] }),
            )
        };
        let failed = |versions: &[(String, Value)]| {
            let found = between(versions);
            found.into_iter().filter(|f| f.status != "ok").map(|f| f.name).collect::<Vec<_>>()
        };
        assert_eq!(failed(&[front(3), agent(3, "front")]), ["flow table"]);
        assert_eq!(failed(&[front(3), agent(2, "front")]), ["protocol", "flow table"]);
        assert_eq!(failed(&[front(3), agent(3, "other")]), ["control channel", "allow", "flow table"]);
    }

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
