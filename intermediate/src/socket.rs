//! A client's socket, of which the reactor learns only once there is something to wait for.
//!
//! A connection whose request is there when it is accepted, and which is given away then, waits for nothing on its socket.
//! Entering it into the reactor and taking it out again would be two system calls and a turn of the event loop.

use rustix::net::{RecvFlags, SocketFlags};
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use tokio::net::TcpStream;

/// What is read at once: more than most request heads.
const READ_BYTES: usize = 4096;

/// See the module. It does not block.
#[derive(Debug)]
pub enum Socket {
    /// No reactor has it.
    Unwatched(std::net::TcpStream),
    /// The current runtime's has.
    Watched(TcpStream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Socket::Watched(stream)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Unwatched(stream) => stream.as_fd(),
            Socket::Watched(stream) => stream.as_fd(),
        }
    }
}

impl Socket {
    /// The next connection that waits on `listener`, and its client; `WouldBlock` if none does, and the listener does not
    /// block.
    pub fn accept(listener: &TcpListener) -> io::Result<(Self, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, client) = rustix::net::acceptfrom_with(listener, flags)?;
        let client = client.and_then(|client| SocketAddr::try_from(client).ok());
        let client = client.ok_or_else(|| io::Error::other("a connection without an address"))?;
        Ok((Socket::Unwatched(socket.into()), client))
    }

    /// Puts what has arrived behind `bytes`, no more than 4096. How many; 0 is the end of the stream.
    pub fn read_at_once(&self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        // Not into the vector's own room: nearly all requests are small, and large allocations take the allocator longer.
        let mut room = [MaybeUninit::uninit(); READ_BYTES];
        let ((arrived, _), count) = rustix::net::recv(self, &mut room[..], RecvFlags::DONTWAIT)?;
        bytes.extend_from_slice(arrived);
        Ok(count)
    }

    /// As a stream of the current runtime's.
    pub(crate) fn watched(self) -> io::Result<TcpStream> {
        match self {
            Socket::Unwatched(stream) => TcpStream::from_std(stream),
            Socket::Watched(stream) => Ok(stream),
        }
    }

    /// Out of the current runtime.
    pub(crate) fn into_std(self) -> io::Result<std::net::TcpStream> {
        match self {
            Socket::Unwatched(stream) => Ok(stream),
            Socket::Watched(stream) => stream.into_std(),
        }
    }
}
