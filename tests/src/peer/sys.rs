//! The one place of the peer with unsafe code.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Waits until there is something to read, at most this many milliseconds; whether there is.
pub(super) fn readable(fd: BorrowedFd<'_>, milliseconds: i32) -> bool {
    let mut one = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the descriptor is borrowed; `one` is a single live `pollfd`.
    let ready = unsafe { libc::poll(&raw mut one, 1, milliseconds) };
    ready > 0
}

/// A descriptor the TUN device keeps open, borrowed for as long as the device.
pub(super) fn borrow(device: &tun_tap::Iface) -> BorrowedFd<'_> {
    // SAFETY: the device owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) }
}
