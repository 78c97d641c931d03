//! The table in the documentation and the rows here are the same.

use crate::GROUPS;
use std::collections::BTreeSet;

/// Rows of the document's tables: those whose first cell is a test's name in back quotes.
fn documented(text: &str) -> Vec<(String, Vec<String>)> {
    let cells = |line: &str| {
        let line = line.strip_prefix('|')?.strip_suffix('|')?;
        Some(line.split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>())
    };
    text.lines()
        .filter_map(cells)
        .filter_map(|cells| {
            let name = cells.first()?.strip_prefix('`')?.strip_suffix('`')?.to_owned();
            Some((name, cells.get(1..)?.to_vec()))
        })
        .collect()
}

#[test]
fn every_row_of_the_document_has_its_test_and_every_test_its_row() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tcp-states.md")).unwrap();
    let rows = documented(&text);
    let named: BTreeSet<_> = rows.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(named.len(), rows.len(), "a row stands there twice");
    let tests: BTreeSet<_> = GROUPS
        .iter()
        .flat_map(|(group, a, b)| a.iter().chain(*b).map(move |(name, _)| format!("{group}::{name}")))
        .collect();
    let without_test: Vec<_> = named.difference(&tests).collect();
    let without_row: Vec<_> = tests.difference(&named).collect();
    assert!(without_test.is_empty(), "rows without a test: {without_test:?}");
    assert!(without_row.is_empty(), "tests without a row: {without_row:?}");
    for (name, cells) in rows {
        assert!(cells.len() == 2 && cells.iter().all(|c| !c.is_empty()), "{name}: done, and expected");
    }
}

#[test]
fn only_named_rows_count() {
    let text = "| test | done |\n|---|---|\n| `a::b` | x | y |\ntext `c::d`\n| `e::f` | z |\n";
    assert_eq!(
        documented(text).iter().map(|(n, c)| (n.as_str(), c.len())).collect::<Vec<_>>(),
        [("a::b", 2), ("e::f", 1)]
    );
}
