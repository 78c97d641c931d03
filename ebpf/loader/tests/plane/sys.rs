//! Unsafe support of the tests in this folder: included by them as a module.

/// Moves the calling thread into network and mount namespaces of its own.
pub(crate) fn own_namespaces() -> std::io::Result<()> {
    // SAFETY: flags only. The mount namespace needs its own file system attributes, which CLONE_FS splits off.
    match unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_FS) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// The calling thread, with a handler for SIGUSR1 that does nothing.
pub(crate) fn this_thread() -> libc::pthread_t {
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: the handler touches nothing.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    // SAFETY: no preconditions.
    unsafe { libc::pthread_self() }
}

/// Sends SIGUSR1 to a thread, which must be alive.
pub(crate) fn signal(thread: libc::pthread_t) {
    // SAFETY: the caller keeps the thread alive.
    unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
}
