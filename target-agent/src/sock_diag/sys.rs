//! The netlink socket's system calls.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A `NETLINK_SOCK_DIAG` socket. Answers are there when `send` returns; should one be missing, `receive` gives
/// up after a second.
pub(super) fn open() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let timeout = libc::timeval { tv_sec: 1, tv_usec: 0 };
    // SAFETY: the pointer and length are those of a timeval that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            libc::socklen_t::try_from(size_of::<libc::timeval>()).unwrap_or(0),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// Sends one request to the kernel.
pub(super) fn send(socket: &OwnedFd, request: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are the slice's.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one datagram; its length.
pub(super) fn receive(socket: &OwnedFd, answer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are the slice's, which is writable.
    let got = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Receives all datagrams that are there, one into each buffer; their lengths. With `waits` there is at least one.
pub(super) fn receive_many<const N: usize>(
    socket: &OwnedFd,
    buffers: &mut [[u8; N]],
    waits: bool,
) -> io::Result<Vec<usize>> {
    let mut places: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: N })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = places
        .iter_mut()
        .map(|place| {
            // SAFETY: of integers and pointers, all of which may be zero: no address, no control data.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (place, 1);
            header
        })
        .collect();
    let number = libc::c_uint::try_from(headers.len()).map_err(io::Error::other)?;
    // SAFETY: `number` headers, each of one place, which is a writable buffer of its length; all live through the call. The
    // time is none.
    let got = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            number,
            if waits { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT },
            std::ptr::null_mut(),
        )
    };
    let got = match usize::try_from(got) {
        Ok(got) => got,
        Err(_) => match io::Error::last_os_error() {
            e if !waits && e.kind() == io::ErrorKind::WouldBlock => 0,
            e => return Err(e),
        },
    };
    headers.iter().take(got).map(|header| usize::try_from(header.msg_len).map_err(io::Error::other)).collect()
}
