//! Bodies on their way: progress noted, silence limited.

use super::paced::{TooSlow, nanos};
use super::pool::{Lease, Upstreams};
use super::recorder::Recorder;
use baton_shared::pace::{MinRate, Pace};
use baton_shared::route::RequestLimits;
use baton_shared::termination::ProxiedEnd;
use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// What the proxy answers with.
pub(super) type AnswerBody = Either<ResponseBody, Full<Bytes>>;
/// What can go wrong with a body.
pub(super) type BodyError = Box<dyn Error + Send + Sync>;

/// When something last moved on the way to the server, how many bytes of the body have, and whether the client sends
/// them fast enough.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    moved: Arc<Mutex<(Instant, u64)>>,
    limits: RequestLimits,
    too_slow: TooSlow,
}

impl Progress {
    /// Of a body of which this is asked.
    pub(super) fn new(limits: &RequestLimits) -> Self {
        let moved = Arc::new(Mutex::new((Instant::now(), 0)));
        Progress { moved, limits: *limits, too_slow: TooSlow::default() }
    }

    /// Whether more bytes came than may.
    pub(super) fn is_too_large(&self) -> bool {
        self.limits.is_over(self.bytes())
    }

    /// Whether the body came too slowly.
    pub(super) fn is_too_slow(&self) -> bool {
        self.too_slow.is_set()
    }

    fn lock(&self) -> MutexGuard<'_, (Instant, u64)> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, bytes: usize) {
        let mut inner = self.lock();
        inner.0 = Instant::now();
        inner.1 += bytes as u64;
    }

    /// How many bytes of the body have moved.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().1
    }

    /// Until nothing has moved for `limit`.
    pub(super) async fn stalled(&self, limit: Duration) {
        loop {
            let due = self.lock().0 + limit;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// A request's body on its way to the server.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// None: there is no body.
    inner: Option<Incoming>,
    progress: Progress,
    pace: Pace,
    /// Since when the client is waited for, and when that will have been too long.
    waiting: Option<(Instant, Option<Pin<Box<Sleep>>>)>,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, progress: Progress) -> Self {
        let pace = Pace::new(progress.limits.body_rate);
        RequestBody { inner: Some(inner), progress, pace, waiting: None }
    }

    /// Of a request without a body.
    pub(super) fn none(progress: Progress) -> Self {
        RequestBody { inner: None, progress, pace: Pace::new(MinRate::NONE), waiting: None }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let frame = Pin::new(inner).poll_frame(cx);
        if let Poll::Ready(frame) = frame {
            let bytes = frame.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum();
            this.progress.note(bytes);
            if let Some((since, _)) = this.waiting.take() {
                let _ = this.pace.on_waited(nanos(since.elapsed()));
            }
            this.pace.on_moved(bytes as u64);
            if this.progress.is_too_large() {
                return Poll::Ready(Some(Err("the request's body is too large".into())));
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let left = this.pace.left_ns().map(Duration::from_nanos);
        let timer = || left.map(|left| Box::pin(sleep(left)));
        let (_, timer) = this.waiting.get_or_insert_with(|| (Instant::now(), timer()));
        let Some(timer) = timer else { return Poll::Pending };
        ready!(timer.as_mut().poll(cx));
        this.progress.too_slow.set();
        Poll::Ready(Some(Err("the client's body came too slowly".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response's body on its way to the client; a server that falls silent ends it. When it has been read to its end
/// the connection it came over is kept for other requests.
#[derive(Debug)]
pub(super) struct ResponseBody {
    inner: Incoming,
    limit: Duration,
    /// Runs while the server is waited for.
    silence: Option<Pin<Box<Sleep>>>,
    lease: Option<(Upstreams, Lease)>,
    ended: bool,
    recorder: Recorder,
}

impl ResponseBody {
    pub(super) fn new(
        inner: Incoming,
        limit: Duration,
        lease: Option<(Upstreams, Lease)>,
        recorder: Recorder,
    ) -> Self {
        ResponseBody { inner, limit, silence: None, lease, ended: false, recorder }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.silence = None;
            match &frame {
                Some(Err(_)) => {
                    this.lease = None;
                    this.recorder.end(ProxiedEnd::ServerBroke);
                }
                Some(Ok(frame)) => this.recorder.add(frame.data_ref().map_or(0, Bytes::len)),
                None => this.ended = true,
            }
            return Poll::Ready(frame.map(|f| f.map_err(Into::into)));
        }
        let limit = this.limit;
        let silence = this.silence.get_or_insert_with(|| Box::pin(sleep(limit)));
        match silence.as_mut().poll(cx) {
            Poll::Ready(()) => {
                this.lease = None;
                this.recorder.end(ProxiedEnd::ServerSilent);
                Poll::Ready(Some(Err("the server fell silent in mid-response".into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A body known to have ended is not polled for its end.
        if !self.ended && !self.inner.is_end_stream() {
            return;
        }
        self.recorder.end(ProxiedEnd::Finished);
        if let Some((upstreams, lease)) = self.lease.take() {
            upstreams.put(lease.server, lease.sender);
        }
    }
}
