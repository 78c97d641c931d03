//! The client's side of a proxied connection: nothing of a request passes before its head was judged.

use super::paced::{Paced, TooSlow};
use super::stream::ClientStream;
use baton_shared::http::{HeadLimits, RequestHead, RequestStream, Step, Switch, Verdict};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What hyper gets to read in the place of a refused head: a request that makes it call the service in its turn,
/// after the answers to what was pipelined before; the service then answers the verdict.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";
/// How much is read from the socket at a time, bytes.
const READ_BYTES: usize = 16 * 1024;

/// What the service must know of a request and hyper does not tell.
#[derive(Clone, Debug)]
pub(super) struct GatedRequest {
    pub(super) head: RequestHead,
    /// Those the head was parsed from.
    pub(super) bytes: Vec<u8>,
    pub(super) request_line: String,
}

#[derive(Debug)]
struct Inner {
    stream: RequestStream,
    /// Heads that went to hyper and have not come to the service yet.
    heads: VecDeque<Result<GatedRequest, Verdict>>,
    /// Of who waits for the answer to an upgrade.
    waker: Option<Waker>,
    /// A body in the middle of which something was wrong.
    broken_body: Option<Verdict>,
    refused: bool,
    /// An interim response for the client, ahead of the present request's answer.
    interim: Vec<u8>,
    /// A head had begun and was not complete in time.
    head_late: bool,
    /// The client takes responses in too slowly.
    too_slow: TooSlow,
}

/// The service's end of the gate. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Requests(Arc<Mutex<Inner>>);

/// The gate of one connection, and the service's end of it.
pub(super) fn gate(limits: HeadLimits) -> (Requests, Requests) {
    let inner = Inner {
        stream: RequestStream::new(limits),
        heads: VecDeque::new(),
        waker: None,
        broken_body: None,
        refused: false,
        interim: Vec::new(),
        head_late: false,
        too_slow: TooSlow::default(),
    };
    let requests = Requests(Arc::new(Mutex::new(inner)));
    (requests.clone(), requests)
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the gate found out about the request that hyper brings now.
    pub(super) fn next(&self) -> Option<Result<GatedRequest, Verdict>> {
        self.lock().heads.pop_front()
    }

    /// Tells what came of a request that could have changed the protocol.
    pub(super) fn on_switch(&self, switch: Switch) {
        let mut inner = self.lock();
        inner.stream.on_switch(switch);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    /// What was wrong within the present request's body, if anything.
    pub(super) fn broken_body(&self) -> Option<Verdict> {
        self.lock().broken_body
    }

    /// Puts a 1xx response on its way to the client. To be called by the service, before it answers.
    pub(super) fn interim(&self, response: &[u8]) {
        self.lock().interim.extend_from_slice(response);
    }

    /// Whether a head was not complete in time.
    pub(super) fn is_head_late(&self) -> bool {
        self.lock().head_late
    }

    /// Whether the client was left because it takes responses in too slowly.
    pub(super) fn too_slow(&self) -> TooSlow {
        self.lock().too_slow.clone()
    }

    /// Whether a head has begun and is not complete.
    pub(super) fn in_head(&self) -> bool {
        self.lock().stream.in_head()
    }
}

/// The client's socket as hyper sees it.
#[derive(Debug)]
pub(super) struct GatedIo {
    socket: Paced<ClientStream>,
    gate: Requests,
    /// Read from the socket; the first `pass` bytes from `at` on may go to hyper.
    buffer: Vec<u8>,
    at: usize,
    pass: usize,
    /// Of [`STAND_IN`], what hyper has not read yet.
    stand_in: &'static [u8],
    /// Since hyper has last written out all it had, it has written nothing: another message can begin.
    between: bool,
    /// Of an interim response, what has not been written yet.
    interim: Vec<u8>,
    /// How long a head may take from its first byte on.
    head_timeout: Duration,
    /// Runs while one is under way.
    head_timer: Option<Pin<Box<Sleep>>>,
}

impl GatedIo {
    /// `bytes` were read from `socket` already.
    pub(super) fn new(
        socket: Paced<ClientStream>,
        bytes: Vec<u8>,
        gate: Requests,
        head_timeout: Duration,
    ) -> Self {
        GatedIo {
            socket,
            gate,
            buffer: bytes,
            at: 0,
            pass: 0,
            stand_in: &[],
            between: true,
            interim: Vec::new(),
            head_timeout,
            head_timer: None,
        }
    }

    /// Waits for more, but not for ever for the rest of a head.
    fn poll_more(&mut self, cx: &mut Context<'_>, in_head: bool) -> Poll<io::Result<bool>> {
        if !in_head {
            self.head_timer = None;
        } else if self.head_timer.is_none() {
            self.head_timer = Some(Box::pin(sleep(self.head_timeout)));
        }
        if let Poll::Ready(filled) = self.poll_fill(cx) {
            return Poll::Ready(filled);
        }
        let Some(timer) = &mut self.head_timer else { return Poll::Pending };
        ready!(timer.as_mut().poll(cx));
        self.gate.lock().head_late = true;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The socket.
    pub(super) fn into_stream(self) -> ClientStream {
        self.socket.into_inner()
    }

    /// Writes interim responses, which hyper's server knows nothing of. They go out between two of its messages or
    /// not at all.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let new = std::mem::take(&mut self.gate.lock().interim);
        if self.between {
            self.interim.extend_from_slice(&new);
        }
        while !self.interim.is_empty() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.interim))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    fn give(&mut self, out: &mut ReadBuf<'_>) {
        let count = self.pass.min(out.remaining());
        let bytes = self.buffer.get(self.at..self.at + count).unwrap_or_default();
        out.put_slice(bytes);
        self.at += count;
        self.pass -= count;
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
    }

    /// Whether more bytes came; `false` at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + READ_BYTES, 0);
        let mut space = ReadBuf::new(self.buffer.get_mut(before..).unwrap_or_default());
        let polled = Pin::new(&mut self.socket).poll_read(cx, &mut space);
        let count = space.filled().len();
        self.buffer.truncate(before + count);
        ready!(polled)?;
        Poll::Ready(Ok(count > 0))
    }

    /// Judges what is in the buffer. `Ready(true)`: there may be something to give; `Ready(false)`: the stream
    /// has ended.
    fn poll_judge(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let bytes = self.buffer.get(self.at..).unwrap_or_default();
        let mut inner = self.gate.lock();
        match inner.stream.step(bytes) {
            Step::NeedMore => {
                let in_head = inner.stream.in_head();
                drop(inner);
                return self.poll_more(cx, in_head);
            }
            Step::Skip(count) => self.at += count,
            Step::Pass(count) => self.pass = count,
            Step::Head(head) => {
                self.pass = head.head_len;
                let request_line = head.request_line(bytes);
                let bytes = bytes.get(..head.head_len).unwrap_or_default().to_vec();
                inner.heads.push_back(Ok(GatedRequest { head, bytes, request_line }));
            }
            Step::Wait => {
                inner.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            // The stand-in was read and closes the connection; there is nothing after it.
            Step::Refuse(_) if inner.refused => return Poll::Ready(Ok(false)),
            Step::Refuse(verdict) => {
                inner.refused = true;
                if inner.stream.refused_in_body() {
                    inner.broken_body = Some(verdict);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, verdict.detail)));
                }
                inner.heads.push_back(Err(verdict));
                self.stand_in = STAND_IN;
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl AsyncRead for GatedIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.pass > 0 {
                this.give(out);
                return Poll::Ready(Ok(()));
            }
            if !this.stand_in.is_empty() {
                let (now, later) = this.stand_in.split_at(this.stand_in.len().min(out.remaining()));
                out.put_slice(now);
                this.stand_in = later;
                return Poll::Ready(Ok(()));
            }
            if !ready!(this.poll_judge(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for GatedIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        this.between = false;
        Pin::new(&mut this.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        this.between = false;
        Pin::new(&mut this.socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes when it has written out its own buffer.
        this.between = true;
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
