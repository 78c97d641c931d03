//! One request's way to a server: which connection carries it, when another one may, and its answer.

use super::bodies::{Progress, RequestBody};
use super::pool::{Lease, Upstreams};
use crate::pools::tries;
use crate::targets::TargetId;
use baton_shared::http::{Framing, RequestHead};
use baton_shared::reason::CloseReason;
use baton_shared::route::RequestLimits;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use std::net::SocketAddr;

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

/// A connection for a request that has not been sent.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) target: TargetId,
    lease: Lease,
}

/// A response's head, and the connection its body comes over.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
}

/// Connects to the first of `servers` that can be reached: one that cannot has seen nothing of the request. Those that
/// cannot are told to `unreachable`.
pub(super) async fn connect(
    upstreams: &Upstreams,
    servers: impl Iterator<Item = (TargetId, SocketAddr)>,
    alone: bool,
    limits: &RequestLimits,
    unreachable: impl Fn(TargetId),
) -> Result<Connected, UpstreamError> {
    let limit = limits.connect_timeout;
    for (target, server) in tries(servers, limits.connect_retries) {
        // What may become a tunnel takes its connection with it.
        let connected =
            if alone { upstreams.open(server, limit).await } else { upstreams.connect(server, limit).await };
        match connected {
            Ok(lease) => return Ok(Connected { target, lease }),
            Err(e) => {
                tracing::debug!(%server, "cannot reach the server: {e}");
                unreachable(target);
            }
        }
    }
    Err(UpstreamError::NoTarget)
}

/// Whether this request may be sent once more if the server closed before it answered (RFC 9110, section 9.2.2), and
/// can be: its body is gone.
pub(super) fn may_repeat(method: &Method, head: &RequestHead) -> bool {
    method.is_idempotent() && matches!(head.framing, Framing::None | Framing::Length(0))
}

impl Connected {
    /// Sends the request and waits for the response's head as long as something moves. `again` is the same request once
    /// more, if it may be repeated.
    pub(super) async fn send(
        self,
        upstreams: &Upstreams,
        request: Request<RequestBody>,
        mut again: Option<Request<RequestBody>>,
        progress: &Progress,
        limits: &RequestLimits,
    ) -> Result<Answered, UpstreamError> {
        let Connected { mut lease, .. } = self;
        let mut request = request;
        loop {
            let answered = tokio::select! {
                answered = lease.sender.try_send_request(request) => answered,
                // Its connection goes with it, or the late response would answer the next request.
                () = progress.stalled(limits.upstream_timeout) => return Err(UpstreamError::Timeout),
            };
            let mut error = match answered {
                Ok(response) => return Ok(Answered { response, lease }),
                Err(error) => error,
            };
            // A kept connection that had been closed meanwhile: nothing was written, or nothing was answered.
            request = match (error.take_message(), again.take()) {
                (Some(unsent), still) if lease.reused => {
                    again = still;
                    unsent
                }
                (None, Some(same)) if lease.reused && closed_unanswered(error.error()) => same,
                _ => return Err(UpstreamError::Failed(error.into_error())),
            };
            lease = upstreams
                .open(lease.server, limits.connect_timeout)
                .await
                .map_err(|_| UpstreamError::NoTarget)?;
        }
    }
}

/// The connection ended where the answer should have begun.
fn closed_unanswered(error: &hyper::Error) -> bool {
    use std::error::Error;
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || io.is_some()
}
