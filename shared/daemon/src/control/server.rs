//! The agent's side: accepts the intermediates its configuration names.

use super::client::check_own_name;
use super::link::{Expected, exchange_hello, run};
use super::queue::Queue;
use super::{
    ControlError, Fault, FaultCounters, HANDSHAKE_LIMIT, PROBE_INSTANCE, SendError, ServerEvent, ServerEvents,
};
use crate::tls::{TlsFiles, server_config};
use baton_shared::control::{FrameReader, Hello, Message, Role};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Connections that have not yet proved who they are; further ones wait in the kernel's queue.
const HANDSHAKES_AT_ONCE: usize = 64;

/// What a [`Server`] needs to know.
#[derive(Clone, Debug)]
pub struct ServerSpec<'a> {
    /// Where to listen.
    pub addr: SocketAddr,
    /// This node's certificate, key and authority; read once, here.
    pub tls: &'a TlsFiles,
    /// What this node says first; its role and name must be its certificate's.
    pub hello: Hello,
    /// The names of the intermediates that may connect.
    pub allowed: Vec<String>,
}

/// The listening side. Dropping it closes all sessions; their `Down` events still come.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    addr: SocketAddr,
    /// Dropped with the server: everybody who waits on it ends.
    _running: watch::Sender<()>,
}

#[derive(Debug)]
struct Session {
    peer: String,
    /// The peer's process.
    instance: u64,
    queue: Queue,
    superseded: Notify,
}

#[derive(Debug)]
struct Shared {
    sessions: Mutex<BTreeMap<u64, Arc<Session>>>,
    next_session: AtomicU64,
    faults: FaultCounters,
    hello: Hello,
    expected: Expected,
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Listens and starts accepting, in tasks of the current tokio runtime.
    pub fn bind(spec: ServerSpec<'_>, events: ServerEvents) -> Result<Server, ControlError> {
        let identity = spec.tls.load()?;
        check_own_name(&identity, &spec.hello)?;
        let config = server_config(&identity).map_err(|e| crate::tls::TlsError {
            file: crate::tls::TlsFile::Key,
            path: spec.tls.key.get_ref().clone(),
            problem: e.to_string(),
        })?;
        let bind_error = |source| ControlError::Bind { addr: spec.addr, source };
        let listener = listen(spec.addr).map_err(bind_error)?;
        let addr = listener.local_addr().map_err(bind_error)?;
        let shared = Arc::new(Shared {
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
            faults: FaultCounters::default(),
            hello: spec.hello,
            expected: Expected::OneOf(Role::Intermediate, spec.allowed),
        });
        let (running, ended) = watch::channel(());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(accept(listener, acceptor, shared.clone(), events, ended));
        Ok(Server { shared, addr, _running: running })
    }

    /// Queues a message to a session's peer; it leaves at the writer's next wakeup. Callable from any thread;
    /// never waits.
    pub fn send(&self, session: u64, message: Message) -> Result<(), SendError> {
        let found = self.shared.sessions().get(&session).cloned();
        found.ok_or(SendError::Down)?.queue.send(&message)
    }

    /// Where it listens (the port that was chosen, if the given one was 0).
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many intermediates are connected.
    pub fn connected(&self) -> usize {
        self.shared.sessions().len()
    }

    /// The open sessions with their peers' names.
    pub fn sessions(&self) -> Vec<(u64, String)> {
        self.shared.sessions().iter().map(|(id, s)| (*id, s.peer.clone())).collect()
    }

    /// How often each fault happened, for `/metrics`.
    pub fn faults(&self) -> FaultCounters {
        self.shared.faults.clone()
    }
}

fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket =
        if addr.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    // A restarted agent must not wait for its predecessor's connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(128)
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    events: ServerEvents,
    mut ended: watch::Receiver<()>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            _ = ended.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, addr) = match accepted {
            Ok(pair) => pair,
            Err(e) => {
                tracing::warn!("cannot accept a control connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, shared, events, mut ended) =
            (acceptor.clone(), shared.clone(), events.clone(), ended.clone());
        tokio::spawn(async move {
            let welcomed = tokio::select! {
                _ = ended.changed() => return,
                welcomed = welcome(tcp, &acceptor, &shared) => welcomed,
            };
            drop(permit);
            match welcomed {
                Ok((_, _, peer)) if peer.instance == PROBE_INSTANCE => {
                    tracing::debug!(intermediate = peer.name, %addr, "control channel probed");
                }
                Ok((stream, frames, peer)) => {
                    serve(stream, frames, peer, addr, &shared, &events, ended).await
                }
                Err(fault) => {
                    shared.faults.add(fault.kind());
                    tracing::warn!(peer = %addr, "control connection refused: {fault}");
                }
            }
        });
    }
}

async fn welcome(
    tcp: TcpStream,
    acceptor: &TlsAcceptor,
    shared: &Shared,
) -> Result<(TlsStream<TcpStream>, FrameReader, Hello), Fault> {
    tcp.set_nodelay(true).map_err(Fault::Broken)?;
    let mut stream = timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp))
        .await
        .map_err(|_| Fault::Timeout("TLS handshake"))?
        .map_err(Fault::from_handshake)?;
    let facts = shared.expected.check(stream.get_ref().1.peer_certificates())?;
    let mut frames = FrameReader::new();
    let peer = exchange_hello(&mut stream, &mut frames, &shared.hello, &facts).await?;
    Ok((stream, frames, peer))
}

async fn serve(
    stream: TlsStream<TcpStream>,
    frames: FrameReader,
    peer: Hello,
    addr: SocketAddr,
    shared: &Shared,
    events: &ServerEvents,
    mut ended: watch::Receiver<()>,
) {
    let id = shared.next_session.fetch_add(1, Ordering::Relaxed);
    let name = peer.name.clone();
    let session = Arc::new(Session {
        peer: name.clone(),
        instance: peer.instance,
        queue: Queue::default(),
        superseded: Notify::new(),
    });
    session.queue.open();
    {
        let mut sessions = shared.sessions();
        for older in sessions.values().filter(|s| s.peer == name && s.instance == session.instance) {
            older.superseded.notify_one();
        }
        sessions.insert(id, session.clone());
    }
    tracing::info!(intermediate = name, %addr, session = id, software = peer.software, "control channel up");
    events(ServerEvent::Up { session: id, peer });
    let on_message = |message| events(ServerEvent::Message { session: id, message });
    let fault = tokio::select! {
        fault = run(stream, frames, &session.queue, &on_message) => fault,
        () = session.superseded.notified() => Fault::Superseded,
        _ = ended.changed() => Fault::Shutdown,
    };
    shared.sessions().remove(&id);
    session.queue.close();
    shared.faults.add(fault.kind());
    tracing::warn!(intermediate = name, %addr, session = id, "control channel down: {fault}");
    events(ServerEvent::Down { session: id, reason: fault.to_string() });
}
