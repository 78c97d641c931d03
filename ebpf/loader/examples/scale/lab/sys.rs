//! The system calls of the lab: namespaces, packets sent, who disturbed.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves this thread into a mount namespace of its own.
pub(super) fn own_mounts() -> io::Result<()> {
    // SAFETY: flags only.
    done(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_FS) })
}

/// Moves this thread into a new network namespace; a file that stands for it.
pub(super) fn new_network() -> io::Result<File> {
    // SAFETY: flags only.
    done(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    File::open("/proc/thread-self/ns/net")
}

/// Moves this thread into that network namespace.
pub(super) fn enter(network: &File) -> io::Result<()> {
    // SAFETY: a live descriptor.
    done(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Keeps this thread on one processor.
pub(super) fn stay_on(processor: usize) -> io::Result<()> {
    // SAFETY: plain data.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives; a number beyond it is ignored.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the set lives and is of this size.
    done(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) })
}

/// How often this thread was taken off its processor.
pub(super) fn times_interrupted() -> io::Result<i64> {
    // SAFETY: plain data.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: it lives.
    done(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) })?;
    Ok(usage.ru_nivcsw)
}

/// A socket whose packets leave by a device of this network namespace as they are, and which receives nothing.
pub(super) fn packet_socket(ifindex: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    done(socket)?;
    // SAFETY: a new descriptor, ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: plain data.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the address lives and is so long.
    done(unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) })?;
    Ok(socket)
}

/// Sends frames of `length` bytes each, at most `UIO_MAXIOV` of them, and how long that took.
pub(super) fn send(socket: BorrowedFd<'_>, frames: &[u8], length: usize) -> io::Result<Duration> {
    let mut parts: Vec<libc::iovec> = frames
        .chunks_exact(length)
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: length })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: plain data.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let began = Instant::now();
    let mut left = messages.as_mut_slice();
    while !left.is_empty() {
        let count = libc::c_uint::try_from(left.len()).map_err(io::Error::other)?;
        // SAFETY: so many live messages, of one live part each, which is read only.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), left.as_mut_ptr(), count, 0) };
        done(sent)?;
        left = left.get_mut(usize::try_from(sent).map_err(io::Error::other)?..).unwrap_or_default();
    }
    Ok(began.elapsed())
}
