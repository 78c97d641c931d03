//! A tracked flow is to leave its target: recalled, then given to another one (`hand_on`) or to a socket here
//! (`give_back`). What the agent's word means is said by [`Recall`]; here it is done.

use super::state::{LaterFlow, Phase, State};
use super::waits::Told;
use super::{Migrator, Next, Noted};
use crate::access_log::{ClosedRecord, MigratedRecord, Placed};
use crate::flows::Place;
use crate::handoff::{FREEZE_MARGIN, StageTimes, Subject};
use crate::hold::HeldFlow;
use crate::targets::{NotSent, TargetId};
use baton_shared::balance::plan_holds;
use baton_shared::capture::{CapturedConnection, NegotiatedOptions};
use baton_shared::control::{FlowRef, Message, RecallRequest, RecalledAnswer};
use baton_shared::http::{GateRule, RequestHead};
use baton_shared::reason::{CloseReason, EndReason, Refusal};
use baton_shared::state::heard::Heard;
use baton_shared::state::recall::{Recall, RecallAction, RecallEvent};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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
pub(super) struct TakenBack {
    pub(super) place: Place,
    pub(super) held: Arc<HeldFlow>,
    pub(super) answer: RecalledAnswer,
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
    pub(super) fn log_lost(&self, noted: Noted, flow: FlowRef, reason: CloseReason) {
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
        if !self.flows.set_turning(state.flow(), true) {
            // It has ended meanwhile. Whoever reads must not find the same request again, for ever.
            return self.drop_all(flow, state);
        }
        state.phase = Phase::Turning;
        state.waiting.change_unfinished(|unfinished| unfinished.partial_since = None);
        if flow.options().is_none() {
            // What its connection agreed on nobody knows any more.
            self.drop_all(flow, state);
            self.laters.counts.refused.add(Refusal::NotTracked);
            let subject = self.subject(flow, state.flow(), state.target);
            self.history.record_closed(subject, CloseReason::RecallRefused);
            self.log_lost(plan.noted(), state.flow(), CloseReason::RecallRefused);
            self.spawn(Arc::clone(self).cut(state.target, state.flow(), EndReason::RecallRefused));
            return;
        }
        let heard = self.catch_up(flow, state);
        let request = RecallRequest {
            flow: state.flow(),
            requests: state.requests,
            request_end: state.later.end(),
            client_ack: heard.ack,
        };
        let told = self.laters.waits.register(state.flow(), state.target);
        // At once, since the task begins later.
        let asked = self.ask(state.target, request);
        let (migrator, flow, from) = (Arc::clone(self), Arc::clone(flow), state.target);
        self.spawn(async move {
            let action = migrator.await_recall(&flow, from, request, asked, told).await;
            migrator.laters.waits.forget(request.flow);
            if or_stay && matches!(action, Err(RecallAction::Reset(_))) {
                return migrator.stay_bound(&flow, request.flow);
            }
            migrator.after_recall(&flow, from, request.flow, action, plan).await;
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
        let subject = self.subject(flow, state.flow(), state.target);
        self.history.record_closed(subject, CloseReason::BrokenBody);
        self.spawn(Arc::clone(self).cut(state.target, state.flow(), EndReason::BrokenBody));
    }

    /// What the client said last, in packets that went on by themselves too.
    pub(super) fn catch_up(&self, flow: &LaterFlow, state: &mut State) -> Heard {
        state.catch_up(&self.flows.record(flow.slot), flow.options().as_ref())
    }

    fn ask(&self, target: TargetId, request: RecallRequest) -> Result<(), NotSent> {
        self.targets.get(target).map_or(Err(NotSent::Down), |t| t.agent.send(Message::Recall(request)))
    }

    /// Until it is known whose the flow is.
    async fn await_recall(
        &self,
        flow: &LaterFlow,
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
                Err(_) => {
                    // Before so much has gone by that nobody can tell who is ahead.
                    self.catch_up(flow, &mut flow.lock());
                    continue;
                }
            };
            match (machine.on(event), answer) {
                (RecallAction::Wait, _) => {}
                (RecallAction::Ask, _) => asked = self.ask(target, request),
                (RecallAction::Proceed, Some(answer)) => return Ok(answer),
                (action, _) => return Err(action),
            }
        }
    }

    /// A recall takes as long as the response under way: the target may not be one to begin anything on any more.
    fn judge_again(&self, flow: &LaterFlow, plan: Plan) -> Plan {
        let Plan::Move { target, ref head, .. } = plan else { return plan };
        let state = flow.lock();
        let ordered = self.targets.get(target).map(|target| target.admin()).unwrap_or_default();
        let holds = plan_holds(target == state.target, ordered);
        let Some(router) = self.laters.router.get().filter(|_| !holds) else { return plan };
        let bytes = state.later.bytes();
        match router.route(&flow.now(&state), head, bytes) {
            Next::Stay { noted, .. } => {
                let fed = bytes.get(head.start..head.head_len).unwrap_or_default().to_vec();
                Plan::Move { target: state.target, head: head.clone(), fed, noted: Box::new(noted) }
            }
            Next::Move { target, head: fed, noted, .. } => {
                Plan::Move { target, head: head.clone(), fed, noted: Box::new(noted) }
            }
            Next::Return { .. } => Plan::Return { noted: Box::new(plan.noted()) },
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
                let held = self.hold.begin(flow.key());
                let freeze = {
                    let settings = self.settings();
                    settings.freeze.max(settings.deadline + FREEZE_MARGIN)
                };
                let Some(place) = self.flows.refreeze(handoff, freeze) else {
                    return self.hold.release(&held);
                };
                let hand = TakenBack { place, held, answer };
                match self.judge_again(flow, plan) {
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
    pub(super) fn connection(
        &self,
        flow: &LaterFlow,
        state: &mut State,
        answer: &RecalledAnswer,
    ) -> CapturedConnection {
        let heard = self.catch_up(flow, state);
        CapturedConnection {
            client: flow.client(),
            vip: flow.vip(),
            rcv_nxt: state.later.end(),
            snd_nxt: answer.snd_nxt,
            snd_wnd: heard.window,
            max_window: state.max_window,
            rcv_wnd: answer.rcv_wnd,
            options: flow.options().unwrap_or(NO_OPTIONS),
            client_tsval: state.tsval,
            vip_tsval: answer.vip_tsval,
            rtt_us: flow.rtt_us,
            client_fin: false,
        }
    }

    pub(super) fn subject(&self, flow: &LaterFlow, handoff: FlowRef, target: TargetId) -> Subject {
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
}
