//! `baton status`.

use crate::Done;
use crate::endpoint::Nodes;
use crate::numbers::{age, now_ms, percent};
use crate::table::{Table, at, list, number};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::ExitCode;

pub(crate) async fn run(nodes: &Nodes, as_json: bool) -> Done {
    let status = nodes.intermediate.get("/v1/status").await?;
    let targets = nodes.intermediate.get("/v1/targets").await?;
    let mut agents = Vec::new();
    for node in &nodes.agents {
        let told = node.get("/v1/status").await;
        agents.push(match told {
            Ok(status) => status,
            Err(e) => json!({ "name": node.name, "error": format!("{e:#}") }),
        });
    }
    if as_json {
        println!(
            "{}",
            json!({ "intermediate": status, "targets": targets.get("targets"), "agents": agents })
        );
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", text(&status, &targets, &agents));
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Value, targets: &Value, agents: &[Value]) -> String {
    let up = age(now_ms().saturating_sub(number(status, "/started")));
    let requests = |outcome| number(status, &format!("/requests/{outcome}"));
    let (migrated, proxied, closed) = (requests("migrated"), requests("proxied"), requests("closed"));
    let all = migrated + proxied + closed;
    let mut out = format!(
        "intermediate {}: {}, up {up}, version {}, data plane {}\n",
        at(status, "/name"),
        at(status, "/state"),
        at(status, "/version"),
        at(status, "/data_plane"),
    );
    out += &format!(
        "  requests   {migrated} migrated ({}), {proxied} proxied, {closed} closed\n",
        percent(migrated, all)
    );
    out += &format!(
        "  flows      {} live, {} of {} slots in use, {} handoffs under way, {} packets held\n",
        number(status, "/flows/live"),
        number(status, "/flows/slots_used"),
        number(status, "/flows/slots"),
        number(status, "/handoffs_in_flight"),
        number(status, "/held_packets"),
    );
    out += &format!(
        "  own sockets {}; reloads {} applied, {} refused\n\n",
        number(status, "/connections"),
        number(status, "/reloads/applied"),
        number(status, "/reloads/refused"),
    );
    let mut listeners = Table::new(&["LISTENER", "VIP", "PROTOCOL", "STATE", "FLOWS"]);
    for l in list(status, "/listeners") {
        listeners.row(["/name", "/vip", "/protocol", "/state", "/flows"].map(|key| at(l, key)));
    }
    out += &listeners.text();
    out.push('\n');
    out += &super::show::target_table(targets).text();
    for agent in agents {
        out += &agent_text(agent);
    }
    out
}

fn agent_text(agent: &Value) -> String {
    if let Some(error) = agent.get("error") {
        return format!("\nagent {}: {}\n", at(agent, "/name"), super::table::cell(error));
    }
    let up = age(now_ms().saturating_sub(number(agent, "/started")));
    // One that hands off by several threads has a channel for each.
    let sessions: BTreeSet<String> =
        list(agent, "/sessions").map(|session| at(session, "/intermediate")).collect();
    format!(
        "\nagent {}: {}, up {up}, version {}, data plane {}\n  flows      {} live, {} of {} slots in use, {} taken since the start\n  connected  {}\n",
        at(agent, "/name"),
        at(agent, "/state"),
        at(agent, "/version"),
        at(agent, "/data_plane"),
        number(agent, "/flows/live"),
        number(agent, "/flows/slots_used"),
        number(agent, "/flows/slots"),
        number(agent, "/handoffs/migrated"),
        if sessions.is_empty() {
            "no intermediate".to_owned()
        } else {
            sessions.into_iter().collect::<Vec<_>>().join(", ")
        },
    )
}
