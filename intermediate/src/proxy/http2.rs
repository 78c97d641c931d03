//! HTTP/2 from clients, where TLS ends here. Each stream is a request of its own: judged, routed and sent to a server in
//! HTTP/1.1 as if it had come alone.
//!
//! What keeps one connection from costing too much: a bound on streams at a time, its own and that of all connections,
//! small windows and buffers, a time without any stream, a rate at which the client must take responses in, and an
//! account of what it sends beside requests ([`baton_shared::http::Conduct`]; hyper has more bounds of its own).

mod received;
mod streams;

use super::gated::{GatedRequest, gate};
use super::paced::Paced;
use super::service::{Channel, Session};
use super::{ProxyJob, limit_client};
use crate::front::{Guards, Place};
use baton_shared::http::{GateRule, Http2Head, Verdict, to_http11};
use baton_shared::reason::CloseReason;
use baton_shared::route::HeadLines;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use received::Received;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use streams::{Stream, StreamBody, Streams};
use tokio::time::{interval, timeout};

/// Streams at a time.
const STREAMS: u32 = 100;
/// What a client may send ahead on one stream, and on all, bytes.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What of responses is kept for a client that does not take it yet, for each stream, bytes.
const SEND_BUFFER: usize = 64 << 10;
/// Streams a client may reset before they were served, and those we reset for its errors, until it is closed.
const RESETS: usize = 50;
/// For a client to say goodbye after ours.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often times are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Serves the connection's streams until its end.
pub(crate) async fn serve(job: ProxyJob, guards: Guards, mut place: Place) {
    let ProxyJob { front, site, mut stop, peer, stream, entry, .. } = job;
    let limits = *site.limits(peer.listener);
    limit_client(&stream, &limits, peer.client);
    let (metrics, waiting, drained) = (front.metrics.clone(), front.waiting.clone(), Arc::clone(&front));
    // Nothing goes through this gate: each head is judged when hyper has it.
    let (_, requests) = gate(limits.head);
    let too_slow = requests.too_slow();
    let session = Session::new(front, site, peer, entry, requests, stop.clone(), guards);
    let session = Arc::new(session.over(Channel::Http2));
    let streams = Streams::new(limits.slow.response);
    let service = {
        let (streams, session, metrics) = (streams.clone(), Arc::downgrade(&session), metrics.clone());
        service_fn(move |request| {
            let place = waiting.enter_stream(limits.connections);
            let (streams, session) = (streams.clone(), session.upgrade());
            session.iter().for_each(|session| session.count_request());
            // The stream is there from its head on, not from when hyper comes to it.
            let stream = place.map(|place| streams.open(place));
            let metrics = metrics.clone();
            async move {
                match stream {
                    Ok(stream) => Ok(answer(session, request, stream).await),
                    Err(reason) => {
                        metrics.on_closed(reason);
                        Err(h2::Error::from(h2::Reason::REFUSED_STREAM))
                    }
                }
            }
        })
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.head.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS);
    let paced = Paced::new(stream, limits.slow.response, too_slow.clone());
    let counted = Received::new(paced, streams.clone());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(counted), service));
    let mut leaves = pin!(async {
        tokio::select! {
            () = stop.wait() => {}
            () = drained.drains.drained(peer.vip) => {}
        }
    });
    let mut tick = interval(TICK);
    let mut stopping = false;
    let closed = loop {
        tokio::select! {
            ended = &mut connection => {
                let reason = match &ended {
                    _ if too_slow.is_set() => Some(CloseReason::SlowReader),
                    _ if streams.is_flood() => Some(CloseReason::Http2Flood),
                    Ok(()) => None,
                    Err(error) => {
                        tracing::debug!(client = %peer.client, "HTTP/2 connection: {error}");
                        fault(error)
                    }
                };
                reason.into_iter().for_each(|reason| metrics.on_closed(reason));
                return;
            }
            () = &mut leaves, if !stopping => {
                // Streams under way may end; who stops us, or drains the listener, waits for that. Times are looked at all the
                // same.
                connection.as_mut().graceful_shutdown();
                stopping = true;
            }
            () = place.given_up(), if !streams.any_yet() => break CloseReason::ConnectionLimit,
            _ = tick.tick() => {
                if streams.is_flood() {
                    tracing::debug!(client = %peer.client, "HTTP/2 client only makes work");
                    metrics.on_closed(CloseReason::Http2Flood);
                    return;
                }
                if streams.is_stalled(limits.client_timeout) {
                    tracing::debug!(client = %peer.client, "HTTP/2 client takes too little in");
                    too_slow.set();
                    metrics.on_closed(CloseReason::SlowReader);
                    return;
                }
                let (limit, reason) = if streams.any_yet() {
                    (limits.slow.idle, CloseReason::IdleTimeout)
                } else {
                    (limits.head_timeout, CloseReason::HeadTimeout)
                };
                if streams.is_idle(limit) {
                    break reason;
                }
            }
        }
    };
    metrics.on_closed(closed);
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GOODBYE, connection).await;
}

/// What the client did that hyper closed the connection for.
fn fault(error: &hyper::Error) -> Option<CloseReason> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    let by_us = error.is_go_away() && error.is_library();
    by_us.then(|| match error.reason() {
        Some(h2::Reason::ENHANCE_YOUR_CALM) => CloseReason::Http2Flood,
        _ => CloseReason::Http2Error,
    })
}

async fn answer(
    session: Option<Arc<Session>>,
    request: Request<Incoming>,
    stream: Stream,
) -> Response<StreamBody> {
    let response = match session {
        Some(session) => match judge(request, &session.limits().head) {
            Ok((request, gated)) => session.forward(request, gated).await,
            Err(verdict) => session.refuse_head(verdict),
        },
        None => super::service::answer(503, "the connection is closing"),
    };
    let (mut parts, inner) = response.into_parts();
    // Of HTTP/1 connections.
    parts.headers.remove(header::CONNECTION);
    stream.on_given(0);
    Response::from_parts(parts, StreamBody::new(inner, stream))
}

/// The request as one of HTTP/1.1: what is sent to a server is what was judged.
fn judge(
    request: Request<Incoming>,
    limits: &baton_shared::http::HeadLimits,
) -> Result<(Request<Incoming>, GatedRequest), Verdict> {
    let (parts, body) = request.into_parts();
    let head = Http2Head {
        method: parts.method.as_str(),
        authority: parts.uri.authority().map(http::uri::Authority::as_str),
        path: parts.uri.path_and_query().map_or("", PathAndQuery::as_str),
        extended_connect: parts.extensions.get::<hyper::ext::Protocol>().is_some(),
        ends: body.is_end_stream(),
    };
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let (bytes, head) = to_http11(&head, headers, limits)?;
    let headers = headers_of(&HeadLines::new(&bytes, &head))?;
    let unfit = || Verdict::from(GateRule::NotForwardable);
    let target = bytes.get(head.target.clone()).unwrap_or_default();
    let path = PathAndQuery::try_from(target).map_err(|_| unfit())?;
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = Uri::from(path);
    *request.headers_mut() = headers;
    let request_line = head.request_line(&bytes);
    Ok((request, GatedRequest { head, bytes, request_line }))
}

fn headers_of(lines: &HeadLines<'_>) -> Result<HeaderMap, Verdict> {
    let unfit = Verdict::from(GateRule::NotForwardable);
    let mut headers = HeaderMap::new();
    for (name, value) in lines.iter().filter(|(name, _)| !name.is_empty()) {
        let name = HeaderName::from_bytes(name).map_err(|_| unfit)?;
        headers.append(name, HeaderValue::from_bytes(value).map_err(|_| unfit)?);
    }
    Ok(headers)
}
