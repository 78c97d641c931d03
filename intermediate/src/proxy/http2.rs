//! HTTP/2 from clients, where TLS ends here. Each stream is a request of its own: judged, routed and sent to a server in
//! HTTP/1.1 as if it had come alone.
//!
//! What keeps one connection from costing too much: a bound on streams at a time, small windows, hyper's own bound on
//! streams opened and reset (CVE-2023-44487), a time without any stream, and a time for which a client may leave
//! response bytes untaken.

use super::bodies::{AnswerBody, BodyError};
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
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, interval, timeout};

/// Streams at a time.
const STREAMS: u32 = 100;
/// What a client may send ahead on one stream, and on all, bytes.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What of responses is kept for a client that does not take it yet, for each stream, bytes.
const SEND_BUFFER: usize = 128 << 10;
/// Streams a client may reset before they were served, and those we reset for its errors, until it is closed.
const RESETS: usize = 50;
/// For a client to say goodbye after ours.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often times are looked at.
const TICK: Duration = Duration::from_millis(250);

/// The streams of a connection, as far as times go.
#[derive(Debug)]
struct Inner {
    next: u64,
    /// When each was last given something, if the client has not come for more; `None` while the server is waited for.
    open: HashMap<u64, Option<Instant>>,
    /// When the last one ended.
    quiet_since: Instant,
    any_yet: bool,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
struct Streams(Arc<Mutex<Inner>>);

/// One open stream.
#[derive(Debug)]
struct Stream {
    streams: Streams,
    number: u64,
}

impl Streams {
    fn new() -> Self {
        let inner = Inner { next: 0, open: HashMap::new(), quiet_since: Instant::now(), any_yet: false };
        Streams(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Stream {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.any_yet = true;
        inner.open.insert(number, None);
        Stream { streams: self.clone(), number }
    }

    fn any_yet(&self) -> bool {
        self.lock().any_yet
    }

    /// Nothing has been asked for so long.
    fn is_idle(&self, limit: Duration) -> bool {
        let inner = self.lock();
        inner.open.is_empty() && inner.quiet_since.elapsed() >= limit
    }

    /// The client has left something untaken for so long.
    fn is_stalled(&self, limit: Duration) -> bool {
        self.lock().open.values().flatten().any(|since| since.elapsed() >= limit)
    }
}

impl Stream {
    fn set(&self, given: Option<Instant>) {
        self.streams.lock().open.insert(self.number, given);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.streams.lock();
        inner.open.remove(&self.number);
        inner.quiet_since = Instant::now();
    }
}

/// A response's body, with its stream.
#[derive(Debug)]
struct StreamBody {
    inner: AnswerBody,
    stream: Stream,
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.inner).poll_frame(cx);
        this.stream.set(frame.is_ready().then(Instant::now));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Serves the connection's streams until its end.
pub(crate) async fn serve(job: ProxyJob, guards: Guards, mut place: Place) {
    let ProxyJob { front, site, mut stop, peer, stream, entry, .. } = job;
    let limits = site.limits;
    limit_client(&stream, &limits, peer.client);
    let metrics = front.metrics.clone();
    // Nothing goes through this gate: each head is judged when hyper has it.
    let (_, requests) = gate(limits.head);
    let too_slow = requests.too_slow();
    let session = Session::new(front, site, peer, entry, requests, stop.clone(), guards);
    let session = Arc::new(session.over(Channel::Http2));
    let streams = Streams::new();
    let service = {
        let (streams, session) = (streams.clone(), Arc::downgrade(&session));
        service_fn(move |request| {
            let (stream, session) = (streams.open(), session.upgrade());
            session.iter().for_each(|session| session.count_request());
            async move { Ok::<_, Infallible>(answer(session, request, stream).await) }
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
    let mut connection = pin!(builder.serve_connection(TokioIo::new(paced), service));
    let mut tick = interval(TICK);
    let closed = loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(client = %peer.client, "HTTP/2 connection: {error}");
                }
                if too_slow.is_set() {
                    metrics.on_closed(CloseReason::SlowReader);
                }
                return;
            }
            () = stop.wait() => {
                connection.as_mut().graceful_shutdown();
                // Streams under way may end; who has the last word waits for us.
                let _ = connection.as_mut().await;
                return;
            }
            () = place.given_up(), if !streams.any_yet() => break Some(CloseReason::ConnectionLimit),
            _ = tick.tick() => {
                if streams.is_stalled(limits.client_timeout) {
                    tracing::debug!(client = %peer.client, "HTTP/2 client takes in nothing");
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
                    break Some(reason);
                }
            }
        }
    };
    if let Some(reason) = closed {
        metrics.on_closed(reason);
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GOODBYE, connection).await;
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
    stream.set(Some(Instant::now()));
    Response::from_parts(parts, StreamBody { inner, stream })
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
