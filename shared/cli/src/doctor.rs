//! `baton doctor`: what both hosts find, what they say of each other, and the path between them.

mod between;
mod reasons;
mod targets;

use crate::Done;
use crate::endpoint::Nodes;
use crate::table::{Table, list, printable, word};
use between::{Told, between};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// For what a daemon looks at on other hosts.
const LOOK: Duration = Duration::from_secs(60);

/// One thing that was found.
struct Finding {
    host: String,
    name: String,
    /// `ok`, `warn` or `fail`.
    status: String,
    found: String,
    /// Empty if there is nothing to be done.
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

    /// A check that a daemon made itself.
    fn of(host: &str, check: &Value) -> Self {
        let part = |key| word(check, key).unwrap_or_default();
        Finding::new(host, part("/name"), part("/status"), part("/found"), part("/mend"))
    }

    /// A question that a daemon which is there did not answer: what else is found stands all the same.
    fn unanswered(host: &str, name: &str, error: &anyhow::Error) -> Self {
        let mend = "look into its log; ask again when it is less busy, and as a user who may (docs/admin.md)";
        Finding::new(host, name, "warn", format!("{error:#}"), mend)
    }
}

pub(crate) async fn run(nodes: &Nodes, as_json: bool, probe: Option<&str>) -> Done {
    let mut findings = Vec::new();
    let mut told = Vec::new();
    let mut reached = Vec::new();
    for node in nodes.all() {
        match Told::by(node).await {
            Ok(status) => {
                told.push(status);
                reached.push(node);
            }
            Err(e) => findings.push(Finding::new(
                &node.name,
                "daemon",
                "fail",
                format!("{e:#}"),
                "start it (its log says why it ended), or name its endpoint rightly",
            )),
        }
    }
    for node in &reached {
        match node.get_within("/v1/doctor", LOOK).await {
            Ok(told) => {
                findings.extend(list(&told, "/checks").map(|check| Finding::of(&node.name, check)));
            }
            Err(e) => findings.push(Finding::unanswered(&node.name, "doctor", &e)),
        }
    }
    findings.extend(between(&told));
    if reached.iter().any(|node| node.name == nodes.intermediate.name) {
        findings.extend(targets::look(nodes, probe).await);
    }
    findings.extend(reasons::look(&reached).await);
    if nodes.agents.is_empty() {
        findings.push(Finding::new(
            "this tool",
            "agents",
            "warn",
            "no agent was asked",
            "name their admin endpoints: --agent NAME=ENDPOINT, or BATON_AGENT",
        ));
    }
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
        table.row([status, &f.host, &f.name, &f.found].map(printable));
        if f.status != "ok" && !f.mend.is_empty() {
            let mend = format!("mend: {}", printable(&f.mend));
            table.row([String::new(), String::new(), String::new(), mend]);
        }
    }
    let count = |status: &str| findings.iter().filter(|f| f.status == status).count();
    format!("{}{} ok, {} to look at, {} failed\n", table.text(), count("ok"), count("warn"), count("fail"))
}
