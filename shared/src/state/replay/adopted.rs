//! Feeding a request to a socket that the kernel makes as the client's connection is: there was no handshake, and
//! nothing is translated.

use super::{Phase, RESEND_NS, Replay, Translation};
use crate::control::Handoff;
use crate::seq::Seq;

/// The largest packet injected, payload bytes: with its headers it fits into the 16 kB that
/// `bpf_skb_change_head()` makes room in.
const PAYLOAD_BYTES: u32 = 14_000;
/// How many request bytes are sent before the socket has told its window. It starts near 64 kB, unless the server has
/// chosen a small buffer.
const FIRST_FLIGHT: u32 = 32_768;

impl Replay {
    /// The feeding alone, with the client's numbers on both sides. `echo` is the timestamp echoed in the client's name.
    pub(in crate::state) fn adopted(handoff: Box<Handoff>, echo: u32, now_ns: u64) -> Self {
        let snd_nxt = handoff.connection.snd_nxt.raw();
        let mut replay = Replay::new(handoff, now_ns);
        replay.syns_due = 0;
        replay.phase = Phase::Feeding;
        replay.resend_ns = RESEND_NS;
        replay.resend_at_ns = now_ns.saturating_add(RESEND_NS);
        replay.ack_due = replay.total() == 0;
        replay.server_isn = Seq::new(snd_nxt).minus(1);
        replay.server_tsval = echo;
        replay.translation = Translation::default();
        replay.payload_bytes = PAYLOAD_BYTES;
        replay.right_edge = FIRST_FLIGHT;
        replay
    }

    /// The socket exists since `now_ns`.
    pub(in crate::state) fn on_socket(&mut self, now_ns: u64) {
        self.handshake_ns = now_ns.saturating_sub(self.received_ns).max(1);
    }

    /// The socket has told its window for the first time, in place of the one assumed: `ack` is the number of the next
    /// byte it expects.
    pub(in crate::state) fn on_first_window(&mut self, ack: u32, window: u32) {
        let acked = Seq::new(ack).since(self.first_byte());
        if acked > self.sent {
            return;
        }
        self.right_edge = acked.saturating_add(window);
        // It refused a packet that reached beyond its window.
        if acked == 0 {
            self.next = 0;
        }
    }

    /// Sends once more what is not acknowledged.
    pub(in crate::state) fn again(&mut self) {
        self.next = self.acknowledged;
        self.ack_due = self.total() == 0;
    }

    /// When what is not acknowledged is sent again.
    pub(in crate::state) fn resend_at_ns(&self) -> u64 {
        self.resend_at_ns
    }

    /// When the handoff's time is up.
    pub(in crate::state) fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// When the handoff was received.
    pub(in crate::state) fn received_ns(&self) -> u64 {
        self.received_ns
    }

    /// Whether there is nothing to feed.
    pub(in crate::state) fn is_bare(&self) -> bool {
        self.total() == 0
    }

    /// Whether the agent follows the responses.
    pub(in crate::state) fn is_tracked(&self) -> bool {
        self.handoff.tracked.is_some()
    }

    /// The handoff as it came.
    pub(in crate::state) fn into_handoff(self) -> Box<Handoff> {
        self.handoff
    }
}
