//! The documentation's table of faults: each row names a test that exists.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::path::Path;

/// `file::function` of each row; rows without one are an error.
fn tests_of(table: &str) -> Vec<(&str, &str)> {
    let rows = table.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| Fault "));
    rows.map(|row| {
        let cell = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        let name = cell.strip_prefix('`').and_then(|c| c.strip_suffix('`'));
        name.and_then(|n| n.split_once("::")).unwrap_or_else(|| panic!("no test in: {row}"))
    })
    .collect()
}

fn exists(file: &str, function: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file).with_extension("rs");
    std::fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("#[test]\nfn {function}() {{")))
}

#[test]
fn each_row_names_a_test_that_exists() {
    let doc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/faults.md");
    let table = std::fs::read_to_string(doc).unwrap();
    let tests = tests_of(&table);
    assert!(tests.len() > 15, "only {} rows were found", tests.len());
    for (file, function) in tests {
        assert!(exists(file, function), "there is no test {file}::{function}");
    }
}

#[test]
fn a_row_that_names_no_test_is_found() {
    let table = "| Fault | x | Test |\n|---|---|---|\n| a | b | `faults::nothing_of_that_name` |\n";
    assert_eq!(tests_of(table), [("faults", "nothing_of_that_name")]);
    assert!(!exists("faults", "nothing_of_that_name"));
}
