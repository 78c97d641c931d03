//! One handoff on the target: the client's handshake replayed to the server, then the request fed to it.
//!
//! A pure state machine: it is told what arrived and what time it is, and is asked what to send, what to answer and
//! when to be called again. Times are CLOCK_MONOTONIC nanoseconds.
//!
//! | from | event | to | what follows |
//! |---|---|---|---|
//! | (new) | | `SynSent` | SYN; to a client that is far away twice |
//! | `SynSent` | SYN-ACK with the client's options | `Accepted` | the caller puts the record in force |
//! | `SynSent` | SYN-ACK with other options | `Refused(OptionsMismatch)` | RST into the server |
//! | `SynSent` | SYN-ACK with numbers near the client's, where adopting is expected | `Refused(AdoptFailed)` | RST into the server |
//! | `SynSent` | RST that answers the SYN | `Refused(ServerRefused)` | |
//! | `SynSent` | ACK of something else (an old socket) | `SynSent` | RST at that number, SYN again |
//! | `SynSent` | resend time | `SynSent` | SYN, again twice if the client is far away |
//! | `SynSent` | deadline | `Refused(ServerSilent)` | RST |
//! | `SynSent`, `Accepted` | withdrawn | `Refused(its reason)` | RST |
//! | `Accepted` | record in force | `Feeding` | request within window and MSS; the first segment completes the handshake |
//! | `Feeding` | everything was sent once, or withdrawn, or deadline | `Feeding` | answer `Migrated` |
//! | `Feeding` | no progress in time | `Feeding` | again from the first unacknowledged byte |
//! | `Feeding` | all acknowledged | `Fed` | answer `Migrated` |
//! | `Feeding` | server's RST noted | `Stopped` | answer `Migrated` (the reset is the flow's answer) |
//!
//! `Refused`, `Fed` and `Stopped` are final. Once `Feeding` is entered a refusal is impossible: the server may run
//! the request.
//!
//! Client to server numbers need no change (delta 0): the initial sequence number is chosen so that the request's
//! last byte has the number before `rcv_nxt`, whatever the request's length as fed.

mod adopted;
mod facts;
mod follow;

pub use facts::{Answer, SegmentOptions, SegmentToSend, ServerReply, Translation, flag};

use crate::capture::CapturedConnection;
use crate::control::{FlowRef, Handoff, TrackedRequest};
use crate::reason::Refusal;
use crate::seq::{Client, Seq, Server, are_near};
use core::net::SocketAddr;

/// How long the first SYN may go unanswered, ns; doubled each time. Locally the answer is immediate, so silence
/// means it was dropped.
const SYN_RESEND_NS: u64 = 20_000_000;
/// How long unacknowledged request bytes wait before they are sent again, ns; doubled up to [`RESEND_MAX_NS`].
const RESEND_NS: u64 = 20_000_000;
/// The longest wait between two attempts at a server that acknowledges nothing, ns.
const RESEND_MAX_NS: u64 = 1_000_000_000;
/// The largest packet injected, bytes: the TUN's MTU.
const PACKET_BYTES: u32 = 1500;
/// IP and TCP headers without options, bytes.
const fn header_bytes(server: &SocketAddr) -> u32 {
    if server.is_ipv4() { 40 } else { 60 }
}
/// The timestamp option with its two NOPs, bytes (RFC 7323, appendix A).
const TIMESTAMP_BYTES: u32 = 12;
/// The MSS of a peer that names none (RFC 9293, section 3.7.1), bytes.
const DEFAULT_MSS: u16 = 536;
/// Added to the last timestamp value the client may have seen to get the one at the server's SYN-ACK.
const TSVAL_AHEAD: u32 = 2;

/// By how much at least a server's numbers must differ from those its client knows where acknowledgements of the client's may
/// come that were not translated ([`FLAG_AHEAD`](crate::record::FLAG_AHEAD)): one of those must never be right by chance. A
/// server that gets none that are sends no more than its first window.
const APART: u32 = 1 << 24;

/// From this round-trip time of the client's on, microseconds, the server's kernel must not take the replayed
/// handshake's for it: timestamps count milliseconds, and below this BBR and the retransmission timer do not mind.
const FAR_RTT_US: u32 = 2_000;

/// How many SYNs open a replay. The second one looks like a retransmission, and so does the SYN-ACK it is answered with:
/// by Karn's algorithm (RFC 6298, section 3) the kernel then measures no round trip. The handshake is local, and BBR
/// would believe in its round-trip time for ten seconds.
fn syns(connection: &CapturedConnection) -> u8 {
    if is_far(connection) { 2 } else { 1 }
}

fn is_far(connection: &CapturedConnection) -> bool {
    connection.rtt_us >= FAR_RTT_US
}

/// Where the handoff stands; the table is at the top of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The SYN is out (or to be sent).
    SynSent,
    /// The server's numbers are known; the record is not in force yet.
    Accepted,
    /// The record is in force, the request is being fed.
    Feeding,
    /// The server has acknowledged the whole request.
    Fed,
    /// The server reset the connection while it was fed.
    Stopped,
    /// Not taken; the request was not fed.
    Refused(Refusal),
}

impl Phase {
    /// The phase's name in logs and the admin API.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::SynSent => "syn_sent",
            Phase::Accepted => "accepted",
            Phase::Feeding => "feeding",
            Phase::Fed => "fed",
            Phase::Stopped => "stopped",
            Phase::Refused(_) => "refused",
        }
    }
}

/// One handoff. Offsets count request bytes from the first; the client's FIN counts one more.
#[derive(Debug)]
pub struct Replay {
    handoff: Box<Handoff>,
    phase: Phase,
    received_ns: u64,
    deadline_ns: u64,
    /// Nanoseconds from receipt to the SYN-ACK, 0 before.
    handshake_ns: u64,
    /// Nanoseconds from receipt to the moment the answer was known, 0 before.
    answered_ns: u64,
    /// How many SYNs are to be sent.
    syns_due: u8,
    /// The server's kernel takes no round-trip time from this handshake: echoes are 0.
    untimed: bool,
    /// A reset is to be sent, with this number.
    reset_due: Option<Seq<Client>>,
    /// The server's numbers must not be near the client's.
    apart: bool,
    /// A bare acknowledgement is to be sent (a request without a byte).
    ack_due: bool,
    /// An old socket answered the SYN once; a second time is not helped by the same cure.
    stale_seen: bool,
    resend_at_ns: u64,
    resend_ns: u64,
    // --- known from the SYN-ACK on ---
    server_isn: Seq<Server>,
    server_tsval: u32,
    translation: Translation,
    payload_bytes: u32,
    // --- the sender: offsets ---
    acknowledged: u32,
    next: u32,
    sent: u32,
    right_edge: u32,
    fed_once: bool,
}

impl Replay {
    /// Starts a handoff received at `now_ns`; the SYN is the first segment to send.
    pub fn new(handoff: Box<Handoff>, now_ns: u64) -> Self {
        let deadline_ns = now_ns.saturating_add(u64::from(handoff.deadline_ms) * 1_000_000);
        let syns_due = syns(&handoff.connection);
        Replay {
            handoff,
            phase: Phase::SynSent,
            received_ns: now_ns,
            deadline_ns,
            handshake_ns: 0,
            answered_ns: 0,
            syns_due,
            untimed: false,
            reset_due: None,
            apart: false,
            ack_due: false,
            stale_seen: false,
            resend_at_ns: now_ns.saturating_add(SYN_RESEND_NS),
            resend_ns: SYN_RESEND_NS,
            server_isn: Seq::new(0),
            server_tsval: 0,
            translation: Translation::default(),
            payload_bytes: 0,
            acknowledged: 0,
            next: 0,
            sent: 0,
            right_edge: 0,
            fed_once: false,
        }
    }

    /// The intermediate may expect the connection to be adopted: if the server's numbers are near those that the client knows,
    /// the handoff is refused ([`Refusal::AdoptFailed`]). One of 128 is.
    pub fn keep_apart(&mut self) {
        self.apart = true;
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Which handoff this is.
    pub fn flow(&self) -> FlowRef {
        self.handoff.flow
    }

    /// The connection as it was captured.
    pub fn connection(&self) -> &CapturedConnection {
        &self.handoff.connection
    }

    /// What is to be known of the request to find its response's end, if the flow is tracked.
    pub fn tracked(&self) -> Option<TrackedRequest> {
        self.handoff.tracked
    }

    /// The server's address and port.
    pub fn server(&self) -> SocketAddr {
        self.handoff.server
    }

    /// The part of the request a segment carries.
    pub fn payload(&self, segment: &SegmentToSend) -> &[u8] {
        let from = usize::try_from(segment.payload_from).unwrap_or(usize::MAX);
        let to = usize::try_from(segment.payload_to).unwrap_or(usize::MAX);
        self.handoff.request.get(from..to).unwrap_or_default()
    }

    /// The number of the request's first byte, the same in the client's and the server's space.
    pub fn first_byte(&self) -> Seq<Client> {
        self.handoff.connection.rcv_nxt.minus(self.total())
    }

    /// Request bytes plus one for the client's FIN.
    fn total(&self) -> u32 {
        self.request_bytes().wrapping_add(u32::from(self.handoff.connection.client_fin))
    }

    fn request_bytes(&self) -> u32 {
        u32::try_from(self.handoff.request.len()).unwrap_or(u32::MAX)
    }

    // --- events ---

    /// The server's kernel answered on this 4-tuple. On `Some` the caller writes the translation into the record,
    /// puts it in force, and calls [`Replay::on_record_in_force`].
    pub fn on_reply(&mut self, reply: &ServerReply, now_ns: u64) -> Option<Translation> {
        if self.phase != Phase::SynSent {
            // A SYN-ACK sent twice, or the last word of a socket that was reset.
            return None;
        }
        let first = self.first_byte();
        let acknowledges_syn = reply.flags & flag::ACK != 0 && reply.ack == first;
        if reply.flags & flag::RST != 0 {
            if acknowledges_syn {
                self.enter(Phase::Refused(Refusal::ServerRefused), now_ns);
            }
            return None;
        }
        if !acknowledges_syn {
            if reply.flags & flag::ACK != 0 && !self.stale_seen {
                // RFC 9293, section 3.10.7.3: an unacceptable ACK in SYN-SENT is answered by a reset with its
                // number. It clears what is left of an older connection on this 4-tuple (TIME_WAIT).
                self.stale_seen = true;
                self.reset_due = Some(reply.ack);
                self.syns_due = syns(&self.handoff.connection);
            }
            return None;
        }
        if reply.flags & flag::SYN == 0 {
            return None;
        }
        self.handshake_ns = now_ns.saturating_sub(self.received_ns).max(1);
        let Some(translation) = Translation::between(&self.handoff, reply) else {
            self.reset_due = Some(first);
            self.enter(Phase::Refused(Refusal::OptionsMismatch), now_ns);
            return None;
        };
        let known = self.handoff.connection.snd_nxt.raw();
        if self.apart && are_near(reply.seq.raw().wrapping_add(1), known, APART) {
            self.reset_due = Some(first);
            self.enter(Phase::Refused(Refusal::AdoptFailed), now_ns);
            return None;
        }
        self.server_isn = reply.seq;
        self.server_tsval = reply.timestamps.map_or(0, |(value, _)| value);
        let options = if self.handoff.connection.options.timestamps { TIMESTAMP_BYTES } else { 0 };
        let room = PACKET_BYTES - header_bytes(&self.handoff.server);
        let mss = u32::from(reply.mss.unwrap_or(DEFAULT_MSS)).min(room);
        self.payload_bytes = mss.saturating_sub(options).max(1);
        // The window of a SYN-ACK is never scaled (RFC 7323, section 2.2).
        self.right_edge = u32::from(reply.window);
        self.translation = translation;
        self.enter(Phase::Accepted, now_ns);
        Some(translation)
    }

    /// Whether the kernel is to be asked if it keeps the connection request in memory ([`Replay::on_request`]). The
    /// client is so far away that the replay's round trip must not be taken for its own, and its timestamps would still
    /// tell the kernel.
    pub fn wants_request(&self) -> bool {
        self.phase == Phase::Accepted && is_far(&self.handoff.connection)
    }

    /// Whether the server's kernel keeps the connection request in memory, to be told before the record is in force. If
    /// it does not (SYN cookies), the echoed timestamp is all it remembers the options by, and must come back.
    pub fn on_request(&mut self, kept: bool) {
        if self.wants_request() {
            self.untimed = kept;
        }
    }

    /// The record with the translation is in force: the request may be fed.
    pub fn on_record_in_force(&mut self, now_ns: u64) {
        if self.phase == Phase::Accepted {
            self.resend_ns = RESEND_NS;
            self.resend_at_ns = now_ns.saturating_add(RESEND_NS);
            self.ack_due = self.total() == 0;
            self.enter(Phase::Feeding, now_ns);
        }
    }

    /// What the egress program noted of the server's newest segment: acknowledgement (server space, equal to the
    /// client's here), window in bytes, and whether a reset was sent.
    pub fn on_notes(&mut self, ack: u32, window: u32, reset: bool, now_ns: u64) {
        if self.phase != Phase::Feeding {
            return;
        }
        if reset {
            self.enter(Phase::Stopped, now_ns);
            return;
        }
        let acked = Seq::<Client>::new(ack).since(self.first_byte());
        // More than the request can only be acknowledged once all of it was sent: then the client's own bytes
        // have followed. A number further off than a window of TCP is an older one.
        let all_sent = self.sent == self.total();
        if acked >= 1 << 31 || acked < self.acknowledged || (acked > self.sent && !all_sent) {
            return;
        }
        let acked = acked.min(self.total());
        if acked > self.acknowledged {
            self.acknowledged = acked;
            self.next = self.next.max(acked);
            self.resend_ns = RESEND_NS;
            self.resend_at_ns = now_ns.saturating_add(RESEND_NS);
        }
        self.right_edge = self.right_edge.max(acked.saturating_add(window));
        if self.acknowledged == self.total() && all_sent {
            self.enter(Phase::Fed, now_ns);
        }
    }

    /// Time has passed: the moment of [`Replay::next_timer_ns`] or later.
    pub fn on_time(&mut self, now_ns: u64) {
        match self.phase {
            Phase::SynSent if now_ns >= self.deadline_ns => {
                self.withdraw(Refusal::ServerSilent, now_ns);
            }
            Phase::SynSent if now_ns >= self.resend_at_ns => {
                self.syns_due = syns(&self.handoff.connection);
                self.resend_ns = self.resend_ns.saturating_mul(2);
                self.resend_at_ns = now_ns.saturating_add(self.resend_ns);
            }
            Phase::Accepted if now_ns >= self.deadline_ns => {
                self.withdraw(Refusal::Expired, now_ns);
            }
            Phase::Feeding => {
                if now_ns >= self.deadline_ns && self.answered_ns == 0 {
                    self.answered_ns = now_ns;
                }
                if now_ns >= self.resend_at_ns {
                    self.next = self.acknowledged;
                    if self.right_edge <= self.next {
                        // A closed window: one byte past it makes the server say whether it has opened
                        // (RFC 9293, section 3.8.6.1).
                        self.right_edge = self.next.saturating_add(1);
                    }
                    self.ack_due = self.total() == 0;
                    self.resend_ns = self.resend_ns.saturating_mul(2).min(RESEND_MAX_NS);
                    self.resend_at_ns = now_ns.saturating_add(self.resend_ns);
                }
            }
            _ => {}
        }
    }

    /// The intermediate withdraws the handoff, or the agent must (`reason`). Too late once feeding has begun: then
    /// the answer is `Migrated`.
    pub fn withdraw(&mut self, reason: Refusal, now_ns: u64) {
        match self.phase {
            Phase::SynSent | Phase::Accepted => {
                self.reset_due = Some(self.first_byte());
                self.syns_due = 0;
                self.enter(Phase::Refused(reason), now_ns);
            }
            Phase::Feeding if self.answered_ns == 0 => self.answered_ns = now_ns,
            _ => {}
        }
    }

    /// The only place where the phase changes.
    fn enter(&mut self, phase: Phase, now_ns: u64) {
        self.phase = phase;
        if self.answered_ns == 0 && matches!(phase, Phase::Fed | Phase::Stopped | Phase::Refused(_)) {
            self.answered_ns = now_ns;
        }
    }
}

#[cfg(test)]
mod tests;
