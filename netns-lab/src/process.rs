//! The lab's processes: recorded by number and start time, so that a number given to another process is never hit.

use crate::sys;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a process may take to end on SIGTERM before it is killed. A daemon takes its part of a second to end in good
/// order, and on a busy machine some more.
const GRACE: Duration = Duration::from_secs(10);

/// A process this machine runs or ran: its number, and the tick since boot at which it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process number.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat (proc(5)): start in clock ticks since boot.
    pub started: u64,
}

/// One process of a lab. It leads a session of its own, to which its children belong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// The node it runs on.
    pub node: String,
    /// What it is: `nginx`, `haproxy`, `intermediate`, `target-agent`, or the name of a command that was spawned.
    pub program: String,
    /// Its number and start.
    #[serde(flatten)]
    pub id: ProcessId,
    /// Where its output goes, if to a file.
    pub log: Option<PathBuf>,
}

/// What is read from /proc/PID/stat.
struct Stat {
    pid: u32,
    state: char,
    session: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; fields are counted from after the last one.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let session = fields.nth(2)?.parse().ok()?;
    let started = fields.nth(15)?.parse().ok()?;
    Some(Stat { pid, state, session, started })
}

impl ProcessId {
    /// A process that runs now.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = stat(pid).with_context(|| format!("process {pid} has ended"))?;
        Ok(Self { pid, started: stat.started })
    }

    /// Whether it still runs. A zombie does not, but for one whose other threads still end: they hold its sockets.
    pub fn is_alive(self) -> bool {
        let threads = || fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
        stat(self.pid).is_some_and(|s| s.started == self.started && (s.state != 'Z' || threads() > 1))
    }

    /// Sends a signal to the process, if it still is the same one.
    ///
    /// # Errors
    /// Those of pidfd_send_signal(2); that it has ended is none.
    pub fn signal(self, signal: i32) -> io::Result<()> {
        let gone = |e: &io::Error| e.raw_os_error() == Some(libc::ESRCH);
        let pidfd = match sys::pidfd(self.pid) {
            Err(e) if gone(&e) => return Ok(()),
            other => other?,
        };
        // The descriptor is held: what the start time says now stays true until the signal is sent.
        if stat(self.pid).is_none_or(|s| s.started != self.started) {
            return Ok(());
        }
        match sys::send_signal(&pidfd, signal) {
            Err(e) if gone(&e) => Ok(()),
            other => other,
        }
    }

    /// This process and those of the session it leads, such as nginx's workers, which outlive a killed master.
    ///
    /// The kernel gives a number to no new process while a session still bears it. So if the number now belongs to a
    /// process with another start, nothing of ours is left.
    fn session(self) -> Vec<Self> {
        if stat(self.pid).is_some_and(|s| s.started != self.started) {
            return Vec::new();
        }
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|e| stat(e.file_name().to_str()?.parse().ok()?))
            .filter(|s| s.session == self.pid || s.pid == self.pid)
            .filter(|s| s.started >= self.started && s.state != 'Z')
            .map(|s| Self { pid: s.pid, started: s.started })
            .collect()
    }

    /// Waits until it has ended.
    pub fn wait_ended(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        sys::reap(self.pid);
        true
    }
}

/// Ends processes and the sessions they lead: SIGTERM to the leaders, after some time SIGKILL to whatever is left.
pub(crate) fn end_all(leaders: &[ProcessId]) {
    for leader in leaders {
        let _ = leader.signal(libc::SIGTERM);
        let _ = leader.signal(libc::SIGCONT);
    }
    let end = Instant::now() + GRACE;
    for leader in leaders {
        leader.wait_ended(end.saturating_duration_since(Instant::now()));
    }
    for _ in 0..100 {
        let left: Vec<_> = leaders.iter().flat_map(|l| l.session()).collect();
        if left.is_empty() {
            break;
        }
        for process in left {
            let _ = process.signal(libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for leader in leaders {
        sys::reap(leader.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_number_with_another_start_is_left_alone() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let other = ProcessId { started: id.started + 1, ..id };
        assert!(!other.is_alive());
        other.signal(libc::SIGKILL).unwrap();
        end_all(&[other]);
        assert!(id.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!id.is_alive());
    }

    #[test]
    fn the_children_of_a_killed_leader_are_found_by_their_session() {
        let mut leader = Command::new("setsid").args(["sh", "-c", "sleep 30 & wait"]).spawn().unwrap();
        let id = ProcessId::of(leader.id()).unwrap();
        while id.session().len() < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        leader.kill().unwrap();
        leader.wait().unwrap();
        assert_eq!(id.session().len(), 1);
        end_all(&[id]);
        assert!(id.session().is_empty());
    }
}
