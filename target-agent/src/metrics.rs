//! What the agent counts, and what it reads from the data plane when asked.

use crate::serve::engine::Shared;
use crate::serve::ways::Choice;
use baton_daemon::control::Server;
use baton_daemon::metrics::{
    HTTP_SECONDS, ReasonCounters, register_build_info, register_counters, register_reasons, seconds,
};
use baton_loader::{Plane, monotonic_ns};
use baton_shared::control::ServerLoad;
use baton_shared::reason::{EndReason, Refusal};
use baton_shared::record::FlowState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// Counted by the engine.
#[derive(Debug)]
pub(crate) struct Metrics {
    refused: Arc<ReasonCounters<Refusal>>,
    recall_refused: Arc<ReasonCounters<Refusal>>,
    recalled: Counter,
    ended: Arc<ReasonCounters<EndReason>>,
    migrated: Counter,
    handoff: Histogram,
    responses: Family<ServerLabel, Histogram, fn() -> Histogram>,
    /// CLOCK_MONOTONIC, ns.
    started_ns: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            refused: Arc::default(),
            recall_refused: Arc::default(),
            recalled: Counter::default(),
            ended: Arc::default(),
            migrated: Counter::default(),
            started_ns: monotonic_ns(),
            responses: Family::new_with_constructor(|| Histogram::new(HTTP_SECONDS)),
            // 5 us to 2.6 s, each bucket twice the one before.
            handoff: Histogram::new(exponential_buckets(5e-6, 2.0, 20)),
        }
    }
}

impl Metrics {
    pub(crate) fn refused(&self, reason: Refusal) {
        self.refused.add(reason);
    }

    pub(crate) fn started_ns(&self) -> u64 {
        self.started_ns
    }

    pub(crate) fn migrated_count(&self) -> u64 {
        self.migrated.get()
    }

    pub(crate) fn refused_count(&self, reason: Refusal) -> u64 {
        self.refused.get(reason)
    }

    pub(crate) fn recall_refused_count(&self, reason: Refusal) -> u64 {
        self.recall_refused.get(reason)
    }

    pub(crate) fn ended_count(&self, reason: EndReason) -> u64 {
        self.ended.get(reason)
    }

    pub(crate) fn recall_refused(&self, reason: Refusal) {
        self.recall_refused.add(reason);
    }

    pub(crate) fn recalled(&self) {
        self.recalled.inc();
    }

    pub(crate) fn ended(&self, reason: EndReason) {
        self.ended.add(reason);
    }

    /// How long a server took to begin its answers.
    pub(crate) fn responses(&self, server: SocketAddr) -> Histogram {
        self.responses.get_or_create(&ServerLabel(server)).clone()
    }

    pub(crate) fn migrated(&self, total_us: u32) {
        self.migrated.inc();
        self.handoff.observe(f64::from(total_us) / 1e6);
    }
}

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServerLabel(pub(crate) SocketAddr);

impl EncodeLabelSet for ServerLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("server", self.0.to_string()).encode(encoder.encode_label())
    }
}

/// Everything for `/metrics`.
pub(crate) fn registry(shared: &Shared, server: &Arc<OnceLock<Server>>) -> Registry {
    let mut registry = Registry::default();
    register_build_info(&mut registry, "target-agent", env!("CARGO_PKG_VERSION"));
    let m = &shared.metrics;
    registry.register("baton_handoffs_migrated", "Handoffs taken", m.migrated.clone());
    register_counters(&mut registry, "baton_handoffs_refused", "Handoffs refused, by reason", &m.refused);
    registry.register("baton_recalls_granted", "Flows given back to their intermediate", m.recalled.clone());
    register_counters(
        &mut registry,
        "baton_recalls_refused",
        "Flows not given back, by reason",
        &m.recall_refused,
    );
    register_counters(&mut registry, "baton_flows_ended", "Flows that ended, by reason", &m.ended);
    registry.register_with_unit(
        "baton_handoff_duration",
        "From the receipt of a handoff to its answer",
        Unit::Seconds,
        m.handoff.clone(),
    );
    // Each is there from the start.
    for server in shared.policy.allowed().map(|(_, _, server)| server) {
        drop(m.responses.get_or_create(&ServerLabel(server)));
    }
    registry.register_with_unit(
        "baton_server_response_duration",
        "From the feeding of a request to the first byte of its response",
        Unit::Seconds,
        m.responses.clone(),
    );
    let plane = Arc::clone(&shared.plane);
    register_reasons(
        &mut registry,
        "baton_packets",
        "Packets the programs decided about, by what became of them",
        move || {
            let counters = plane.counters().unwrap_or_default();
            counters.into_iter().map(|(counter, count)| (counter.name(), count)).collect()
        },
    );
    let ways = Arc::clone(&shared.ways);
    let unadopted = ways.unadopted();
    register_counters(
        &mut registry,
        "baton_handoffs_unadopted",
        "Connections that were to be adopted and were not, by cause; where serve.way allows, the handshake was replayed",
        &unadopted,
    );
    let server = Arc::clone(server);
    register_reasons(
        &mut registry,
        "baton_control_faults",
        "Control connections that ended or did not come up, by reason",
        move || server.get().map(|server| server.faults().snapshot()).unwrap_or_default(),
    );
    registry
        .register_collector(Box::new(Gauges { plane: Arc::clone(&shared.plane), shared: shared.clone() }));
    registry
}

/// Read at each scrape.
#[derive(Debug)]
struct Gauges {
    plane: Arc<Plane>,
    shared: Shared,
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let slots = self.plane.slots();
        let states = [
            FlowState::Replaying,
            FlowState::Adopting,
            FlowState::Committed,
            FlowState::Ended,
            FlowState::Fenced,
        ];
        let mut counts = states.map(|state| (state, 0i64));
        for slot in 0..slots.capacity() {
            let state = slots.state(slot);
            for (of, count) in &mut counts {
                *count += i64::from(*of == state);
            }
        }
        let mut flows =
            encoder.encode_descriptor("baton_flows", "Flows by state.", None, MetricType::Gauge)?;
        for (state, count) in counts {
            flows.encode_family(&[("state", state.name())])?.encode_gauge(&count)?;
        }
        let (unseen, sessions) = {
            let table = self.shared.table();
            (table.reports.len(), table.sessions.len())
        };
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        encoder
            .encode_descriptor("baton_handoffs_adopted", "Connections adopted.", None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&self.shared.ways.adopted(), None)?;
        let mut adopts = encoder.encode_descriptor(
            "baton_serve_adopts",
            "1 where a server's next connection would be adopted.",
            None,
            MetricType::Gauge,
        )?;
        for (_, vip, server) in self.shared.policy.allowed() {
            let choice = self.shared.ways.choose(vip, server, monotonic_ns());
            let labels = [("vip", vip.to_string()), ("server", server.to_string())];
            let adopted = matches!(choice, Choice::Adopt { .. });
            adopts.encode_family(&labels)?.encode_gauge(&i64::from(adopted))?;
        }
        for (name, help, value) in [
            ("baton_flow_table_slots", "Flows the table can hold.", i64::from(slots.capacity())),
            (
                "baton_flow_table_used",
                "Slots in use, with those of ended flows that linger.",
                i64::from(slots.in_use()),
            ),
            ("baton_end_reports_unseen", "Ends no intermediate has noted yet.", count(unseen)),
            (
                "baton_cpu_latency_held",
                "1 while this host's processors are held awake for handoffs.",
                i64::from(self.shared.latency.is_held()),
            ),
            ("baton_intermediates_connected", "Control channels that are up.", count(sessions)),
        ] {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        self.encode_servers(encoder)
    }
}

/// A number of a [`ServerLoad`].
type Number = fn(&ServerLoad) -> u64;

impl Gauges {
    fn encode_servers(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let loads: Vec<ServerLoad> = self.shared.table().loads.all().cloned().collect();
        let gauges: [(&str, &str, Number); 4] = [
            ("baton_server_listening", "1 if something listens at the server's address.", |l| {
                l.listening.into()
            }),
            ("baton_server_accept_queue", "Connections that wait for the server to accept them.", |l| {
                l.accept_queue.into()
            }),
            ("baton_server_accept_limit", "How many may wait.", |l| l.accept_limit.into()),
            ("baton_server_flows", "Flows on the server that have not ended.", |l| l.all_flows.into()),
        ];
        for (name, help, number) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for load in &loads {
                let value = i64::try_from(number(load)).unwrap_or(i64::MAX);
                family.encode_family(&[("server", load.server.to_string())])?.encode_gauge(&value)?;
            }
        }
        let counters: [(&str, &str, Number); 4] = [
            ("baton_server_listen_drops", "Connections dropped at the server's listening sockets.", |l| {
                l.listen_drops
            }),
            ("baton_server_resets", "Flows the server reset.", |l| l.resets),
            ("baton_server_segments", "Segments sent on the flows looked at.", |l| l.segments),
            ("baton_server_retransmitted", "Of those, sent again.", |l| l.retransmitted),
        ];
        for (name, help, number) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for load in &loads {
                family
                    .encode_family(&[("server", load.server.to_string())])?
                    .encode_counter::<NoLabelSet, _, u64>(&number(load), None)?;
            }
        }
        Self::encode_times(encoder, &loads)
    }

    /// What is measured in microseconds.
    fn encode_times(mut encoder: DescriptorEncoder<'_>, loads: &[ServerLoad]) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        let help = "Round-trip time to clients, mean of the flows looked at.";
        let mut rtt = encoder.encode_descriptor("baton_server_rtt", help, unit, MetricType::Gauge)?;
        for load in loads {
            let labels = [("server", load.server.to_string())];
            rtt.encode_family(&labels)?.encode_gauge(&seconds(load.rtt_us.into()))?;
        }
        Ok(())
    }
}
