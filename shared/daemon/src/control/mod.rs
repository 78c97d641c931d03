//! The control channel's transport: one TCP connection with mutual TLS 1.3 per intermediate and agent, shared by
//! all flows. What is said on it is `baton_shared::control`.
//!
//! - Messages queued while the writer is busy leave together in one write, in the order in which they were queued.
//! - Each side sends `Ping` every [`PING_INTERVAL`] and gives the channel up after [`SILENCE_LIMIT`] without a
//!   byte. `Ping`, `Pong` and `Hello` are handled here and never reach the event callback.
//! - A peer is who its certificate says it is: role and name of the certificate must equal those expected and
//!   those of its `Hello`. Whatever does not fit ends the channel with one log line and a [`FaultKind`] counted.
//! - Events are given to a callback in the reader's own task, which saves the handoff a task wakeup. **It must not
//!   block**: until it returns nothing else is read from that peer.

mod client;
mod fault;
mod link;
mod queue;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientSpec, probe};
pub use fault::{ControlError, Fault, FaultCounters, FaultKind};
pub use server::{Server, ServerSpec};

use baton_shared::control::{FlowRef, Hello, Message};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How often each side says that it is there.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Without a byte from the peer for so long, the channel is given up.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// Time for TCP connect, for the TLS handshake and for the peer's `Hello`, each.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// The first pause before connecting again; doubled up to [`RECONNECT_MAX`], and reset by a channel that came up.
pub const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// The longest pause before connecting again.
pub const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Bytes a peer's queue holds before [`SendError::Busy`].
pub const QUEUE_BYTES: usize = 8 << 20;
/// Messages a peer's queue holds before [`SendError::Busy`].
pub const QUEUE_MESSAGES: usize = 8192;

/// Why a message was not queued. It has not been and will not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The peer is not connected (or there is no such session).
    #[error("the peer is not connected")]
    Down,
    /// The peer reads more slowly than we write, and its queue is full; or the message is over the frame limit.
    #[error("the peer's queue is full")]
    Busy,
}

/// What happens on a [`Client`]'s channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelEvent {
    /// The channel is up: [`Client::send`] works from before this event on.
    Up {
        /// The peer, its role and name proved by its certificate.
        peer: Hello,
        /// The same process as at the last `Up`: it has not forgotten what it was told. False the first time.
        same_instance: bool,
    },
    /// A message of the peer (not `Hello`, `Ping`, `Pong`).
    Message(Message),
    /// The channel is down. Follows each `Up` once; a new `Up` follows when the peer is there again.
    Down {
        /// What happened, for people.
        reason: String,
        /// The handoffs queued since `Up` of which surely not one byte was written to the socket. Of all others
        /// it must be assumed that they arrived.
        undelivered: Vec<FlowRef>,
    },
}

/// What happens on a [`Server`]'s channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// A peer connected. If the same process had another session, that one is being closed; its `Down` may come
    /// later. A restarted peer's older session ends by itself, at the latest after [`SILENCE_LIMIT`].
    Up {
        /// Names the session; never used twice in the life of a process.
        session: u64,
        /// The peer, its role and name proved by its certificate.
        peer: Hello,
    },
    /// A message of the peer (not `Hello`, `Ping`, `Pong`).
    Message {
        /// From which session.
        session: u64,
        /// What it said.
        message: Message,
    },
    /// The session ended.
    Down {
        /// Which.
        session: u64,
        /// What happened, for people.
        reason: String,
    },
}

/// Receives a client's events in the order they happen; must not block.
pub type ClientEvents = Arc<dyn Fn(ChannelEvent) + Send + Sync>;
/// Receives a server's events, in order within a session, from several tasks at once; must not block.
pub type ServerEvents = Arc<dyn Fn(ServerEvent) + Send + Sync>;

/// The [`Hello::instance`] of one who only asks whether the channel would come up: answered, then let go.
pub const PROBE_INSTANCE: u64 = 0;
