//! What a migrator is told, and what it counts.

use crate::hold::{HoldLimits, HoldStats};
use std::time::Duration;

/// Times and limits of migrations.
#[derive(Clone, Copy, Debug)]
pub struct HandoffSettings {
    /// The uplink's number: the device through which targets are reached.
    pub out_ifindex: u32,
    /// `handoff.deadline_ms`: what the agent gets to feed a request.
    pub deadline: Duration,
    /// `handoff.freeze_ms`: how long a freeze binds if its owner vanishes.
    pub freeze: Duration,
    /// `handoff.agent_lost_ms`: how long to wait for the word of an agent that is gone or silent.
    pub agent_lost: Duration,
    /// `limits.prefetch_bytes`: the longest request to feed.
    pub prefetch_bytes: usize,
    /// `limits.hold_bytes_per_flow` and `limits.hold_bytes`.
    pub hold: HoldLimits,
    /// `plane.linger_ms`: how long an ended flow's record stays.
    pub linger: Duration,
    /// After this time without a packet a flow is given up. A backstop: agents judge idleness by themselves, so
    /// longer than theirs.
    pub idle: Duration,
    /// How many migration records are kept.
    pub history: usize,
}

/// Counts for `/metrics`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MigratorStats {
    /// The hold queue.
    pub hold: HoldStats,
    /// Handoffs whose answer is awaited.
    pub in_flight: usize,
    /// Flows with an entry, lingering ones too.
    pub flows: usize,
    /// Connections ended by a reset because their request's fate was unknown.
    pub reset_connections: u64,
    /// Reset packets sent for them.
    pub reset_packets: u64,
    /// Migrated flows ended by a reset to the client because their target was lost.
    pub cut: u64,
    /// Hold accounts reconciled: at least one held packet was lost each time.
    pub reconciled: u64,
    /// Flows whose held packets went on though their server's window had not opened for them in time.
    pub impatient: u64,
    /// Bytes of the streams of connections offered to agents that were read here: heads, and what of bodies was there.
    pub prefetched: u64,
    /// Connections whose socket had received more after its capture.
    pub late: u64,
    /// Answers of agents to handoffs nobody waits for any more.
    pub stray_answers: u64,
}
