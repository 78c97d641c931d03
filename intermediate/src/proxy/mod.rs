//! The plain reverse proxy, for what cannot be migrated: hyper on both sides, our gate in front of it.
//!
//! Every byte of the client goes through [`gated::GatedIo`], which lets nothing of a request pass before its head
//! was judged: hyper alone would accept what two readers can read in two ways.

mod bodies;
mod gated;
mod headers;
mod http2;
mod paced;
mod pool;
mod recorder;
mod service;
mod stream;
mod tunnel;
mod upstream;

pub(crate) use http2::serve as serve_http2;
pub(crate) use paced::TooSlow;
pub use pool::Upstreams;
pub(crate) use recorder::Recorder;
pub use stream::ClientStream;

use crate::front::{Front, FrontLimits, Guards, Stop, close_lingering};
use crate::handoff::Subject;
use crate::site::Site;
use crate::targets::TargetId;
use baton_shared::reason::{CloseReason, ProxyReason, Refusal};
use gated::{GatedIo, gate};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use paced::Paced;
use service::{Channel, Session};
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Who is at both ends of a client connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port it connected to.
    pub vip: SocketAddr,
    /// The listener's place in the site.
    pub listener: usize,
    /// When the connection was accepted.
    pub started: SystemTime,
}

/// How the first request came to be proxied.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Why.
    pub reason: ProxyReason,
    /// The agent's reason, if it refused.
    pub refusal: Option<Refusal>,
    /// Whose server to try first; `None`: whose turn it is.
    pub target: Option<TargetId>,
    /// It is in the history already.
    pub recorded: bool,
}

impl Entry {
    /// The migrator had no part in it.
    pub(crate) fn decided_by_front(reason: ProxyReason) -> Self {
        Entry { reason, refusal: None, target: None, recorded: false }
    }
}

/// A connection to proxy.
pub(crate) struct ProxyJob {
    pub(crate) front: Arc<Front>,
    pub(crate) site: Arc<Site>,
    pub(crate) stop: Stop,
    pub(crate) peer: Peer,
    pub(crate) stream: ClientStream,
    /// What was read from it.
    pub(crate) bytes: Vec<u8>,
    pub(crate) entry: Entry,
}

impl Peer {
    pub(crate) fn subject(&self, target: String, request: String) -> Subject {
        Subject {
            flow_id: None,
            client: self.client,
            vip: self.vip,
            target,
            request,
            started: self.started,
            trace: None,
        }
    }
}

/// What hyper keeps for a client that takes a response in slowly, bytes. As a limit of heads it must never be the
/// narrower one: what the gate lets pass it must take.
const BUFFER_BYTES: usize = 64 * 1024;

/// The kernel's clock: it knows what a client has acknowledged, and stops one that keeps its window shut too
/// (`tcp_probe_timer` in `net/ipv4/tcp_timer.c`).
fn limit_client(stream: &ClientStream, limits: &FrontLimits, client: SocketAddr) {
    if let Err(e) = SockRef::from(stream.socket()).set_tcp_user_timeout(Some(limits.client_timeout)) {
        tracing::debug!(%client, "TCP_USER_TIMEOUT: {e}");
    }
}

/// Serves the connection's requests until its end.
pub(crate) async fn serve(job: ProxyJob, guards: Guards) {
    let ProxyJob { front, site, mut stop, peer, stream, bytes, entry } = job;
    let limits = *site.limits(peer.listener);
    limit_client(&stream, &limits, peer.client);
    let channel = if stream.is_tls() { Channel::Tls } else { Channel::Plain };
    let (gate, requests) = gate(limits.head);
    let paced = Paced::new(stream, limits.slow.response, requests.too_slow());
    let io = GatedIo::new(paced, bytes, gate, limits.head_timeout);
    let metrics = front.metrics.clone();
    let session = Session::new(front, site, peer, entry, requests.clone(), stop.clone(), guards);
    let session = Arc::new(session.over(channel));
    let service = service_fn(move |request| Arc::clone(&session).serve(request));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // From the wait for a head on: the gate has a clock of its own for a head that has begun.
        .header_read_timeout(limits.slow.idle.max(limits.head_timeout))
        .half_close(true)
        .preserve_header_case(true)
        .max_buf_size(BUFFER_BYTES.max(limits.head.head_bytes.saturating_mul(2)));
    if limits.head.header_count > 100 {
        builder.max_headers(limits.head.header_count);
    }
    let mut connection = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.wait() => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let mut timed_out = false;
    if let Err(error) = ended {
        tracing::debug!(client = %peer.client, "proxied connection: {error}");
        timed_out = error.is_timeout();
    }
    let reason = if requests.is_head_late() || (timed_out && requests.in_head()) {
        Some(CloseReason::HeadTimeout)
    } else if timed_out {
        Some(CloseReason::IdleTimeout)
    } else {
        requests.too_slow().is_set().then_some(CloseReason::SlowReader)
    };
    reason.into_iter().for_each(|reason| metrics.on_closed(reason));
    // The answer may have been given before the request was read to its end.
    if let Some(parts) = connection.into_parts() {
        close_lingering(parts.io.into_inner().into_stream()).await;
    }
}
