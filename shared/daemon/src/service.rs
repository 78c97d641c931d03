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
use std::os::fd::AsFd;
use std::time::Duration;

/// Listening sockets that were handed to this process, by activation or from the store. None is left to a second call.
///
/// To be called before threads start and before descriptors are opened.
///
/// # Errors
/// When the variables are wrong, or a descriptor is not an open one.
pub fn inherited_listeners() -> io::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut found = Vec::new();
    for fd in sd_notify::listen_fds()? {
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

/// Tells the manager, for ever and as often as it asks for (`WatchdogSec=`), that the runtime this runs on still turns.
pub async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("cannot tell the service manager: {e}");
    }
}
