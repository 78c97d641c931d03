//! A service manager's part towards one daemon, as `sd_notify(3)` and `sd_listen_fds(3)` have it: what systemd does with
//! `Type=notify-reload` and `FileDescriptorStoreMax=`. Listening sockets outlive the daemon here.

use crate::{Lab, Program, sys};
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
        Ok(Manager { path, known })
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
        let fds: Vec<OwnedFd> = {
            let known = lock(&manager.known);
            known.store.iter().map(|(_, fd)| fd.try_clone()).collect::<Result<_, _>>()?
        };
        self.launch_by(node, program, |command| {
            command.env("NOTIFY_SOCKET", &manager.path).env("LISTEN_FDS", fds.len().to_string());
            sys::give_descriptors(command, fds);
        })?;
        self.wait_started(node, program)
    }
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
