//! The example dashboard and alert rules: understood by Prometheus, and about metrics that the daemons show.

use baton_tests::skip;
use netns_lab::command;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;

const DASHBOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/grafana-dashboard.json");
const ALERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/prometheus-alerts.yml");

/// Everything below that has an `expr`.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("expr").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| expressions(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The dashboard's expressions with its variables filled in.
fn of_dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(DASHBOARD).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: HashSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "numbers of panels");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(panel["targets"].as_array().is_some_and(|all| !all.is_empty()), "{panel}");
    }
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let filled = found.iter().map(|e| e.replace("$__rate_interval", "5m").replace("$instance", ".*"));
    let filled: Vec<_> = filled.collect();
    assert!(filled.iter().all(|expression| !expression.contains('$')), "{filled:#?}");
    filled
}

/// The names of metrics in a text, and the labels with their values that stand behind each.
fn named(text: &str) -> HashMap<String, HashSet<(String, String)>> {
    let mut found: HashMap<String, HashSet<_>> = HashMap::new();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in text.match_indices("baton_") {
        if text[..at].ends_with(word) {
            continue;
        }
        let end = text[at..].find(|c| !word(c)).map_or(text.len(), |length| at + length);
        let labels = found.entry(text[at..end].to_owned()).or_default();
        let Some((inside, _)) = text[end..].strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            continue;
        };
        for matcher in inside.split(',') {
            let (name, value) = matcher.split_once('=').unwrap_or_else(|| panic!("{text}: {matcher}"));
            let compared = value.starts_with('"') && !name.ends_with('!');
            let value = if compared { value.trim_matches('"') } else { "" };
            labels.insert((name.trim_end_matches('!').to_owned(), value.to_owned()));
        }
    }
    found
}

#[test]
fn prometheus_understands_every_expression_of_dashboard_and_alerts() {
    if !skip::program("monitoring", "promtool") {
        return;
    }
    command::run("promtool", &["check", "rules", ALERTS]).unwrap();
    // Two rules of one name would be a mistake.
    let rule = |(number, e): (usize, &String)| json!({ "record": format!("panel{number}"), "expr": e });
    let rules: Vec<Value> = of_dashboard().iter().enumerate().map(rule).collect();
    assert!(rules.len() > 30, "{rules:?}");
    // JSON is YAML as well.
    let file = tempfile::NamedTempFile::new().unwrap();
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(file.path(), groups.to_string()).unwrap();
    command::run("promtool", &["check", "rules", &file.path().to_string_lossy()]).unwrap();
}

#[test]
fn the_runbook_has_a_row_for_each_alert_and_none_for_another() {
    let runbook = include_str!("../../../docs/runbook.md");
    let alerts = std::fs::read_to_string(ALERTS).unwrap();
    let alerts: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let row = |line: &'static str| line.strip_prefix("| **").and_then(|rest| rest.split("**").next());
    let rows: Vec<&str> = runbook.lines().filter_map(row).collect();
    assert_eq!(rows, alerts, "in the order of the file");
}

/// Holds the expressions against what the daemons show.
pub(crate) fn check(shown: &[String]) {
    let shown = shown.join("\n");
    let samples: Vec<&str> = shown.lines().filter(|line| !line.starts_with('#')).collect();
    let alerts = std::fs::read_to_string(Path::new(ALERTS)).unwrap();
    let rules = alerts.lines().filter(|line| !line.trim_start().starts_with('#'));
    let rules = rules.collect::<Vec<_>>().join("\n");
    for text in of_dashboard().iter().map(String::as_str).chain([rules.as_str()]) {
        for (metric, labels) in named(text) {
            let of =
                |line: &&&str| line.strip_prefix(&*metric).is_some_and(|rest| rest.starts_with(['{', ' ']));
            let mut lines = samples.iter().filter(of).peekable();
            assert!(lines.peek().is_some(), "no daemon shows {metric}, which is in {text}");
            let lines: Vec<_> = lines.collect();
            for (name, value) in labels.iter().filter(|(name, _)| name != "instance") {
                let label =
                    if value.is_empty() { format!("{name}=\"") } else { format!("{name}=\"{value}\"") };
                assert!(lines.iter().any(|line| line.contains(&label)), "{metric} has no {label}: {text}");
            }
        }
    }
}

#[test]
fn names_and_labels_are_found_in_an_expression() {
    let found =
        named("sum by (le) (rate(baton_x_bucket{stage=\"total\",le!=\"1\"}[5m])) / xbaton_y + baton_z");
    let mut names: Vec<_> = found.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["baton_x_bucket", "baton_z"]);
    let want = HashSet::from([("stage".to_owned(), "total".to_owned()), ("le".to_owned(), String::new())]);
    assert_eq!(found["baton_x_bucket"], want);
}
