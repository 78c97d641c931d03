//! Lists: migrations, targets, reasons.

use crate::Done;
use crate::args::MigrationArgs;
use crate::endpoint::{Nodes, escaped, with_query};
use crate::numbers::{age, bytes, clock, micros, now_ms};
use crate::table::{Table, at, cell, list, number, printable, word};
use serde_json::{Value, json};
use std::process::ExitCode;

pub(crate) async fn migrations(nodes: &Nodes, as_json: bool, args: &MigrationArgs) -> Done {
    let query = [
        ("outcome", args.outcome.map(|outcome| outcome.name().to_owned())),
        ("target", args.target.clone()),
        ("reason", args.reason.clone()),
        ("client", args.client.clone()),
        ("limit", Some(args.limit.to_string())),
    ];
    let told = nodes.intermediate.get(&with_query("/v1/migrations", &query)).await?;
    if as_json {
        println!("{told}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        Table::new(&["STARTED", "OUTCOME", "REASON", "TARGET", "CLIENT", "VIP", "TOOK", "FLOW", "REQUEST"]);
    for m in list(&told, "/migrations") {
        let took = number(m, "/total_us");
        table.row([
            clock(number(m, "/started")),
            at(m, "/outcome"),
            why(m),
            at(m, "/target"),
            at(m, "/client"),
            at(m, "/vip"),
            if took == 0 { "-".to_owned() } else { micros(took) },
            at(m, "/id"),
            at(m, "/request"),
        ]);
        if args.stages {
            let stages = stages(m);
            if !stages.is_empty() {
                table.row([String::new(), stages]);
            }
        }
    }
    if table.is_empty() {
        println!("no such requests");
    } else {
        print!("{}", table.text());
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a request did not migrate: the most exact word there is.
pub(crate) fn why(migration: &Value) -> String {
    let words = ["/reason", "/refusal", "/rule"].map(|key| word(migration, key));
    let words: Vec<String> = words.into_iter().flatten().map(printable).collect();
    if words.is_empty() { cell(&Value::Null) } else { words.join("/") }
}

/// The stages as they follow one another; the agent's is a part of the handoff's.
const STAGES: [&str; 10] = [
    "accept_to_head",
    "decide",
    "freeze",
    "drain",
    "capture",
    "handoff",
    "agent",
    "commit",
    "release",
    "close",
];

/// Each stage with its time, in order.
pub(crate) fn stages(migration: &Value) -> String {
    let Some(stages) = migration.get("stages_us").and_then(Value::as_object) else { return String::new() };
    // A newer daemon may have further ones.
    let known = STAGES.iter().copied().filter(|name| stages.contains_key(*name));
    let others = stages.keys().map(String::as_str).filter(|name| !STAGES.contains(name));
    let took = |name: &str| stages.get(name).and_then(Value::as_u64).unwrap_or(0);
    let stages: Vec<String> =
        known.chain(others).map(|name| format!("{name} {}", micros(took(name)))).collect();
    stages.join(", ")
}

pub(crate) fn target_table(told: &Value) -> Table {
    let mut table = Table::new(&[
        "TARGET", "SERVER", "AGENT", "ORDER", "STANDING", "FLOWS", "IN HAND", "MIGRATED", "PROXIED", "SENT",
        "RTT",
    ]);
    for target in list(told, "/targets") {
        let standings: Vec<String> = list(target, "/pools")
            .map(|part| format!("{} in {}", at(part, "/standing"), at(part, "/pool")))
            .collect();
        let proxied: u64 = list(target, "/pools").map(|part| number(part, "/picks_proxied")).sum();
        let sent: u64 = list(target, "/load").map(|load| number(load, "/bytes")).sum();
        let server = if word(target, "/server").is_some() { "/server" } else { "/server6" };
        table.row([
            at(target, "/name"),
            at(target, server),
            at(target, "/agent_state"),
            at(target, "/admin"),
            if standings.is_empty() { "-".to_owned() } else { standings.join(", ") },
            at(target, "/flows"),
            at(target, "/in_hand"),
            at(target, "/migrated"),
            proxied.to_string(),
            bytes(sent),
            list(target, "/load")
                .map(|load| micros(number(load, "/rtt_us")))
                .next()
                .unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

pub(crate) async fn targets(nodes: &Nodes, as_json: bool, name: Option<&str>) -> Done {
    let told = match name {
        None => nodes.intermediate.get("/v1/targets").await?,
        Some(name) => {
            let one = nodes.intermediate.get(&format!("/v1/targets/{}", escaped(name))).await?;
            if as_json {
                println!("{one}");
                return Ok(ExitCode::SUCCESS);
            }
            json!({ "targets": [one] })
        }
    };
    if as_json {
        println!("{told}");
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", target_table(&told).text());
    if let (Some(_), Some(target)) = (name, told.pointer("/targets/0")) {
        println!();
        let mut parts = Table::new(&[
            "POOL",
            "STANDING",
            "CHECKED",
            "PASSIVE",
            "WEIGHT",
            "LATENCY",
            "CHECKS",
            "LAST CHECK",
        ]);
        for part in list(target, "/pools") {
            let last = match part.pointer("/last_check/at").and_then(Value::as_u64) {
                Some(when) => {
                    let failure = word(part, "/last_check/failure");
                    let how = failure.map_or_else(|| "passed".to_owned(), printable);
                    format!("{how}, {} ago", age(now_ms().saturating_sub(when)))
                }
                None => "-".to_owned(),
            };
            let mut checks =
                format!("{} passed, {} failed", at(part, "/checks_passed"), at(part, "/checks_failed"));
            if number(part, "/checks_untold") > 0 {
                checks += &format!(", {} untold", at(part, "/checks_untold"));
            }
            parts.row([
                at(part, "/pool"),
                at(part, "/standing"),
                at(part, "/checked"),
                at(part, "/passive"),
                at(part, "/weight"),
                micros(number(part, "/latency_us")),
                checks,
                last,
            ]);
        }
        print!("{}", parts.text());
        for load in list(target, "/load") {
            println!(
                "\nserver {}: {}, accept queue {} of {}, {} dropped there; {} handoffs refused, {} of {} flows reset by it, {} of {} segments sent again",
                at(load, "/server"),
                if load.get("listening") == Some(&json!(true)) { "listens" } else { "DOES NOT LISTEN" },
                at(load, "/accept_queue"),
                at(load, "/accept_limit"),
                at(load, "/listen_drops"),
                at(load, "/refused"),
                at(load, "/resets"),
                at(load, "/ended"),
                at(load, "/retransmitted"),
                at(load, "/segments"),
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn reasons(nodes: &Nodes, as_json: bool, all: bool) -> Done {
    let mut told = serde_json::Map::new();
    for node in nodes.all() {
        told.insert(node.name.clone(), node.get("/v1/reasons").await?);
    }
    if as_json {
        println!("{}", Value::Object(told));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["HOST", "OF", "REASON", "COUNT", "WHAT IT MEANS"]);
    for (node, families) in &told {
        for (family, reasons) in families.as_object().into_iter().flatten() {
            for reason in reasons.as_array().into_iter().flatten() {
                if all || number(reason, "/count") > 0 {
                    table.row([
                        node.clone(),
                        family.clone(),
                        at(reason, "/name"),
                        at(reason, "/count"),
                        at(reason, "/explanation"),
                    ]);
                }
            }
        }
    }
    print!("{}", table.text());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_told_in_the_order_they_happen() {
        let migration = json!({ "stages_us": { "agent": 3, "freeze": 1, "later": 9, "handoff": 20_000 } });
        assert_eq!(stages(&migration), "freeze 1 us, handoff 20 ms, agent 3 us, later 9 us");
        assert_eq!(stages(&json!({})), "");
    }

    #[test]
    fn the_most_exact_word_is_told() {
        assert_eq!(
            why(&json!({ "reason": "refused", "refusal": "table_full", "rule": null })),
            "refused/table_full"
        );
        assert_eq!(why(&json!({ "reason": null })), "-");
    }
}
