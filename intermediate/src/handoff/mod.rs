//! How a connection leaves: freeze, drain, capture, hand off, commit. DESIGN's "One migration" is this module read
//! from [`Migrator::migrate`] down.
//!
//! Everything up to the handoff's sending is synchronous: a few non-blocking system calls in the connection's own
//! task. Then the task waits for the agent's answer, and [`baton_shared::state::handoff`] says what it means.

mod candidate;
mod connect;
mod dispatch;
mod history;
mod late;
mod pending;
mod repair;
mod settings;
mod syn;
mod sys;
mod unresolved;

pub use candidate::{Candidate, Outcome, StageTimes};
pub use dispatch::AgentEvent;
pub use history::{History, HistoryOutcome, MigrationRecord, Subject, flow_id_text};
pub use repair::{CaptureError, Captured, Ends, Late, Live, prepare_listener};
pub use settings::{HandoffSettings, MigratorStats};

use crate::flows::{BeginError, FlowIdentity, Flows, Place};
use crate::hold::{HeldFlow, Hold, PacketSink};
use crate::reset::Resetter;
use crate::targets::{NotSent, Target, TargetId, Targets};
use baton_loader::Plane;
use baton_shared::control::{Handoff as HandoffMessage, Message, MigratedAnswer};
use baton_shared::reason::{CloseReason, ProxyReason, Refusal};
use baton_shared::record::FLAG_TIMESTAMPS;
use baton_shared::state::handoff::{Handoff, HandoffAction, HandoffEvent, Question};
use pending::{Pending, Told};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use unresolved::{Lost, Unresolved};

/// How long past its owner's patience a freeze binds, for the reset and its answers.
const FREEZE_MARGIN: Duration = Duration::from_secs(4);

/// Migrates connections. One for the process, shared.
#[derive(Debug)]
pub struct Migrator {
    flows: Flows,
    hold: Hold,
    targets: Arc<Targets>,
    settings: HandoffSettings,
    pending: Pending,
    history: History,
    resetter: Resetter,
    unresolved: Unresolved,
    late: AtomicU64,
    stray_answers: AtomicU64,
}

/// A connection in flight: frozen, captured, its handoff sent. Dropped before it is resolved (its task was
/// cancelled) it ends without a word: the request may be running, so nobody else may answer.
struct Flight<'a> {
    migrator: &'a Migrator,
    place: Place,
    held: Arc<HeldFlow>,
    captured: Option<Captured>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if let Some(captured) = self.captured.take() {
            captured.release();
            self.migrator.unfreeze(&self.place, &self.held);
        }
        self.migrator.pending.forget(self.place.flow);
    }
}

/// A connection that stays here.
struct Kept {
    stream: Option<TcpStream>,
    reason: ProxyReason,
    refusal: Option<Refusal>,
}

impl Migrator {
    /// One over a data plane. `sink` is the hold TUN, written to here; what is read from it must go to
    /// [`Migrator::hold`]. Nothing runs yet, see [`Migrator::start`].
    pub fn new(
        plane: Arc<Plane>,
        sink: Arc<dyn PacketSink>,
        targets: Arc<Targets>,
        settings: HandoffSettings,
    ) -> Arc<Self> {
        Arc::new(Migrator {
            flows: Flows::new(plane, targets.clone(), settings.linger, settings.idle),
            hold: Hold::new(sink, settings.hold),
            targets,
            settings,
            pending: Pending::default(),
            history: History::new(settings.history),
            resetter: Resetter::new(),
            unresolved: Unresolved::default(),
            late: AtomicU64::new(0),
            stray_answers: AtomicU64::new(0),
        })
    }

    /// The flows given away.
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// The hold queue.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    /// The recent migrations; what the front proxies or closes by itself it records here.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The targets.
    pub fn targets(&self) -> &Arc<Targets> {
        &self.targets
    }

    /// Counts for `/metrics`.
    pub fn stats(&self) -> MigratorStats {
        MigratorStats {
            hold: self.hold.stats(),
            in_flight: self.pending.count(),
            flows: self.flows.count(),
            reset_connections: self.resetter.connections(),
            reset_packets: self.resetter.packets(),
            reconciled: self.flows.reconciled(),
            late: self.late.load(Ordering::Relaxed),
            stray_answers: self.stray_answers.load(Ordering::Relaxed),
        }
    }

    /// To be called for each accepted connection: removes what an ended flow left under its addresses.
    pub fn forget_superseded(&self, client: SocketAddr, vip: SocketAddr) {
        self.flows.forget_superseded(client, vip);
    }

    /// Tries to give a connection with its request to a target. Records the outcome in the history, whatever it
    /// is. Run it to its end: a migration dropped in mid-flight cuts the client off.
    pub async fn migrate(&self, candidate: Candidate) -> Outcome {
        let Candidate { stream, client, vip, target, mut request, request_line, accepted_at, head_at } =
            candidate;
        let start = Instant::now();
        let given = request.len();
        let mut times = StageTimes {
            accept_to_head: head_at.saturating_duration_since(accepted_at),
            decide: start.saturating_duration_since(head_at),
            ..StageTimes::default()
        };
        let mut subject = Subject {
            flow_id: None,
            client,
            vip,
            target: self.targets.get(target).map(|t| t.spec.name.clone()).unwrap_or_default(),
            request: request_line,
            started: SystemTime::now() - accepted_at.elapsed(),
        };
        let kept =
            match self.send_off(stream, Ends { client, vip }, target, &mut request, &mut subject, &mut times)
            {
                Ok((flight, told)) => match self.resolve(flight, told, target, &mut times, start).await {
                    Resolved::Migrated => {
                        self.history.record_migrated(subject, &times);
                        return Outcome::Migrated(times);
                    }
                    Resolved::Reset => {
                        self.history.record_closed(subject, CloseReason::Unresolved);
                        return Outcome::Closed(CloseReason::Unresolved);
                    }
                    Resolved::Kept(kept) => kept,
                },
                Err(kept) => kept,
            };
        let Kept { stream: Some(stream), reason, refusal } = kept else {
            self.history.record_closed(subject, CloseReason::ClientGone);
            return Outcome::Closed(CloseReason::ClientGone);
        };
        self.history.record_proxied(subject, reason, refusal);
        let extra = request.split_off(given);
        Outcome::NotMigrated { stream, extra, request, reason, refusal }
    }

    /// Freeze, drain, capture, send: synchronous, ends with the handoff in the channel's hands.
    fn send_off<'a>(
        &'a self,
        stream: TcpStream,
        ends: Ends,
        id: TargetId,
        request: &mut Vec<u8>,
        subject: &mut Subject,
        times: &mut StageTimes,
    ) -> Result<(Flight<'a>, UnboundedReceiver<Told>), Kept> {
        let keep = |stream, reason| Kept { stream: Some(stream), reason, refusal: None };
        let Some(target) = self.targets.get(id).filter(|t| t.is_up()) else {
            return Err(keep(stream, ProxyReason::NoAgent));
        };
        if !(ends.client.is_ipv4() && ends.vip.is_ipv4() && target.spec.server.is_ipv4()) {
            return Err(keep(stream, ProxyReason::AddressFamily));
        }
        if request.len() > self.settings.prefetch_bytes {
            return Err(keep(stream, ProxyReason::PrefetchTooLarge));
        }
        // Reads the saved SYN, which needs no freeze.
        let live = Live::new(stream);
        let mut lap = Lap::new();
        let (place, held) = match self.freeze(ends, id, target, &subject.request) {
            Ok(frozen) => frozen,
            Err(e) => {
                tracing::debug!(client = %ends.client, error = %e, "not frozen");
                return Err(keep(live.into_stream(), proxy_reason(&e)));
            }
        };
        subject.flow_id = Some(place.flow.flow_id);
        times.freeze = lap.lap();

        let limit = self.settings.prefetch_bytes;
        let drained = live.drain(request, limit);
        times.drain = lap.lap();
        let captured = match drained {
            Ok(()) => live.capture(ends, request, limit),
            Err(e) => Err((live, e)),
        };
        times.capture = lap.lap();
        let captured = captured.map_err(|(live, e)| {
            tracing::debug!(client = %ends.client, reason = %e.reason, detail = %e.detail, "not captured");
            self.unfreeze(&place, &held);
            keep(live.into_stream(), e.reason)
        })?;

        let message = Message::Handoff(Box::new(HandoffMessage {
            flow: place.flow,
            deadline_ms: u32::try_from(self.settings.deadline.as_millis()).unwrap_or(u32::MAX),
            server: target.spec.server,
            connection: captured.connection.clone(),
            // Kept here too: if the agent refuses, it is proxied.
            request: request.clone(),
        }));
        let told = self.pending.register(place.flow, id);
        let mut flight = Flight { migrator: self, place, held, captured: Some(captured) };
        match target.send(message) {
            Ok(()) => Ok((flight, told)),
            Err(not_sent) => Err(self.stay(
                &mut flight,
                match not_sent {
                    NotSent::Down => ProxyReason::NoAgent,
                    NotSent::Busy => ProxyReason::ChannelBusy,
                },
                None,
            )),
        }
    }

    /// The client's packets go to the hold queue from here on.
    fn freeze(
        &self,
        ends: Ends,
        id: TargetId,
        target: &Target,
        request: &str,
    ) -> Result<(Place, Arc<HeldFlow>), BeginError> {
        let identity = FlowIdentity {
            client: ends.client,
            vip: ends.vip,
            target: id,
            server: target.spec.server,
            request: request.to_owned(),
        };
        // Before the key is in force: no diverted packet may find the queue missing.
        let held = self.hold.begin(crate::flows::flow_key(ends.client, ends.vip));
        let freeze = self.settings.freeze.max(self.settings.deadline + FREEZE_MARGIN / 4);
        match self.flows.begin(identity, freeze) {
            Ok(place) => Ok((place, held)),
            Err(e) => {
                self.hold.release(&held, &[]);
                Err(e)
            }
        }
    }

    /// The client's packets go to the ordinary stack again, held ones too.
    fn unfreeze(&self, place: &Place, held: &Arc<HeldFlow>) {
        self.flows.abandon(place.flow);
        self.hold.release(held, &[]);
    }

    /// Back to ordinary use: the socket first, so that what is written back finds it awake.
    fn stay(&self, flight: &mut Flight<'_>, reason: ProxyReason, refusal: Option<Refusal>) -> Kept {
        let stream = flight.captured.take().and_then(Captured::resume);
        self.unfreeze(&flight.place, &flight.held);
        Kept { stream, reason, refusal }
    }

    /// Waits until it is known who answers the client, and acts on it.
    async fn resolve(
        &self,
        mut flight: Flight<'_>,
        mut told: UnboundedReceiver<Told>,
        id: TargetId,
        times: &mut StageTimes,
        start: Instant,
    ) -> Resolved {
        let mut machine = Handoff::new();
        let sent = Instant::now();
        let give_up = self.settings.agent_lost.max(self.settings.deadline + Duration::from_millis(500));
        let mut late = false;
        let timer = tokio::time::sleep(self.settings.deadline);
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
            late::packets(&captured.connection, &late)
        });
        let mut record = flight.place.record;
        record.ack_delta = answer.client_snd_nxt.delta_to(answer.server_snd_nxt).0;
        record.seq_delta = 0;
        record.tsval_delta = 0;
        record.tsecr_delta = answer.ts_delta.wrapping_neg();
        record.out_ifindex = self.settings.out_ifindex;
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
        let connection = captured.connection.clone();
        captured.release();
        self.unresolved.remember(Lost {
            flow: flight.place.flow,
            target,
            server: flight.place.record.new_addr.socket_addr(flight.place.record.new_port),
            connection: connection.clone(),
        });
        self.flows.extend(&mut flight.place, FREEZE_MARGIN);
        self.resetter.reset_client(&connection, &flight.held).await;
        self.flows.abandon(flight.place.flow);
        self.hold.discard(&flight.held);
        tracing::warn!(client = %connection.client, flow = %flow_id_text(flight.place.flow.flow_id),
            "the agent fell silent on a delivered handoff: the client was reset");
    }
}

/// How a flight ended.
enum Resolved {
    Migrated,
    Reset,
    Kept(Kept),
}

fn proxy_reason(error: &BeginError) -> ProxyReason {
    match error {
        BeginError::Full => ProxyReason::TableFull,
        BeginError::Alive(_) => ProxyReason::ConnectionState,
        BeginError::Os(_) => ProxyReason::CaptureFailed,
    }
}

/// Measures stages that follow each other.
struct Lap(Instant);

impl Lap {
    fn new() -> Self {
        Lap(Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let took = now.duration_since(self.0);
        self.0 = now;
        took
    }
}
