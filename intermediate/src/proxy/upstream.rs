//! One request's way to a server: which connection carries it, when another one may, and its answer.

use super::bodies::{Progress, RequestBody};
use super::pool::{Lease, Upstreams};
use crate::pools::tries;
use crate::targets::{TargetId, UnderWay};
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
/// cannot are told to `unreachable`. `begin` says that the request is under way at a target, before it connects: a drain
/// waits for it.
pub(super) async fn connect(
    upstreams: &Upstreams,
    servers: impl Iterator<Item = (TargetId, SocketAddr)>,
    alone: bool,
    limits: &RequestLimits,
    begin: impl Fn(TargetId) -> Option<UnderWay>,
    unreachable: impl Fn(TargetId),
) -> Result<Connected, UpstreamError> {
    let limit = limits.connect_timeout;
    for (target, server) in tries(servers, limits.connect_retries) {
        let under_way = begin(target);
        // What may become a tunnel takes its connection with it.
        let connected =
            if alone { upstreams.open(server, limit).await } else { upstreams.connect(server, limit).await };
        match connected {
            Ok(lease) => return Ok(Connected { target, lease: Lease { under_way, ..lease } }),
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
            let opened = upstreams.open(lease.server, limits.connect_timeout).await;
            let opened = opened.map_err(|_| UpstreamError::NoTarget)?;
            lease = Lease { under_way: lease.under_way, ..opened };
        }
    }
}

/// The connection ended where the answer should have begun.
fn closed_unanswered(error: &hyper::Error) -> bool {
    use std::error::Error;
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || io.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::pace::MinRate;
    use std::cell::RefCell;
    use std::net::TcpListener;
    use std::time::Duration;

    #[tokio::test]
    async fn a_request_is_under_way_at_a_target_before_it_connects() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
        let servers =
            [(TargetId::new(1), gone), (TargetId::new(2), server.local_addr().expect("its address"))];
        let steps = RefCell::new(Vec::new());
        let second = Duration::from_secs(1);
        let limits = RequestLimits {
            body_bytes: 0,
            body_rate: MinRate::NONE,
            connect_timeout: second,
            connect_retries: 1,
            upstream_timeout: second,
        };
        let upstreams = Upstreams::default();
        let connected = connect(
            &upstreams,
            servers.into_iter(),
            false,
            &limits,
            |target| {
                steps.borrow_mut().push(("begins", target));
                None
            },
            |target| steps.borrow_mut().push(("is unreachable", target)),
        );
        assert_eq!(connected.await.expect("one is there").target, TargetId::new(2));
        let expected = [
            ("begins", TargetId::new(1)),
            ("is unreachable", TargetId::new(1)),
            ("begins", TargetId::new(2)),
        ];
        assert_eq!(steps.into_inner(), expected);
    }
}
