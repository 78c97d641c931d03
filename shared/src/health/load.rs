//! What an agent's load reports mean.

use crate::control::ServerLoad;

/// What is too much in the time between two reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadThresholds {
    /// The accept queue's filling, percent of its limit.
    pub accept_queue_percent: u32,
    /// Flows that ended by the server's reset, percent of all that ended.
    pub reset_percent: u32,
    /// Flows that must have ended for that percentage to mean something.
    pub reset_flows: u64,
    /// Segments sent again, percent of those sent.
    pub retransmit_percent: u32,
    /// Segments that must have been sent for that.
    pub retransmit_segments: u64,
}

impl Default for LoadThresholds {
    fn default() -> Self {
        LoadThresholds {
            accept_queue_percent: 90,
            reset_percent: 50,
            reset_flows: 20,
            retransmit_percent: 20,
            retransmit_segments: 200,
        }
    }
}

/// What is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strain {
    /// Nothing listens at the server's address.
    NoListener,
    /// The accept queue is (nearly) full: the application does not accept as fast as connections come.
    AcceptQueue,
    /// The kernel dropped connections for want of room in it.
    Overflow,
    /// The server resets many connections.
    Resets,
    /// Many segments are lost on the way to clients.
    Retransmissions,
}

impl Strain {
    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Strain::NoListener => "no_listener",
            Strain::AcceptQueue => "accept_queue",
            Strain::Overflow => "overflow",
            Strain::Resets => "resets",
            Strain::Retransmissions => "retransmissions",
        }
    }
}

/// Whether a report tells of strain, against the one before it, which must be of the same agent process.
pub fn judge_load(before: &ServerLoad, now: &ServerLoad, thresholds: &LoadThresholds) -> Option<Strain> {
    if !now.listening {
        return Some(Strain::NoListener);
    }
    // At least half of a report's flows, for example: part / whole >= percent / 100, if there is enough of it.
    let over = |part: u64, whole: u64, percent: u32, enough: u64| {
        whole >= enough.max(1) && u128::from(part) * 100 >= u128::from(whole) * u128::from(percent)
    };
    let grown = |of: fn(&ServerLoad) -> u64| of(now).saturating_sub(of(before));
    // Whatever a kernel drops at a listening socket counts there, a SYN that was said again, say. Whether the queue was full
    // only the host knows.
    if grown(|l| l.listen_drops) > 0 && grown(|l| l.host_overflows) > 0 {
        return Some(Strain::Overflow);
    }
    let (queue, limit) = (now.accept_queue.into(), now.accept_limit.into());
    if over(queue, limit, thresholds.accept_queue_percent, 1) {
        return Some(Strain::AcceptQueue);
    }
    let ended = grown(|l| l.ended);
    if over(grown(|l| l.resets), ended, thresholds.reset_percent, thresholds.reset_flows) {
        return Some(Strain::Resets);
    }
    let sent = grown(|l| l.segments);
    let again = grown(|l| l.retransmitted);
    over(again, sent, thresholds.retransmit_percent, thresholds.retransmit_segments)
        .then_some(Strain::Retransmissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> ServerLoad {
        ServerLoad { accept_limit: 511, ..ServerLoad::of("192.0.2.1:80".parse().unwrap()) }
    }

    #[test]
    fn strain_is_told_by_what_grew_and_small_numbers_prove_nothing() {
        let judge = |now: ServerLoad| judge_load(&load(), &now, &LoadThresholds::default());
        assert_eq!(judge(load()), None);
        assert_eq!(judge(ServerLoad { listening: false, ..load() }), Some(Strain::NoListener));
        let full = ServerLoad { listen_drops: 1, host_overflows: 1, ..load() };
        assert_eq!(judge(full.clone()), Some(Strain::Overflow));
        assert_eq!(
            judge(ServerLoad { host_overflows: 0, ..full.clone() }),
            None,
            "dropped for another reason"
        );
        assert_eq!(judge(ServerLoad { listen_drops: 0, ..full }), None, "another server's");
        assert_eq!(judge(ServerLoad { accept_queue: 459, ..load() }), None);
        assert_eq!(judge(ServerLoad { accept_queue: 460, ..load() }), Some(Strain::AcceptQueue));
        assert_eq!(judge(ServerLoad { ended: 19, resets: 19, ..load() }), None, "too few flows");
        assert_eq!(judge(ServerLoad { ended: 20, resets: 10, ..load() }), Some(Strain::Resets));
        assert_eq!(judge(ServerLoad { segments: 199, retransmitted: 199, ..load() }), None);
        let lossy = ServerLoad { segments: 1000, retransmitted: 200, ..load() };
        assert_eq!(judge(lossy.clone()), Some(Strain::Retransmissions));
        assert_eq!(judge_load(&lossy, &lossy, &LoadThresholds::default()), None, "it is not told twice");
        assert_eq!(judge_load(&lossy, &load(), &LoadThresholds::default()), None, "counts that go back");
    }
}
