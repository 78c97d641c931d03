//! Taking labs down: processes, mounts, namespaces, directories. It goes by what is there, not only by what was written
//! down, so that it also clears away what a killed `netns-lab` left behind.

use crate::process::{self, ProcessId};
use crate::state::LabState;
use crate::{command, plan};
use anyhow::{Result, bail};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Takes the lab of that name down.
///
/// # Errors
/// When there is none, or something could not be removed.
pub fn down(name: &str) -> Result<()> {
    crate::spec::check_name(name)?;
    if !plan::run_dir(name).exists() && namespaces(name).is_empty() {
        bail!(unknown(name));
    }
    let problems = teardown(name);
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// The names of all labs that are up, or of which something is left.
pub fn labs() -> Vec<String> {
    let mut names = file_names(Path::new(plan::RUN_BASE));
    for netns in file_names(Path::new(plan::NETNS_BASE)) {
        let lab = netns.strip_prefix("baton-").and_then(|rest| rest.rsplit_once('-'));
        if let Some((lab, node)) = lab
            && plan::is_node(node)
        {
            names.push(lab.to_owned());
        }
    }
    names.retain(|name| crate::spec::check_name(name).is_ok());
    names.sort();
    names.dedup();
    names
}

/// Takes down the labs whose owner is dead: a demo or a test that was killed with SIGKILL.
pub fn sweep() {
    for name in labs() {
        let owner = LabState::load(&name).ok().flatten().and_then(|s| s.owner);
        if owner.is_some_and(|o| !o.is_alive()) {
            teardown(&name);
        }
    }
}

/// The process a lab belongs to, if that still runs: a demo or a test, which takes its lab down itself.
pub fn running_owner(name: &str) -> Option<u32> {
    let owner = LabState::load(name).ok().flatten()?.owner?;
    (owner.is_alive() && owner.pid != std::process::id()).then_some(owner.pid)
}

pub(crate) fn unknown(name: &str) -> String {
    let up = labs();
    let others = if up.is_empty() { "none is up".to_owned() } else { format!("up are: {}", up.join(", ")) };
    format!("there is no lab called {name} ({others})")
}

/// The namespaces of a lab that exist.
pub(crate) fn namespaces(lab: &str) -> Vec<String> {
    let prefix = plan::netns_name(lab, "");
    let mut all = file_names(Path::new(plan::NETNS_BASE));
    all.retain(|n| n.strip_prefix(&prefix).is_some_and(plan::is_node));
    all
}

/// Removes everything of a lab. Goes on whatever fails, and says what did.
pub(crate) fn teardown(lab: &str) -> Vec<String> {
    let mut problems = Vec::new();
    match LabState::load(lab) {
        Ok(Some(state)) => {
            let ours: Vec<ProcessId> = state.processes.iter().map(|p| p.id).collect();
            process::end_all(&ours);
        }
        Ok(None) => {}
        Err(e) => problems.push(format!("{e:#}; its processes are not known")),
    }
    let run = plan::run_dir(lab);
    for mount in mounts_below(&run) {
        let lazily = |_| command::run("umount", &["-l", &mount]);
        let gone = || !mounts_below(&run).contains(&mount);
        if let Err(e) = command::run("umount", &[&mount]).or_else(lazily)
            && !gone()
        {
            problems.push(format!("{e:#}"));
        }
    }
    for netns in namespaces(lab) {
        // Two may take the same lab down at once; what the other has removed is no problem.
        if let Err(e) = command::ip(&format!("netns del {netns}"))
            && plan::netns_path(&netns).exists()
        {
            problems.push(format!("{e:#}"));
        }
    }
    if mounts_below(&run).is_empty() {
        for dir in [plan::data_dir(lab), run] {
            remove_dir(&dir, &mut problems);
        }
    }
    // The last lab takes the common directories with it; they are not empty while others are up.
    let _ = fs::remove_dir(plan::DATA_BASE);
    let _ = fs::remove_dir(plan::RUN_BASE);
    problems
}

/// nginx's workers may write a last line while their directory is removed.
fn remove_dir(dir: &Path, problems: &mut Vec<String>) {
    let end = Instant::now() + Duration::from_secs(1);
    while let Err(e) = fs::remove_dir_all(dir) {
        if e.kind() == std::io::ErrorKind::NotFound {
            return;
        }
        if Instant::now() > end {
            problems.push(format!("cannot remove {}: {e}", dir.display()));
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Mount points below a directory, the innermost first.
fn mounts_below(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(1));
    let mut below: Vec<_> =
        points.filter(|p| Path::new(p).starts_with(dir) && Path::new(p) != dir).map(str::to_owned).collect();
    below.reverse();
    below
}

fn file_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}
