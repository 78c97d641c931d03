//! Flows read out for people: lists in pieces, one flow with all that is known of it here.

use super::entry::Entry;
use super::table::Table;
use super::{FlowFilter, FlowView, Flows, view};
use crate::targets::TargetId;
use baton_loader::monotonic_ns;
use baton_shared::control::{FlowRef, KeyReport, MapReport, RecordReport};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Flows read under one lock: handoffs need not wait for a reader.
const CHUNK: usize = 256;

/// One flow on this host.
#[derive(Debug)]
pub struct Inspected {
    /// Which handoff.
    pub flow: FlowRef,
    /// As in the list.
    pub view: FlowView,
    /// Who has it.
    pub target: Option<TargetId>,
    /// The program's half.
    pub map: MapReport,
}

impl Flows {
    fn view_of(&self, table: &Table, entry: &Entry) -> FlowView {
        view::view(entry, &self.plane.slots().read(entry.slot), table.end(entry), &self.targets)
    }

    /// The flows that pass `filter` with numbers after `after`, oldest first, in pieces. One that comes or goes
    /// meanwhile may be in them or not.
    pub fn chunks(
        of: impl AsRef<Flows>,
        filter: FlowFilter,
        after: Option<u64>,
    ) -> impl Iterator<Item = Vec<FlowView>> {
        let flows = of.as_ref();
        let mut ids: Vec<u64> = {
            let table = flows.table();
            let ids = table.entries().map(|entry| table.number(entry));
            ids.filter(|id| after.is_none_or(|after| *id > after)).collect()
        };
        ids.sort_unstable();
        let mut at = 0;
        std::iter::from_fn(move || {
            let chunk = ids.get(at..ids.len().min(at + CHUNK)).filter(|chunk| !chunk.is_empty())?;
            at += chunk.len();
            let flows = of.as_ref();
            let table = flows.table();
            let views =
                chunk.iter().filter_map(|id| table.get(*id)).map(|entry| flows.view_of(&table, entry));
            Some(views.filter(|view| filter.passes(view)).collect())
        })
    }

    /// The flows that pass `filter`, oldest first, at most `limit`.
    pub fn list(&self, filter: &FlowFilter, limit: usize) -> Vec<FlowView> {
        Self::chunks(Borrowed(self), filter.clone(), None).flatten().take(limit).collect()
    }

    /// One flow.
    pub fn get(&self, flow_id: u64) -> Option<FlowView> {
        let table = self.table();
        table.get(flow_id).map(|entry| self.view_of(&table, entry))
    }

    /// The slots of the connections of the clients at an address that were given away, of each client the newest.
    pub fn slots_of(&self, ip: IpAddr) -> HashMap<SocketAddr, u32> {
        let table = self.table();
        let mut newest: HashMap<SocketAddr, (u64, u32)> = HashMap::new();
        for entry in table.entries() {
            let client = table.key(entry).remote_addr();
            if client.ip() != ip {
                continue;
            }
            let this = (table.number(entry), entry.slot);
            newest.entry(client).and_modify(|other| *other = this.max(*other)).or_insert(this);
        }
        newest.into_iter().map(|(client, (_, slot))| (client, slot)).collect()
    }

    /// One flow with its keys and its record.
    pub fn inspect(&self, flow_id: u64) -> Option<Inspected> {
        let table = self.table();
        let entry = table.get(flow_id)?;
        let record = self.plane.slots().read(entry.slot);
        // A map that cannot be read says the same as one without the key: packets find nothing either.
        let under = self.plane.lookup(&record.key).ok().flatten();
        Some(Inspected {
            flow: table.flow(entry),
            view: self.view_of(&table, entry),
            target: entry.target,
            map: MapReport {
                slot: entry.slot,
                keys: vec![KeyReport::new(&record.key, under)],
                record: RecordReport::new(&record, monotonic_ns()),
            },
        })
    }
}

struct Borrowed<'a>(&'a Flows);

impl AsRef<Flows> for Borrowed<'_> {
    fn as_ref(&self) -> &Flows {
        self.0
    }
}

/// Flows that live as long as somebody reads them.
#[derive(Clone, Debug)]
pub struct Shared(pub Arc<crate::handoff::Migrator>);

impl AsRef<Flows> for Shared {
    fn as_ref(&self) -> &Flows {
        self.0.flows()
    }
}
