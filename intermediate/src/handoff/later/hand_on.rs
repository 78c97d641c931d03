//! A recalled flow goes to a target, with the request in front: the handoff after the first.

use super::Migrator;
use super::Noted;
use super::state::{LaterFlow, Phase, State};
use super::turn::TakenBack;
use crate::flows::InHand;
use crate::handoff::resolve::Settled;
use crate::handoff::window::AwaitingWindow;
use crate::handoff::{StageTimes, Subject};
use crate::hold::cut::Fresh;
use crate::hold::{Ends, HeldFlow};
use crate::reset::Severed;
use crate::targets::{NotSent, TargetId, UnderWay};
use baton_shared::addr::PortWord;
use baton_shared::capture::CapturedConnection;
use baton_shared::control::{Handoff as HandoffMessage, Message, TrackedRequest};
use baton_shared::http::RequestHead;
use baton_shared::reason::{CloseReason, ProxyReason};
use baton_shared::record::{FLAG_OWED, FLAG_TRACKED, FlowRecord};
use baton_shared::seq::{Client, Seq};
use baton_shared::state::commit::committed;
use baton_shared::state::heard::Heard;
use baton_shared::state::window::Window;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Migrator {
    /// Hands the flow with the request in front to a target.
    pub(super) async fn hand_on(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        mut hand: TakenBack,
        to: TargetId,
        head: &RequestHead,
        (fed, noted): (Vec<u8>, Noted),
    ) {
        self.latency.on_handoff();
        let start = Instant::now();
        let target = self.targets.get(to);
        let server = target.as_ref().and_then(|t| t.spec.servers.for_vip(flow.vip()));
        let (Some(target), Some(server)) = (target, server) else {
            return self.give_to_front(flow, hand, Some((ProxyReason::AddressFamily, None)), noted).await;
        };
        // Until the flow is its: a drain waits for it.
        let _under_way = UnderWay::at(&target);
        // It may have begun to stop since it was chosen.
        if !target.takes_handoffs() {
            return self.give_to_front(flow, hand, Some((ProxyReason::NoAgent, None)), noted).await;
        }
        let before = flow.lock().later.clone();
        let Some((mut subject, message)) = self.next_handoff(flow, &hand, (to, server), head, fed) else {
            return self.give_to_front(flow, hand, None, noted).await;
        };
        let connection = message.connection.clone();
        let mut told = self.pending.register(hand.place.flow, to);
        let settled = match target.send_of(hand.place.flow, Message::Handoff(Box::new(message))) {
            Ok(()) => self.settle(&mut hand.place, &mut told, to, Instant::now()).await,
            Err(NotSent::Down) => Settled::Kept(ProxyReason::NoAgent, None),
            Err(NotSent::Busy) => Settled::Kept(ProxyReason::ChannelBusy, None),
        };
        drop(told);
        match settled {
            Settled::Committed(answer) => {
                let place = FlowRecord {
                    new_addr: server.ip().into(),
                    new_port: PortWord::new(server.port()),
                    flags: FLAG_TRACKED | target.spec.leg.flags(),
                    ..hand.place.record
                };
                let record = committed(&place, &answer, &connection);
                self.flows.assign(hand.place.flow, to, &subject.request);
                let times = StageTimes {
                    handoff: start.elapsed(),
                    agent: Duration::from_micros(answer.total_us.into()),
                    adopted: answer.is_adopted(),
                    total: start.elapsed(),
                    ..StageTimes::default()
                };
                // Before the commit: the next request may be held already, and be read by it.
                self.log_later(noted, to, hand.place.flow, 1, Some(times));
                self.commit_again(flow, &hand, record, to, &connection, answer.window_end);
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
        hand: &TakenBack,
        mut record: FlowRecord,
        to: TargetId,
        given: &CapturedConnection,
        window_end: Seq<Client>,
    ) {
        let mut state = flow.lock();
        let in_hand = self.flows.in_hand(hand.place.slot);
        let window = Window::new(given, window_end, false);
        record.read_from = state.later.end().raw();
        record.ack_floor = given.options.to_word();
        if state.later.owes() {
            record.flags |= FLAG_OWED;
        }
        self.flows.commit(&record, hand.place.slot, false);
        Self::count(&self.laters.counts.moved);
        state.generation = hand.place.flow.generation;
        state.target = to;
        state.requests = 1;
        state.bound = false;
        state.all_requests = state.all_requests.saturating_add(1);
        // It has acknowledged all there was, or the flow were not here.
        let heard = Heard { ack: given.snd_nxt, window: given.snd_wnd, said_at: given.rcv_nxt };
        state.waiting.set_heard(heard);
        let fresh = Fresh { ack: given.snd_nxt.raw(), tsval: given.client_tsval, tsecr: given.vip_tsval };
        self.make_fit(flow, &mut state, given.rcv_nxt, fresh);
        self.resume(flow, &mut state, &hand.held, window, in_hand);
    }

    /// The message that gives the request in front to a target; it is not in front any more then.
    fn next_handoff(
        &self,
        flow: &LaterFlow,
        hand: &TakenBack,
        (to, server): (TargetId, SocketAddr),
        head: &RequestHead,
        mut fed: Vec<u8>,
    ) -> Option<(Subject, HandoffMessage)> {
        let mut state = flow.lock();
        let request_line = head.request_line(state.later.bytes());
        let is_head = head.is_head(state.later.bytes());
        let told = state.later.acknowledged();
        let mut connection = self.connection(flow, &mut state, &hand.answer);
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

    /// The record is in force: what was kept goes on, as far as the server's window takes it, and the flow is followed. The
    /// reader of the TUN waits meanwhile.
    pub(in crate::handoff) fn resume(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        state: &mut State,
        held: &Arc<HeldFlow>,
        mut window: Window,
        in_hand: InHand,
    ) {
        state.phase = Phase::Following;
        let end = state.later.end();
        self.pass_to(flow, state, end);
        self.read_on(flow, state);
        let (handoff, target) = (state.flow(), state.target);
        if !self.read_held(flow, state, held, &mut window) {
            let (held, later) = (Arc::clone(held), Some(Arc::clone(flow)));
            self.follow_window(AwaitingWindow { flow: handoff, target, held, later, window, in_hand });
        }
    }

    /// What is held is taken as if it came now, as far as the window takes it; whether that is all.
    pub(in crate::handoff) fn read_held(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        state: &mut State,
        held: &Arc<HeldFlow>,
        window: &mut Window,
    ) -> bool {
        let ends = Ends::At(state.later.end());
        self.hold.release_into(held, window, ends, |packet, offload| {
            if let Some(facts) = baton_shared::packet::held::facts(packet) {
                self.on_packet(flow, state, packet, offload, &facts);
            }
        })
    }
}

/// The later of two numbers.
fn later_of<S>(a: Seq<S>, b: Seq<S>) -> Seq<S> {
    if a.before(b) { b } else { a }
}
