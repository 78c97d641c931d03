//! The page on the configuration names every key there is, and its example is right.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use intermediate::config::Config;
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/configuration.md");

/// All keys of all tables.
fn keys(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                found.extend(properties.keys().cloned());
            }
            map.values().for_each(|value| keys(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn every_key_is_named() {
    let mut found = Vec::new();
    keys(&serde_json::to_value(schemars::schema_for!(Config)).unwrap(), &mut found);
    assert!(found.len() > 60, "{found:?}");
    let named = |key: &str| {
        [
            format!("`{key}`"),
            format!("`[{key}]`"),
            format!("`[[{key}]]`"),
            format!(".{key}]`"),
            format!(".{key}]]`"),
        ]
        .iter()
        .any(|form| PAGE.contains(form.as_str()))
    };
    let missing: Vec<_> = found.iter().filter(|key| !named(key)).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not name {missing:?}");
}

#[test]
fn the_example_is_right_but_for_what_this_host_lacks() {
    let example = PAGE.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("example.toml");
    std::fs::write(&path, example.replace("eth0", "lo")).unwrap();
    let error = Config::load(&path).unwrap_err();
    assert_eq!(error.lines.len(), 1, "{error}");
    assert!(error.lines[0].contains("/etc/baton/ca.pem"), "{error}");
}
