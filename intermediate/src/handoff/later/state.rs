//! What is held of one tracked flow, and what is done with it at once.

use super::cut::{Fresh, bare, fin_at};
use super::held::{Held, HeldPackets, divide};
use super::turn::Plan;
use super::{FlowNow, GAP, Migrator, Next};
use crate::targets::TargetId;
use baton_daemon::tun::Offload;
use baton_shared::capture::{CapturedConnection, NegotiatedOptions};
use baton_shared::control::FlowRef;
use baton_shared::http::RequestHead;
use baton_shared::packet::held::{HeldFacts, is_intact};
use baton_shared::record::{FLAG_LAST, FlowKey, FlowRecord};
use baton_shared::seq::{Client, Seq, before};
use baton_shared::state::acceptable::{KnownClient, is_acceptable};
use baton_shared::state::later::{Later, LaterRequests, NotKept, request_length};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// No target's number: who has the flow is not in the configuration.
const NOBODY: TargetId = TargetId(usize::MAX);
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
    dropped: bool,
    /// Requests the server was given since the last handoff.
    pub(super) requests: u32,
    /// Requests on the connection, the first included.
    pub(super) all_requests: u32,
    /// The agent has said since the last handoff that it cannot give the flow back.
    pub(super) bound: bool,
    pub(super) later: LaterRequests,
    /// Since when the head in front has been incomplete.
    pub(super) partial_since: Option<Instant>,
    /// The newest that is known of the client.
    pub(super) ack: Seq<Client>,
    pub(super) window: u32,
    pub(super) max_window: u32,
    pub(super) tsval: u32,
    /// The timestamp of the newest segment that came in order; 0: none is known.
    in_order_tsval: u32,
    /// Where what has come breaks off before more that has, and since when it has done so.
    gap: Option<(Seq<Client>, Instant)>,
    /// It is to be looked at.
    gap_noted: bool,
    /// What reaches beyond the request under way, in the order it came.
    packets: HeldPackets,
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
            ack: c.snd_nxt,
            window: c.snd_wnd,
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
            ack: Seq::new(record.note_ack),
            window: 0,
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
        self.key.remote.socket_addr(self.key.remote_port)
    }

    /// Those it connected to.
    pub(super) fn vip(&self) -> SocketAddr {
        self.key.local.socket_addr(self.key.local_port)
    }

    pub(in crate::handoff) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, state: &State) {
        let [requests, held] = &self.shown;
        requests.store(state.requests, Ordering::Relaxed);
        held.store(u32::try_from(state.packets.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// The request in front, to be routed.
    pub(super) fn now(&self, state: &State) -> FlowNow {
        let request_no = state.all_requests.saturating_add(1);
        let (client, vip, target) = (self.client(), self.vip(), state.target);
        FlowNow { client, vip, target, request_no, bound: state.bound }
    }

    /// Requests since the last handoff, and how many packets are held, of which none is lost.
    pub(crate) fn shown(&self) -> (u32, u32) {
        let [requests, held] = &self.shown;
        (requests.load(Ordering::Relaxed), held.load(Ordering::Relaxed))
    }
}

impl State {
    /// What the client says of itself counts if it is newer.
    fn note(&mut self, facts: &HeldFacts<'_>, options: Option<&NegotiatedOptions>) {
        if let Some(ack) = facts.ack
            && !before(ack, self.ack.raw())
        {
            let scales = options.and_then(|options| options.window_scale);
            let shift = scales.map_or(0, |scales| u32::from(scales.client & 15));
            self.ack = Seq::new(ack);
            self.window = u32::from(facts.window) << shift;
            self.max_window = self.max_window.max(self.window);
        }
        if let Some(tsval) = facts.tsval
            && (self.tsval == 0 || before(self.tsval, tsval))
        {
            self.tsval = tsval;
        }
    }
}

impl Migrator {
    /// Keeps a packet of a tracked flow, or lets it go.
    pub(super) fn take_in(
        &self,
        flow: &LaterFlow,
        state: &mut State,
        packet: &[u8],
        offload: Offload,
        facts: &HeldFacts<'_>,
    ) {
        // What was corrupted on its way is not read, and nothing is made of it: the kernel that receives it drops it.
        let intact = offload.is_checked() || is_intact(packet);
        if state.phase == Phase::Gone || !intact {
            if !intact {
                Self::count(&self.laters.counts.corrupt);
            }
            return self.hold.write_back(packet, offload);
        }
        let held = Held::new(packet, offload, facts);
        let end = state.later.end();
        let believed = !facts.rst && self.believes(flow, state, facts);
        if !facts.rst && end.before(held.end()) && !believed {
            return self.disbelieve(flow, &held);
        }
        if believed {
            state.note(facts, flow.options.as_ref());
        }
        // A part of the request under way, sent again or on its way through the queue; or nothing of the stream.
        if facts.rst || held.length() == 0 || !end.before(held.end()) {
            return self.hold.write_back(packet, offload);
        }
        if !held.seq.before(end) {
            return self.take_beyond(flow, state, held, facts.payload);
        }
        // Its front is a part of the request under way, which its server may lack.
        match divide(&held, end, None) {
            Some((front, rest)) => {
                front.iter().for_each(|packet| self.hold.write_back(packet, Offload::default()));
                for held in rest {
                    let bytes = held.bytes.clone();
                    let payload = baton_shared::packet::held::facts(&bytes).map_or(&[][..], |f| f.payload);
                    self.take_beyond(flow, state, held, payload);
                }
            }
            None => self.drop_held(flow, &held),
        }
    }

    /// Whether a segment is the client's, by all that is known here. In the middle of a turn the record is still that of the
    /// flow's time with the target before.
    fn believes(&self, flow: &LaterFlow, state: &State, facts: &HeldFacts<'_>) -> bool {
        let record = self.flows.record(flow.slot);
        let acked = if before(record.note_ack, state.ack.raw()) { state.ack.raw() } else { record.note_ack };
        is_acceptable(facts, &KnownClient { acked, reach: record.note_window, tsval: state.in_order_tsval })
    }

    /// Its header alone goes to the server, whose kernel answers it as it answers any that it does not take.
    fn disbelieve(&self, flow: &LaterFlow, held: &Held) {
        Self::count(&self.laters.counts.disbelieved);
        self.drop_held(flow, held);
        self.show_header(held);
    }

    /// The server's kernel sees a segment without what it carries, to answer where it lies outside the window.
    fn show_header(&self, held: &Held) {
        if let Some(header) = bare(&held.bytes) {
            self.hold.write_back(&header, Offload::default());
        }
    }

    /// A packet, or part of one, that lies behind the request under way.
    fn take_beyond(&self, flow: &LaterFlow, state: &mut State, held: Held, payload: &[u8]) {
        if state.phase == Phase::Dropping {
            self.forward_fin(flow, state, &held);
            self.drop_of_last(state, held.payload);
            return self.drop_held(flow, &held);
        }
        self.keep(flow, state, held, payload);
    }

    /// Counts a connection of which bytes behind its last request are dropped, once.
    fn drop_of_last(&self, state: &mut State, bytes: u32) {
        if state.last && bytes != 0 && !std::mem::replace(&mut state.dropped, true) {
            Self::count(&self.laters.counts.closed);
        }
    }

    /// Keeps a packet that lies behind the request under way, if it is not there already and there is room.
    fn keep(&self, flow: &LaterFlow, state: &mut State, held: Held, payload: &[u8]) {
        // What is there already came in a packet that is held.
        let have = state.later.end().plus(u32::try_from(state.later.bytes().len()).unwrap_or(u32::MAX));
        let known = !held.fin && !have.before(held.end());
        let room =
            (!known).then(|| self.hold.admits_later(state.packets.bytes(), held.bytes.len())).flatten();
        let kept = room.map(|room| (state.later.on_segment(held.seq, payload, held.fin), room));
        if let Some((Ok(()), account)) = kept {
            // As a kernel does it: what came out of order may be newer than what fills the gap.
            if let Some(tsval) = held.tsval.filter(|_| !have.before(held.seq)) {
                state.in_order_tsval = tsval;
            }
            state.packets.admit(held, account);
        } else {
            // The client sends it again if it is needed.
            self.drop_held(flow, &held);
            if let Some((Err(NotKept::TooFar), _)) = kept {
                self.show_header(&held);
            }
        }
    }

    /// Reads what has come: passes requests on, or begins to turn the flow.
    pub(super) fn read_on(self: &Arc<Self>, flow: &Arc<LaterFlow>, state: &mut State) {
        self.read(flow, state);
        self.watch_gap(flow, state);
        flow.show(state);
    }

    /// Whoever leaves a gap has until [`GAP`] to fill it.
    fn watch_gap(&self, flow: &Arc<LaterFlow>, state: &mut State) {
        let gap = state.later.gap().filter(|_| state.phase == Phase::Following);
        let since = match (gap, state.gap) {
            (None, _) => None,
            (Some(at), Some((before, since))) if at == before => Some((at, since)),
            (Some(at), _) => {
                let now = Instant::now();
                if !std::mem::replace(&mut state.gap_noted, true) {
                    self.laters.gaps.note(now, flow);
                }
                Some((at, now))
            }
        };
        state.gap = since;
    }

    /// A gap's time may be over; there may be a younger one by now.
    pub(super) fn look_at_gap(&self, flow: &Arc<LaterFlow>, state: &mut State) {
        state.gap_noted = false;
        match state.gap {
            Some((_, since)) if since.elapsed() >= GAP => self.drop_beyond_gap(flow, state),
            Some((_, since)) => {
                state.gap_noted = true;
                self.laters.gaps.note(since, flow);
            }
            None => {}
        }
    }

    /// What lies beyond a gap that was not filled in time is let go: nobody was told that it came, so the client still has it.
    fn drop_beyond_gap(&self, flow: &LaterFlow, state: &mut State) {
        let Some(gap) = state.later.forget_beyond_gap() else { return };
        for held in state.packets.take() {
            if gap.before(held.seq) {
                self.drop_held(flow, &held);
            } else {
                state.packets.put(held);
            }
        }
        state.gap = None;
        flow.show(state);
    }

    fn read(self: &Arc<Self>, flow: &Arc<LaterFlow>, state: &mut State) {
        let Some(router) = self.laters.router.get() else { return };
        let limits = router.limits(flow.vip());
        while state.phase == Phase::Following {
            if state.last && !state.later.is_within_body() {
                // The server closes after its answer, and gets nothing more.
                self.flows.set_last(flow.slot);
                return self.drop_all(flow, state);
            }
            let later = state.later.next(&limits);
            if later != Later::Partial {
                state.partial_since = None;
            }
            match later {
                Later::Nothing => break,
                Later::Partial if state.partial_since.is_none() => {
                    let now = Instant::now();
                    state.partial_since = Some(now);
                    self.laters.partial.note(now, flow);
                    break;
                }
                Later::Partial => break,
                Later::Fin => {
                    let end = state.later.pass_fin();
                    self.pass_to(flow, state, end);
                }
                Later::Body => {
                    let end = state.later.end();
                    self.pass_to(flow, state, end);
                }
                Later::BadBody(rule) => return self.break_off(flow, state, rule),
                // Its sender is to be answered.
                Later::CutShort | Later::Bad(_) => return self.turn_back(flow, state, None, false),
                Later::Request(head) => self.on_request(flow, state, &head),
            }
        }
    }

    fn on_request(self: &Arc<Self>, flow: &Arc<LaterFlow>, state: &mut State, head: &RequestHead) {
        let Some(router) = self.laters.router.get() else { return };
        let bytes = state.later.bytes();
        let now = flow.now(state);
        // A body whose end is not known, and whatever may become another protocol, is not followed.
        let followed = request_length(head).is_some() && head.migration().is_ok();
        let next = if followed { router.route(&now, head, bytes) } else { Next::RETURN };
        let is_head = bytes.get(head.method.clone()) == Some(b"HEAD");
        match next {
            // An agent that follows the responses must know of a HEAD before its response comes, and bytes that the client was
            // told of must be delivered by somebody who sends them again: both are what a handoff does.
            Next::Stay { noted } if (is_head && !state.bound) || state.later.owes() => {
                let fed = bytes.get(head.start..head.head_len).unwrap_or_default().to_vec();
                let plan = Plan::Move {
                    target: state.target,
                    head: Box::new(head.clone()),
                    fed,
                    noted: Box::new(noted),
                };
                // Only one of the two can do without.
                let or_stay = !state.later.owes();
                self.turn_to(flow, state, plan, or_stay);
            }
            Next::Stay { noted } => {
                let Some(end) = state.later.pass(head) else {
                    return self.turn_back(flow, state, Some(head), false);
                };
                state.requests = state.requests.saturating_add(1);
                state.all_requests = now.request_no;
                self.flows.set_requests(flow.slot, state.requests);
                self.log_later(noted, state.target, state.flow, state.requests, None);
                Self::count(&self.laters.counts.stayed);
                self.pass_to(flow, state, end);
            }
            Next::Move { target, head: fed, noted, or_stay } => {
                let plan = Plan::Move { target, head: Box::new(head.clone()), fed, noted: Box::new(noted) };
                self.turn_to(flow, state, plan, or_stay);
            }
            Next::Return { or_stay } => self.turn_back(flow, state, Some(head), or_stay),
        }
    }

    /// What lies before `end` belongs to the server that has the flow: it goes there.
    pub(super) fn pass_to(&self, flow: &LaterFlow, state: &mut State, end: Seq<Client>) {
        // First, so that what comes now passes by itself.
        self.flows.set_read_from(flow.slot, end);
        for held in state.packets.take() {
            if !end.before(held.end()) {
                self.hold.write_back(&held.bytes, held.offload);
            } else if held.seq.before(end) {
                match divide(&held, end, None) {
                    Some((front, rest)) => {
                        front.iter().for_each(|packet| self.hold.write_back(packet, Offload::default()));
                        rest.into_iter().for_each(|rest| state.packets.put(rest));
                    }
                    None => self.drop_held(flow, &held),
                }
            } else {
                state.packets.put(held);
            }
        }
    }

    /// A target was given all before `end`: that is dropped, and the rest made fit for it.
    pub(super) fn make_fit(&self, flow: &LaterFlow, state: &mut State, end: Seq<Client>, fresh: Fresh) {
        for held in state.packets.take() {
            let from = if held.seq.before(end) { end } else { held.seq };
            let rest = end.before(held.end()).then(|| divide(&held, from, Some(fresh))).flatten();
            let Some((front, rest)) = rest else {
                self.drop_held(flow, &held);
                continue;
            };
            drop(front);
            let kept: u32 = rest.iter().map(Held::length).fold(0, u32::wrapping_add);
            self.flows.add_released(flow.slot, held.length().wrapping_sub(kept));
            rest.into_iter().for_each(|rest| state.packets.put(rest));
        }
    }

    /// Writes back all that is held, as it came.
    pub(super) fn write_all_back(&self, state: &mut State) {
        for held in state.packets.take() {
            self.hold.write_back(&held.bytes, held.offload);
        }
    }

    /// No request may follow any more: what is held is dropped, and what comes.
    pub(super) fn drop_all(&self, flow: &LaterFlow, state: &mut State) {
        state.phase = Phase::Dropping;
        self.drop_of_last(state, u32::try_from(state.later.bytes().len()).unwrap_or(u32::MAX));
        for held in state.packets.take() {
            self.forward_fin(flow, state, &held);
            self.drop_held(flow, &held);
        }
    }

    /// The client has closed behind bytes that no server gets: the server is told of the end alone, once.
    fn forward_fin(&self, flow: &LaterFlow, state: &mut State, held: &Held) {
        if !held.fin {
            return;
        }
        let end = state.later.end();
        let Some(fin) = fin_at(&held.bytes, end.raw()) else { return };
        // It comes back without having been diverted.
        self.flows.add_released(flow.slot, 1u32.wrapping_neg());
        self.hold.write_back(&fin, Offload::default());
    }

    fn drop_held(&self, flow: &LaterFlow, held: &Held) {
        self.flows.add_released(flow.slot, held.length());
    }
}
