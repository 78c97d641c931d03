//! A client that takes responses in too slowly is left. What counts is the time for which there was something to
//! write and the kernel took nothing; what the server takes is not held against the client.

use baton_shared::pace::{MinRate, Pace};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Whether a connection's client was left for its slowness. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct TooSlow(Arc<AtomicBool>);

impl TooSlow {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream to such a client.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    inner: S,
    pace: Pace,
    /// Since when the kernel has taken nothing, and when that will have been too long.
    blocked: Option<(Instant, Option<Pin<Box<Sleep>>>)>,
    too_slow: TooSlow,
}

impl<S> Paced<S> {
    pub(crate) fn new(inner: S, rule: MinRate, too_slow: TooSlow) -> Self {
        Paced { inner, pace: Pace::new(rule), blocked: None, too_slow }
    }

    /// The stream.
    pub(crate) fn into_inner(self) -> S {
        self.inner
    }

    /// Takes in what came of a write.
    fn judge(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(done) => {
                if let Some((since, _)) = self.blocked.take() {
                    let _ = self.pace.on_waited(nanos(since.elapsed()));
                }
                if let Ok(bytes) = &done {
                    self.pace.on_moved(*bytes as u64);
                }
                Poll::Ready(done)
            }
            Poll::Pending => {
                let left = self.pace.left_ns().map(Duration::from_nanos);
                let timer = || left.map(|left| Box::pin(sleep(left)));
                let (_, timer) = self.blocked.get_or_insert_with(|| (Instant::now(), timer()));
                let Some(timer) = timer else { return Poll::Pending };
                match timer.as_mut().poll(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) => {
                        self.too_slow.set();
                        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
                    }
                }
            }
        }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.judge(cx, wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.inner).poll_write_vectored(cx, bytes);
        this.judge(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const RULE: MinRate = MinRate { bytes_per_second: 1000, grace_ns: 2_000_000_000 };

    /// How long a client lasts that takes in `bytes` every 100 ms, of a minute, and whether it was left.
    async fn lasts(bytes: usize) -> (Duration, bool) {
        let (near, mut far) = duplex(64);
        let too_slow = TooSlow::default();
        let mut paced = Paced::new(near, RULE, too_slow.clone());
        let began = Instant::now();
        let writing = tokio::spawn(async move { paced.write_all(&[b'x'; 1 << 20]).await });
        let reading = async {
            let mut taken = vec![0; bytes.max(1)];
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if bytes > 0 && far.read(&mut taken).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            written = writing => assert_eq!(written.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut),
            () = reading => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
        (began.elapsed(), too_slow.is_set())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_the_rate_is_kept_and_one_that_does_not_is_left() {
        let (time, left) = lasts(0).await;
        assert!(left && time < Duration::from_secs(3), "{time:?}");
        // 500 bytes a second, of the 1000 asked.
        let (time, left) = lasts(50).await;
        assert!(left && time > Duration::from_secs(3) && time < Duration::from_secs(6), "{time:?}");
        // The pipe's 64 bytes sixteen times a second.
        let (time, left) = lasts(64 * 2).await;
        assert!(left, "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_writes_seldom_is_not_the_clients_fault() {
        let (near, mut far) = duplex(1 << 16);
        let too_slow = TooSlow::default();
        let mut paced = Paced::new(near, RULE, too_slow.clone());
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all.len()
        });
        for _ in 0..20 {
            paced.write_all(b"x").await.unwrap();
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        drop(paced);
        assert_eq!(reading.await.unwrap(), 20);
        assert!(!too_slow.is_set());
    }
}
