//! What the intermediate counts about requests and connections. What the data plane and the flow table know
//! themselves is read from there at each scrape (`admin`), not counted twice.

use crate::handoff::StageTimes;
use baton_daemon::metrics::{HTTP_SECONDS, ReasonCounters, register_counters};
use baton_shared::http::{GateRule, Verdict};
use baton_shared::reason::{CloseReason, ProxyReason, Refusal};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

/// The label of requests and reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// Of requests `migrated`, `proxied` or `closed`; of reloads `applied` or `refused`.
    pub outcome: &'static str,
}

/// The label of probes along the real path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// `ok` or `failed`.
    pub result: &'static str,
}

/// The label of durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StageLabel {
    /// A stage of `/v1/migrations`, or `total`.
    pub stage: &'static str,
}

type Stages = Family<StageLabel, Histogram, fn() -> Histogram>;

/// All of them. Counting is lock-free but for the first use of a label.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<OutcomeLabel, Counter>,
    proxied: Arc<ReasonCounters<ProxyReason>>,
    retried: Arc<ReasonCounters<ProxyReason>>,
    refused: Arc<ReasonCounters<Refusal>>,
    closed: Arc<ReasonCounters<CloseReason>>,
    gate: Arc<ReasonCounters<GateRule>>,
    reloads: Family<OutcomeLabel, Counter>,
    reload_good: Gauge,
    /// Seconds since 1970.
    reload_at: Gauge<f64, AtomicU64>,
    proxied_durations: Histogram,
    probes: Family<ResultLabel, Counter>,
    accepted: Counter,
    connections: Gauge,
    stages: Stages,
    /// What each migration touches, so that none of it is looked up by its label there.
    of_migrations: Arc<OfMigrations>,
}

/// A migration's own counter and histograms, which the families have as well.
#[derive(Debug)]
struct OfMigrations {
    migrated: Counter,
    /// In the order of [`StageTimes::named`].
    stages: [Histogram; 10],
    total: Histogram,
}

impl OfMigrations {
    fn new(requests: &Family<OutcomeLabel, Counter>, stages: &Stages) -> Self {
        let of = |stage| stages.get_or_create(&StageLabel { stage }).clone();
        OfMigrations {
            migrated: requests.get_or_create(&OutcomeLabel { outcome: "migrated" }).clone(),
            stages: StageTimes::default().named().map(|(stage, _)| of(stage)),
            total: of("total"),
        }
    }
}

/// 20 us to 10 s, each bucket twice the one before.
fn stage_histogram() -> Histogram {
    Histogram::new(exponential_buckets(20e-6, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::default();
        let stages: Stages = Family::new_with_constructor(stage_histogram);
        let metrics = Metrics {
            of_migrations: Arc::new(OfMigrations::new(&requests, &stages)),
            requests,
            proxied: Arc::default(),
            retried: Arc::default(),
            refused: Arc::default(),
            closed: Arc::default(),
            gate: Arc::default(),
            reloads: Family::default(),
            reload_good: Gauge::default(),
            reload_at: Gauge::default(),
            proxied_durations: Histogram::new(HTTP_SECONDS),
            probes: Family::default(),
            accepted: Counter::default(),
            connections: Gauge::default(),
            stages,
        };
        // There from the start with 0, so that a rate is right from its first event.
        for outcome in ["migrated", "proxied", "closed"] {
            drop(metrics.requests.get_or_create(&OutcomeLabel { outcome }));
        }
        for outcome in ["applied", "refused"] {
            drop(metrics.reloads.get_or_create(&OutcomeLabel { outcome }));
        }
        // The start took one into service.
        metrics.took_into_service();
        for result in ["ok", "failed"] {
            drop(metrics.probes.get_or_create(&ResultLabel { result }));
        }
        metrics
    }
}

impl Metrics {
    /// A connection was accepted. It is open until the guard is dropped.
    pub fn connection(&self) -> OpenConnection {
        self.accepted.inc();
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// How many connections the intermediate's own sockets have now.
    pub fn open_connections(&self) -> i64 {
        self.connections.get()
    }

    /// How many requests went this way: `migrated`, `proxied` or `closed`.
    pub fn requests(&self, outcome: &'static str) -> u64 {
        self.requests.get_or_create(&OutcomeLabel { outcome }).get()
    }

    /// How many reloads came out so: `applied` or `refused`.
    pub fn reloads(&self, outcome: &'static str) -> u64 {
        self.reloads.get_or_create(&OutcomeLabel { outcome }).get()
    }

    /// How many handoffs were refused for a reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused.get(reason)
    }

    /// A connection was given to a target.
    pub fn on_migrated(&self, times: &StageTimes) {
        self.of_migrations.migrated.inc();
        for (histogram, (_, duration)) in self.of_migrations.stages.iter().zip(times.named()) {
            histogram.observe(duration.as_secs_f64());
        }
        self.of_migrations.total.observe(times.total.as_secs_f64());
    }

    /// A request is proxied.
    pub fn on_proxied(&self, reason: ProxyReason, refusal: Option<Refusal>) {
        self.requests.get_or_create(&OutcomeLabel { outcome: "proxied" }).inc();
        self.proxied.add(reason);
        if let Some(refusal) = refusal {
            self.refused.add(refusal);
        }
    }

    /// A target did not take a connection, and another is tried.
    pub fn on_retried(&self, reason: ProxyReason, refusal: Option<Refusal>) {
        self.retried.add(reason);
        if let Some(refusal) = refusal {
            self.refused.add(refusal);
        }
    }

    /// How often another target was tried for a reason.
    pub fn retried(&self, reason: ProxyReason) -> u64 {
        self.retried.get(reason)
    }

    /// A connection was closed, or answered by the intermediate itself.
    pub fn on_closed(&self, reason: CloseReason) {
        self.requests.get_or_create(&OutcomeLabel { outcome: "closed" }).inc();
        self.closed.add(reason);
    }

    /// The gate refused a request.
    pub fn on_gate_refused(&self, verdict: &Verdict) {
        self.gate.add(verdict.rule);
        self.on_closed(verdict.reason);
    }

    /// How often a rule of the gate refused a request.
    pub fn gate_refused(&self, rule: GateRule) -> u64 {
        self.gate.get(rule)
    }

    /// The configuration was read again, and taken into service or refused.
    pub fn on_reload(&self, applied: bool) {
        let outcome = if applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&OutcomeLabel { outcome }).inc();
        if applied {
            self.took_into_service();
        } else {
            self.reload_good.set(0);
        }
    }

    fn took_into_service(&self) {
        self.reload_good.set(1);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.reload_at.set(since_1970.as_secs_f64());
    }

    /// Where durations of proxied requests go, seconds.
    pub(crate) fn proxied_durations(&self) -> Histogram {
        self.proxied_durations.clone()
    }

    /// A target was probed along the real path.
    pub fn on_probe(&self, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.probes.get_or_create(&ResultLabel { result }).inc();
    }

    /// How often a reason was counted.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed.get(reason)
    }

    /// How many requests were proxied for a reason.
    pub fn proxied(&self, reason: ProxyReason) -> u64 {
        self.proxied.get(reason)
    }

    /// Puts all of them into a registry, under the names operators see.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("baton_requests", "Requests by how they went", self.requests.clone());
        register_counters(
            registry,
            "baton_proxied",
            "Requests proxied instead of migrated, by reason",
            &self.proxied,
        );
        register_counters(
            registry,
            "baton_handoffs_retried",
            "Handoffs tried again with another target, by what was wrong with the one before",
            &self.retried,
        );
        register_counters(
            registry,
            "baton_refusals",
            "Handoffs an agent refused, by its reason",
            &self.refused,
        );
        register_counters(
            registry,
            "baton_closed",
            "Connections closed or requests answered with an error by the intermediate, by reason",
            &self.closed,
        );
        register_counters(
            registry,
            "baton_gate_refused",
            "Requests the gate refused, by the rule they broke (docs/gate.md)",
            &self.gate,
        );
        registry.register(
            "baton_reloads",
            "Configurations read again while running, taken into service or refused",
            self.reloads.clone(),
        );
        registry.register(
            "baton_reload_last_successful",
            "1 if the configuration in the file was taken into service when it was last read, 0 if it was refused",
            self.reload_good.clone(),
        );
        registry.register_with_unit(
            "baton_reload_last_success_timestamp",
            "When a configuration was last taken into service, seconds since 1970",
            Unit::Seconds,
            self.reload_at.clone(),
        );
        registry.register_with_unit(
            "baton_proxied_request_duration",
            "Duration of proxied requests, from the complete head to the end of the response",
            Unit::Seconds,
            self.proxied_durations.clone(),
        );
        registry.register(
            "baton_probes",
            "Probes of targets along the real path, by what came of them",
            self.probes.clone(),
        );
        registry.register(
            "baton_spans",
            "Spans of traces, by what became of them: sent, dropped (too many waited), failed (the collector took them not)",
            crate::trace::COUNTS.clone(),
        );
        registry.register("baton_accepted", "Connections accepted", self.accepted.clone());
        registry.register(
            "baton_connections",
            "Connections the intermediate's own sockets have now; migrated ones are none",
            self.connections.clone(),
        );
        registry.register_with_unit(
            "baton_stage",
            "Duration of each stage of a migration",
            Unit::Seconds,
            self.stages.clone(),
        );
    }
}

/// A connection that is open. Dropped when the intermediate's socket is gone.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
