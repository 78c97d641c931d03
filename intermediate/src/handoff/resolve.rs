//! From the handoff's sending on: who answers the client is decided by [`Handoff`], and done here.

use super::flight::{Flight, Kept, Lap, TrackedFlight};
use super::later::{LaterFlow, Started};
use super::pending::{Answers, Told};
use super::repair::Late;
use super::unresolved::Lost;
use super::window::AwaitingWindow;
use super::{FREEZE_MARGIN, HandoffSettings, Migrator, StageTimes, flow_id_text, late};
use crate::flows::{InHand, Place};
use crate::hold::HeldFlow;
use crate::reset::Severed;
use crate::targets::TargetId;
use baton_daemon::tun::Offload;
use baton_shared::capture::CapturedConnection;
use baton_shared::control::{Message, MigratedAnswer};
use baton_shared::reason::{ProxyReason, Refusal};
use baton_shared::record::{FLAG_OWED, FLAG_TRACKED, FLAG_WITHIN_BODY, FlowRecord};
use baton_shared::state::commit::committed;
use baton_shared::state::handoff::{Handoff, HandoffAction, HandoffEvent, Question};
use baton_shared::state::window::Window;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How a flight ended.
pub(super) enum Resolved {
    Migrated,
    Reset,
    Kept(Kept),
}

/// What the agent's word came to.
pub(super) enum Settled {
    Committed(MigratedAnswer),
    Kept(ProxyReason, Option<Refusal>),
    Reset,
}

impl Migrator {
    /// Waits until it is known who answers the client, and acts on it.
    pub(super) async fn resolve(
        self: &Arc<Self>,
        mut flight: Box<Flight<'_>>,
        mut told: Answers<'_>,
        id: TargetId,
        times: &mut StageTimes,
        start: Instant,
    ) -> Resolved {
        let sent = Instant::now();
        match self.settle(&mut flight.place, &mut told, id, sent).await {
            Settled::Committed(answer) => {
                let answered = Instant::now();
                times.handoff = answered.duration_since(sent);
                times.agent = Duration::from_micros(answer.total_us.into());
                times.adopted = answer.is_adopted();
                if let Some(target) = self.targets.get(id) {
                    target.expect_adopted(times.adopted);
                }
                self.commit(&mut flight, id, &answer, times, (start, answered));
                Resolved::Migrated
            }
            Settled::Kept(reason, refusal) => Resolved::Kept(self.stay(&mut flight, reason, refusal)),
            Settled::Reset => {
                // Boxed: hardly any connection needs its room.
                Box::pin(self.reset(&mut flight, id)).await;
                Resolved::Reset
            }
        }
    }

    /// Waits until it is known who answers the client, whose handoff was sent at `sent`.
    pub(super) async fn settle(
        &self,
        place: &mut Place,
        told: &mut Answers<'_>,
        id: TargetId,
        sent: Instant,
    ) -> Settled {
        let mut machine = Handoff::new();
        let HandoffSettings { agent_lost, deadline, .. } = **self.settings.load();
        let give_up = agent_lost.max(deadline + Duration::from_millis(500));
        let mut late = false;
        let timer = tokio::time::sleep_until((sent + deadline).into());
        tokio::pin!(timer);
        loop {
            let mut answer = None;
            let event = tokio::select! {
                biased;
                told = told.recv() => match told {
                    Some(Told::Migrated(numbers)) => {
                        answer = Some(numbers);
                        HandoffEvent::Migrated
                    }
                    Some(Told::Event(event)) => event,
                    // The table holds the other end until the flight is over.
                    None => HandoffEvent::GiveUp,
                },
                () = &mut timer => {
                    timer.as_mut().reset((sent + give_up).into());
                    if late {
                        HandoffEvent::GiveUp
                    } else {
                        late = true;
                        self.flows.extend(place, give_up + FREEZE_MARGIN);
                        HandoffEvent::Deadline
                    }
                }
            };
            match machine.on(event) {
                HandoffAction::Wait => {}
                HandoffAction::Commit => {
                    if let Some(answer) = answer {
                        return Settled::Committed(answer);
                    }
                }
                HandoffAction::Proxy(reason, refusal) => return Settled::Kept(reason, refusal),
                HandoffAction::Ask(question) => {
                    let message = match question {
                        Question::Cancel => Message::Cancel(place.flow),
                        Question::Status => Message::Status(place.flow),
                    };
                    // If it cannot be sent now, the channel's return asks again.
                    let _ = self.targets.get(id).map(|target| target.send_of(place.flow, message));
                }
                HandoffAction::Reset => return Settled::Reset,
            }
        }
    }

    /// The target has the connection: its packets go there from here on.
    fn commit(
        self: &Arc<Self>,
        flight: &mut Flight<'_>,
        id: TargetId,
        answer: &MigratedAnswer,
        times: &mut StageTimes,
        (start, answered): (Instant, Instant),
    ) {
        let Some(captured) = flight.captured.take() else { return };
        let mut lap = Lap::since(answered);
        let late = captured.late();
        if let Some(late) = &late {
            self.late.fetch_add(1, Ordering::Relaxed);
            self.prefetched.fetch_add(u64::try_from(late.bytes.len()).unwrap_or(0), Ordering::Relaxed);
        }
        let place = FlowRecord { out_ifindex: self.settings.load().out_ifindex, ..flight.place.record };
        let record = committed(&place, answer, &captured.connection);
        let in_hand = self.flows.in_hand(flight.place.slot);
        let window = Window::new(&captured.connection, answer.window_end, flight.more);
        match flight.tracked.take() {
            None => {
                let late = late.map(|late| late::packets(&captured.connection, &late)).unwrap_or_default();
                self.flows.not_diverted(flight.place.slot, &late);
                self.flows.commit(&record, flight.place.slot, flight.place.ahead);
                times.commit = lap.lap();
                let slot = flight.place.slot;
                late.iter().for_each(|packet| self.hold.write_back(Some(slot), packet, Offload::default()));
                let (flow, held) = (flight.place.flow, Arc::clone(&flight.held));
                self.let_through(AwaitingWindow { flow, target: id, held, later: None, window, in_hand });
            }
            Some(tracked) => {
                let server = (id, window, in_hand);
                let committed =
                    self.commit_tracked(flight, record, tracked, &captured.connection, late, server);
                times.commit = lap.lap_at(committed);
            }
        }
        times.release = lap.lap();
        times.total = lap.at().duration_since(start);
        captured.release();
        times.close = lap.lap();
    }

    /// As the commit of any flow, but its later requests are read from here on. When it was committed.
    fn commit_tracked(
        self: &Arc<Self>,
        flight: &Flight<'_>,
        mut record: FlowRecord,
        tracked: TrackedFlight,
        captured: &CapturedConnection,
        late: Option<Late>,
        (target, window, in_hand): (TargetId, Window, InHand),
    ) -> Instant {
        let last = tracked.last;
        let (later, packets) = tracked.later(captured, late, self.settings.load().hold.per_flow);
        record.flags |= FLAG_TRACKED;
        if later.is_within_body() {
            record.flags |= FLAG_WITHIN_BODY;
        }
        record.read_from = later.end().raw();
        record.ack_floor = captured.options.to_word();
        if later.owes() && !last {
            record.flags |= FLAG_OWED;
        }
        let place = &flight.place;
        let flow = Arc::new(LaterFlow::new(Started {
            flow: place.flow,
            slot: place.slot,
            key: record.key,
            target,
            connection: captured,
            later,
            last,
        }));
        let mut state = flow.lock();
        // Before the record is in force: what is diverted by it must find who reads it.
        self.flows.attach_later(place.flow, &flow);
        self.flows.not_diverted(place.slot, &packets);
        self.flows.commit(&record, place.slot, place.ahead);
        let committed = Instant::now();
        for packet in packets {
            self.hold.write_back(Some(place.slot), &packet, Offload::default());
        }
        self.resume(&flow, &mut state, &flight.held, window, in_hand);
        committed
    }

    /// Nobody knows where the request runs: the client must not wait for ever, and nobody may answer it.
    async fn reset(&self, flight: &mut Flight<'_>, target: TargetId) {
        let Some(captured) = flight.captured.take() else { return };
        let connection = Severed::from(&captured.connection);
        captured.release();
        let server = flight.place.record.rewritten_addr();
        self.reset_unresolved(&mut flight.place, &flight.held, target, server, connection).await;
    }

    /// The same of a flow without a socket.
    pub(super) async fn reset_unresolved(
        &self,
        place: &mut Place,
        held: &Arc<HeldFlow>,
        target: TargetId,
        server: SocketAddr,
        mut connection: Severed,
    ) {
        self.flows.extend(place, FREEZE_MARGIN);
        if place.ahead {
            connection.catch_up(&self.flows.record(place.slot));
        }
        self.unresolved.remember(Lost { flow: place.flow, target, server, connection });
        self.resetter.reset_client(&connection, held).await;
        self.flows.abandon(place.flow);
        self.hold.discard(held);
        tracing::warn!(client = %connection.client, flow = %flow_id_text(place.flow.flow_id),
            "the agent fell silent on a delivered handoff: the client was reset");
    }
}
