//! Connections to the servers, kept for the next request when one is done.
//!
//! A connection is taken by one request at a time and comes back only when its answer has been read to the end; it is
//! given out again only when hyper says that the request, too, is out to its last byte. What was begun and not ended
//! goes with its connection.

use super::bodies::RequestBody;
use crate::targets::UnderWay;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What is read ahead from a server for a client that does not take it yet, bytes; and the longest head it may have.
const BUFFER_BYTES: usize = 128 * 1024;

/// How long a connection is kept without a request. Servers close theirs after five seconds and more by default
/// (Apache, Node), and a request that meets a server's close may not be sent again unless it is idempotent.
const IDLE: Duration = Duration::from_secs(4);
/// How many are kept for one server by one worker.
const IDLE_MOST: usize = 64;

pub(super) type Sender = SendRequest<RequestBody>;

#[derive(Debug)]
struct Kept {
    sender: Sender,
    since: Instant,
}

impl Kept {
    fn is_good(&self) -> bool {
        !self.sender.is_closed() && self.since.elapsed() < IDLE
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// A connection lives on the worker that made it.
    kept: Mutex<HashMap<(ThreadId, SocketAddr), Vec<Kept>>>,
    opened: Counter,
    reused: Counter,
}

/// All of them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Upstreams(Arc<Inner>);

/// A connection in one request's hands.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) sender: Sender,
    pub(super) server: SocketAddr,
    /// It has served a request before.
    pub(super) reused: bool,
    /// Counts as under way at its target.
    pub(super) under_way: Option<UnderWay>,
}

fn key(server: SocketAddr) -> (ThreadId, SocketAddr) {
    (std::thread::current().id(), server)
}

impl Upstreams {
    fn kept(&self) -> MutexGuard<'_, HashMap<(ThreadId, SocketAddr), Vec<Kept>>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kept connection, the one used last; else a new one, for which `limit` is the time.
    pub(super) async fn connect(&self, server: SocketAddr, limit: Duration) -> std::io::Result<Lease> {
        let mut taken = self.take(server);
        if taken.is_none() && self.kept().contains_key(&key(server)) {
            // What has just come back: hyper's task must run once before it takes a request.
            tokio::task::yield_now().await;
            taken = self.take(server);
        }
        match taken {
            Some(sender) => {
                self.0.reused.inc();
                Ok(Lease { sender, server, reused: true, under_way: None })
            }
            None => self.open(server, limit).await,
        }
    }

    /// A new connection.
    pub(super) async fn open(&self, server: SocketAddr, limit: Duration) -> std::io::Result<Lease> {
        let stream = timeout(limit, TcpStream::connect(server)).await??;
        stream.set_nodelay(true)?;
        let mut builder = Builder::new();
        builder.max_buf_size(BUFFER_BYTES);
        builder.preserve_header_case(true);
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        self.0.opened.inc();
        tokio::spawn(async move {
            if let Err(e) = connection.with_upgrades().await {
                tracing::debug!(%server, "connection to the server: {e}");
            }
        });
        Ok(Lease { sender, server, reused: false, under_way: None })
    }

    fn take(&self, server: SocketAddr) -> Option<Sender> {
        let mut kept = self.kept();
        let list = kept.get_mut(&key(server))?;
        list.retain(Kept::is_good);
        let ready = list.iter().rposition(|k| k.sender.is_ready())?;
        Some(list.remove(ready).sender)
    }

    /// Keeps a connection whose answer has been read to its end.
    pub(super) fn put(&self, server: SocketAddr, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let key = key(server);
        let mut kept = self.kept();
        let begins = !kept.contains_key(&key);
        let list = kept.entry(key).or_default();
        if list.len() >= IDLE_MOST {
            list.remove(0);
        }
        list.push(Kept { sender, since: Instant::now() });
        drop(kept);
        if begins {
            let this = self.clone();
            tokio::spawn(async move {
                while this.sweep(key) {
                    tokio::time::sleep(IDLE / 4).await;
                }
            });
        }
    }

    /// Closes what is over its time; whether any are left.
    fn sweep(&self, key: (ThreadId, SocketAddr)) -> bool {
        let mut kept = self.kept();
        let Some(list) = kept.get_mut(&key) else { return false };
        list.retain(Kept::is_good);
        let any = !list.is_empty();
        if !any {
            kept.remove(&key);
        }
        any
    }

    /// Puts the counts into a registry, under the names operators see.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "baton_upstream_opened",
            "Connections to servers made by the proxy",
            self.0.opened.clone(),
        );
        registry.register(
            "baton_upstream_reused",
            "Proxied requests for which a kept connection to the server was there",
            self.0.reused.clone(),
        );
    }
}
