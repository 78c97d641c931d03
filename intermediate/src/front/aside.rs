//! The threads that have no part in handoffs. What cannot be given away is proxied there, so that those that give
//! connections away are not kept from it.

use crate::handoff::lane;
use crate::proxy::ClientStream;
use crate::socket::Socket;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// Their runtimes. None by default: then everything stays where it is.
#[derive(Debug, Default)]
pub struct Aside {
    runtimes: OnceLock<Vec<Handle>>,
    turn: AtomicUsize,
}

impl Aside {
    /// These. The first call counts.
    pub(crate) fn set(&self, runtimes: Vec<Handle>) {
        let _ = self.runtimes.set(runtimes);
    }

    /// The next one's, for what is on a thread that hands off.
    pub(super) fn next(&self) -> Option<&Handle> {
        let runtimes = self.runtimes.get()?;
        lane::current()?;
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
