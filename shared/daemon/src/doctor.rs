//! `doctor`: looks at what a daemon needs, and says of each thing what was found, why it matters and how to mend it.

mod host;
mod listening;
mod network;
mod peer;
mod route;

pub use host::{bpffs, btf, capabilities, capabilities_without_ebpf, kernel, tcp_repair, tcx, tun};
pub use network::{
    carried_rp_filter, connection_tracking, listen_address, offloads, rp_filter, uplink, ways_to_clients,
};
pub use peer::{certificates, peer};

use crate::tls::TlsFiles;
use baton_shared::control::Role;
use serde::Serialize;
use std::fmt::{self, Display, Write};
use std::path::Path;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// The daemon cannot do its work.
    Fail,
}

impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// How to mend it; shown unless it is ok.
    pub mend: String,
}

impl Check {
    /// A finished check.
    pub fn new(name: &str, status: Status, found: impl Into<String>, why: &str, mend: &str) -> Self {
        Check { name: name.into(), status, found: found.into(), why: why.into(), mend: mend.into() }
    }

    /// Ok with what was found, or failed with what went wrong.
    pub fn of(name: &str, result: Result<String, String>, why: &str, mend: &str) -> Self {
        match result {
            Ok(found) => Self::new(name, Status::Ok, found, why, mend),
            Err(found) => Self::new(name, Status::Fail, found, why, mend),
        }
    }
}

/// All that does not need a running peer, for either daemon; an agent looks for [`ways_to_clients`] besides.
pub fn common(role: Role, name: &str, uplink: &str, pin_dir: &Path, tls: &TlsFiles) -> Vec<Check> {
    let mut checks = vec![kernel(), btf(), tcx(), capabilities(), bpffs(pin_dir), tun()];
    if role == Role::Intermediate {
        checks.push(tcp_repair());
    }
    checks.extend([network::uplink(uplink), offloads(uplink), connection_tracking()]);
    if role == Role::Intermediate {
        checks.push(rp_filter(uplink, None));
    }
    checks.extend(certificates(tls, role, name));
    checks
}

/// As [`common`], for the data plane in user space.
pub fn common_without_ebpf(role: Role, name: &str, uplink: &str, tls: &TlsFiles) -> Vec<Check> {
    let mut checks = vec![kernel(), capabilities_without_ebpf(), tun()];
    if role == Role::Intermediate {
        checks.push(tcp_repair());
    }
    checks.extend([network::uplink(uplink), carried_rp_filter(role, uplink), connection_tracking()]);
    checks.extend(certificates(tls, role, name));
    checks
}

/// The checks as text for a terminal.
pub fn render(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{:<4}  {:<width$}  {}", check.status, check.name, check.found);
        let _ = writeln!(out, "      {:<width$}  why: {}", "", check.why);
        if check.status != Status::Ok {
            let _ = writeln!(out, "      {:<width$}  mend: {}", "", check.mend);
        }
    }
    let count = |status| checks.iter().filter(|c| c.status == status).count();
    let (ok, warn, fail) = (count(Status::Ok), count(Status::Warn), count(Status::Fail));
    let _ = writeln!(out, "{ok} ok, {warn} to look at, {fail} failed");
    out
}

/// 1 if any check failed, else 0.
pub fn exit_code(checks: &[Check]) -> u8 {
    u8::from(checks.iter().any(|c| c.status == Status::Fail))
}

/// Prints the checks to standard output and gives the exit code.
pub fn print(checks: &[Check]) -> u8 {
    print!("{}", render(checks));
    exit_code(checks)
}

#[cfg(test)]
mod tests;
