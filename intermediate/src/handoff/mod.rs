//! How a connection leaves: freeze, drain, capture, hand off, commit. DESIGN's "One migration" is this module read
//! from [`Migrator::migrate`] down.
//!
//! Everything up to the handoff's sending is synchronous: a few non-blocking system calls in the connection's own
//! task. Then the task waits for the agent's answer, and [`baton_shared::state::handoff`] says what it means.

mod candidate;
mod connect;
mod dispatch;
mod errors6;
mod flight;
mod history;
pub(crate) mod lane;
mod late;
mod later;
mod lost;
mod pending;
mod repair;
mod resolve;
mod reused;
#[cfg(test)]
pub(crate) mod sample;
mod send_off;
mod settings;
mod sys;
mod too_big;
mod unresolved;
mod window;

pub use baton_shared::control::flow_id_text;
pub use candidate::{Candidate, NotMigrated, Outcome, StageTimes, TrackedCandidate};
pub use dispatch::AgentEvent;
pub use errors6::carry_errors6;
pub(crate) use history::stages;
pub use history::{History, HistoryOutcome, MigrationRecord, Remembered, Subject};
pub(crate) use later::LaterFlow;
pub use later::{FlowNow, LaterCounts, Next, Noted, Returned, Router};
pub use repair::{CaptureError, Captured, Ends, Late, Live, defer_accept, prepare_listener, syn_tsval};
pub use settings::{HandoffSettings, MigratorStats};
pub use too_big::LegSink;

use crate::access_log::{Asked, ClosedRecord, MigratedRecord, Placed};
use crate::flows::Flows;
use crate::hold::{Hold, PacketSink};
use crate::inspect::Inspections;
use crate::probe::Probes;
use crate::reset::Resetter;
use crate::targets::Targets;
use arc_swap::ArcSwap;
use baton_daemon::control::FaultCounters;
use baton_daemon::cpu_latency::CpuLatency;
use baton_daemon::own::OwnAddresses;
use baton_loader::Plane;
use baton_shared::control::FlowRef;
use baton_shared::reason::CloseReason;
use flight::Kept;
use later::Laters;
use pending::Pending;
use resolve::Resolved;
use reused::Reused;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use unresolved::{Disowned, Unresolved};

/// How long past its owner's patience a freeze binds, for the reset and its answers.
const FREEZE_MARGIN: Duration = Duration::from_secs(4);

/// Migrates connections. One for the process, shared.
#[derive(Debug)]
pub struct Migrator {
    flows: Flows,
    hold: Hold,
    targets: Arc<Targets>,
    settings: ArcSwap<HandoffSettings>,
    latency: Arc<CpuLatency>,
    pending: Pending,
    history: History,
    resetter: Resetter,
    unresolved: Unresolved,
    disowned: Disowned,
    /// How many targets are looked after; the first of all.
    watched: AtomicUsize,
    laters: Laters,
    reused: Reused,
    own: OwnAddresses,
    probes: Arc<Probes>,
    /// Of the first thread, which has the hold TUN.
    home: OnceLock<Handle>,
    /// Of the threads that hand off beside it.
    beside: OnceLock<Vec<Handle>>,
    inspections: Inspections,
    faults: FaultCounters,
    impatient: AtomicU64,
    late: AtomicU64,
    prefetched: AtomicU64,
    stray_answers: AtomicU64,
}

impl Migrator {
    /// One over a data plane. `sink` is the hold TUN, written to here; what is read from it must go to
    /// [`Migrator::hold`]. Nothing runs yet, see [`Migrator::start`].
    pub fn new(
        plane: Arc<Plane>,
        sink: Arc<dyn PacketSink>,
        targets: Arc<Targets>,
        settings: HandoffSettings,
        latency: Arc<CpuLatency>,
    ) -> Arc<Self> {
        Arc::new(Migrator {
            flows: Flows::new(plane, targets.clone(), settings.linger, settings.idle),
            hold: Hold::new(sink, settings.hold),
            targets,
            settings: ArcSwap::from_pointee(settings),
            latency,
            pending: Pending::default(),
            history: History::new(settings.history),
            resetter: Resetter::new(),
            unresolved: Unresolved::default(),
            disowned: Disowned::default(),
            watched: AtomicUsize::new(0),
            laters: Laters::new(),
            reused: Reused::default(),
            own: OwnAddresses::new(),
            probes: Arc::default(),
            home: OnceLock::new(),
            beside: OnceLock::new(),
            inspections: Inspections::default(),
            faults: FaultCounters::default(),
            impatient: AtomicU64::new(0),
            late: AtomicU64::new(0),
            prefetched: AtomicU64::new(0),
            stray_answers: AtomicU64::new(0),
        })
    }

    fn settings(&self) -> HandoffSettings {
        **self.settings.load()
    }

    /// Takes other times and limits: `out_ifindex`, `linger`, `idle` and `history` stay as they are. A migration under
    /// way may go by both.
    pub fn change_settings(&self, to: &HandoffSettings) {
        let HandoffSettings { deadline, freeze, agent_lost, prefetch_bytes, hold, .. } = *to;
        let changed =
            HandoffSettings { deadline, freeze, agent_lost, prefetch_bytes, hold, ..self.settings() };
        self.settings.store(Arc::new(changed));
        self.hold.set_limits(hold);
    }

    /// Whether a client is a process on this host: its packets pass no device's ingress, where they would be translated.
    pub fn is_own(&self, client: SocketAddr) -> bool {
        self.own.has(client.ip())
    }

    /// Whether this host's processors are held awake for handoffs.
    pub fn holds_awake(&self) -> bool {
        self.latency.is_held()
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

    /// The probes under way.
    pub fn probes(&self) -> &Arc<Probes> {
        &self.probes
    }

    /// The questions to agents about flows.
    pub fn inspections(&self) -> &Inspections {
        &self.inspections
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
            impatient: self.impatient.load(Ordering::Relaxed),
            cut: self.flows.cut_count(),
            late: self.late.load(Ordering::Relaxed),
            prefetched: self.prefetched.load(Ordering::Relaxed),
            stray_answers: self.stray_answers.load(Ordering::Relaxed),
        }
    }

    /// To be called for each accepted connection: removes what an ended flow left under its addresses.
    pub fn forget_superseded(&self, client: SocketAddr, vip: SocketAddr) {
        self.flows.forget_superseded(client, vip);
    }

    /// Tries to give a connection with its request to a target. Records the outcome in the history unless the connection
    /// could not be given away: then the caller does, once it knows what becomes of it. Run it to its end: a migration
    /// dropped in mid-flight cuts the client off.
    ///
    /// Sent at once; the future is what comes then, and has no room for what came before.
    pub fn migrate(self: &Arc<Self>, candidate: Candidate) -> impl Future<Output = Outcome> + Send {
        let Candidate { stream, client, vip, target, syn_tsval, announced, tracked, .. } = candidate;
        let Candidate { mut request, request_line, trace, noted, accepted_at, started, head_at, .. } =
            candidate;
        self.latency.on_handoff();
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
            started,
            trace,
        };
        let (socket, ends) = ((stream, syn_tsval), Ends { client, vip });
        let sent =
            self.send_off(socket, ends, target, (&mut request, announced), tracked, &mut subject, &mut times);
        async move {
            let kept = match sent {
                Ok((flight, told)) => match self.resolve(flight, told, target, &mut times, start).await {
                    Resolved::Migrated => {
                        self.log_migrated(noted, &subject, &times);
                        self.history.record_migrated(subject, &times);
                        return Outcome::Migrated(times);
                    }
                    Resolved::Reset => {
                        self.log_closed(noted, &subject, CloseReason::Unresolved);
                        self.history.record_closed(subject, CloseReason::Unresolved);
                        return Outcome::Closed(CloseReason::Unresolved);
                    }
                    Resolved::Kept(kept) => kept,
                },
                Err(kept) => kept,
            };
            let Kept { stream: Some(stream), reason, refusal, extra } = kept else {
                self.log_closed(noted, &subject, CloseReason::ClientGone);
                self.history.record_closed(subject, CloseReason::ClientGone);
                return Outcome::Closed(CloseReason::ClientGone);
            };
            request.extend_from_slice(&extra);
            let extra = request.split_off(given);
            Outcome::NotMigrated(Box::new(NotMigrated {
                stream,
                extra,
                request,
                reason,
                refusal,
                subject,
                noted,
            }))
        }
    }

    /// The front's half of the access log's line.
    fn log_migrated(&self, noted: Option<Box<(Asked, Placed)>>, subject: &Subject, times: &StageTimes) {
        let (Some(noted), Some(flow_id)) = (noted, subject.flow_id) else { return };
        let (asked, placed) = *noted;
        let placed = Placed { target: subject.target.clone(), ..placed };
        // Its first handoff.
        let flow = FlowRef { flow_id, generation: 1 };
        let (since_handoff, status, stages) = (1, None, Some(*times));
        let record = MigratedRecord { asked, placed, flow, since_handoff, status, stages };
        self.flows.access_log().migrated(record);
    }

    fn log_closed(&self, noted: Option<Box<(Asked, Placed)>>, subject: &Subject, reason: CloseReason) {
        let Some((asked, placed)) = noted.map(|noted| *noted) else { return };
        let placed = Placed { target: subject.target.clone(), ..placed };
        let flow_id = subject.flow_id;
        let record = ClosedRecord { asked, placed, reason, rule: None, status: None, flow_id };
        self.flows.access_log().closed(record);
    }
}
