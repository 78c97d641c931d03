//! Listeners, or the whole node, that take no new connections until told otherwise; what was accepted goes on. A
//! listener that leaves the configuration closes in the same order, for good.
//!
//! A listening socket that is closed resets what waits in its queues. So its SYNs are dropped first (their clients send
//! them again), what is in the queues is accepted, and only then it stops listening; from there on connections are
//! refused at once. The socket stays bound, so that listening again needs no privileges.

use crate::handoff::prepare_listener;
use crate::ruling;
use crate::socket::Socket;
use socket2::{SockFilter, SockRef};
use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// For how long handshakes that have begun are waited for. A client sends its SYN again after a second.
const HANDSHAKES: Duration = Duration::from_millis(900);
/// After which accepting is tried again: at once would burn the processor.
pub(super) const RETRY: Duration = Duration::from_millis(20);

/// What is drained, and since when.
#[derive(Debug)]
pub struct Drains {
    state: Mutex<State>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    node: Option<SystemTime>,
    /// The node's listeners are closed, too.
    node_closed: bool,
    listeners: BTreeMap<SocketAddr, SystemTime>,
}

impl Default for Drains {
    fn default() -> Self {
        Drains { state: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Drains {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
        ruling::change();
    }

    /// Drains a listener, or takes that back; whether that changes anything.
    pub fn drain_listener(&self, vip: SocketAddr, drain: bool) -> bool {
        let mut state = self.state();
        let changes = if drain {
            let known = state.listeners.contains_key(&vip);
            state.listeners.entry(vip).or_insert_with(SystemTime::now);
            !known
        } else {
            state.listeners.remove(&vip).is_some()
        };
        drop(state);
        self.tell();
        changes
    }

    /// Drains the node, or takes that back; whether that changes anything. Its listeners stay open until
    /// [`Drains::close_node`].
    pub fn drain_node(&self, drain: bool) -> bool {
        let mut state = self.state();
        let changes = state.node.is_some() != drain;
        if changes {
            state.node = drain.then(SystemTime::now);
            state.node_closed = false;
        }
        drop(state);
        self.tell();
        changes
    }

    /// Closes the listeners of a node that is drained.
    pub fn close_node(&self) {
        let mut state = self.state();
        state.node_closed = state.node.is_some();
        drop(state);
        self.tell();
    }

    /// Since when the node is drained.
    pub fn node(&self) -> Option<SystemTime> {
        self.state().node
    }

    /// Since when a listener is drained, by itself or with the node.
    pub fn listener(&self, vip: SocketAddr) -> Option<SystemTime> {
        let state = self.state();
        state.listeners.get(&vip).copied().or(state.node.filter(|_| state.node_closed))
    }

    /// Waits until a listener is drained.
    pub(crate) async fn drained(&self, vip: SocketAddr) {
        let mut changed = self.watch();
        while self.listener(vip).is_none() && changed.changed().await.is_ok() {}
    }

    /// Waits for the next change after `seen`.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// A listener's socket, whether it listens or not.
#[derive(Debug)]
pub(super) enum Door {
    /// It listens.
    Open(AsyncFd<TcpListener>),
    /// It is bound and does not listen. It has left tokio, which would keep in mind for ever that it was hung up.
    Closed(TcpListener),
}

impl Door {
    /// Of a socket that listens, and does not block.
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        super::sys::watch(listener).map(Door::Open)
    }

    /// Takes what waits on the socket, gives it to `accepted`, and ends its listening.
    pub(super) async fn close(self, mut accepted: impl FnMut(Socket, SocketAddr)) -> io::Result<Self> {
        let Door::Open(listener) = self else { return Ok(self) };
        SockRef::from(listener.get_ref()).attach_filter(&WITHOUT_SYNS)?;
        let until = Instant::now() + HANDSHAKES;
        while let Ok(next) = timeout_at(until, accept(&listener)).await {
            match next {
                Ok((stream, client)) => {
                    // It came with the listener's filter.
                    let _ = SockRef::from(&stream).detach_filter();
                    accepted(stream, client);
                }
                // Out of file descriptors or memory; there may be some again in time.
                Err(e) if Instant::now() < until => {
                    tracing::warn!("accept, while the listener closes: {e}");
                    sleep(RETRY).await;
                }
                Err(e) => return Err(e),
            }
        }
        let listener = listener.into_inner();
        SockRef::from(&listener).shutdown(Shutdown::Read)?;
        Ok(Door::Closed(listener))
    }

    /// Takes what waits on the socket now, without waiting for more.
    pub(super) fn take_waiting(self, mut accepted: impl FnMut(Socket, SocketAddr)) {
        let Door::Open(listener) = self else { return };
        while let Ok((socket, client)) = Socket::accept(listener.get_ref()) {
            accepted(socket, client);
        }
    }

    /// Listens again.
    pub(super) fn open(self) -> io::Result<Self> {
        let Door::Closed(listener) = self else { return Ok(self) };
        let socket = SockRef::from(&listener);
        socket.detach_filter()?;
        prepare_listener(&socket)?;
        socket.listen(super::listen::BACKLOG)?;
        Door::new(listener)
    }

    /// The next connection; none comes while it is closed.
    pub(super) async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Door::Open(listener) => accept(listener).await,
            Door::Closed(_) => std::future::pending().await,
        }
    }
}

async fn accept(listener: &AsyncFd<TcpListener>) -> io::Result<(Socket, SocketAddr)> {
    listener.async_io(Interest::READABLE, Socket::accept).await
}

/// Classic BPF over the TCP header (`linux/filter.h`): drops SYNs that are no SYN-ACKs, takes the rest whole.
const WITHOUT_SYNS: [SockFilter; 5] = [
    // A = byte 13: the flags
    SockFilter::new(0x30, 0, 0, 13),
    // A &= SYN | ACK
    SockFilter::new(0x54, 0, 0, 0x12),
    // if A == SYN: the first return, else the second
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    fn listening() -> (Door, SocketAddr) {
        // A port that the kernel chose is not kept by a socket that stops listening: this one is named, as a VIP's is.
        let chosen = super::super::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = chosen.local_addr().unwrap();
        drop(chosen);
        let listener = super::super::listen(addr).unwrap();
        (Door::new(listener).unwrap(), addr)
    }

    #[tokio::test]
    async fn what_waits_is_accepted_what_comes_is_refused_and_it_can_be_taken_back() {
        let (mut door, addr) = listening();
        let mut waiting = Vec::new();
        for _ in 0..5 {
            waiting.push(TcpStream::connect(addr).await.unwrap());
        }
        let mut taken = Vec::new();
        door = door.close(|socket, _| taken.push(socket.watched().unwrap())).await.unwrap();
        assert_eq!(taken.len(), 5);
        for (client, server) in waiting.iter_mut().zip(&mut taken) {
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'x', "not reset, not filtered");
        }
        let refused = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        for _ in 0..2 {
            door = door.open().unwrap();
            let (client, accepted) = tokio::join!(TcpStream::connect(addr), door.accept());
            let mut server = accepted.unwrap().0.watched().unwrap();
            client.unwrap().write_all(b"y").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'y');
            door = door.close(|_, _| panic!("nothing waits")).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_connection_attempted_while_it_closes_is_refused_and_not_reset_later() {
        let (door, addr) = listening();
        let (door, attempt) = tokio::join!(door.close(|_, _| panic!("a SYN came through")), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            TcpStream::connect(addr).await
        });
        assert!(matches!(door.unwrap(), Door::Closed(_)));
        assert_eq!(attempt.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn node_and_listeners_are_drained_each_by_itself() {
        let drains = Drains::default();
        let vip = "192.0.2.1:80".parse().unwrap();
        assert!(drains.drain_node(true) && !drains.drain_node(true));
        assert_eq!(drains.listener(vip), None, "it is open until the node closes");
        drains.close_node();
        assert!(drains.listener(vip).is_some());
        assert!(drains.drain_listener(vip, true) && !drains.drain_listener(vip, true));
        assert!(drains.drain_node(false));
        assert!(drains.listener(vip).is_some(), "by itself it is still drained");
        assert!(drains.drain_listener(vip, false) && !drains.drain_listener(vip, false));
        assert_eq!((drains.listener(vip), drains.node()), (None, None));
        drains.close_node();
        assert_eq!(drains.listener(vip), None, "the node was taken back before it closed");
    }
}
