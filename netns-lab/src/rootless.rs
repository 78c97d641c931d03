//! A lab without root: in a user namespace of its own, with network namespaces and mounts of its own in it.
//!
//! The user is root in there and nowhere else. It needs a kernel that lets ordinary users make user namespaces, and a
//! `/dev/net/tun` that they may open, which is how udev leaves it.

use crate::command;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Set for the program that runs inside.
const INSIDE: &str = "BATON_LAB_ROOTLESS";

/// Goes on inside. The first time it does not come back but replaces this process with another run of it, which then
/// finds itself inside.
///
/// # Errors
/// When the machine does not let this user do it.
pub fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        // What labs keep in these is seen by nobody else, and goes with the last process.
        for place in ["/run", "/var/lib"] {
            command::run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", place])?;
        }
        return Ok(());
    }
    let tun = "/dev/net/tun";
    if let Err(e) = File::options().read(true).write(true).open(tun) {
        bail!("{tun}: {e}; without root it must be open to all, as udev makes it: chmod 666 {tun}");
    }
    let unshare = command::find("unshare")?;
    let mut command = Command::new(unshare);
    command.args(["--user", "--map-root-user", "--net", "--mount", "--"]);
    command.arg(std::env::current_exe().context("this program's own path is not known")?);
    command.args(std::env::args_os().skip(1)).env(INSIDE, "1");
    Err(command.exec()).context("cannot run unshare")
}

/// Whether this process is in a user namespace that knows one user only, so that no program can change to another.
pub(crate) fn has_one_user() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}
