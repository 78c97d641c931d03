//! One established connection, the same on both sides: `Hello` each way, then reading, writing and pings until
//! something ends it.

use super::queue::Queue;
use super::{Fault, HANDSHAKE_LIMIT, PING_INTERVAL, SILENCE_LIMIT};
use crate::tls::CertificateFacts;
use baton_shared::control::{FrameReader, Hello, Message, PROTOCOL_VERSION, Role, encode};
use rustls_pki_types::CertificateDer;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Bytes read at once: four TLS records.
const READ_BYTES: usize = 64 * 1024;
/// Bytes given to TLS at once. What waits behind a full socket stays ours, so that it is known not to be delivered.
const WRITE_BYTES: usize = 64 * 1024;

/// Who the peer may be.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// The agent of this name.
    Node(Role, String),
    /// One of these intermediates.
    OneOf(Role, Vec<String>),
}

impl Expected {
    /// Compares the peer's certificate, its chain verified before.
    pub(super) fn check(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<CertificateFacts, Fault> {
        let first = chain
            .and_then(<[_]>::first)
            .ok_or_else(|| Fault::Untrusted("it presented no certificate".into()))?;
        let facts = CertificateFacts::parse(first).map_err(Fault::NoNode)?;
        let (Expected::Node(expected, _) | Expected::OneOf(expected, _)) = self;
        if facts.role != *expected {
            return Err(Fault::WrongRole { found: facts.role, expected: *expected });
        }
        match self {
            Expected::Node(_, name) if *name != facts.name => {
                Err(Fault::WrongName { found: facts.name, expected: name.clone() })
            }
            Expected::OneOf(_, names) if !names.contains(&facts.name) => Err(Fault::NotAllowed(facts.name)),
            _ => Ok(facts),
        }
    }
}

/// Says `Hello` and awaits the peer's. Bytes that came with it stay in `frames`.
pub(super) async fn exchange_hello<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    frames: &mut FrameReader,
    ours: &Hello,
    proved: &CertificateFacts,
) -> Result<Hello, Fault> {
    let hello = encode(&Message::Hello(ours.clone()))?;
    let write = async {
        stream.write_all(&hello).await?;
        stream.flush().await
    };
    // If writing fails because the peer refused us, what it said is still to be read.
    let wrote = write.await;
    let peer = match timeout(HANDSHAKE_LIMIT, read_hello(stream, frames)).await {
        Ok(peer) => peer?,
        Err(_) => return Err(Fault::Timeout("Hello")),
    };
    wrote.map_err(|e| Fault::from_io(e, true))?;
    // The version first: with another one the rest may mean something else.
    if peer.protocol != PROTOCOL_VERSION {
        return Err(Fault::Version { found: peer.protocol, software: peer.software });
    }
    if peer.role != proved.role || peer.name != proved.name {
        let node = |role: Role, name: &str| format!("{} {name:?}", role.name());
        return Err(Fault::HelloDiffers {
            said: node(peer.role, &peer.name),
            proved: node(proved.role, &proved.name),
        });
    }
    Ok(peer)
}

async fn read_hello<S: AsyncRead + Unpin>(stream: &mut S, frames: &mut FrameReader) -> Result<Hello, Fault> {
    let mut buffer = vec![0; 4096];
    loop {
        match frames.next_message()? {
            Some(Message::Hello(hello)) => return Ok(hello),
            Some(_) => return Err(Fault::Protocol("the first message is not Hello".into())),
            None => {}
        }
        let count = stream.read(&mut buffer).await.map_err(|e| Fault::from_io(e, true))?;
        if count == 0 {
            return Err(Fault::ClosedEarly);
        }
        frames.push(buffer.get(..count).unwrap_or_default());
    }
}

/// Serves the connection until it ends; the fault says why. The queue is open on entry; the caller closes it.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    mut frames: FrameReader,
    queue: &Queue,
    on_message: &(dyn Fn(Message) + Send + Sync),
) -> Fault {
    let (mut read_half, mut write_half) = tokio::io::split(stream);
    let heard = AtomicBool::new(true);
    let reading = async {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            loop {
                match frames.next_message() {
                    Ok(Some(message)) => deliver(message, queue, on_message),
                    Ok(None) => break,
                    Err(e) => return Fault::from(e),
                }
            }
            match read_half.read(&mut buffer).await {
                Ok(0) => return Fault::Closed,
                Ok(count) => {
                    heard.store(true, Ordering::Relaxed);
                    frames.push(buffer.get(..count).unwrap_or_default());
                }
                Err(e) => return Fault::from_io(e, false),
            }
        }
    };
    let writing = async {
        let mut batch = Vec::new();
        while queue.take(&mut batch).await {
            if let Err(e) = write_batch(&mut write_half, &batch, queue).await {
                return Fault::from_io(e, false);
            }
            batch.clear();
            // One very large handoff must not keep its memory for ever.
            batch.shrink_to(4 * WRITE_BYTES);
        }
        Fault::Shutdown
    };
    let living = async {
        let mut tick = tokio::time::interval(PING_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut silent_since = tokio::time::Instant::now();
        let mut count = 0;
        loop {
            let now = tick.tick().await;
            if heard.swap(false, Ordering::Relaxed) {
                silent_since = now;
            } else if now.duration_since(silent_since) >= SILENCE_LIMIT {
                return Fault::Silent;
            }
            count += 1;
            // A full queue is no reason to end the channel: the peer's own pings show that it lives.
            let _ = queue.send(&Message::Ping(count));
        }
    };
    // The three share one task, in this order: what a message just read is answered with leaves at once, in the
    // same poll.
    tokio::select! {
        biased;
        fault = reading => fault,
        fault = writing => fault,
        fault = living => fault,
    }
}

fn deliver(message: Message, queue: &Queue, on_message: &(dyn Fn(Message) + Send + Sync)) {
    match message {
        Message::Ping(number) => {
            let _ = queue.send(&Message::Pong(number));
        }
        Message::Pong(_) | Message::Hello(_) => {}
        other => on_message(other),
    }
}

async fn write_batch<W: AsyncWrite + Unpin>(out: &mut W, batch: &[u8], queue: &Queue) -> std::io::Result<()> {
    let mut rest = batch;
    while !rest.is_empty() {
        let piece = rest.get(..WRITE_BYTES).unwrap_or(rest);
        let result = out.write(piece).await;
        // TLS may have put part of the piece on the wire before it failed: all of it counts as written then.
        let count = *result.as_ref().unwrap_or(&piece.len());
        queue.accepted(count);
        if result? == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        rest = rest.get(count..).unwrap_or_default();
    }
    out.flush().await
}
