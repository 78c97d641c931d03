//! What the daemons print of their configuration: the reference is the documentation's page, and the schema judges files as a
//! validator of the standard's reads it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use jsonschema::Validator;
use netns_lab::command;
use serde_json::{Value, json};
use std::process::Command;

const PAGE: &str = include_str!("../../docs/configuration-reference.md");

fn printed(daemon: &str, what: &str) -> String {
    let output = Command::new(command::built(daemon).unwrap()).args(["config", what]).output().unwrap();
    assert!(output.status.success(), "{daemon}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_configuration_reference_is_what_both_daemons_print() {
    let printed = ["intermediate", "target-agent"].map(|daemon| printed(daemon, "reference")).concat();
    let differ = printed.lines().zip(PAGE.lines()).find(|(printed, page)| printed != page);
    assert!(
        printed == PAGE,
        "docs/configuration-reference.md is out of date, first at {differ:?}; make it anew with: \
         (intermediate config reference; target-agent config reference) >docs/configuration-reference.md"
    );
}

/// The examples that come with the packages.
const WHOLE: [(&str, &str); 2] = [
    ("intermediate", include_str!("../../intermediate/package/intermediate.toml")),
    ("target-agent", include_str!("../../target-agent/package/target-agent.toml")),
];

/// Pages with pieces of files, and how many there are at least.
const PAGES: [(&str, &str, usize); 10] = [
    ("README.md", include_str!("../../README.md"), 4),
    ("configuration.md", include_str!("../../docs/configuration.md"), 2),
    ("install.md", include_str!("../../docs/install.md"), 1),
    ("tracing.md", include_str!("../../docs/tracing.md"), 1),
    ("access-log.md", include_str!("../../docs/access-log.md"), 1),
    ("tls.md", include_str!("../../docs/tls.md"), 3),
    ("adopt.md", include_str!("../../docs/adopt.md"), 1),
    ("admin.md", include_str!("../../docs/admin.md"), 1),
    ("userspace-plane.md", include_str!("../../docs/userspace-plane.md"), 1),
    ("proxying.md", include_str!("../../docs/proxying.md"), 1),
];

fn schema_of(daemon: &str) -> Validator {
    let schema: Value = serde_json::from_str(&printed(daemon, "schema")).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

fn read(toml: &str) -> Value {
    let table: toml::Table = toml::from_str(toml).unwrap_or_else(|e| panic!("{e}: {toml}"));
    serde_json::to_value(table).unwrap()
}

/// A whole file with a piece put in: each table of a list is one of the whole's with other keys.
fn with(whole: &Value, piece: &Value) -> Value {
    match (whole, piece) {
        (Value::Object(whole), Value::Object(piece)) => {
            let mut all = whole.clone();
            for (key, value) in piece {
                all.insert(key.clone(), with(whole.get(key).unwrap_or(&Value::Null), value));
            }
            Value::Object(all)
        }
        (Value::Array(whole), Value::Array(piece)) => {
            piece.iter().map(|item| with(whole.first().unwrap_or(&Value::Null), item)).collect()
        }
        _ => piece.clone(),
    }
}

/// The TOML in a page, also of those that are set in; what is under the other daemon's name is a piece of its own.
fn pieces(page: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.trim_start() {
            "```toml" => {
                inside = true;
                pieces.push(String::new());
            }
            "```" => inside = false,
            "# target-agent.toml" if inside => pieces.push(String::new()),
            text if inside => *pieces.last_mut().unwrap() += &format!("{text}\n"),
            _ => {}
        }
    }
    pieces
}

#[test]
fn a_validator_finds_every_example_right_by_the_schema() {
    let schemas = WHOLE.map(|(daemon, _)| schema_of(daemon));
    let wholes = WHOLE.map(|(_, text)| read(text));
    for (schema, whole) in schemas.iter().zip(&wholes) {
        schema.validate(whole).unwrap_or_else(|e| panic!("{}: {e}: {whole:#}", e.instance_path()));
    }
    for (name, page, least) in PAGES {
        let pieces = pieces(page);
        assert!(pieces.len() >= least, "{name}: {}", pieces.len());
        for text in pieces {
            let piece = read(&text);
            let is_agents = ["serve", "allow", "control"].iter().any(|key| piece.get(key).is_some());
            let (schema, whole) = (&schemas[usize::from(is_agents)], &wholes[usize::from(is_agents)]);
            let file = with(whole, &piece);
            schema.validate(&file).unwrap_or_else(|e| panic!("{name}: {}: {e}: {text}", e.instance_path()));
        }
    }
}

#[test]
fn a_validator_finds_mistakes_by_the_schema() {
    let mistakes: [(&str, Value, &str); 12] = [
        ("intermediate", json!({ "uplnk": "eth0" }), ""),
        ("intermediate", json!({ "listener": [{ "vipp": "192.0.2.1:80" }] }), "/listener/0"),
        ("intermediate", json!({ "listener": [{ "protocol": "htp" }] }), "/listener/0/protocol"),
        ("intermediate", json!({ "listener": [{ "keepalive": true }] }), "/listener/0/keepalive"),
        ("intermediate", json!({ "target": [{ "server": 80 }] }), "/target/0/server"),
        ("intermediate", json!({ "workers": "many" }), "/workers"),
        ("intermediate", json!({ "route": [{ "pool": "a", "hots": ["b"] }] }), "/route/0"),
        (
            "intermediate",
            json!({ "pool": [{ "name": "a", "targets": ["b"], "health": { "kind": "ping" } }] }),
            "/pool/0/health",
        ),
        ("intermediate", json!({ "pool": [{ "targets": ["b"] }] }), "/pool/0"),
        ("target-agent", json!({ "contol": "192.0.2.1:7400" }), ""),
        ("target-agent", json!({ "serve": { "way": "adapt" } }), "/serve/way"),
        ("target-agent", json!({ "allow": [{ "leg": 4 }] }), "/allow/0/leg"),
    ];
    for (daemon, piece, place) in mistakes {
        let (_, text) = WHOLE.into_iter().find(|(name, _)| *name == daemon).unwrap();
        let file = with(&read(text), &piece);
        let schema = schema_of(daemon);
        let places: Vec<String> = schema.iter_errors(&file).map(|e| e.instance_path().to_string()).collect();
        assert!(places.iter().any(|found| found == place), "{piece}: {places:?}, not {place:?}");
    }
}
