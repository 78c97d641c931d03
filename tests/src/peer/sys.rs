//! The one place of the peer with unsafe code.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
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

/// A socket of the calling thread's network namespace that is connected without a packet having been sent, and neither
/// sends nor takes one: what the kernel says of it when it is asked for the connection is "established". Dropping it
/// sends nothing either.
#[derive(Debug)]
pub struct Held {
    _socket: Socket,
}

/// Makes the kernel believe that it has this connection, whose `local` address need not be its own.
///
/// # Errors
/// Without CAP_NET_ADMIN in the namespace, or if it has such a connection.
pub fn hold(local: SocketAddr, remote: SocketAddr) -> io::Result<Held> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    let transparent = match local {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    for (level, option) in [transparent, (libc::SOL_TCP, libc::TCP_REPAIR)] {
        switch_on(&socket, level, option)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&local.into())?;
    // In repair mode connecting is a change of state and nothing more; so is closing.
    socket.connect(&remote.into())?;
    Ok(Held { _socket: socket })
}

fn switch_on(socket: &Socket, level: i32, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the descriptor is borrowed, the option's value is a live `int` of the size given.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&on).cast(), size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
