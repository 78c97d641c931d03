//! The few system calls the standard library has no wrapper for.
#![expect(unsafe_code, reason = "system calls; each block says why it is sound")]

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// The user this process runs as.
pub fn user() -> u32 {
    // SAFETY: geteuid takes no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    user() == 0
}

/// Moves the calling thread, and no other, into the network namespace `netns` is open on.
///
/// # Errors
/// Those of setns(2).
pub fn enter_netns(netns: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call; setns changes this thread's namespace only.
    let rc = unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor that goes on naming one process, even when its number is given to another later.
///
/// # Errors
/// Those of pidfd_open(2): `ESRCH` when there is no such process.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let rc = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
    let fd = i32::try_from(rc).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `signal` to the process behind `pidfd`.
///
/// # Errors
/// Those of pidfd_send_signal(2).
pub fn send_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call; a null siginfo asks for the one kill(2) would send.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until there is something to read, or the time is over (`None`: for ever).
///
/// # Errors
/// Those of ppoll(2); and when what is behind the descriptor is gone.
pub fn wait_readable(source: &impl AsRawFd, limit: Option<Duration>) -> io::Result<()> {
    let mut asked = libc::pollfd { fd: source.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let limit = limit.map(|l| libc::timespec {
        tv_sec: libc::time_t::try_from(l.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: l.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: one live pollfd is passed and its count is 1; `limit` is null or points to a live timespec; a null mask
    // leaves the signals as they are.
    let rc = unsafe { libc::ppoll(&raw mut asked, 1, limit, std::ptr::null()) };
    if rc < 0 {
        let e = io::Error::last_os_error();
        return if e.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(e) };
    }
    if asked.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 {
        return Err(io::Error::new(io::ErrorKind::NotConnected, "the device is gone"));
    }
    Ok(())
}

/// Collects a child that has ended, so that it does not stay a zombie. Nothing happens if it is not our child.
pub fn reap(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: a null status pointer is allowed; WNOHANG never blocks.
        let _ = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
    }
}

/// Calls `handler` on SIGINT, SIGTERM and SIGHUP. It runs in signal context: it may store to an atomic and no more.
///
/// # Errors
/// Those of sigaction(2).
pub fn on_termination(handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all zeroes is a valid sigaction (no flags, empty mask); no SA_RESTART, so that waits are interrupted.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        // SAFETY: `action` is initialised and the handler is async-signal-safe by this function's contract.
        let rc = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Lets this process have so many files open, if it has fewer.
///
/// # Errors
/// Those of setrlimit(2).
pub fn allow_files(count: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live rlimit for the kernel to fill.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= count {
        return Ok(());
    }
    limit = libc::rlimit { rlim_cur: count, rlim_max: limit.rlim_max.max(count) };
    // SAFETY: `limit` is a live, initialised rlimit.
    let rc = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Most descriptors in one message.
const DESCRIPTORS: usize = 16;
/// Room for a control message with so many.
const CONTROL: usize = 16 + 4 * DESCRIPTORS;

/// A control message's room, aligned as its header must be.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// One datagram, as text, and the descriptors sent with it.
///
/// # Errors
/// Those of recvmsg(2); and when there were more descriptors than there is room for.
pub fn receive_with_descriptors(socket: &UnixDatagram) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut bytes = [0u8; 4096];
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: a message header of zeros is one without address, parts and control.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    // SAFETY: the header points to buffers that live longer than the call, with their sizes.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let mut fds = Vec::new();
    // SAFETY: the header is as recvmsg left it.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !at.is_null() {
        // SAFETY: not null, so a control message's header within the buffer.
        let header = unsafe { at.read_unaligned() };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: asks for the header's length only.
            let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = header.cmsg_len.saturating_sub(overhead) / size_of::<RawFd>();
            for n in 0..count {
                // SAFETY: the data are that many descriptors.
                let fd = unsafe { libc::CMSG_DATA(at).cast::<RawFd>().add(n).read_unaligned() };
                // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: `at` is a header of this message.
        at = unsafe { libc::CMSG_NXTHDR(&raw const message, at) };
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        let text = format!("a message with more than {DESCRIPTORS} descriptors");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let text = bytes.get(..got).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    Ok((text, fds))
}

/// Whether two descriptors are of one socket.
pub fn same_file(one: &OwnedFd, other: &OwnedFd) -> bool {
    let inode = |fd: &OwnedFd| {
        // SAFETY: a `stat` of zeros is a valid value.
        let mut stat: libc::stat = unsafe { mem::zeroed() };
        // SAFETY: the descriptor is open, and there is room for what is stored.
        let rc = unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) };
        (rc == 0).then_some((stat.st_dev, stat.st_ino))
    };
    inode(one).is_some() && inode(one) == inode(other)
}

/// The same file, open under a number that is not below `least`, and closed on exec.
///
/// # Errors
/// Those of fcntl(2).
pub fn duplicate(fd: &OwnedFd, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers, touches no memory.
    let new = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    if new < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Has a command start with these descriptors open, under the numbers they have here. To give them others is the
/// command's matter: before exec nobody knows which numbers the standard library needs itself, to tell that exec failed.
pub fn leave_open(command: &mut Command, fds: Vec<OwnedFd>) {
    let leave = move || {
        for fd in &fds {
            // SAFETY: takes numbers, touches no memory; the descriptor is open as long as this closure is.
            if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec it calls fcntl only, which is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(leave) };
}
