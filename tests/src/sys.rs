//! The one place of this crate with unsafe code.

use std::io;
use std::os::fd::AsRawFd;

/// Makes closing `socket` send a reset (SO_LINGER with zero time).
pub(crate) fn reset_on_close(socket: &impl AsRawFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = libc::socklen_t::try_from(size_of::<libc::linger>()).unwrap_or(8);
    // SAFETY: the descriptor is borrowed, the option's value is a live `linger` of the size given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            size,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
