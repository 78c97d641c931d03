//! The streams of one connection: which are open, what their client has been given and has not taken, what it costs.

use super::super::bodies::{AnswerBody, BodyError};
use super::super::paced::nanos;
use crate::front::StreamPlace;
use baton_shared::http::Conduct;
use baton_shared::pace::{MinRate, Pace};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// Of a response at a time, bytes: so that a client that takes it in slowly is seen to take it in.
const PIECE: usize = 16 << 10;

/// What a stream's client was given and has not come back from: when, and how many bytes.
type Given = Option<(Instant, u64)>;

#[derive(Debug)]
struct Inner {
    next: u64,
    /// `None` while the server is waited for.
    open: HashMap<u64, Given>,
    /// When the last one ended.
    quiet_since: Instant,
    any_yet: bool,
    conduct: Conduct,
    /// Until when time is in its account.
    accounted: Instant,
    /// How fast the client takes responses in, over all streams.
    pace: Pace,
    /// Since when it has been given something and has taken nothing.
    waiting: Option<Instant>,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Streams(Arc<Mutex<Inner>>);

/// One open stream.
#[derive(Debug)]
pub(super) struct Stream {
    streams: Streams,
    number: u64,
    /// Its response was given whole, or broke off at the server's end.
    ended: bool,
    _place: StreamPlace,
}

impl Streams {
    /// Of a client that must take responses in at this rate.
    pub(super) fn new(rule: MinRate) -> Self {
        Streams(Arc::new(Mutex::new(Inner {
            next: 0,
            open: HashMap::new(),
            quiet_since: Instant::now(),
            any_yet: false,
            conduct: Conduct::default(),
            accounted: Instant::now(),
            pace: Pace::new(rule),
            waiting: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub(super) fn open(&self, place: StreamPlace) -> Stream {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.any_yet = true;
        inner.conduct.on_opened();
        inner.open.insert(number, None);
        Stream { streams: self.clone(), number, ended: false, _place: place }
    }

    /// Whether there ever was one.
    pub(super) fn any_yet(&self) -> bool {
        self.lock().any_yet
    }

    /// Nothing has been asked for so long.
    pub(super) fn is_idle(&self, limit: Duration) -> bool {
        let inner = self.lock();
        inner.open.is_empty() && inner.quiet_since.elapsed() >= limit
    }

    /// The client has left something untaken for so long, or takes in too slowly all in all.
    pub(super) fn is_stalled(&self, limit: Duration) -> bool {
        let inner = self.lock();
        let waited = inner.waiting.map(|since| nanos(since.elapsed()));
        let slow = waited.zip(inner.pace.left_ns()).is_some_and(|(waited, left)| waited >= left);
        slow || inner.open.values().flatten().any(|(since, _)| since.elapsed() >= limit)
    }

    /// The client sent this. Whether it only makes work by now.
    pub(super) fn on_received(&self, bytes: &[u8]) -> bool {
        let mut inner = self.lock();
        let seconds = inner.accounted.elapsed().as_secs();
        if seconds > 0 {
            inner.conduct.on_passed(seconds);
            inner.accounted += Duration::from_secs(seconds);
        }
        inner.conduct.on_received(bytes);
        inner.conduct.is_flood()
    }

    /// Whether the client only makes work.
    pub(super) fn is_flood(&self) -> bool {
        self.lock().conduct.is_flood()
    }
}

impl Stream {
    /// The client was given so many bytes.
    pub(super) fn on_given(&self, bytes: usize) {
        let mut inner = self.streams.lock();
        let now = Instant::now();
        inner.open.insert(self.number, Some((now, bytes as u64)));
        inner.waiting.get_or_insert(now);
    }

    /// It has room for more: what it was given before is on its way.
    fn on_taken(&self) {
        let mut inner = self.streams.lock();
        let Some((_, bytes)) = inner.open.get_mut(&self.number).and_then(Option::take) else { return };
        if let Some(since) = inner.waiting.take() {
            let _ = inner.pace.on_waited(nanos(since.elapsed()));
        }
        inner.pace.on_moved(bytes);
        inner.conduct.on_given(bytes);
        inner.waiting = inner.open.values().any(Option::is_some).then(Instant::now);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.on_taken();
        let mut inner = self.streams.lock();
        inner.open.remove(&self.number);
        inner.quiet_since = Instant::now();
        if !self.ended {
            inner.conduct.on_given_up();
        }
    }
}

/// A response's body, with its stream.
#[derive(Debug)]
pub(super) struct StreamBody {
    inner: AnswerBody,
    stream: Stream,
    /// What the server gave and the client was not given yet.
    rest: Bytes,
}

impl StreamBody {
    pub(super) fn new(inner: AnswerBody, stream: Stream) -> Self {
        StreamBody { inner, stream, rest: Bytes::new() }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        this.stream.on_taken();
        let frame = if this.rest.is_empty() {
            std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx))
        } else {
            Some(Ok(Frame::data(std::mem::take(&mut this.rest))))
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            over => {
                this.stream.ended = true;
                return Poll::Ready(over);
            }
        };
        let frame = match frame.into_data() {
            Ok(mut data) => {
                this.rest = data.split_off(data.len().min(PIECE));
                this.stream.on_given(data.len());
                Frame::data(data)
            }
            Err(trailers) => trailers,
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        // A body known to have ended is not polled for its end.
        self.stream.ended |= self.is_end_stream();
    }
}
