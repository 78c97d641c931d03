//! One tracked flow: what is known of it and of its client, and what is held.

use super::FlowNow;
use super::held::HeldPackets;
use crate::targets::TargetId;
use baton_shared::capture::{CapturedConnection, NegotiatedOptions};
use baton_shared::control::FlowRef;
use baton_shared::packet::held::HeldFacts;
use baton_shared::record::{FLAG_LAST, FlowKey, FlowRecord};
use baton_shared::seq::{Client, Seq, before};
use baton_shared::state::heard::Heard;
use baton_shared::state::later::LaterRequests;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// No target's number: who has the flow is not in the configuration.
const NOBODY: TargetId = TargetId::new(u32::MAX);
/// Bytes kept of a head at most on a flow of an earlier run.
const TAKEN_OVER_BYTES: u32 = 256 * 1024;

/// A tracked flow, from its first commit to its end.
#[derive(Debug)]
pub(crate) struct LaterFlow {
    pub(super) key: FlowKey,
    pub(super) slot: u32,
    /// What both ends agreed on; `None` for a flow of an earlier run that did not write it down: it cannot leave its
    /// target.
    pub(super) options: Option<NegotiatedOptions>,
    pub(super) rtt_us: u32,
    /// Before the flow table's lock, never after it.
    state: Mutex<State>,
    /// For whoever has that lock: requests since the last handoff, packets held.
    shown: [AtomicU32; 2],
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
    pub(super) flow: FlowRef,
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
    /// Since when the head in front has been incomplete.
    pub(super) partial_since: Option<Instant>,
    /// What the client said last of what it has and takes.
    pub(super) heard: Heard,
    pub(super) max_window: u32,
    /// Its newest timestamp.
    pub(super) tsval: u32,
    /// The timestamp of the newest segment that came in order; 0: none is known.
    pub(super) in_order_tsval: u32,
    /// Where what has come breaks off before more that has, and since when it has done so.
    pub(super) gap: Option<(Seq<Client>, Instant)>,
    /// It is to be looked at.
    pub(super) gap_noted: bool,
    /// What reaches beyond the request under way, in the order it came.
    pub(super) packets: HeldPackets,
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
            flow: started.flow,
            target: started.target,
            phase: Phase::Turning,
            last: started.last,
            dropped: false,
            requests: 1,
            all_requests: 1,
            bound: false,
            later: started.later,
            partial_since: None,
            heard: Heard { ack: c.snd_nxt, window: c.snd_wnd, said_at: c.rcv_nxt },
            max_window: c.max_window,
            tsval: c.client_tsval,
            in_order_tsval: c.client_tsval,
            packets: HeldPackets::default(),
            gap: None,
            gap_noted: false,
        };
        LaterFlow {
            key: started.key,
            slot: started.slot,
            options: Some(c.options),
            rtt_us: c.rtt_us,
            state: Mutex::new(state),
            shown: [AtomicU32::new(1), AtomicU32::new(0)],
        }
    }

    /// A flow of an earlier run: what its client says of itself will be known by its next packet.
    pub(crate) fn taken_over(record: &FlowRecord, slot: u32, target: Option<TargetId>) -> Self {
        let last = record.flags & FLAG_LAST != 0;
        let state = State {
            flow: FlowRef { flow_id: record.flow_id, generation: record.generation },
            target: target.unwrap_or(NOBODY),
            phase: if last { Phase::Dropping } else { Phase::Following },
            last,
            dropped: false,
            requests: record.requests,
            all_requests: record.requests,
            bound: false,
            later: LaterRequests::new(Seq::new(record.read_from), TAKEN_OVER_BYTES),
            partial_since: None,
            heard: Heard::of_record(record, NegotiatedOptions::from_word(record.ack_floor).as_ref()),
            max_window: 0,
            tsval: 0,
            in_order_tsval: 0,
            packets: HeldPackets::default(),
            gap: None,
            gap_noted: false,
        };
        LaterFlow {
            key: record.key,
            slot,
            options: NegotiatedOptions::from_word(record.ack_floor).filter(|_| target.is_some()),
            rtt_us: 0,
            state: Mutex::new(state),
            shown: [AtomicU32::new(record.requests), AtomicU32::new(0)],
        }
    }

    /// The client's address and port.
    pub(super) fn client(&self) -> SocketAddr {
        self.key.remote_addr()
    }

    /// Those it connected to.
    pub(super) fn vip(&self) -> SocketAddr {
        self.key.local_addr()
    }

    pub(in crate::handoff) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show(&self, state: &State) {
        let [requests, held] = &self.shown;
        requests.store(state.requests, Ordering::Relaxed);
        held.store(u32::try_from(state.packets.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// The request in front, to be routed.
    pub(super) fn now(&self, state: &State) -> FlowNow {
        let request_no = state.all_requests.saturating_add(1);
        let (client, vip, target) = (self.client(), self.vip(), state.target);
        FlowNow { client, vip, target, request_no, bound: state.bound, owes: state.later.owes() }
    }

    /// Requests since the last handoff, and how many packets are held, of which none is lost.
    pub(crate) fn shown(&self) -> (u32, u32) {
        let [requests, held] = &self.shown;
        (requests.load(Ordering::Relaxed), held.load(Ordering::Relaxed))
    }
}

impl State {
    pub(super) fn hear(&mut self, said: Heard) {
        self.heard.hear(said);
        self.max_window = self.max_window.max(self.heard.window);
    }

    /// What the program has heard of the client by now; `record` is the flow's.
    pub(super) fn catch_up(&mut self, record: &FlowRecord, options: Option<&NegotiatedOptions>) {
        let held = self.packets.len() != 0;
        self.heard.catch_up(Heard::of_record(record, options), record.note_window, held);
        self.max_window = self.max_window.max(self.heard.window);
    }

    /// What the client says of itself counts if it is newer.
    pub(super) fn note(&mut self, facts: &HeldFacts<'_>, options: Option<&NegotiatedOptions>) {
        if let Some(said) = Heard::of_segment(facts, options) {
            self.hear(said);
        }
        if let Some(tsval) = facts.tsval
            && (self.tsval == 0 || before(self.tsval, tsval))
        {
            self.tsval = tsval;
        }
    }
}
