//! Unsafe support of the tests in this folder: included by them as a module.

/// Moves the calling thread into network and mount namespaces of its own.
pub(crate) fn own_namespaces() -> std::io::Result<()> {
    // SAFETY: flags only. The mount namespace needs its own file system attributes, which CLONE_FS splits off.
    match unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_FS) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
