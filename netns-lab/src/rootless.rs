//! A lab without root: in a user namespace of its own, with network namespaces and mounts of its own in it.
//!
//! The user is root in there and nowhere else. It needs a kernel that lets ordinary users make user namespaces, and a
//! `/dev/net/tun` that they may open, which is how udev leaves it.
//!
//! A user namespace lives as long as a process in it. A lab that is left up has a keeper there, `sleep`, and a note outside
//! that names it, so that the same user can come back in.

use crate::lab::Lab;
use crate::process::ProcessId;
use crate::{command, plan, spec};
use anyhow::{Context, Result, bail};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set for the program that runs inside.
const INSIDE: &str = "BATON_LAB_ROOTLESS";
/// Its value if the namespaces are new, and if they are a lab's that is up.
const MADE: &str = "made";
const JOINED: &str = "joined";
/// The user's number outside, for the program that runs inside.
const OWNER: &str = "BATON_LAB_OWNER";
/// What keeps a lab's user namespace.
const KEEPER: [&str; 2] = ["sleep", "infinity"];

/// Goes on inside new namespaces. The first time it does not come back but replaces this process with another run of it,
/// which then finds itself inside.
///
/// # Errors
/// When the machine does not let this user do it.
pub fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_some_and(|how| how == MADE) {
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
    go_on("unshare", &["--user", "--map-root-user", "--net", "--mount"], MADE)
}

/// Goes on inside the namespaces of a lab that was left up without root, as [`enter`] does in new ones.
///
/// # Errors
/// When this user has no such lab up.
pub fn join(lab: &str) -> Result<()> {
    if std::env::var_os(INSIDE).is_some_and(|how| how == JOINED) {
        return Ok(());
    }
    let Some(keeper) = keeper(lab)? else {
        let names = labs();
        let up =
            if names.is_empty() { "none is up".to_owned() } else { format!("up are: {}", names.join(", ")) };
        bail!("there is no lab called {lab} that was brought up without root ({up})");
    };
    let target = keeper.pid.to_string();
    go_on("nsenter", &["--target", &target, "--user", "--mount", "--net", "--preserve-credentials"], JOINED)
}

/// Replaces this process by the same command in other namespaces.
fn go_on(program: &str, args: &[&str], how: &str) -> Result<()> {
    let mut command = Command::new(command::find(program)?);
    command.args(args).arg("--");
    command.arg(std::env::current_exe().context("this program's own path is not known")?);
    command.args(std::env::args_os().skip(1)).env(INSIDE, how).env(OWNER, crate::sys::user().to_string());
    Err(command.exec()).with_context(|| format!("cannot run {program}"))
}

/// Leaves a lab up that was made inside: its keeper is started and noted.
///
/// # Errors
/// When the note cannot be written; nothing is left then.
pub fn leave(lab: Lab) -> Result<()> {
    let name = lab.spec().name.clone();
    let child = lab.spawn(plan::ROUTER, &KEEPER)?;
    let keeper = ProcessId::of(child.id())?;
    let note = notes()?.join(&name);
    fs::write(&note, serde_json::to_string(&keeper)?)
        .with_context(|| format!("cannot write {}", note.display()))?;
    lab.leave()
}

/// Makes sure that a lab of that name can be brought up.
///
/// # Errors
/// When this user has one up already.
pub fn check_free(lab: &str) -> Result<()> {
    spec::check_name(lab)?;
    if keeper(lab)?.is_some() {
        bail!("a lab called {lab} is up already; take it down with: netns-lab down --rootless --name {lab}");
    }
    Ok(())
}

/// A lab is down: the note about it goes.
pub fn forget(lab: &str) {
    if let Ok(notes) = notes() {
        let _ = fs::remove_file(notes.join(lab));
    }
}

/// The labs this user has up without root.
pub fn labs() -> Vec<String> {
    let entries = notes().and_then(|dir| Ok(fs::read_dir(dir)?));
    let names = entries.into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| matches!(keeper(name), Ok(Some(_)))).collect();
    names.sort();
    names
}

/// The process that keeps a lab's namespaces, if it lives.
fn keeper(lab: &str) -> Result<Option<ProcessId>> {
    spec::check_name(lab)?;
    let note = notes()?.join(lab);
    let text = match fs::read_to_string(&note) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot read {}", note.display()))?,
    };
    let keeper: ProcessId = serde_json::from_str(&text)
        .with_context(|| format!("{} was written by another version of netns-lab", note.display()))?;
    Ok(Some(keeper).filter(|keeper| keeper.is_alive()))
}

/// The directory of this user's notes. Not in /run, which is another one inside.
fn notes() -> Result<PathBuf> {
    // Inside the user is root; the note's owner says who it really is.
    let owner = std::env::var_os(OWNER).and_then(|uid| uid.into_string().ok());
    let uid = owner.unwrap_or_else(|| crate::sys::user().to_string());
    notes_in(&std::env::temp_dir(), &uid)
}

fn notes_in(base: &Path, uid: &str) -> Result<PathBuf> {
    let dir = base.join(format!("baton-lab-{uid}"));
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other.with_context(|| format!("cannot make {}", dir.display()))?,
    }
    // In a directory that all may write to, somebody else may have been there first.
    let found = fs::symlink_metadata(&dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    if !found.is_dir() || found.uid() != crate::sys::user() || found.mode() & 0o022 != 0 {
        bail!("{} is not this user's own directory", dir.display());
    }
    Ok(dir)
}

/// Whether this process is in a user namespace that knows one user only, so that no program can change to another.
pub(crate) fn has_one_user() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn notes_are_kept_in_a_directory_of_ones_own_only() {
        let base = tempfile::tempdir().unwrap();
        let dir = notes_in(base.path(), "7").unwrap();
        assert_eq!(notes_in(base.path(), "7").unwrap(), dir);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(notes_in(base.path(), "7").is_err(), "others could write there");
        std::os::unix::fs::symlink(base.path(), base.path().join("baton-lab-8")).unwrap();
        assert!(notes_in(base.path(), "8").is_err(), "a link of somebody's");
    }
}
