//! What the intermediate sees of the targets, and the path to each.

use super::Finding;
use crate::endpoint::{Nodes, escaped, with_query};
use crate::table::{at, list, word};
use baton_shared::probe::Verdict;
use serde_json::Value;
use std::time::Duration;
use tokio::task::JoinSet;

/// For a probe of one target: one that takes longer is worth being told of.
const PROBE: Duration = Duration::from_secs(3);

/// All targets.
pub(super) async fn look(nodes: &Nodes, probe: Option<&str>) -> Vec<Finding> {
    let told = match nodes.intermediate.get("/v1/targets").await {
        Ok(told) => told,
        Err(e) => return vec![Finding::unanswered(&nodes.intermediate.name, "targets", &e)],
    };
    let mut findings: Vec<Finding> = list(&told, "/targets").flat_map(target).collect();
    if let Some(path) = probe {
        // All at once: each may have to wait for an answer that does not come.
        let mut probes = JoinSet::new();
        for (place, name) in list(&told, "/targets").filter_map(|target| word(target, "/name")).enumerate() {
            let (nodes, name, path) = (nodes.clone(), name.to_owned(), path.to_owned());
            probes.spawn(async move { (place, along_the_path(&nodes, &name, &path).await) });
        }
        let mut probed = probes.join_all().await;
        probed.sort_by_key(|(place, _)| *place);
        findings.extend(probed.into_iter().map(|(_, finding)| finding));
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

/// A probe's answer, or what the intermediate says instead.
async fn ask(nodes: &Nodes, target: &str, asked: &str) -> anyhow::Result<Value> {
    let query = [("path", Some(asked.to_owned())), ("timeout_ms", Some(PROBE.as_millis().to_string()))];
    let order = with_query(&format!("/v1/targets/{}/probe", escaped(target)), &query);
    nodes.intermediate.post(&order, PROBE).await
}

async fn along_the_path(nodes: &Nodes, target: &str, asked: &str) -> Finding {
    match ask(nodes, target, asked).await {
        Ok(answer) if is_good(&answer) => arrived(target, &answer),
        // What stands in the way of large packets lets small ones pass.
        Ok(answer) if asked != "/" => {
            let small = ask(nodes, target, "/").await.ok();
            lost(target, &answer, small.as_ref().is_some_and(is_good))
        }
        Ok(answer) => lost(target, &answer, false),
        // Not every site has a second agent to ask from.
        Err(e) => {
            let mend = "a probe needs an agent on another host than the target's; `baton probe URL` asks from a client's host";
            Finding::new("path", &format!("path to {target}"), "warn", format!("{e:#}"), mend)
        }
    }
}

fn verdict(answer: &Value) -> Option<Verdict> {
    word(answer, "/verdict").and_then(Verdict::from_name)
}

fn is_good(answer: &Value) -> bool {
    verdict(answer).is_some_and(Verdict::is_of_a_good_path)
}

fn arrived(target: &str, answer: &Value) -> Finding {
    let found =
        format!("a request from {} migrated and was answered {}", at(answer, "/from"), at(answer, "/status"));
    Finding::new("path", &format!("path to {target}"), "ok", found, "")
}

/// What an answer that did not come tells of the path. `small`: one in a single packet did come.
fn lost(target: &str, answer: &Value, small: bool) -> Finding {
    let reason = at(answer, "/reason");
    let (found, mend) = match verdict(answer) {
        Some(Verdict::Begun | Verdict::Silent) if small => (
            format!("{reason}: it migrated, and small answers arrive; this one does not"),
            "a link with a smaller MTU, and its ICMP errors do not arrive: `tracepath` from the target to the client; let ICMP \
             \"fragmentation needed\" pass, raise that link's MTU, or set net.ipv4.tcp_mtu_probing=1 on the target",
        ),
        Some(Verdict::Begun) => (
            format!("{reason}: it migrated, the answer began and did not end"),
            "the client's acknowledgements do not reach the target: a firewall with connection tracking, or a router's rp_filter, \
             on the way from intermediate to target (docs/deployment.md, an encapsulated leg cures it); or a smaller MTU",
        ),
        Some(Verdict::Silent) => (
            format!("{reason}: it migrated, and not a byte came back"),
            "what the target sends with the VIP as its source is dropped on the way to the client: a router with strict rp_filter \
             (uRPF), a filter of sources, or the target's route: sysctl net.ipv4.conf.all.rp_filter=2 on the router \
             (docs/deployment.md)",
        ),
        Some(Verdict::Unanswered) => (
            reason,
            "look at the target: its agent hangs or waits for its server, whose accept queue is full, or a firewall or rp_filter \
             there drops what the agent sends to it",
        ),
        Some(Verdict::Unreported) => {
            (reason, "look at the agent that was to ask: its log, its control channel, its clock")
        }
        _ => (reason, "see the reason below and in docs/runbook.md"),
    };
    Finding::new("path", &format!("path to {target}"), "fail", found, mend)
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;
    use serde_json::json;

    #[test]
    fn of_an_answer_that_does_not_come_it_is_told_where_it_may_be_lost() {
        let late = "no complete answer within 10000 ms";
        let answer = |verdict: &str, reason: &str| json!({ "verdict": verdict, "reason": reason, "from": "t2", "status": 404 });
        let whole = answer("status", "the answer's status is 404");
        assert!(is_good(&whole) && arrived("t1", &whole).status == "ok");
        for verdict in ["not_migrated", "unanswered", "begun", "silent", "unreported", "of tomorrow"] {
            assert!(!is_good(&answer(verdict, late)), "{verdict}");
        }
        for (lost, word) in [
            (lost("t1", &answer("silent", late), false), "not a byte came back"),
            (lost("t1", &answer("begun", late), false), "began and did not end"),
            (lost("t1", &answer("silent", late), true), "small answers arrive"),
            (lost("t1", &answer("not_migrated", "no_agent"), true), "no_agent"),
            (lost("t1", &answer("unanswered", "did not answer"), true), "did not answer"),
            (lost("t1", &answer("unreported", "did not report"), true), "did not report"),
        ] {
            assert!(
                lost.status == "fail" && lost.found.contains(word) && !lost.mend.is_empty(),
                "{}",
                lost.found
            );
        }
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
