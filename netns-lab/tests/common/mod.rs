//! What the lab's tests have in common.
#![allow(unreachable_pub, dead_code, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, reason = "tests")]

use netns_lab::{Lab, LabSpec, command, plan};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether labs can be made here. If not, says so; with BATON_NO_SKIPS=1 that is a failure.
pub fn able(test: &str) -> bool {
    if netns_lab::sys::is_root() {
        return true;
    }
    skip(test, "network namespaces need root")
}

/// As [`able`], and the daemons are built.
pub fn able_with_daemons(test: &str) -> bool {
    let missing = ["intermediate", "target-agent"].iter().find_map(|daemon| command::built(daemon).err());
    able(test) && missing.is_none_or(|why| skip(test, &why.to_string()))
}

fn skip(test: &str, why: &str) -> bool {
    assert!(std::env::var_os("BATON_NO_SKIPS").is_none_or(|v| v != "1"), "{test} cannot run: {why}");
    eprintln!("SKIPPED: {test}: {why}");
    false
}

/// A name no other test has.
pub fn name(test: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{test}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A lab without balancer, with one target.
pub fn small(test: &str) -> Lab {
    Lab::up(&LabSpec::new(name(test)).balancer(netns_lab::Balancer::None).targets(1)).unwrap()
}

/// What of a lab could be left: the inodes of its namespaces, by which its processes are found.
pub struct Traces {
    lab: String,
    inodes: BTreeSet<u64>,
}

impl Traces {
    /// Of a lab that is up.
    pub fn of(lab: &str) -> Self {
        let inodes = namespaces(lab).iter().map(|n| plan::netns_path(n).metadata().unwrap().ino()).collect();
        Self { lab: lab.to_owned(), inodes }
    }

    /// Everything that is still there.
    pub fn left(&self) -> Vec<String> {
        let mut left = namespaces(&self.lab);
        for dir in [plan::run_dir(&self.lab), plan::data_dir(&self.lab)] {
            left.extend(dir.exists().then(|| dir.display().to_string()));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let word = format!("/{}/", self.lab);
        left.extend(mounts.lines().filter(|l| l.contains(&word)).map(str::to_owned));
        // The kernel gives an inode number out again. One that is mounted now is a newer lab's: a namespace of ours that
        // still lives keeps its own.
        let mounted = std::fs::read_dir(plan::NETNS_BASE).into_iter().flatten().flatten();
        let newer: BTreeSet<u64> = mounted.filter_map(|e| Some(e.path().metadata().ok()?.ino())).collect();
        let ours: BTreeSet<u64> = self.inodes.difference(&newer).copied().collect();
        let inside =
            |process: &Path| process.join("ns/net").metadata().is_ok_and(|netns| ours.contains(&netns.ino()));
        for process in std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path()) {
            // Asked twice: the inode may belong to a namespace that another lab's `ip netns add` is just making.
            let remains = inside(&process) && {
                std::thread::sleep(std::time::Duration::from_millis(200));
                inside(&process)
            };
            if remains {
                let cmdline = std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
                left.push(format!("{} {}", process.display(), cmdline.replace('\0', " ")));
            }
        }
        left
    }

    /// That nothing is.
    pub fn assert_gone(&self) {
        assert_eq!(self.left(), Vec::<String>::new());
    }
}

/// The namespaces of a lab.
pub fn namespaces(lab: &str) -> Vec<String> {
    let entries = std::fs::read_dir(Path::new(plan::NETNS_BASE)).into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    names.filter(|n| n.starts_with(&format!("baton-{lab}-"))).collect()
}
