//! A tracked flow changes hands: recalled from its target, then given to another one or to a socket here. What the
//! agent's word means is said by [`Recall`] and [`Handoff`](baton_shared::state::handoff::Handoff); here it is done.

use super::cut::Fresh;
use super::restore::{Returned, restore};
use super::state::{LaterFlow, Phase, State};
use super::waits::Told;
use super::{Migrator, Noted, Router};
use crate::access_log::{ClosedRecord, MigratedRecord, Placed};
use crate::flows::Place;
use crate::handoff::resolve::Settled;
use crate::handoff::{FREEZE_MARGIN, StageTimes, Subject, flow_id_text};
use crate::hold::HeldFlow;
use crate::reset::Severed;
use crate::targets::{NotSent, TargetId, UnderWay};
use baton_shared::capture::{CapturedConnection, NegotiatedOptions};
use baton_shared::control::{
    FlowRef, Handoff as HandoffMessage, Message, RecallRequest, RecalledAnswer, TrackedRequest,
};
use baton_shared::http::{GateRule, RequestHead};
use baton_shared::reason::{CloseReason, EndReason, ProxyReason, Refusal};
use baton_shared::record::{FLAG_OWED, FLAG_TIMESTAMPS, FLAG_TRACKED, FlowRecord};
use baton_shared::seq::Seq;
use baton_shared::state::recall::{Recall, RecallAction, RecallEvent};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How often a recall that waits looks whether the flow is still there, and a question that could not be put is put.
const LOOK: Duration = Duration::from_millis(200);
/// The same for a channel that is full.
const BUSY: Duration = Duration::from_millis(5);

/// Of a connection that agreed on nothing.
const NO_OPTIONS: NegotiatedOptions =
    NegotiatedOptions { client_mss: 536, sack: false, timestamps: false, window_scale: None, ecn: false };

/// What becomes of a flow that is recalled.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// It goes to a target, with the request in front.
    Move {
        target: TargetId,
        /// As the bytes in front were judged.
        head: Box<RequestHead>,
        /// The head as its server shall see it.
        fed: Vec<u8>,
        noted: Box<Noted>,
    },
    /// It gets a socket here.
    Return {
        /// Of the request in front, for the case that it does not come to that.
        noted: Box<Noted>,
    },
}

impl Plan {
    /// What is known of the request in front.
    fn noted(self) -> Noted {
        match self {
            Plan::Move { noted, .. } | Plan::Return { noted } => *noted,
        }
    }
}

/// A flow in the intermediate's hands.
struct InHand {
    place: Place,
    held: Arc<HeldFlow>,
    answer: RecalledAnswer,
}

impl Migrator {
    /// The request in front, or what is none, cannot go to any target by itself.
    pub(super) fn turn_back(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        state: &mut State,
        head: Option<&RequestHead>,
        or_stay: bool,
    ) {
        let now = flow.now(state);
        let request = head.map(|head| (head, state.later.bytes()));
        let noted = Box::new(self.laters.router.get().and_then(|router| router.note(&now, request)));
        self.turn_to(flow, state, Plan::Return { noted }, or_stay);
    }

    /// The front's half of a later request's line in the access log.
    pub(super) fn log_later(
        &self,
        noted: Noted,
        target: TargetId,
        flow: FlowRef,
        since_handoff: u32,
        stages: Option<StageTimes>,
    ) {
        let Some((asked, placed)) = noted else { return };
        let target = self.targets.get(target).map(|t| t.spec.name.clone()).unwrap_or_default();
        let placed = Placed { target, ..placed };
        let record = MigratedRecord { asked, placed, flow, since_handoff, status: None, stages };
        self.flows.access_log().migrated(record);
    }

    /// The line of a later request that was lost with its connection.
    fn log_lost(&self, noted: Noted, flow: FlowRef, reason: CloseReason) {
        let Some((asked, placed)) = noted else { return };
        let flow_id = Some(flow.flow_id);
        let record = ClosedRecord { asked, placed, reason, rule: None, status: None, flow_id };
        self.flows.access_log().closed(record);
    }

    /// Begins to turn the flow; all that comes is kept meanwhile. With `or_stay` it goes on where it is if its agent
    /// cannot give it back.
    pub(super) fn turn_to(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        state: &mut State,
        plan: Plan,
        or_stay: bool,
    ) {
        if state.phase != Phase::Following {
            return;
        }
        if !self.flows.set_turning(state.flow, true) {
            // It has ended meanwhile. Whoever reads must not find the same request again, for ever.
            return self.drop_all(flow, state);
        }
        state.phase = Phase::Turning;
        state.partial_since = None;
        if flow.options.is_none() {
            // What its connection agreed on nobody knows any more.
            self.drop_all(flow, state);
            self.laters.counts.refused.add(Refusal::NotTracked);
            let subject = self.subject(flow, state.flow, state.target);
            self.history.record_closed(subject, CloseReason::RecallRefused);
            self.log_lost(plan.noted(), state.flow, CloseReason::RecallRefused);
            tokio::spawn(Arc::clone(self).cut(state.target, state.flow, EndReason::RecallRefused));
            return;
        }
        let request = RecallRequest {
            flow: state.flow,
            requests: state.requests,
            request_end: state.later.end(),
            client_ack: state.ack,
        };
        let told = self.laters.waits.register(state.flow, state.target);
        // From here on until the flow is its, so that a drain waits for it.
        let under_way = match &plan {
            Plan::Move { target, .. } => self.targets.get(*target).map(|target| UnderWay::at(&target)),
            Plan::Return { .. } => None,
        };
        // At once, since the task begins later.
        let asked = self.ask(state.target, request);
        let (migrator, flow, from) = (Arc::clone(self), Arc::clone(flow), state.target);
        tokio::spawn(async move {
            let action = migrator.await_recall(from, request, asked, told).await;
            migrator.laters.waits.forget(request.flow);
            if or_stay && matches!(action, Err(RecallAction::Reset(_))) {
                return migrator.stay_bound(&flow, request.flow);
            }
            migrator.after_recall(&flow, from, request.flow, action, plan).await;
            drop(under_way);
        });
    }

    /// The agent cannot give the flow back, and it need not: what is held goes on to its target.
    fn stay_bound(self: &Arc<Self>, flow: &Arc<LaterFlow>, handoff: FlowRef) {
        Self::count(&self.laters.counts.bound);
        self.flows.set_turning(handoff, false);
        let mut state = flow.lock();
        state.phase = Phase::Following;
        state.bound = true;
        self.read_on(flow, &mut state);
    }

    /// The body of the request under way cannot be read on: who takes which bytes for what nobody knows.
    pub(super) fn break_off(self: &Arc<Self>, flow: &Arc<LaterFlow>, state: &mut State, rule: GateRule) {
        tracing::debug!(client = %flow.client(), rule = rule.name(), "a body under way cannot be read on");
        self.drop_all(flow, state);
        Self::count(&self.laters.counts.broken);
        let subject = self.subject(flow, state.flow, state.target);
        self.history.record_closed(subject, CloseReason::BrokenBody);
        tokio::spawn(Arc::clone(self).cut(state.target, state.flow, EndReason::BrokenBody));
    }

    fn ask(&self, target: TargetId, request: RecallRequest) -> Result<(), NotSent> {
        self.targets.get(target).map_or(Err(NotSent::Down), |t| t.send(Message::Recall(request)))
    }

    /// Until it is known whose the flow is.
    async fn await_recall(
        &self,
        target: TargetId,
        request: RecallRequest,
        mut asked: Result<(), NotSent>,
        mut told: tokio::sync::mpsc::UnboundedReceiver<Told>,
    ) -> Result<RecalledAnswer, RecallAction> {
        let mut machine = Recall::new();
        loop {
            let patience = if asked == Err(NotSent::Busy) { BUSY } else { LOOK };
            let (event, answer) = match tokio::time::timeout(patience, told.recv()).await {
                Ok(Some(Told::Recalled(answer))) => (RecallEvent::Recalled, Some(answer)),
                Ok(Some(Told::Event(event))) => (event, None),
                // The table holds the other end until this is over.
                Ok(None) => (RecallEvent::FlowGone, None),
                Err(_) if !self.flows.is_committed(request.flow) => (RecallEvent::FlowGone, None),
                Err(_) if asked.is_err() => (RecallEvent::ChannelUp, None),
                Err(_) => continue,
            };
            match (machine.on(event), answer) {
                (RecallAction::Wait, _) => {}
                (RecallAction::Ask, _) => asked = self.ask(target, request),
                (RecallAction::Proceed, Some(answer)) => return Ok(answer),
                (action, _) => return Err(action),
            }
        }
    }

    async fn after_recall(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        from: TargetId,
        handoff: FlowRef,
        recalled: Result<RecalledAnswer, RecallAction>,
        plan: Plan,
    ) {
        match recalled {
            Ok(answer) => {
                // Before the packets are diverted: none of them may find the queue missing.
                let held = self.hold.begin(flow.key);
                let freeze = {
                    let settings = self.settings();
                    settings.freeze.max(settings.deadline + FREEZE_MARGIN)
                };
                let Some(place) = self.flows.refreeze(handoff, freeze) else {
                    return self.hold.release(&held, &[]);
                };
                let hand = InHand { place, held, answer };
                match plan {
                    Plan::Move { target, head, fed, noted } => {
                        self.hand_on(flow, hand, target, &head, (fed, *noted)).await;
                    }
                    Plan::Return { noted } => self.give_to_front(flow, hand, None, *noted).await,
                }
            }
            Err(RecallAction::Reset(reason)) => {
                self.laters.counts.refused.add(reason);
                let subject = self.subject(flow, handoff, from);
                self.history.record_closed(subject, CloseReason::RecallRefused);
                self.log_lost(plan.noted(), handoff, CloseReason::RecallRefused);
                self.drop_all(flow, &mut flow.lock());
                Arc::clone(self).cut(from, handoff, EndReason::RecallRefused).await;
            }
            Err(_) => {
                // The server has closed: the client sees that, and what it sent meanwhile was never asked of anybody.
                Self::count(&self.laters.counts.closed);
                self.flows.set_turning(handoff, false);
                let mut state = flow.lock();
                self.drop_all(flow, &mut state);
            }
        }
    }

    /// What is known of the connection, with the client's bytes before `rcv_nxt` taken.
    fn connection(flow: &LaterFlow, state: &State, answer: &RecalledAnswer) -> CapturedConnection {
        CapturedConnection {
            client: flow.client(),
            vip: flow.vip(),
            rcv_nxt: state.later.end(),
            snd_nxt: answer.snd_nxt,
            snd_wnd: state.window,
            max_window: state.max_window,
            rcv_wnd: answer.rcv_wnd,
            options: flow.options.unwrap_or(NO_OPTIONS),
            client_tsval: state.tsval,
            vip_tsval: answer.vip_tsval,
            rtt_us: flow.rtt_us,
            client_fin: false,
        }
    }

    fn subject(&self, flow: &LaterFlow, handoff: FlowRef, target: TargetId) -> Subject {
        Subject {
            flow_id: Some(handoff.flow_id),
            client: flow.client(),
            vip: flow.vip(),
            target: self.targets.get(target).map(|t| t.spec.name.clone()).unwrap_or_default(),
            request: String::new(),
            started: SystemTime::now(),
            trace: None,
        }
    }

    /// Hands the flow with the request in front to a target.
    async fn hand_on(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        mut hand: InHand,
        to: TargetId,
        head: &RequestHead,
        (fed, noted): (Vec<u8>, Noted),
    ) {
        let start = Instant::now();
        let target = self.targets.get(to);
        let server = target.as_ref().and_then(|t| t.spec.servers.for_vip(flow.vip()));
        let (Some(target), Some(server)) = (target, server) else {
            return self.give_to_front(flow, hand, Some((ProxyReason::AddressFamily, None)), noted).await;
        };
        // It may have begun to stop since the target was chosen.
        if !target.takes_handoffs() {
            return self.give_to_front(flow, hand, Some((ProxyReason::NoAgent, None)), noted).await;
        }
        let before = flow.lock().later.clone();
        let Some((mut subject, message)) = self.next_handoff(flow, &hand, (to, server), head, fed) else {
            return self.give_to_front(flow, hand, None, noted).await;
        };
        let connection = message.connection.clone();
        let mut told = self.pending.register(hand.place.flow, to);
        let settled = match target.send(Message::Handoff(Box::new(message))) {
            Ok(()) => self.settle(&mut hand.place, &mut told, to).await,
            Err(NotSent::Down) => Settled::Kept(ProxyReason::NoAgent, None),
            Err(NotSent::Busy) => Settled::Kept(ProxyReason::ChannelBusy, None),
        };
        self.pending.forget(hand.place.flow);
        match settled {
            Settled::Committed(answer) => {
                let mut record = hand.place.record;
                record.new_addr = server.ip().into();
                record.new_port = baton_shared::addr::PortWord::new(server.port());
                record.flags = FLAG_TRACKED | target.spec.leg.flags();
                if connection.options.timestamps {
                    record.flags |= FLAG_TIMESTAMPS;
                }
                record.ack_delta = answer.client_snd_nxt.delta_to(answer.server_snd_nxt).0;
                record.tsecr_delta = answer.ts_delta.wrapping_neg();
                record.note_ack = connection.snd_nxt.raw();
                record.note_seq_end = connection.rcv_nxt.raw();
                record.note_window = connection.options.reach();
                self.flows.assign(hand.place.flow, to, server, &subject.request);
                let times = StageTimes {
                    handoff: start.elapsed(),
                    agent: Duration::from_micros(answer.total_us.into()),
                    adopted: answer.is_adopted(),
                    total: start.elapsed(),
                    ..StageTimes::default()
                };
                // Before the commit: the next request may be held already, and be read by it.
                self.log_later(noted, to, hand.place.flow, 1, Some(times));
                self.commit_again(flow, &hand, record, to, &connection);
                self.history.record_migrated(subject, &times);
            }
            Settled::Kept(reason, refusal) => {
                flow.lock().later = before;
                self.give_to_front(flow, hand, Some((reason, refusal)), noted).await;
            }
            Settled::Reset => {
                flow.lock().phase = Phase::Gone;
                subject.target.clone_from(&target.spec.name);
                self.history.record_closed(subject, CloseReason::Unresolved);
                self.log_lost(noted, hand.place.flow, CloseReason::Unresolved);
                self.reset_unresolved(&mut hand.place, &hand.held, to, server, Severed::from(&connection))
                    .await;
            }
        }
    }

    /// The record of a flow that has another target is put in force.
    fn commit_again(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        hand: &InHand,
        mut record: FlowRecord,
        to: TargetId,
        given: &CapturedConnection,
    ) {
        let mut state = flow.lock();
        record.read_from = state.later.end().raw();
        record.ack_floor = given.options.to_word();
        if state.later.owes() {
            record.flags |= FLAG_OWED;
        }
        self.flows.commit(&record, hand.place.slot);
        Self::count(&self.laters.counts.moved);
        state.flow = hand.place.flow;
        state.target = to;
        state.requests = 1;
        state.bound = false;
        state.all_requests = state.all_requests.saturating_add(1);
        // It has acknowledged all there was, or the flow were not here.
        state.ack = given.snd_nxt;
        let fresh = Fresh { ack: given.snd_nxt.raw(), tsval: given.client_tsval, tsecr: given.vip_tsval };
        self.make_fit(flow, &mut state, given.rcv_nxt, fresh);
        self.resume(flow, &mut state, &hand.held);
    }

    /// The message that gives the request in front to a target; it is not in front any more then.
    fn next_handoff(
        &self,
        flow: &LaterFlow,
        hand: &InHand,
        (to, server): (TargetId, SocketAddr),
        head: &RequestHead,
        mut fed: Vec<u8>,
    ) -> Option<(Subject, HandoffMessage)> {
        let mut state = flow.lock();
        let request_line = head.request_line(state.later.bytes());
        let is_head = state.later.bytes().get(head.method.clone()) == Some(b"HEAD");
        let told = state.later.acknowledged();
        let mut connection = Self::connection(flow, &state, &hand.answer);
        // Its end was known when this was planned, and nothing in front has changed.
        let taken = state.later.take(head)?;
        fed.extend_from_slice(
            taken.bytes.get(head.head_len.saturating_sub(head.start)..).unwrap_or_default(),
        );
        let moved = taken.taken_end.since(connection.rcv_nxt);
        connection.rcv_nxt = taken.taken_end;
        connection.rcv_wnd = connection.rcv_wnd.saturating_sub(moved);
        connection.client_fin = taken.fin;
        let message = HandoffMessage {
            flow: hand.place.flow,
            deadline_ms: u32::try_from(self.settings().deadline.as_millis()).unwrap_or(u32::MAX),
            server,
            connection,
            acknowledged: later_of(told, taken.taken_end),
            tracked: Some(TrackedRequest { head: is_head }),
            request: fed,
        };
        let mut subject = self.subject(flow, hand.place.flow, to);
        subject.request = request_line;
        Some((subject, message))
    }

    /// The record is in force: what was kept goes on, and the flow is followed. The reader of the TUN waits meanwhile.
    pub(in crate::handoff) fn resume(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        state: &mut State,
        held: &Arc<HeldFlow>,
    ) {
        state.phase = Phase::Following;
        let end = state.later.end();
        self.pass_to(flow, state, end);
        for (packet, offload) in self.hold.take(held) {
            if let Some(facts) = baton_shared::packet::held::facts(&packet) {
                if facts.rst {
                    // It goes on at once, so what came before it must go first: a FIN takes a number.
                    self.read_on(flow, state);
                }
                self.take_in(flow, state, &packet, offload, &facts);
            }
        }
        self.read_on(flow, state);
    }

    /// Makes a socket for the connection and gives it to the front, with what the client has sent.
    async fn give_to_front(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        mut hand: InHand,
        refused: Option<(ProxyReason, Option<Refusal>)>,
        noted: Noted,
    ) {
        if let Some((reason, refusal)) = refused {
            tracing::debug!(client = %flow.client(), %reason, ?refusal, "a later request is not handed on");
        }
        let router: Option<Arc<dyn Router>> = self.laters.router.get().cloned();
        let seat = router.and_then(|router| Some((router.seat(flow.vip())?, router)));
        let (connection, bytes) = {
            let state = flow.lock();
            let mut connection = Self::connection(flow, &state, &hand.answer);
            let owed = state.later.acknowledged().since(connection.rcv_nxt);
            let received = usize::try_from(owed).unwrap_or(0).min(state.later.bytes().len());
            let bytes = state.later.bytes().get(..received).unwrap_or_default().to_vec();
            connection.rcv_nxt = state.later.acknowledged();
            connection.rcv_wnd = connection.rcv_wnd.saturating_sub(owed);
            (connection, bytes)
        };
        let nobody = || ("seat", std::io::Error::other("nobody listens on its address"));
        match seat.ok_or_else(nobody).and_then(|seat| Ok((restore(&connection)?, seat))) {
            Ok((stream, (seat, router))) => {
                {
                    let mut state = flow.lock();
                    state.phase = Phase::Gone;
                    // Its packets are the ordinary stack's from here on, those that are held too.
                    self.flows.give_back(hand.place.flow);
                    let fresh = Fresh {
                        ack: connection.snd_nxt.raw(),
                        tsval: connection.client_tsval,
                        tsecr: connection.vip_tsval,
                    };
                    self.make_fit(flow, &mut state, connection.rcv_nxt, fresh);
                    self.write_all_back(&mut state);
                    self.hold.release(&hand.held, &[]);
                }
                Self::count(&self.laters.counts.returned);
                router.take_back(Returned { stream, client: flow.client(), vip: flow.vip(), seat, bytes });
            }
            Err((step, e)) => {
                tracing::error!(client = %flow.client(), flow = %flow_id_text(hand.place.flow.flow_id),
                    "no socket for a connection that was taken back: {step}: {e}");
                flow.lock().phase = Phase::Gone;
                let target = flow.lock().target;
                let subject = self.subject(flow, hand.place.flow, target);
                self.history.record_closed(subject, CloseReason::RestoreFailed);
                self.log_lost(noted, hand.place.flow, CloseReason::RestoreFailed);
                self.flows.extend(&mut hand.place, FREEZE_MARGIN);
                self.resetter.reset_client(&Severed::from(&connection), &hand.held).await;
                self.flows.abandon(hand.place.flow);
                self.hold.discard(&hand.held);
            }
        }
    }
}

/// The later of two numbers.
fn later_of<S>(a: Seq<S>, b: Seq<S>) -> Seq<S> {
    if a.before(b) { b } else { a }
}
