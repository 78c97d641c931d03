//! Tracked flows: found by their packets, taken back from their target and given to another.

use super::entry::Entry;
use super::left::Left;
use super::{Flows, HashedKey, Place, nanos};
use crate::handoff::LaterFlow;
use crate::targets::TargetId;
use baton_loader::monotonic_ns;
use baton_shared::control::FlowRef;
use baton_shared::record::{FLAG_LAST, FLAG_OWED, FLAG_WITHIN_BODY, FlowState};
use baton_shared::seq::{Client, Seq};
use compact_str::CompactString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

impl Flows {
    /// The slot of the flow with this key, and who reads its later requests.
    pub(crate) fn place_of(&self, key: &HashedKey) -> Option<(u32, Option<Arc<LaterFlow>>)> {
        let table = self.table();
        let entry = table.under(key)?;
        Some((entry.slot, entry.later.clone()))
    }

    /// Whether later requests of a live flow of this VIP's are read.
    pub(crate) fn is_read_of(&self, vip: SocketAddr) -> bool {
        let table = self.table();
        let read = |e: &Entry| e.later.is_some() && !e.ended;
        table.entries().any(|e| read(e) && table.key(e).local_addr() == vip)
    }

    /// From here on this one reads them.
    pub(crate) fn attach_later(&self, flow: FlowRef, later: &Arc<LaterFlow>) {
        let mut table = self.table();
        if let Some(entry) = table.at_mut(flow) {
            entry.later = Some(Arc::clone(later));
        }
    }

    /// Notes that a flow is being taken back, or no more; whether it is there and has not ended.
    pub(crate) fn set_turning(&self, flow: FlowRef, turning: bool) -> bool {
        let mut table = self.table();
        match table.at_mut(flow).filter(|e| e.is_at_target()) {
            Some(entry) => {
                entry.turning = turning;
                entry.recall_told = false;
                true
            }
            None => false,
        }
    }

    /// Requests the target was given since the handoff. Before the end of the last of them is stored: should this process
    /// die in between, a recall must rather wait for a response that nobody owes than not wait for one.
    pub(crate) fn set_requests(&self, slot: u32, requests: u32) {
        self.plane.slots().set_requests(slot, requests);
    }

    /// The end of the request under way.
    pub(crate) fn set_read_from(&self, slot: u32, end: Seq<Client>) {
        self.plane.slots().set_read_from(slot, end.raw());
    }

    /// By which ruling the flow's last request was judged, if plain ones may follow it unread; 0: none may.
    pub(crate) fn set_ruling(&self, slot: u32, ruling: u32) {
        self.plane.slots().set_ruling(slot, ruling);
    }

    /// The end of the request under way is known, and no other may follow it.
    pub(crate) fn set_last(&self, slot: u32) {
        self.plane.slots().change_flags(slot, FLAG_WITHIN_BODY, FLAG_LAST);
    }

    /// Payload bytes that were diverted and will not come back.
    pub(crate) fn add_released(&self, slot: u32, bytes: u32) {
        self.plane.slots().add_released(slot, bytes);
    }

    /// A flow was recalled: frozen again, as its next handoff. `None` if it is not there any more.
    pub(crate) fn refreeze(&self, flow: FlowRef, deadline: Duration) -> Option<Place> {
        let mut table = self.table();
        let entry = table.at_mut(flow).filter(|e| e.is_at_target())?;
        let slots = self.plane.slots();
        let mut record = slots.read(entry.slot);
        if FlowState::from_raw(record.state) != FlowState::Committed {
            return None;
        }
        let told = std::mem::take(&mut entry.recall_told);
        entry.generation = flow.generation.wrapping_add(1);
        entry.committed = false;
        entry.turning = false;
        let (generation, slot, target) = (entry.generation, entry.slot, entry.target);
        table.leaving.remove(&flow.flow_id);
        if !told {
            let left = Left { flow, client: record.key.remote_addr(), target, given_back: false };
            table.leaving.insert(flow.flow_id, left);
        }
        record.generation = generation;
        record.deadline_ns = monotonic_ns().saturating_add(nanos(deadline));
        record.state = FlowState::Frozen as u32;
        slots.write(slot, &record);
        self.count_ended(target);
        Some(Place { flow: FlowRef { generation, ..flow }, slot, record, ahead: false })
    }

    /// The live flows of an earlier run with bytes that only that run could have delivered, and their targets.
    pub(crate) fn owed(&self) -> Vec<(TargetId, FlowRef)> {
        let table = self.table();
        let owed = |e: &&Entry| e.is_at_target() && self.plane.slots().read(e.slot).flags & FLAG_OWED != 0;
        table.entries().filter(owed).filter_map(|e| Some((e.target?, table.flow(e)))).collect()
    }

    /// Who gets a frozen flow; before the commit.
    pub(crate) fn assign(&self, flow: FlowRef, target: TargetId, request: &str) {
        let mut table = self.table();
        if let Some(entry) = table.at_mut(flow) {
            entry.target = Some(target);
            entry.request = CompactString::from(request);
        }
    }
}
