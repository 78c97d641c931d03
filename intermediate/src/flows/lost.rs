//! Flows whose target cannot answer any more: looked at while their agent is gone, taken from the target, removed.

use super::entry::Entry;
use super::{Flows, nanos};
use crate::reset::Severed;
use crate::targets::TargetId;
use baton_loader::monotonic_ns;
use baton_shared::control::{EndReport, FlowRef};
use baton_shared::reason::EndReason;
use baton_shared::record::{FlowKey, FlowRecord, FlowState};
use baton_shared::state::lost::ClientMarks;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A flow taken from its target, its client's packets diverted again.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Which.
    pub flow: FlowRef,
    /// The client's addresses, and how far it was.
    pub client: Severed,
    /// Where the server was.
    pub server: SocketAddr,
}

fn marks(record: &FlowRecord) -> ClientMarks {
    ClientMarks { acked: record.note_ack, sent: record.note_seq_end, bytes: record.bytes }
}

impl Flows {
    /// The live flows on a target, and how far their clients are.
    pub fn marks_on(&self, target: TargetId) -> Vec<(FlowRef, ClientMarks)> {
        let table = self.table();
        let live = |e: &&Entry| e.target == Some(target) && e.is_at_target();
        let look = |e: &Entry| (table.flow(e), marks(&self.plane.slots().read(e.slot)));
        table.entries().filter(live).map(look).collect()
    }

    /// The key of a live flow.
    pub fn key_of(&self, flow: FlowRef) -> Option<FlowKey> {
        let table = self.table();
        table.at(flow).filter(|e| !e.ended).map(|e| table.key(e))
    }

    /// Takes a committed flow from its target: nothing is translated any more, the client's packets go to the hold
    /// TUN until `deadline`. `None` if the flow is not there or has ended.
    pub fn take_from_target(&self, flow: FlowRef, deadline: Duration) -> Option<Taken> {
        let table = self.table();
        let entry = table.at(flow).filter(|e| e.is_at_target())?;
        let slots = self.plane.slots();
        let mut record = slots.read(entry.slot);
        if FlowState::from_raw(record.state) != FlowState::Committed {
            return None;
        }
        record.deadline_ns = monotonic_ns().saturating_add(nanos(deadline));
        record.state = FlowState::Frozen as u32;
        slots.write(entry.slot, &record);
        let client = Severed {
            client: record.key.remote_addr(),
            vip: record.key.local_addr(),
            snd_nxt: record.note_ack,
            rcv_nxt: record.note_seq_end,
        };
        Some(Taken { flow, client, server: record.rewritten_addr() })
    }

    /// Removes a flow that was taken from its target and whose client was reset, and says why. At once: what the client may still
    /// send belongs to the ordinary stack, which answers it with a reset.
    pub fn cut(&self, flow: FlowRef, reason: EndReason) {
        let mut table = self.table();
        let Some(entry) = table.at(flow) else { return };
        let report = EndReport::unreported(flow, reason);
        let (first, target) = (!entry.ended, entry.target);
        if first {
            table.set_end(report);
            self.access_log().unreported(flow.flow_id, reason);
            self.count_ended(target);
        }
        // Whoever finds the flow gone finds it counted.
        if reason == EndReason::AgentLost {
            self.cut.fetch_add(1, Ordering::Relaxed);
        }
        self.remove(&mut table, flow.flow_id);
        drop(table);
        if first {
            self.tell_end(&report, None);
        }
    }

    /// Flows removed by [`Flows::cut`] whose target was lost.
    pub fn cut_count(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }
}
