//! From the handoff's sending on: who answers the client is decided by [`Handoff`], and done here.

use super::flight::{Flight, Kept, Lap};
use super::pending::Told;
use super::unresolved::Lost;
use super::{FREEZE_MARGIN, Migrator, StageTimes, flow_id_text, late};
use crate::reset::Severed;
use crate::targets::TargetId;
use baton_shared::control::{Message, MigratedAnswer};
use baton_shared::record::FLAG_TIMESTAMPS;
use baton_shared::state::handoff::{Handoff, HandoffAction, HandoffEvent, Question};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// How a flight ended.
pub(super) enum Resolved {
    Migrated,
    Reset,
    Kept(Kept),
}

impl Migrator {
    /// Waits until it is known who answers the client, and acts on it.
    pub(super) async fn resolve(
        &self,
        mut flight: Flight<'_>,
        mut told: UnboundedReceiver<Told>,
        id: TargetId,
        times: &mut StageTimes,
        start: Instant,
    ) -> Resolved {
        let mut machine = Handoff::new();
        let sent = Instant::now();
        let give_up = self.settings().agent_lost.max(self.settings().deadline + Duration::from_millis(500));
        let mut late = false;
        let timer = tokio::time::sleep(self.settings().deadline);
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
                        self.flows.extend(&mut flight.place, give_up + FREEZE_MARGIN);
                        HandoffEvent::Deadline
                    }
                }
            };
            match machine.on(event) {
                HandoffAction::Wait => {}
                HandoffAction::Commit => {
                    let Some(answer) = answer else { continue };
                    times.handoff = sent.elapsed();
                    times.agent = Duration::from_micros(answer.total_us.into());
                    self.commit(&mut flight, &answer, times, start);
                    return Resolved::Migrated;
                }
                HandoffAction::Proxy(reason, refusal) => {
                    return Resolved::Kept(self.stay(&mut flight, reason, refusal));
                }
                HandoffAction::Ask(question) => {
                    let message = match question {
                        Question::Cancel => Message::Cancel(flight.place.flow),
                        Question::Status => Message::Status(flight.place.flow),
                    };
                    // If it cannot be sent now, the channel's return asks again.
                    let _ = self.targets.get(id).map(|target| target.send(message));
                }
                HandoffAction::Reset => {
                    self.reset(&mut flight, id).await;
                    return Resolved::Reset;
                }
            }
        }
    }

    /// The target has the connection: its packets go there from here on.
    fn commit(
        &self,
        flight: &mut Flight<'_>,
        answer: &MigratedAnswer,
        times: &mut StageTimes,
        start: Instant,
    ) {
        let Some(captured) = flight.captured.take() else { return };
        let mut lap = Lap::new();
        let late = captured.late().map(|late| {
            self.late.fetch_add(1, Ordering::Relaxed);
            self.prefetched.fetch_add(u64::try_from(late.bytes.len()).unwrap_or(0), Ordering::Relaxed);
            late::packets(&captured.connection, &late)
        });
        let mut record = flight.place.record;
        record.ack_delta = answer.client_snd_nxt.delta_to(answer.server_snd_nxt).0;
        record.seq_delta = 0;
        record.tsval_delta = 0;
        record.tsecr_delta = answer.ts_delta.wrapping_neg();
        record.out_ifindex = self.settings().out_ifindex;
        record.note_ack = captured.connection.snd_nxt.raw();
        record.note_seq_end = captured.connection.rcv_nxt.raw();
        if captured.connection.options.timestamps {
            record.flags |= FLAG_TIMESTAMPS;
        }
        self.flows.commit(&record, flight.place.slot);
        times.commit = lap.lap();
        self.hold.release(&flight.held, late.as_deref().unwrap_or_default());
        times.release = lap.lap();
        times.total = start.elapsed();
        captured.release();
        times.close = lap.lap();
    }

    /// Nobody knows where the request runs: the client must not wait for ever, and nobody may answer it.
    async fn reset(&self, flight: &mut Flight<'_>, target: TargetId) {
        let Some(captured) = flight.captured.take() else { return };
        let connection = Severed::from(&captured.connection);
        captured.release();
        self.unresolved.remember(Lost {
            flow: flight.place.flow,
            target,
            server: flight.place.record.new_addr.socket_addr(flight.place.record.new_port),
            connection,
        });
        self.flows.extend(&mut flight.place, FREEZE_MARGIN);
        self.resetter.reset_client(&connection, &flight.held).await;
        self.flows.abandon(flight.place.flow);
        self.hold.discard(&flight.held);
        tracing::warn!(client = %connection.client, flow = %flow_id_text(flight.place.flow.flow_id),
            "the agent fell silent on a delivered handoff: the client was reset");
    }
}
