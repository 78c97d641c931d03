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

/// Gives a socket a receive buffer beyond what is allowed to all (SO_RCVBUFFORCE, socket(7)).
pub(crate) fn large_receive_buffer(socket: &impl AsRawFd, bytes: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the descriptor is borrowed, the option's value is a live `int` of the size given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            std::ptr::from_ref(&bytes).cast(),
            size,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many packets a packet socket had no room for since this was asked last (PACKET_STATISTICS, packet(7)).
pub(crate) fn packets_dropped(socket: &impl AsRawFd) -> io::Result<u32> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut size = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).unwrap_or(8);
    // SAFETY: the descriptor is borrowed; `stats` is live and of the size given.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut stats).cast(),
            &raw mut size,
        )
    };
    if done == 0 { Ok(stats.tp_drops) } else { Err(io::Error::last_os_error()) }
}

/// Stops one thread of a process, and no other of it, for the thread that calls this (ptrace(2)). It takes a moment.
pub(crate) fn hold_thread(thread: libc::pid_t) -> io::Result<()> {
    ptrace(libc::PTRACE_SEIZE, thread)?;
    ptrace(libc::PTRACE_INTERRUPT, thread)
}

/// Has a thread go on that the thread that calls this has stopped. One that was killed meanwhile is gone then: its process
/// cannot end before.
pub(crate) fn let_thread_go(thread: libc::pid_t) -> io::Result<()> {
    match ptrace(libc::PTRACE_DETACH, thread) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => note_end(thread),
        done => done,
    }
}

/// Waits for the end of a killed thread that the thread that calls this has stopped.
fn note_end(thread: libc::pid_t) -> io::Result<()> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is live.
        if unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) } == -1 {
            return Err(io::Error::last_os_error());
        }
        if !libc::WIFSTOPPED(status) {
            return Ok(());
        }
    }
}

fn ptrace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    // SAFETY: none of these requests reads or writes this process' memory: both pointers are to be null.
    let done =
        unsafe { libc::ptrace(request, thread, std::ptr::null_mut::<u8>(), std::ptr::null_mut::<u8>()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
