//! A client that uses its port again before it is known here that its connection has ended.
//!
//! The server may close first: then the client has no TIME_WAIT, and its kernel may take the same port for its next connection
//! within a fraction of a second. Its SYN comes while the word of the end is on its way from the agent, who looks twenty times a
//! second. Sent on, it would reach the server's TIME_WAIT and be answered in vain: the client would send it again after a
//! second. So it waits here, the agent is asked, and the program sends it to the listener once the flow has ended.

use super::Migrator;
use baton_daemon::tun::Offload;
use baton_shared::control::{FlowRef, Message};
use baton_shared::record::{FlowRecord, FlowState};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long at most: less than a client takes to send its SYN again (RFC 6298, section 2: one second).
const PATIENCE: Duration = Duration::from_millis(200);
/// How often the flow is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// The numbers of the flows whose ends are waited for: one SYN for each, so that whoever forges them gets no room for more.
#[derive(Debug, Default)]
pub(super) struct Reused(Mutex<HashSet<u64>>);

impl Reused {
    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Migrator {
    /// Keeps a SYN on the 4-tuple of the flow in this slot until that has ended, in a task of its own. False: it does not wait,
    /// since the flow has ended, or another one waits, or there is no room.
    pub(super) fn await_end(self: &Arc<Self>, slot: u32, packet: &[u8], offload: Offload) -> bool {
        let FlowRecord { flow_id, generation, .. } = self.flows.record(slot);
        if !self.lives(slot, flow_id) {
            return false;
        }
        let flow = FlowRef { flow_id, generation };
        let Some(account) = self.hold.room_for_later(0, packet.len()).cloned() else { return false };
        if !self.reused.lock().insert(flow_id) {
            return false;
        }
        account.admit(packet.len());
        // Its agent looks at once, and tells of the end if that has come; if it cannot be asked, it tells of it later.
        let target = self.flows.target_of(flow).and_then(|target| self.targets.get(target));
        let _ = target.map(|target| target.send_of(flow, Message::Status(flow)));
        let (migrator, packet) = (Arc::clone(self), packet.to_vec());
        self.spawn(async move {
            let until = Instant::now() + PATIENCE;
            while migrator.lives(slot, flow_id) && Instant::now() < until {
                tokio::time::sleep(LOOK).await;
            }
            migrator.reused.lock().remove(&flow_id);
            account.leave(1, packet.len());
            // The slot may be another flow's by now.
            let slot = Some(slot).filter(|slot| migrator.flows.record(*slot).flow_id == flow_id);
            migrator.hold.write_back(slot, &packet, offload);
        });
        true
    }

    fn lives(&self, slot: u32, flow_id: u64) -> bool {
        let record = self.flows.record(slot);
        record.flow_id == flow_id && FlowState::from_raw(record.state) == FlowState::Committed
    }
}
