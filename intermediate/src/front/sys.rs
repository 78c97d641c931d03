//! A listening socket in tokio's reactor, which gives out connections that are not in it.

use std::io;
use std::net::TcpListener;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a listening socket that does not block.
pub(super) fn watch(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: `register_with_interest` asks that the descriptor stay open and the same while it is registered: it is owned
    // by what is registered, which gives it away only by value.
    unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }.map_err(|e| e.into_parts().1)
}
