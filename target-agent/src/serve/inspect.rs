//! What is known of one flow, for an intermediate whose operator asks. Changes nothing.

use super::engine::Engine;
use crate::flows::table::{Flow, Table, Who};
use baton_loader::{Plane, monotonic_ns};
use baton_shared::control::{FlowReport, KeyReport, MapReport, Message, RecordReport, TargetFlow};
use baton_shared::record::FlowKey;

/// A flow's keys and record as the programs have them.
pub(crate) fn map_report(plane: &Plane, slot: u32, flow: &Flow, now_ns: u64) -> MapReport {
    let keys = flow.keys();
    // A map that cannot be read says the same as one that has no such key: packets find nothing either.
    let under = |key: &FlowKey| plane.lookup(key).ok().flatten();
    MapReport {
        slot,
        keys: keys.map(|key| KeyReport::new(key.key(), under(key.key()))).collect(),
        record: RecordReport::new(&plane.slots().read(slot), now_ns),
    }
}

impl Engine {
    pub(crate) fn on_inspect(&mut self, table: &Table, session: u64, who: Who) {
        let held = self.inspect(table, &who).map(Box::new);
        self.send(session, Message::Inspected(Box::new(FlowReport { flow: who.1, held })));
    }

    fn inspect(&mut self, table: &Table, who: &Who) -> Option<TargetFlow> {
        let slot = table.slot_of(who)?;
        let flow = table.get(slot)?;
        let now = monotonic_ns();
        let (socket, socket_error) = match self.diag.report(flow.ends.server(), flow.ends.client()) {
            Ok(socket) => (socket, None),
            Err(e) => (None, Some(e.to_string())),
        };
        Some(TargetFlow {
            server: flow.server,
            adopted: flow.arrival.is_some(),
            handoff: flow.handoff_phase().map(str::to_owned),
            end: flow.end.map(|reason| reason.name().to_owned()),
            age_ms: now.saturating_sub(flow.received_ns) / 1_000_000,
            map: map_report(&self.shared.plane, slot, flow, now),
            socket,
            socket_error,
        })
    }
}
