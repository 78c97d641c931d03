//! What the front gives to [`Migrator::migrate`](super::Migrator::migrate), and what it gets back.

use super::history::Subject;
use crate::access_log::{Asked, Placed};
use crate::socket::Socket;
use crate::targets::TargetId;
use crate::trace::Trace;
use baton_shared::http::Framing;
use baton_shared::reason::{CloseReason, ProxyReason, Refusal};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

/// An accepted connection whose first request may be given to a target together with the connection.
#[derive(Debug)]
pub struct Candidate {
    /// The connection. Nothing has been written to it, and nothing may be in flight on it. Its listener must
    /// have gone through [`prepare_listener`](super::prepare_listener).
    pub stream: Socket,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port the client connected to.
    pub vip: SocketAddr,
    /// Where the request shall go.
    pub target: TargetId,
    /// The bytes to feed to the server: the head as the server shall see it and the body bytes read so far.
    /// What the freeze drains from the socket is appended.
    pub request: Vec<u8>,
    /// Bytes the request will have, with its body, as far as they are announced: `u64::MAX` where only its body's coding tells.
    pub announced: u64,
    /// If what follows the request on the connection is not its server's.
    pub tracked: Option<TrackedCandidate>,
    /// Method and path, for the record of migrations; the migrator does not read it.
    pub request_line: String,
    /// What [`syn_tsval`](super::syn_tsval) said of the connection.
    pub syn_tsval: Option<u32>,
    /// If its spans are wanted.
    pub trace: Option<Trace>,
    /// For the access log, if there is one; its target is filled in.
    pub noted: Option<Box<(Asked, Placed)>>,
    /// When the connection was accepted.
    pub accepted_at: Instant,
    /// The same by the clock on the wall.
    pub started: SystemTime,
    /// When the request head was complete.
    pub head_at: Instant,
}

/// What must be known of a first request for the later ones to be told from it.
#[derive(Clone, Copy, Debug)]
pub struct TrackedCandidate {
    /// Bytes of its head, as it is fed.
    pub head_bytes: usize,
    /// How its body ends.
    pub framing: Framing,
    /// The method is HEAD.
    pub head: bool,
    /// Nothing may follow it: the server closes, and gets no more.
    pub last: bool,
}

/// How a migration came out.
#[derive(Debug)]
pub enum Outcome {
    /// The target has the connection; the intermediate's socket is gone without a packet.
    Migrated(StageTimes),
    /// The request has not reached the server by migration and will not: proxy it (or try another target).
    NotMigrated(Box<NotMigrated>),
    /// The connection was ended: nobody may run this request again.
    Closed(CloseReason),
}

/// A connection that was not given away.
#[derive(Debug)]
pub struct NotMigrated {
    /// The connection, in working order.
    pub stream: Socket,
    /// Bytes the freeze drained from the socket: they follow [`Candidate::request`].
    pub extra: Vec<u8>,
    /// The request as it was given in, without `extra`.
    pub request: Vec<u8>,
    /// Why.
    pub reason: ProxyReason,
    /// The agent's own reason if `reason` is [`ProxyReason::Refused`].
    pub refusal: Option<Refusal>,
    /// For the record, once it is known whether another target takes it.
    pub subject: Subject,
    /// [`Candidate::noted`].
    pub noted: Option<Box<(Asked, Placed)>>,
}

/// How long each stage of a migration took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// From accept to the complete request head.
    pub accept_to_head: Duration,
    /// From the complete head to the start of the freeze: gate, routing, rewriting.
    pub decide: Duration,
    /// Slot filled and key inserted.
    pub freeze: Duration,
    /// Receive queue drained.
    pub drain: Duration,
    /// Socket put into repair mode and read.
    pub capture: Duration,
    /// From the handoff's sending to its answer's arrival at this connection's task.
    pub handoff: Duration,
    /// Of that, what the agent reports for itself.
    pub agent: Duration,
    /// Deltas into the record, state `Committed`.
    pub commit: Duration,
    /// Held packets released.
    pub release: Duration,
    /// Socket closed in repair mode.
    pub close: Duration,
    /// From the start of the freeze until the client's packets were on their way to the target.
    pub total: Duration,
    /// The target's kernel adopted the connection; else the handshake was replayed there.
    pub adopted: bool,
}

impl StageTimes {
    /// The stages with their names in the admin API and in metrics, in the order they happen, without `total`.
    pub fn named(&self) -> [(&'static str, Duration); 10] {
        [
            ("accept_to_head", self.accept_to_head),
            ("decide", self.decide),
            ("freeze", self.freeze),
            ("drain", self.drain),
            ("capture", self.capture),
            ("handoff", self.handoff),
            ("agent", self.agent),
            ("commit", self.commit),
            ("release", self.release),
            ("close", self.close),
        ]
    }
}
