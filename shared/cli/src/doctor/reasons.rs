//! Reasons for which packets were dropped and requests did not migrate.

use super::Finding;
use crate::endpoint::Node;
use crate::table::{number, word};
use serde_json::Value;
use std::time::Duration;

/// A reason is of the past if its count does not grow while this looks twice; one that grows is told louder.
const BETWEEN: Duration = Duration::from_secs(1);

/// Looks twice at each daemon; one that does not answer is told of as such.
pub(super) async fn look(reached: &[&Node]) -> Vec<Finding> {
    let mut before = Vec::new();
    let mut findings = Vec::new();
    for node in reached {
        match node.get("/v1/reasons").await {
            Ok(told) => before.push((*node, told)),
            Err(e) => findings.push(Finding::unanswered(&node.name, "reasons", &e)),
        }
    }
    if !before.is_empty() {
        tokio::time::sleep(BETWEEN).await;
    }
    for (node, before) in before {
        match node.get("/v1/reasons").await {
            Ok(now) => findings.extend(grown(&node.name, &before, &now)),
            Err(e) => findings.push(Finding::unanswered(&node.name, "reasons", &e)),
        }
    }
    findings
}

/// What a reason's count was, in an earlier answer.
fn earlier(before: &Value, family: &str, name: Option<&str>) -> u64 {
    let mut reasons = before.get(family).and_then(Value::as_array).into_iter().flatten();
    reasons.find(|reason| word(reason, "/name") == name).map_or(0, |reason| number(reason, "/count"))
}

/// Telling reasons that were counted, with how many since the answer before.
fn grown(node: &str, before: &Value, now: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (family, reasons) in now.as_object().into_iter().flatten() {
        for reason in reasons.as_array().into_iter().flatten() {
            let (count, name) = (number(reason, "/count"), word(reason, "/name"));
            if reason.get("telling") != Some(&Value::Bool(true)) || count == 0 {
                continue;
            }
            let more = count.saturating_sub(earlier(before, family, name));
            findings.push(Finding::new(
                node,
                &format!("{family} {}", name.unwrap_or_default()),
                "warn",
                if more > 0 { format!("{count}, and {more} more this second") } else { count.to_string() },
                word(reason, "/explanation").unwrap_or_default(),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_daemon_that_does_not_tell_its_reasons_is_a_finding_and_not_the_end() {
        let gone = |name: &str| Node { name: name.to_owned(), endpoint: "/nonexistent/admin.sock".into() };
        let found = look(&[&gone("a"), &gone("b")]).await;
        let said: Vec<_> = found.iter().map(|f| (f.host.as_str(), f.name.as_str())).collect();
        assert_eq!(said, [("a", "reasons"), ("b", "reasons")]);
        assert!(found.iter().all(|f| f.status == "warn" && f.found.contains("/nonexistent/admin.sock")));
    }

    #[test]
    fn what_was_counted_is_told_with_what_was_counted_since() {
        let told = |refused: u64| {
            json!({ "proxied": [
                { "name": "no_agent", "count": 3, "telling": true, "explanation": "none" },
                { "name": "refused", "count": refused, "telling": true, "explanation": "it said no" },
                { "name": "disabled", "count": 5, "telling": false, "explanation": "as ordered" },
            ], "packets": [{ "name": "translated", "count": 9, "telling": false }] })
        };
        let found = grown("front", &told(1), &told(5));
        let said: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.found.as_str())).collect();
        assert_eq!(said, [("proxied no_agent", "3"), ("proxied refused", "5, and 4 more this second")]);
    }
}
