//! What the daemons say of each other, and of themselves.

use super::Finding;
use crate::endpoint::Node;
use crate::numbers::{age, now_ms};
use crate::table::{at, list, number, word};
use anyhow::Result;
use serde_json::Value;

/// Clocks that differ by less than this are told as well, ms.
const CLOCKS: i128 = 1000;

/// A daemon's status, and by what this host's clock it was told.
pub(super) struct Told {
    node: String,
    status: Value,
    asked_ms: u64,
    answered_ms: u64,
}

impl Told {
    pub(super) async fn by(node: &Node) -> Result<Self> {
        let asked_ms = now_ms();
        let status = node.get("/v1/status").await?;
        Ok(Told { node: node.name.clone(), status, asked_ms, answered_ms: now_ms() })
    }

    fn is(&self, daemon: &str) -> bool {
        word(&self.status, "/daemon") == Some(daemon)
    }

    /// By how much its clock is ahead of this host's: least and most, ms.
    fn ahead(&self) -> Option<(i128, i128)> {
        let now = i128::from(self.status.get("now")?.as_u64()?);
        Some((now - i128::from(self.answered_ms), now - i128::from(self.asked_ms)))
    }
}

/// Of two daemons, whether the clocks can be the same; whatever the clock of this host says.
fn clock(front: &Told, agent: &Told) -> Option<Finding> {
    let (front_least, front_most) = front.ahead()?;
    let (least, most) = agent.ahead()?;
    // What lies between the answers cannot be told from a difference.
    let (least, most) = (least - front_most, most - front_least);
    let (off, word) = if least > CLOCKS {
        (least, "ahead of")
    } else if most < -CLOCKS {
        (-most, "behind")
    } else {
        return Some(Finding::new(&agent.node, "clock", "ok", format!("as that of {}", front.node), ""));
    };
    let off = age(u64::try_from(off).unwrap_or(u64::MAX));
    Some(Finding::new(
        &agent.node,
        "clock",
        "warn",
        format!("at least {off} {word} that of {}", front.node),
        "synchronise the clocks of both hosts (chrony, systemd-timesyncd): certificates and captures go by them",
    ))
}

/// What the daemons say of each other.
pub(super) fn between(told: &[Told]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(front) = told.iter().find(|told| told.is("intermediate")) {
        for agent in told.iter().filter(|told| told.is("target-agent")) {
            findings.extend(pair(front, agent));
        }
    }
    findings.extend(told.iter().filter_map(flow_table));
    findings.extend(told.iter().filter_map(data_plane));
    findings
}

fn pair(front: &Told, agent: &Told) -> Vec<Finding> {
    let (name, here, there) = (&agent.node, &agent.status, &front.status);
    let mut findings = Vec::new();
    let same = number(here, "/protocol") == number(there, "/protocol");
    findings.push(Finding::new(
        name,
        "protocol",
        if same { "ok" } else { "fail" },
        format!(
            "version {} here, {} on {} (software {} and {})",
            number(here, "/protocol"),
            number(there, "/protocol"),
            front.node,
            at(here, "/version"),
            at(there, "/version")
        ),
        "run the same release on both hosts",
    ));
    let front_name = word(there, "/name");
    let session = |s: &Value| front_name.is_some() && word(s, "/intermediate") == front_name;
    let connected = list(here, "/sessions").any(session);
    findings.push(Finding::new(
        name,
        "control channel",
        if connected { "ok" } else { "fail" },
        format!("{} is {}connected", front.node, if connected { "" } else { "not " }),
        "see the two logs: a refused certificate, a wrong [[target]] agent address, a firewall on the control port",
    ));
    if list(here, "/sessions").any(|s| s.get("allowed") == Some(&Value::Bool(false))) {
        findings.push(Finding::new(
            name,
            "allow",
            "fail",
            "a connected intermediate is named in no [[allow]]",
            "name it there, with the VIP and the server it may hand over to",
        ));
    }
    findings.extend(clock(front, agent));
    findings
}

fn flow_table(told: &Told) -> Option<Finding> {
    let (used, slots) = (number(&told.status, "/flows/slots_used"), number(&told.status, "/flows/slots"));
    let full = used.saturating_mul(10) >= slots.saturating_mul(9);
    (slots > 0).then(|| {
        Finding::new(
            &told.node,
            "flow table",
            if full { "warn" } else { "ok" },
            format!("{used} of {slots} slots in use"),
            "raise plane.flows: connections that find no slot are proxied",
        )
    })
}

/// How the programs are attached, as a fact of the running daemon: what the kernel could do is another question.
fn data_plane(told: &Told) -> Option<Finding> {
    let (status, found, mend) = match word(&told.status, "/data_plane")? {
        "tcx" => ("ok", "eBPF programs, attached by TCX", ""),
        "clsact" => (
            "warn",
            "eBPF programs, attached by clsact: the kernel has no TCX (before 6.6); adopting needs it",
            "all migrates, with replayed handshakes; no other tool may remove the qdisc clsact or its filters. Linux 6.9 has all",
        ),
        "userspace" => ("ok", "in user space: plane.kind = \"userspace\"", ""),
        _ => return None,
    };
    Some(Finding::new(&told.node, "data plane", status, found, mend))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(node: &str, status: Value) -> Told {
        Told { node: node.to_owned(), status, asked_ms: 5_000_000, answered_ms: 5_000_400 }
    }

    #[test]
    fn what_the_daemons_say_of_each_other_is_compared() {
        let front = |protocol: u64| {
            let flows = json!({ "slots": 10, "slots_used": 9 });
            told(
                "front",
                json!({ "daemon": "intermediate", "name": "front", "protocol": protocol, "flows": flows }),
            )
        };
        let agent = |protocol: u64, of: &str| {
            let sessions = json!([{ "intermediate": of, "allowed": of == "front" }]);
            told("t1", json!({ "daemon": "target-agent", "protocol": protocol, "sessions": sessions }))
        };
        let failed = |told: &[Told]| {
            let found = between(told);
            found.into_iter().filter(|f| f.status != "ok").map(|f| f.name).collect::<Vec<_>>()
        };
        assert_eq!(failed(&[front(3), agent(3, "front")]), ["flow table"]);
        assert_eq!(failed(&[front(3), agent(2, "front")]), ["protocol", "flow table"]);
        assert_eq!(failed(&[front(3), agent(3, "other")]), ["control channel", "allow", "flow table"]);
        let nameless = told("front", json!({ "daemon": "intermediate", "protocol": 3 }));
        assert!(
            failed(&[nameless, agent(3, "-")]).contains(&"control channel".to_owned()),
            "no name is nobody's"
        );
    }

    #[test]
    fn clocks_are_compared_with_each_other_and_not_with_when_something_was_started() {
        let found = |front: u64, agent: u64| {
            let front = told("front", json!({ "daemon": "intermediate", "now": front, "started": 1 }));
            let agent = told("t1", json!({ "daemon": "target-agent", "now": agent, "started": 1 }));
            let clock = between(&[front, agent]).into_iter().find(|f| f.name == "clock").unwrap();
            (clock.status, clock.found)
        };
        let is = |status: &str, found: &str| (status.to_owned(), found.to_owned());
        assert_eq!(found(5_000_200, 5_000_300), is("ok", "as that of front"));
        assert_eq!(found(5_000_000, 5_001_390), is("ok", "as that of front"), "the questions took as long");
        // This tool's host is the one that is wrong.
        assert_eq!(found(9_000_200, 9_000_300), is("ok", "as that of front"));
        assert_eq!(found(5_000_200, 8_600_600), is("warn", "at least 60 min ahead of that of front"));
        assert_eq!(found(5_000_200, 4_969_800), is("warn", "at least 30 s behind that of front"));
    }
}
