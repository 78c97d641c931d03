//! Builds of the daemons with two version numbers, to upgrade from one to the other.

use netns_lab::command;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

/// What is upgraded from and to.
#[derive(Debug)]
pub struct Upgrade {
    /// The version that the lab's daemons say they have.
    pub from: String,
    /// The other's.
    pub to: String,
    /// Where the other's daemons are.
    pub build: PathBuf,
}

impl Upgrade {
    /// To the build in the directory that `BATON_UPGRADE_TO` names; else to copies of the lab's daemons, made in `scratch`,
    /// that differ in nothing but the number.
    ///
    /// # Errors
    /// When a build lacks a daemon, or its daemons' versions are not one, or both builds' are the same.
    pub fn new(scratch: &Path) -> io::Result<Upgrade> {
        let lab = |daemon: &str| command::built(daemon).map_err(io::Error::other);
        let from = one_version(lab)?;
        let build = match std::env::var_os("BATON_UPGRADE_TO") {
            Some(dir) => PathBuf::from(dir),
            None => {
                let next = next_version(&from);
                for daemon in DAEMONS {
                    let program = lab(daemon)?;
                    copy_as(&program, &scratch.join(daemon), &from, &next)?;
                }
                scratch.to_owned()
            }
        };
        let to = one_version(|daemon| Ok(build.join(daemon)))?;
        if from == to {
            return Err(io::Error::other(format!("{} is no other version than {from}", build.display())));
        }
        Ok(Upgrade { from, to, build })
    }
}

const DAEMONS: [&str; 2] = ["intermediate", "target-agent"];

/// The version of both daemons of a build.
fn one_version(program: impl Fn(&str) -> io::Result<PathBuf>) -> io::Result<String> {
    let [one, other] = DAEMONS.map(|daemon| version_of(program(daemon)?.as_os_str()));
    let (one, other) = (one?, other?);
    if one != other {
        return Err(io::Error::other(format!(
            "an intermediate {one} and a target-agent {other} are no build"
        )));
    }
    Ok(one)
}

/// The version that a daemon says it has.
fn version_of(program: &OsStr) -> io::Result<String> {
    let at = |what: String| io::Error::other(format!("{}: {what}", program.to_string_lossy()));
    let output = Command::new(program).arg("--version").output().map_err(|e| at(e.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.split_whitespace().nth(1).filter(|_| output.status.success());
    version.map(str::to_owned).ok_or_else(|| at(format!("{} says {said:?}", output.status)))
}

/// The version after this one, of as many bytes.
fn next_version(version: &str) -> String {
    let mut digits = version.to_owned();
    let last = digits.pop();
    digits.push(if last == Some('1') { '2' } else { '1' });
    digits
}

/// Copies a program, with another version's number wherever it has its own.
fn copy_as(from: &Path, to: &Path, old: &str, new: &str) -> io::Result<()> {
    let (old, new) = (old.as_bytes(), new.as_bytes());
    let mut program = fs::read(from)?;
    let mut at = 0;
    while let Some(rest) = program.get_mut(at..) {
        let Some(found) = rest.windows(old.len()).position(|bytes| bytes == old) else { break };
        if let Some(here) = rest.get_mut(found..found + old.len()) {
            here.copy_from_slice(new);
        }
        at += found + old.len();
    }
    fs::write(to, program)?;
    // Executable, as it was.
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}
