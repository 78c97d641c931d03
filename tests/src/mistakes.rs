//! Tables of configuration mistakes: one change each to a file that is right, and what a daemon says of it.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::path::Path;
use std::process::{Command, Stdio};

/// What is replaced, by what (`+` as the first: what is appended), and what is said: `LINE:COL: ` and parts of the message.
pub type Mistake = (&'static str, &'static str, &'static str, &'static [&'static str]);

/// The file with one mistake in it.
///
/// # Panics
/// If what is to be replaced is not there.
pub fn made(right: &str, from: &str, to: &str) -> String {
    if from == "+" {
        return format!("{right}{to}\n");
    }
    assert!(right.contains(from), "{from:?} is not there");
    right.replacen(from, to, 1)
}

/// What `program` says of a file with this text, by `check` or `run`: its exit code, and its words.
///
/// # Panics
/// If it cannot be started.
pub fn says(program: &Path, verb: &str, dir: &Path, text: &str) -> (Option<i32>, String) {
    let file = dir.join("wrong.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(program);
    let output = command.args([verb, "--config"]).arg(&file).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
}

/// What is wrong with that; `None` if it is one line with its place and the words that help, and exit code 2.
pub fn unclear((from, to, at, parts): &Mistake, code: Option<i32>, said: &str) -> Option<String> {
    // A place in another file than the one that was given.
    let at = if at.contains(".toml:") { (*at).to_owned() } else { format!("wrong.toml:{at}") };
    let clear = code == Some(2)
        && said.lines().count() == 1
        && said.contains(&at)
        && parts.iter().all(|part| said.contains(part));
    (!clear).then(|| format!("{from:?} -> {to:?}\n  wanted {at} {parts:?}\n  {code:?} {said}"))
}
