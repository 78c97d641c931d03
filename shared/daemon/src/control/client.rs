//! The intermediate's side: connects to one agent, and again whenever the channel is gone.

use super::link::{Expected, exchange_hello, run};
use super::queue::Queue;
use super::{
    ChannelEvent, ClientEvents, ControlError, Fault, FaultCounters, HANDSHAKE_LIMIT, RECONNECT_MAX,
    RECONNECT_MIN, SendError,
};
use crate::tls::{Identity, TlsFiles, client_config};
use baton_shared::control::{FrameReader, Hello, Message, Role};
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What a [`Client`] needs to know.
#[derive(Clone, Debug)]
pub struct ClientSpec<'a> {
    /// The agent's control address and port.
    pub addr: SocketAddr,
    /// Role and name its certificate must have.
    pub expect: (Role, String),
    /// This node's certificate, key and authority; read once, here.
    pub tls: &'a TlsFiles,
    /// What this node says first; its role and name must be its certificate's.
    pub hello: Hello,
}

/// The channel to one agent. Dropping it closes the channel without a further event.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    dialer: Dialer,
    queue: Queue,
    faults: FaultCounters,
    last_fault: Mutex<Option<String>>,
}

impl Client {
    /// Starts connecting, in a task of the current tokio runtime. Fails only on this node's own files.
    pub fn spawn(spec: ClientSpec<'_>, events: ClientEvents) -> Result<Client, ControlError> {
        Self::spawn_counted(spec, events, FaultCounters::default())
    }

    /// As [`Client::spawn`]; faults are counted in `faults`, which several clients may share.
    pub fn spawn_counted(
        spec: ClientSpec<'_>,
        events: ClientEvents,
        faults: FaultCounters,
    ) -> Result<Client, ControlError> {
        let dialer = Dialer::new(spec)?;
        let shared =
            Arc::new(Shared { dialer, queue: Queue::default(), faults, last_fault: Mutex::default() });
        let task = tokio::spawn(keep_connected(shared.clone(), events));
        Ok(Client { shared, task })
    }

    /// Queues a message; it leaves at the writer's next wakeup. Callable from any thread; never waits.
    pub fn send(&self, message: Message) -> Result<(), SendError> {
        self.shared.queue.send(&message)
    }

    /// Whether the channel is up now.
    pub fn is_up(&self) -> bool {
        self.shared.queue.is_open()
    }

    /// Why the channel is down or last was, for the admin API.
    pub fn last_fault(&self) -> Option<String> {
        self.shared.last_fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.queue.close();
    }
}

/// Connects once and says `Hello` both ways, for `doctor`. It says so by [`PROBE_INSTANCE`](super::PROBE_INSTANCE), and
/// the agent makes no session of it.
pub async fn probe(mut spec: ClientSpec<'_>) -> Result<Result<Hello, Fault>, ControlError> {
    spec.hello.instance = super::PROBE_INSTANCE;
    let dialer = Dialer::new(spec)?;
    Ok(dialer.dial().await.map(|(_, _, peer)| peer))
}

/// The own names must be those of the certificate, else every peer would refuse us.
pub(super) fn check_own_name(identity: &Identity, hello: &Hello) -> Result<(), ControlError> {
    let facts = &identity.facts;
    if facts.role == hello.role && facts.name == hello.name {
        return Ok(());
    }
    Err(ControlError::OwnName {
        found_role: facts.role,
        found_name: facts.name.clone(),
        expected_role: hello.role,
        expected_name: hello.name.clone(),
    })
}

struct Dialer {
    addr: SocketAddr,
    name: String,
    expected: Expected,
    hello: Hello,
    connector: TlsConnector,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("addr", &self.addr).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Dialer {
    fn new(spec: ClientSpec<'_>) -> Result<Self, ControlError> {
        let identity = spec.tls.load()?;
        check_own_name(&identity, &spec.hello)?;
        let config = client_config(&identity).map_err(|e| crate::tls::TlsError {
            file: crate::tls::TlsFile::Key,
            path: spec.tls.key.get_ref().clone(),
            problem: e.to_string(),
        })?;
        Ok(Dialer {
            addr: spec.addr,
            name: spec.expect.1.clone(),
            expected: Expected::Node(spec.expect.0, spec.expect.1),
            hello: spec.hello,
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    async fn dial(&self) -> Result<(TlsStream<TcpStream>, FrameReader, Hello), Fault> {
        let tcp = timeout(HANDSHAKE_LIMIT, TcpStream::connect(self.addr))
            .await
            .map_err(|_| Fault::Timeout("answer to the TCP connection"))?
            .map_err(Fault::Connect)?;
        tcp.set_nodelay(true).map_err(Fault::Connect)?;
        let name = ServerName::IpAddress(self.addr.ip().into());
        let mut stream = timeout(HANDSHAKE_LIMIT, self.connector.connect(name, tcp))
            .await
            .map_err(|_| Fault::Timeout("TLS handshake"))?
            .map_err(Fault::from_handshake)?;
        let facts = self.expected.check(stream.get_ref().1.peer_certificates())?;
        let mut frames = FrameReader::new();
        let peer = exchange_hello(&mut stream, &mut frames, &self.hello, &facts).await?;
        Ok((stream, frames, peer))
    }
}

async fn keep_connected(shared: Arc<Shared>, events: ClientEvents) {
    let (addr, name) = (shared.dialer.addr, shared.dialer.name.clone());
    let mut pause = RECONNECT_MIN;
    let mut last_instance = None;
    let mut said = String::new();
    loop {
        let fault = match shared.dialer.dial().await {
            Ok((stream, frames, peer)) => {
                let same_instance = last_instance == Some(peer.instance);
                last_instance = Some(peer.instance);
                tracing::info!(agent = name, %addr, software = peer.software, "control channel up");
                pause = RECONNECT_MIN;
                said.clear();
                shared.queue.open();
                events(ChannelEvent::Up { peer, same_instance });
                let on_message = |message| events(ChannelEvent::Message(message));
                let fault = run(stream, frames, &shared.queue, &on_message).await;
                let undelivered = shared.queue.close();
                note(&shared, &fault);
                events(ChannelEvent::Down { reason: fault.to_string(), undelivered });
                fault
            }
            Err(fault) => {
                note(&shared, &fault);
                fault
            }
        };
        let text = fault.to_string();
        // The same fault again and again is one line, not one per attempt.
        if text == said {
            tracing::debug!(agent = name, %addr, "control channel still down: {text}");
        } else {
            tracing::warn!(agent = name, %addr, "control channel down: {text}");
            said = text;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

fn note(shared: &Shared, fault: &Fault) {
    shared.faults.add(fault.kind());
    *shared.last_fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault.to_string());
}
