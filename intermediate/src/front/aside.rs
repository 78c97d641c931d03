//! The threads that have no part in handoffs. What cannot be given away is proxied there, so that the thread that gives
//! connections away is not kept from it.

use crate::proxy::ClientStream;
use crate::socket::Socket;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// Their runtimes. None by default: then everything stays where it is.
#[derive(Debug, Default)]
pub struct Aside {
    threads: OnceLock<(ThreadId, Vec<Handle>)>,
    turn: AtomicUsize,
}

impl Aside {
    /// Those beside the thread that calls this. The first call counts.
    pub(crate) fn set(&self, runtimes: Vec<Handle>) {
        let _ = self.threads.set((thread::current().id(), runtimes));
    }

    /// The next one's, for what is on the thread beside them.
    pub(super) fn next(&self) -> Option<&Handle> {
        let (main, runtimes) = self.threads.get()?;
        if *main != thread::current().id() {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(runtimes.len())?;
        runtimes.get(turn)
    }
}

/// Takes a connection out of this thread's runtime; in another's [`Moved::arrive`] makes it whole.
#[derive(Debug)]
pub(super) struct Moved(std::net::TcpStream);

impl Moved {
    pub(super) fn leave(socket: Socket) -> io::Result<Self> {
        socket.into_std().map(Moved)
    }

    pub(super) fn arrive(self) -> io::Result<ClientStream> {
        TcpStream::from_std(self.0).map(ClientStream::Plain)
    }
}
