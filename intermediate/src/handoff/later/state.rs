//! One tracked flow: what is known of it and of its client, and what is held.

use super::FlowNow;
use super::ends::Ends;
use super::waiting::Waiting;
use crate::targets::TargetId;
use baton_shared::capture::{CapturedConnection, NegotiatedOptions};
use baton_shared::control::FlowRef;
use baton_shared::packet::held::HeldFacts;
use baton_shared::record::{FLAG_LAST, FlowKey, FlowRecord};
use baton_shared::seq::{Seq, before};
use baton_shared::state::heard::Heard;
use baton_shared::state::later::LaterRequests;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// No target's number: who has the flow is not in the configuration.
const NOBODY: TargetId = TargetId::new(u32::MAX);
/// Bytes kept of a head at most on a flow of an earlier run.
const TAKEN_OVER_BYTES: u32 = 256 * 1024;

/// A tracked flow, from its first commit to its end. There are as many as flows, and most flows are idle: what is there only
/// while something is held is with what is held.
#[derive(Debug)]
pub(crate) struct LaterFlow {
    ends: Ends,
    pub(super) slot: u32,
    pub(super) rtt_us: u32,
    /// [`NegotiatedOptions::to_word`]; 0 for a flow of an earlier run that did not write it down: it cannot leave its target.
    options: u32,
    /// For whoever has the flow table's lock: packets are held.
    holds: AtomicBool,
    /// Before the flow table's lock, never after it.
    state: Mutex<State>,
}

/// What is done about what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is read.
    Following,
    /// It is kept: the flow is between two owners.
    Turning,
    /// It is dropped: no request may follow.
    Dropping,
    /// The flow is not ours any more; packets go on as they are.
    Gone,
}

#[derive(Debug)]
pub(in crate::handoff) struct State {
    flow_id: u64,
    /// Of the handoff.
    pub(super) generation: u32,
    pub(super) target: TargetId,
    pub(super) phase: Phase,
    /// No request may follow the one under way.
    pub(super) last: bool,
    /// Something was dropped that no server shall have.
    pub(super) dropped: bool,
    /// Requests the server was given since the last handoff.
    pub(super) requests: u32,
    /// Requests on the connection, the first included.
    pub(super) all_requests: u32,
    /// The agent has said since the last handoff that it cannot give the flow back.
    pub(super) bound: bool,
    pub(super) later: LaterRequests,
    pub(super) max_window: u32,
    /// Its newest timestamp.
    pub(super) tsval: u32,
    /// The timestamp of the newest segment that came in order; 0: none is known.
    pub(super) in_order_tsval: u32,
    /// What reaches beyond the request under way.
    pub(super) waiting: Waiting,
}

/// A flow at its first handoff.
#[derive(Clone, Debug)]
pub(in crate::handoff) struct Started<'a> {
    /// As it was given to the target.
    pub(in crate::handoff) flow: FlowRef,
    pub(in crate::handoff) slot: u32,
    pub(in crate::handoff) key: FlowKey,
    pub(in crate::handoff) target: TargetId,
    pub(in crate::handoff) connection: &'a CapturedConnection,
    pub(in crate::handoff) later: LaterRequests,
    /// No request may follow.
    pub(in crate::handoff) last: bool,
}

impl LaterFlow {
    /// Nothing is read yet.
    pub(in crate::handoff) fn new(started: Started<'_>) -> Self {
        let c = started.connection;
        let state = State {
            flow_id: started.flow.flow_id,
            generation: started.flow.generation,
            target: started.target,
            phase: Phase::Turning,
            last: started.last,
            dropped: false,
            requests: 1,
            all_requests: 1,
            bound: false,
            later: started.later,
            max_window: c.max_window,
            tsval: c.client_tsval,
            in_order_tsval: c.client_tsval,
            waiting: Waiting::default(),
        };
        LaterFlow {
            ends: Ends::of(&started.key),
            slot: started.slot,
            rtt_us: c.rtt_us,
            options: c.options.to_word(),
            holds: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// A flow of an earlier run: what its client says of itself will be known by its next packet.
    pub(crate) fn taken_over(record: &FlowRecord, slot: u32, target: Option<TargetId>) -> Self {
        let last = record.flags & FLAG_LAST != 0;
        let state = State {
            flow_id: record.flow_id,
            generation: record.generation,
            target: target.unwrap_or(NOBODY),
            phase: if last { Phase::Dropping } else { Phase::Following },
            last,
            dropped: false,
            requests: record.requests,
            all_requests: record.requests,
            bound: false,
            later: LaterRequests::new(Seq::new(record.read_from), TAKEN_OVER_BYTES),
            max_window: 0,
            tsval: 0,
            in_order_tsval: 0,
            waiting: Waiting::default(),
        };
        LaterFlow {
            ends: Ends::of(&record.key),
            slot,
            rtt_us: 0,
            options: target.map_or(0, |_| record.ack_floor),
            holds: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// The client's address and port.
    pub(super) fn client(&self) -> SocketAddr {
        self.ends.client()
    }

    /// Those it connected to.
    pub(super) fn vip(&self) -> SocketAddr {
        self.ends.vip()
    }

    /// Under what it is in the plane.
    pub(super) fn key(&self) -> FlowKey {
        self.ends.key()
    }

    /// What both ends agreed on, if it is known.
    pub(super) fn options(&self) -> Option<NegotiatedOptions> {
        NegotiatedOptions::from_word(self.options)
    }

    pub(in crate::handoff) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came was read, or dropped: what is left is shown, and takes no more room than it needs.
    pub(super) fn settle(&self, state: &mut State) {
        state.waiting.settle();
        self.holds.store(state.waiting.len() != 0, Ordering::Relaxed);
    }

    /// The request in front, to be routed.
    pub(super) fn now(&self, state: &State) -> FlowNow {
        let request_no = state.all_requests.saturating_add(1);
        let (client, vip, target) = (self.client(), self.vip(), state.target);
        FlowNow { client, vip, target, request_no, bound: state.bound, owes: state.later.owes() }
    }

    /// Whether packets are held, of which none is lost.
    pub(crate) fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }
}

impl State {
    /// Which handoff.
    pub(super) fn flow(&self) -> FlowRef {
        FlowRef { flow_id: self.flow_id, generation: self.generation }
    }

    /// Whether it is followed, and nothing has come behind the request in front: what comes next may be judged by its record
    /// alone.
    pub(super) fn is_idle(&self) -> bool {
        self.phase == Phase::Following && !self.last && self.later.is_idle()
    }

    /// Plain requests may have gone on without being read: what is known of the flow is brought up to them. `record` is the
    /// flow's. Whether there were any; what is held of them is for nobody to read then.
    pub(super) fn follow(&mut self, record: &FlowRecord) -> bool {
        let went_on = self.phase == Phase::Following && self.later.pass_unread(Seq::new(record.read_from));
        if went_on {
            let more = record.requests.wrapping_sub(self.requests);
            self.requests = record.requests;
            self.all_requests = self.all_requests.saturating_add(more);
        }
        went_on
    }

    /// What the client said last of what it has and takes, in packets that are held and those the program saw; `record` is the
    /// flow's.
    pub(super) fn catch_up(&mut self, record: &FlowRecord, options: Option<&NegotiatedOptions>) -> Heard {
        let program = Heard::of_record(record, options);
        let heard = Heard::by_now(self.waiting.heard(), program, record.note_window);
        self.keep_heard(heard);
        heard
    }

    fn keep_heard(&mut self, heard: Heard) {
        self.waiting.set_heard(heard);
        self.max_window = self.max_window.max(heard.window);
    }

    /// What the client says of itself counts if it is newer.
    pub(super) fn note(
        &mut self,
        heard: &mut Heard,
        facts: &HeldFacts<'_>,
        options: Option<&NegotiatedOptions>,
    ) {
        if let Some(said) = Heard::of_segment(facts, options) {
            heard.hear(said);
            self.keep_heard(*heard);
        }
        if let Some(tsval) = facts.tsval
            && (self.tsval == 0 || before(self.tsval, tsval))
        {
            self.tsval = tsval;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

    use super::*;

    #[test]
    fn an_idle_tracked_flow_takes_104_bytes_more_than_another() {
        // Behind the two counts of its `Arc`; as docs/benchmark.md adds them up.
        assert_eq!((size_of::<State>(), size_of::<LaterFlow>()), (64, 104));
    }

    #[test]
    fn what_a_program_on_another_cpu_judged_is_followed_although_more_had_come_before_the_record_said_so() {
        let before = FlowRecord { read_from: 1000, requests: 3, ..FlowRecord::default() };
        let flow = LaterFlow::taken_over(&before, 0, None);
        let mut state = flow.lock();
        assert!(!state.follow(&before));
        let next = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        state.later.on_segment(Seq::new(1100), next, false).unwrap();
        assert_eq!(state.later.gap(), Some(Seq::new(1000)));
        let now = FlowRecord { read_from: 1100, requests: 5, ..before };
        assert!(state.follow(&now) && !state.follow(&now));
        assert_eq!((state.requests, state.all_requests, state.later.gap()), (5, 5, None));
        assert_eq!((state.later.end(), state.later.bytes()), (Seq::new(1100), &next[..]));
        // Between two owners nothing goes on.
        state.phase = Phase::Turning;
        assert!(!state.follow(&FlowRecord { read_from: 1200, requests: 6, ..now }));
        assert_eq!((state.requests, state.later.end()), (5, Seq::new(1100)));
    }
}
