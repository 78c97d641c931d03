//! Metrics that are read where they are, at each scrape: the data plane's counters, the flow table, the hold queue.

use super::pools::OfPools;
use crate::front::Front;
use crate::handoff::Migrator;
use crate::targets::Targets;
use baton_loader::Plane;
use baton_shared::health::Admin;
use baton_shared::reason::{HoldDrop, PacketCounter};
use baton_shared::record::FlowState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// How often the data plane has counted something.
fn counted(plane: &Plane, what: PacketCounter) -> u64 {
    let counters = plane.counters().unwrap_or_default();
    counters.iter().find(|(counter, _)| *counter == what).map_or(0, |(_, count)| *count)
}

/// Registers what is there.
pub(super) fn register(registry: &mut Registry, front: &Arc<Front>, plane: Option<&Arc<Plane>>) {
    registry.register_collector(Box::new(OfTargets(Arc::clone(&front.targets))));
    registry.register_collector(Box::new(OfPools(Arc::clone(front))));
    if let Some(plane) = plane {
        let counters = Arc::clone(plane);
        baton_daemon::metrics::register_reasons(
            registry,
            "baton_packets",
            "Packets the data plane saw, by what it did with them",
            move || counters.counters().unwrap_or_default().iter().map(|(c, n)| (c.name(), *n)).collect(),
        );
        registry.register_collector(Box::new(OfPlane(Arc::clone(plane))));
    }
    if let Some(migrator) = front.migration.migrator() {
        registry.register_collector(Box::new(OfMigrator(Arc::clone(migrator))));
        let (of, plane) = (Arc::clone(migrator), plane.map(Arc::clone));
        baton_daemon::metrics::register_labelled(
            registry,
            "baton_later_requests",
            "Later requests on tracked connections, by what became of them",
            "outcome",
            move || {
                let plain = plane.as_ref().map_or(0, |plane| counted(plane, PacketCounter::LaterPlain));
                of.later_counts().outcomes().into_iter().chain([("plain", plain)]).collect()
            },
        );
        let of = Arc::clone(migrator);
        baton_daemon::metrics::register_reasons(
            registry,
            "baton_held_dropped",
            "Packets for the hold queue that were dropped, by reason",
            move || {
                let hold = of.stats().hold;
                HoldDrop::ALL.iter().map(|reason| (reason.name(), hold.dropped(*reason))).collect()
            },
        );
        baton_daemon::metrics::register_counters(
            registry,
            "baton_control_faults",
            "Control connections that ended or did not come up, by reason",
            migrator.control_faults(),
        );
        baton_daemon::metrics::register_counters(
            registry,
            "baton_recalls_refused",
            "Tracked connections whose agents could not give them back, by reason",
            &migrator.later_counts().refused,
        );
    }
}

/// Of an exemplar that is not there.
type NoLabels = [(&'static str, &'static str); 0];

/// Writes one gauge or counter without labels.
fn single(
    encoder: &mut DescriptorEncoder<'_>,
    kind: MetricType,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    match kind {
        MetricType::Counter => metric.encode_counter::<NoLabels, _, u64>(&value, None),
        _ => metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX)),
    }
}

#[derive(Debug)]
struct OfTargets(Arc<Targets>);

impl Collector for OfTargets {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Whether the target's agent is connected.";
        let mut up = encoder.encode_descriptor("baton_target_up", help, None, MetricType::Gauge)?;
        for target in self.0.iter() {
            up.encode_family(&[("target", target.spec.name.as_str())])?
                .encode_gauge(&i64::from(target.is_up()))?;
        }
        let help = "Live flows on the target.";
        let mut flows = encoder.encode_descriptor("baton_target_flows", help, None, MetricType::Gauge)?;
        for target in self.0.iter() {
            let live = i64::try_from(target.flows()).unwrap_or(i64::MAX);
            flows.encode_family(&[("target", target.spec.name.as_str())])?.encode_gauge(&live)?;
        }
        let help = "Handoffs under way to the target, and requests proxied to it.";
        let mut in_hand = encoder.encode_descriptor("baton_target_in_hand", help, None, MetricType::Gauge)?;
        for target in self.0.iter() {
            let count = i64::try_from(target.load.in_hand()).unwrap_or(i64::MAX);
            in_hand.encode_family(&[("target", target.spec.name.as_str())])?.encode_gauge(&count)?;
        }
        let help = "What the operator wants of the target: 1 at the state it is in.";
        let mut admin = encoder.encode_descriptor("baton_target_admin", help, None, MetricType::Gauge)?;
        for target in self.0.iter() {
            for state in [Admin::Ready, Admin::Draining, Admin::Down] {
                let labels = [("target", target.spec.name.as_str()), ("state", state.name())];
                admin.encode_family(&labels)?.encode_gauge(&i64::from(target.admin() == state))?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct OfPlane(Arc<Plane>);

impl Collector for OfPlane {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        const STATES: [FlowState; 4] =
            [FlowState::Frozen, FlowState::Committed, FlowState::Ended, FlowState::Superseded];
        let slots = self.0.slots();
        let mut counts = [0i64; STATES.len()];
        for slot in 0..slots.capacity() {
            let state = slots.state(slot);
            for (count, known) in counts.iter_mut().zip(STATES) {
                *count += i64::from(state == known);
            }
        }
        let mut flows =
            encoder.encode_descriptor("baton_flows", "Flows by state.", None, MetricType::Gauge)?;
        for (count, state) in counts.iter().zip(STATES) {
            flows.encode_family(&[("state", state.name())])?.encode_gauge(count)?;
        }
        let (used, capacity) = (u64::from(slots.in_use()), u64::from(slots.capacity()));
        let gauge = MetricType::Gauge;
        single(&mut encoder, gauge, "baton_flow_table_used", "Slots of the flow table in use.", used)?;
        single(
            &mut encoder,
            gauge,
            "baton_flow_table_slots",
            "Slots of the flow table (plane.flows).",
            capacity,
        )
    }
}

#[derive(Debug)]
struct OfMigrator(Arc<Migrator>);

impl Collector for OfMigrator {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.0.stats();
        let in_flight = u64::try_from(stats.in_flight).unwrap_or(u64::MAX);
        let e = &mut encoder;
        let (gauge, counter) = (MetricType::Gauge, MetricType::Counter);
        single(e, gauge, "baton_handoffs_in_flight", "Handoffs whose answer is awaited.", in_flight)?;
        let help = "1 while this host's processors are held awake for handoffs.";
        single(e, gauge, "baton_cpu_latency_held", help, u64::from(self.0.holds_awake()))?;
        single(e, gauge, "baton_held_packets", "Packets in the hold queue now.", stats.hold.packets)?;
        single(e, gauge, "baton_held_bytes", "Bytes in the hold queue now.", stats.hold.bytes)?;
        let dropped =
            stats.hold.dropped_full + stats.hold.dropped_malformed + stats.hold.dropped_write_failed;
        single(e, counter, "baton_held", "Packets that went into the hold queue.", stats.hold.held)?;
        single(
            e,
            counter,
            "baton_hold_dropped_full",
            "Held packets dropped because limits.hold_bytes or limits.hold_bytes_per_flow was reached.",
            stats.hold.dropped_full,
        )?;
        single(
            e,
            counter,
            "baton_hold_dropped",
            "Held packets dropped for any reason: limit, malformed, not to be written back.",
            dropped,
        )?;
        single(
            e,
            counter,
            "baton_hold_reconciled",
            "Hold accounts reconciled: at least one held packet was lost each time.",
            stats.reconciled,
        )?;
        single(
            e,
            counter,
            "baton_hold_impatient",
            "Flows whose held packets went on though their server's window had not opened for them in time.",
            stats.impatient,
        )?;
        single(
            e,
            counter,
            "baton_resets",
            "Clients reset because it was not known where their request ran.",
            stats.reset_connections,
        )?;
        single(
            e,
            counter,
            "baton_flows_cut",
            "Migrated flows ended by a reset to the client because their target was lost (handoff.agent_lost_ms).",
            stats.cut,
        )?;
        single(
            e,
            counter,
            "baton_late",
            "Connections whose socket had received more after its capture.",
            stats.late,
        )?;
        single(
            e,
            counter,
            "baton_prefetched_bytes",
            "Bytes read of connections that were handed off: request heads, and what of bodies came before the freeze.",
            stats.prefetched,
        )?;
        single(
            e,
            counter,
            "baton_stray_answers",
            "Answers of agents to handoffs nobody waits for any more.",
            stats.stray_answers,
        )
    }
}
