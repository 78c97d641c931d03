//! A service manager's part towards one daemon, as `sd_notify(3)` and `sd_listen_fds(3)` have it: what systemd does with
//! `Type=notify-reload` and `FileDescriptorStoreMax=`. Listening sockets outlive the daemon here.

use crate::{Lab, Program, sys};
use anyhow::{Context, Result, ensure};
use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The number of the first descriptor that a manager hands over.
const FIRST: RawFd = 3;
/// Messages that are kept.
const MESSAGES: usize = 10_000;

/// What the manager knows of its daemon.
#[derive(Debug, Default)]
struct Known {
    /// Each with its name, in the order in which they came.
    store: Vec<(String, OwnedFd)>,
    /// Single assignments, such as `READY=1`, the last ones.
    told: VecDeque<String>,
}

/// A manager. The daemon it started and its sockets are separate: this outlives any number of its runs.
#[derive(Debug)]
pub struct Manager {
    path: PathBuf,
    known: Arc<Mutex<Known>>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// Listens for its daemon's messages on a socket in `folder`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("notify.sock");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).with_context(|| path.display().to_string())?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let known = Arc::new(Mutex::new(Known::default()));
        let weak = Arc::downgrade(&known);
        std::thread::spawn(move || {
            while let Some(known) = weak.upgrade() {
                // A time-out: look whether the manager is still there.
                if let Ok((text, fds)) = sys::receive_with_descriptors(&socket) {
                    lock(&known).take(&text, fds);
                }
            }
        });
        Ok(Manager { path, known, watchdog: None })
    }

    /// Asks its daemon to tell within every such time that it goes on, as `WatchdogSec=` does: `WATCHDOG=1`.
    #[must_use]
    pub fn watching(self, limit: Duration) -> Self {
        Manager { watchdog: Some(limit), ..self }
    }

    /// Waits until all that it was told before is known.
    ///
    /// # Errors
    /// When its socket is gone, or nobody reads it for a minute.
    pub fn catch_up(&self) -> Result<()> {
        // Datagrams come in the order in which they were sent.
        const MARK: &str = "X_CAUGHT_UP=1";
        let before = self.told(MARK);
        UnixDatagram::unbound()?
            .send_to(MARK.as_bytes(), &self.path)
            .with_context(|| self.path.display().to_string())?;
        let until = Instant::now() + Duration::from_secs(60);
        while self.told(MARK) == before {
            ensure!(Instant::now() < until, "{}: nobody reads", self.path.display());
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// How many listening sockets are kept.
    pub fn kept(&self) -> usize {
        lock(&self.known).store.len()
    }

    /// How often it was told this, such as `READY=1`.
    pub fn told(&self, assignment: &str) -> usize {
        lock(&self.known).told.iter().filter(|told| *told == assignment).count()
    }
}

impl Lab {
    /// As [`Lab::start`], by this manager: the daemon gets what is kept, and tells it how it goes.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn start_managed(&self, node: &str, program: Program, manager: &Manager) -> Result<()> {
        let (fds, take) = handed(lock(&manager.known).store.iter().map(|(_, fd)| fd))?;
        self.launch_by(node, program, &take, |command| {
            command.env("NOTIFY_SOCKET", &manager.path).env("LISTEN_FDS", fds.len().to_string());
            if let Some(limit) = manager.watchdog {
                command.env("WATCHDOG_USEC", limit.as_micros().to_string());
            }
            sys::leave_open(command, fds);
        })?;
        self.wait_started(node, program)
    }
}

/// What a daemon is started with, and the commands for its shell (bash) that give these the numbers 3, 4 and so on.
fn handed<'a>(kept: impl Iterator<Item = &'a OwnedFd>) -> Result<(Vec<OwnedFd>, String)> {
    let kept: Vec<&OwnedFd> = kept.collect();
    // Above all numbers that are to be given: none of these is in the way.
    let least = FIRST + RawFd::try_from(kept.len())?;
    let fds: Vec<OwnedFd> = kept.into_iter().map(|fd| sys::duplicate(fd, least)).collect::<Result<_, _>>()?;
    let take = (FIRST..).zip(&fds).map(|(n, fd)| format!("exec {n}<&{0} {0}<&-\n", fd.as_raw_fd())).collect();
    Ok((fds, take))
}

impl Known {
    fn take(&mut self, text: &str, fds: Vec<OwnedFd>) {
        let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored").to_owned();
        if value("FDSTOREREMOVE").is_some() {
            self.store.retain(|(kept, _)| *kept != name);
        } else if value("FDSTORE").is_some() {
            for fd in fds {
                // What is kept already is not kept twice.
                if !self.store.iter().any(|(_, kept)| sys::same_file(kept, &fd)) {
                    self.store.push((name.clone(), fd));
                }
            }
        }
        self.told.extend(text.lines().map(str::to_owned));
        let over = self.told.len().saturating_sub(MESSAGES);
        self.told.drain(..over);
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::fs::MetadataExt;
    use std::process::Command;

    #[test]
    fn all_descriptors_are_handed_over_in_order_and_no_others() {
        let files: Vec<_> = (0..70).map(|_| tempfile::tempfile().unwrap()).collect();
        let inodes: Vec<String> = files.iter().map(|f| f.metadata().unwrap().st_ino().to_string()).collect();
        let kept: Vec<OwnedFd> = files.into_iter().map(OwnedFd::from).collect();
        let (fds, take) = handed(kept.iter()).unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{take}exec stat -Lc %i /dev/fd/{{3..72}}")]);
        sys::leave_open(&mut command, fds);
        let said = command.output().unwrap();
        assert!(said.status.success(), "{said:?}");
        assert_eq!(String::from_utf8_lossy(&said.stdout).lines().collect::<Vec<_>>(), inodes);
        let (fds, take) = handed(kept.iter().take(1)).unwrap();
        let number = fds[0].as_raw_fd();
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{take}[ -e /dev/fd/3 ] && [ ! -e /dev/fd/{number} ]")]);
        sys::leave_open(&mut command, fds);
        assert!(command.status().unwrap().success());
    }

    #[test]
    fn a_command_that_cannot_be_started_is_an_error_whatever_it_was_to_be_given() {
        let kept: Vec<OwnedFd> = (0..30).map(|_| tempfile::tempfile().unwrap().into()).collect();
        let (fds, _) = handed(kept.iter()).unwrap();
        let mut command = Command::new("/nonexistent/daemon");
        sys::leave_open(&mut command, fds);
        assert_eq!(command.spawn().unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
