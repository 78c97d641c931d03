//! A headless Chromium on a node of the lab.

use crate::lab::TestLab;

/// What it writes to its standard output, started afresh with these words; the last is the page's address.
///
/// # Panics
/// If it does not end well within a minute.
#[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
pub fn browse(t: &TestLab, node: &str, more: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let profile = format!("--user-data-dir={}", dir.path().display());
    let fixed = [
        "timeout",
        "60",
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        &profile,
    ];
    t.lab.output(node, &[&fixed[..], more].concat()).unwrap()
}
