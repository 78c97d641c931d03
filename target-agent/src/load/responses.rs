//! Response times: from the feeding of a request to the first byte of its response, read off the flow's record, where
//! the egress program counts what the server sends. Responses do not pass the agent, so it looks every few milliseconds
//! at the flows that have none yet.

use crate::flows::table::Who;
use std::net::SocketAddr;
use std::time::Duration;

/// How often flows without a response are looked at while there are young ones.
pub(crate) const RESPONSE_TICK: Duration = Duration::from_millis(5);
/// Older ones are looked at with the ageing scan only, ns.
const YOUNG_NS: u64 = 250_000_000;
/// After that a response is not waited for any more, ns.
const GIVEN_UP_NS: u64 = 60_000_000_000;
/// How many are watched at a time; what comes on top is not measured.
const WATCHED: usize = 1024;

#[derive(Debug)]
struct Awaited {
    slot: u32,
    who: Who,
    fed_ns: u64,
}

/// What is to be seen of a flow.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) server: SocketAddr,
    /// The server has sent something of its response.
    pub(super) begun: bool,
    /// CLOCK_MONOTONIC, ns, of the last packet.
    pub(super) last_seen_ns: u64,
}

/// The flows whose response has not begun.
#[derive(Debug, Default)]
pub(crate) struct Responses {
    awaited: Vec<Awaited>,
    taken: Vec<(SocketAddr, u64)>,
}

impl Responses {
    /// A request was fed. Whether it is the first that is watched: then the ticks must begin.
    pub(crate) fn await_from(&mut self, slot: u32, who: Who, fed_ns: u64) -> bool {
        if self.awaited.len() >= WATCHED {
            return false;
        }
        self.awaited.push(Awaited { slot, who, fed_ns });
        self.awaited.len() == 1
    }

    /// Whether some are young enough for a tick.
    pub(crate) fn wants_tick(&self, now: u64) -> bool {
        // The youngest is the last.
        self.awaited.last().is_some_and(|last| now.saturating_sub(last.fed_ns) < YOUNG_NS)
    }

    /// Looks at all of them; `seen_of` gives what is to be seen of a flow that is still there.
    pub(super) fn look(&mut self, now: u64, seen_of: impl Fn(u32, &Who) -> Option<Seen>) {
        let taken = &mut self.taken;
        self.awaited.retain(|awaited| {
            let Some(seen) = seen_of(awaited.slot, &awaited.who) else { return false };
            if !seen.begun {
                return now.saturating_sub(awaited.fed_ns) < GIVEN_UP_NS;
            }
            // The newest packet is at most a tick younger than the first byte.
            taken.push((seen.server, seen.last_seen_ns.saturating_sub(awaited.fed_ns) / 1000));
            false
        });
    }

    /// The times taken since the last call: server and microseconds.
    pub(super) fn taken(&mut self) -> std::vec::Drain<'_, (SocketAddr, u64)> {
        self.taken.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::table::PeerId;
    use baton_shared::control::FlowRef;

    #[test]
    fn a_response_is_timed_once_and_a_lost_flow_is_forgotten() {
        let who = |flow_id| (PeerId(0), FlowRef { flow_id, generation: 1 });
        let server: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let mut responses = Responses::default();
        assert!(responses.await_from(0, who(0), 1_000_000));
        assert!(!responses.await_from(1, who(1), 2_000_000));
        let at = |begun, last_seen_ns| Seen { server, begun, last_seen_ns };
        responses.look(3_000_000, |_, _| Some(at(false, 2_500_000)));
        assert_eq!(responses.taken().count(), 0, "an acknowledgement is no response");
        responses.look(9_000_000, |slot, _| (slot == 0).then(|| at(true, 8_000_000)));
        assert_eq!(responses.taken().collect::<Vec<_>>(), [(server, 7_000)]);
        assert!(responses.awaited.is_empty());
    }

    #[test]
    fn ticks_are_wanted_only_for_young_ones_and_all_are_given_up_one_day() {
        let mut responses = Responses::default();
        responses.await_from(0, (PeerId(0), FlowRef { flow_id: 1, generation: 1 }), 0);
        assert!(responses.wants_tick(YOUNG_NS - 1) && !responses.wants_tick(YOUNG_NS));
        let server = "192.0.2.1:80".parse().unwrap();
        responses.look(GIVEN_UP_NS, |_, _| Some(Seen { server, begun: false, last_seen_ns: 0 }));
        assert!(responses.awaited.is_empty());
    }
}
