//! What a service manager (systemd) hands to a daemon, and what it is told: `sd_listen_fds(3)`, `sd_notify(3)`. Without one
//! nothing of this does anything.
//!
//! Listening sockets are kept in the manager's store (`FileDescriptorStoreMax=`): connections that come between one run of
//! the daemon and the next, after a crash too, wait in their queues.

use crate::sys;
use sd_notify::NotifyState;
use socket2::{SockAddr, SockRef};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

/// The first descriptor that a manager hands over.
const FIRST: RawFd = 3;

/// Listening sockets that were handed to this process, by activation or from the store. None is left to a second call.
///
/// # Errors
/// When the variables are wrong, or a descriptor is not an open one, or is one that this process opened itself.
pub fn inherited_listeners() -> io::Result<Vec<(SocketAddr, TcpListener)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for fd in (FIRST..).take(handed_over()?) {
        let fd = sys::inherited(fd)?;
        let socket = SockRef::from(&fd);
        if !socket.is_listener().unwrap_or(false) {
            tracing::warn!("a descriptor of the service manager is no listening socket: closed");
            continue;
        }
        let Some(addr) = socket.local_addr().ok().as_ref().and_then(SockAddr::as_socket) else {
            tracing::warn!("a listening socket of the service manager is no TCP socket: closed");
            continue;
        };
        found.push((addr, TcpListener::from(fd)));
    }
    Ok(found)
}

/// How many descriptors this process was handed, by the variables. Not `sd_notify::listen_fds`: that marks them as this
/// process's own before one can see whether they are.
fn handed_over() -> io::Result<usize> {
    let number = |name: &str| match std::env::var(name) {
        Err(_) => Ok(None),
        Ok(text) => text
            .parse::<u32>()
            .map(Some)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is {text:?}"))),
    };
    if number("LISTEN_PID")? != Some(std::process::id()) {
        return Ok(0);
    }
    usize::try_from(number("LISTEN_FDS")?.unwrap_or(0)).map_err(io::Error::other)
}

/// Serving has begun, or goes on after a reload.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is read again; [`ready`] says that it is over, whatever came of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(e) => tracing::warn!("cannot tell the service manager of a reload: {e}"),
    }
}

/// The daemon stops in good order.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Has a listening socket kept for the next run.
pub fn keep(addr: SocketAddr, listener: &TcpListener) {
    // A drained socket is hung up; it is kept all the same.
    let state = [NotifyState::FdStore, NotifyState::FdName(&name(addr)), NotifyState::Custom("FDPOLL=0")];
    if let Err(e) = sd_notify::notify_with_fds(&state, &[listener.as_fd()]) {
        tracing::warn!(%addr, "the service manager does not keep the listening socket: {e}");
    }
}

/// Has the sockets of this address given up.
pub fn forget(addr: SocketAddr) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name(addr))]);
}

/// A name in the store has no colon.
fn name(addr: SocketAddr) -> String {
    addr.to_string().replace(':', "_")
}

/// Tells the manager, for ever and as often as it asks for (`WatchdogSec=`), that the runtime this runs on still turns,
/// and so do those beside it.
pub async fn watchdog(beside: Vec<Handle>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for runtime in &beside {
            // Never over where that thread hangs. An error: the daemon stops, and its runtimes are let go.
            let _ = runtime.spawn(async {}).await;
        }
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("cannot tell the service manager: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::process::{Command, Stdio};

    /// Says which part this process plays.
    const PART: &str = "BATON_TEST_STARTED_BY_A_MANAGER";

    /// Runs this test once more as a manager would start it, with `count` descriptors by the variables and one in fact.
    fn start(test: &str, count: u32) {
        let listener = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" --exact \"$1\" --test-threads=1";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(std::env::current_exe().unwrap()).arg(test);
        command.env(PART, "1").env("LISTEN_FDS", count.to_string()).stdin(Stdio::from(listener));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn what_a_manager_hands_over_is_taken_once() {
        if std::env::var_os(PART).is_none() {
            return start("service::tests::what_a_manager_hands_over_is_taken_once", 1);
        }
        let taken = inherited_listeners().unwrap();
        let [(addr, listener)] = taken.as_slice() else { panic!("{taken:?}") };
        assert_eq!(*addr, listener.local_addr().unwrap());
        assert!(inherited_listeners().unwrap().is_empty());
        assert!(sys::inherited(FIRST).is_err(), "it has an owner now");
    }

    #[test]
    fn a_descriptor_this_process_opened_is_never_taken_for_one_it_was_handed() {
        if std::env::var_os(PART).is_none() {
            let name =
                "service::tests::a_descriptor_this_process_opened_is_never_taken_for_one_it_was_handed";
            return start(name, 2);
        }
        // The lowest that is free is the one the variables name wrongly.
        let own = File::open("/dev/null").unwrap();
        let error = inherited_listeners().unwrap_err();
        assert!(error.to_string().contains("opened by this process"), "{error}");
        own.metadata().expect("still open");
    }
}
