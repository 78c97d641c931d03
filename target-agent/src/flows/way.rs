//! What the kernel told of a flow's way to its client while the server's socket was there, for the report of its end.

use crate::sock_diag::info::Looked;
use baton_shared::control::{Closer, WayReport};
use baton_shared::reason::EndReason;
use baton_shared::state::ending::{SocketState, closed_by, closer_in_state};

/// When the kernel is first asked, ns after the handoff; the time to the next question doubles.
const FIRST_NS: u64 = 100_000_000;
/// The longest time between two questions, ns.
const LONGEST_NS: u64 = 10_000_000_000;

/// One flow's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    last: Option<(WayReport, u64)>,
    socket: Option<SocketState>,
    closer: Option<Closer>,
    ask_at_ns: u64,
    ask_again_ns: u64,
}

impl Way {
    /// Whether it is time to ask, of a flow received at `received_ns`; then the next time is settled.
    pub(crate) fn is_due(&mut self, received_ns: u64, now_ns: u64) -> bool {
        if self.ask_again_ns == 0 {
            self.ask_again_ns = FIRST_NS;
            self.ask_at_ns = received_ns.saturating_add(FIRST_NS);
        }
        if now_ns < self.ask_at_ns {
            return false;
        }
        self.ask_at_ns = now_ns.saturating_add(self.ask_again_ns);
        self.ask_again_ns = self.ask_again_ns.saturating_mul(2).min(LONGEST_NS);
        true
    }

    /// Takes in what the kernel said.
    pub(crate) fn note(&mut self, looked: &Looked, now_ns: u64) {
        if let Some(info) = looked.info {
            let report = WayReport {
                rtt_us: info.rtt_us,
                min_rtt_us: info.min_rtt_us,
                retransmitted_segments: info.retransmitted,
                age_ms: 0,
            };
            self.last = Some((report, now_ns));
        }
        self.socket = Some(looked.state);
        // The first word counts: behind it both have closed.
        self.closer = self.closer.or_else(|| closer_in_state(looked.tcp_state));
    }

    /// Who closed first, of a flow that ended for `reason`.
    pub(crate) fn closed_by(&self, reason: EndReason) -> Option<Closer> {
        closed_by(reason, self.socket?, self.closer)
    }

    /// The last that was told, with its age.
    pub(crate) fn report(&self, now_ns: u64) -> Option<WayReport> {
        let (report, at_ns) = self.last?;
        Some(WayReport { age_ms: now_ns.saturating_sub(at_ns) / 1_000_000, ..report })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_flow_is_looked_at_soon_and_an_old_one_seldom() {
        let mut way = Way::default();
        let mut asked = Vec::new();
        for ms in 0..60_000u64 {
            if way.is_due(0, ms * 1_000_000) {
                asked.push(ms);
            }
        }
        assert_eq!(asked.first(), Some(&100));
        assert!(asked.len() < 16, "{asked:?}");
        assert!(asked.windows(2).all(|w| w[1] - w[0] <= 10_001), "{asked:?}");
    }
}
