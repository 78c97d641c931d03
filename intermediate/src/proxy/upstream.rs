//! The way to the servers: one connection per client connection, made when needed and kept while it lives.

use super::bodies::{Progress, RequestBody};
use crate::targets::{TargetId, Targets};
use baton_shared::reason::CloseReason;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a connection to a server may take to be made, before the next one is tried.
const CONNECT: Duration = Duration::from_secs(3);

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// No server took a connection.
    #[error("no server could be reached")]
    NoTarget,
    /// The server broke off.
    #[error("the server broke off: {0}")]
    Failed(#[from] hyper::Error),
    /// Nothing moved for too long.
    #[error("the server did not answer in time")]
    Timeout,
}

impl UpstreamError {
    /// Status, reason and text of the answer to the client. None of them names a server.
    pub(super) fn answer(&self) -> (u16, CloseReason, &'static str) {
        match self {
            UpstreamError::NoTarget => (503, CloseReason::NoTarget, "no server could be reached"),
            UpstreamError::Failed(_) => (502, CloseReason::UpstreamFailed, "the server broke off"),
            UpstreamError::Timeout => {
                (504, CloseReason::UpstreamTimeout, "the server did not answer in time")
            }
        }
    }
}

/// The present connection.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    sender: Option<SendRequest<RequestBody>>,
    target: Option<TargetId>,
    server: Option<SocketAddr>,
}

impl Upstream {
    /// `first`: the target to try first, if it is known.
    pub(super) fn new(first: Option<TargetId>) -> Self {
        Upstream { sender: None, target: first, server: None }
    }

    /// The target that is, or was last, connected.
    pub(super) fn target(&self) -> Option<TargetId> {
        self.target
    }

    /// The server's address on it.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        self.server
    }

    /// Makes sure that there is a connection. A server that cannot be reached has seen nothing of the request, so
    /// the next one is tried.
    pub(super) async fn connect(&mut self, targets: &Targets, limit: Duration) -> Result<(), UpstreamError> {
        if let Some(sender) = &mut self.sender
            && sender.ready().await.is_ok()
        {
            return Ok(());
        }
        self.sender = None;
        let first = self.target.or_else(|| targets.pick_any()).ok_or(UpstreamError::NoTarget)?;
        let all = || targets.iter().flat_map(|(id, t)| t.spec.servers.iter().map(move |server| (id, server)));
        let (after, before) = (all().filter(|(id, _)| *id >= first), all().filter(|(id, _)| *id < first));
        for (id, server) in after.chain(before) {
            match connect(server, CONNECT.min(limit)).await {
                Ok(sender) => {
                    self.sender = Some(sender);
                    self.target = Some(id);
                    self.server = Some(server);
                    return Ok(());
                }
                Err(e) => tracing::debug!(%server, "cannot reach the server: {e}"),
            }
        }
        Err(UpstreamError::NoTarget)
    }

    /// Sends a request over the connection that [`Upstream::connect`] made, and waits for the response's head as
    /// long as something moves.
    pub(super) async fn send(
        &mut self,
        targets: &Targets,
        request: Request<RequestBody>,
        progress: &Progress,
        limit: Duration,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let mut request = request;
        loop {
            let Some(sender) = &mut self.sender else { return Err(UpstreamError::NoTarget) };
            let answered = tokio::select! {
                answered = sender.try_send_request(request) => answered,
                () = progress.stalled(limit) => {
                    // Its connection goes with it, or the late response would answer the next request.
                    self.sender = None;
                    return Err(UpstreamError::Timeout);
                }
            };
            let mut error = match answered {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            self.sender = None;
            match error.take_message() {
                // Not a byte of it was written: the kept connection had been closed meanwhile.
                Some(unsent) => request = unsent,
                None => return Err(UpstreamError::Failed(error.into_error())),
            }
            self.connect(targets, limit).await?;
        }
    }
}

async fn connect(server: SocketAddr, limit: Duration) -> std::io::Result<SendRequest<RequestBody>> {
    let stream = timeout(limit, TcpStream::connect(server)).await??;
    stream.set_nodelay(true)?;
    let mut builder = Builder::new();
    builder.preserve_header_case(true);
    let (sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!(%server, "connection to the server: {e}");
        }
    });
    Ok(sender)
}
