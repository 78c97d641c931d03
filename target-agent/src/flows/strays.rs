//! Adopted sockets of an earlier run whose records are gone, or some of them. Nobody leads the client's packets to them any
//! more, and the intermediate, which hears that their flows are not known here, cannot reach them either.

use super::table::Table;
use crate::local_vip;
use crate::serve::Engine;
use crate::serve::handoff::key;
use crate::serve::packet::Ends;
use baton_shared::reason::EndReason;
use baton_shared::state::ending::SocketState;
use std::net::IpAddr;

impl Engine {
    /// Ends them, server and client. `table` has the flows whose records are there. `adopted` are the VIPs for which a run
    /// before this one had set up what adopting needs: under others there may be connections, a transparent proxy's for one,
    /// and none is the agent's.
    pub(crate) fn end_strays(&mut self, table: &Table, adopted: &[IpAddr]) {
        if !self.shared.plane.lost_records() {
            return;
        }
        let policy = std::sync::Arc::clone(&self.shared.policy);
        for (_, vip, _) in policy.allowed().filter(|(_, vip, _)| adopted.contains(&vip.ip())) {
            // Then programs on this host may have connections of their own under it, an intermediate for one.
            if local_vip::is_own(vip.ip()).unwrap_or(true) {
                continue;
            }
            let clients = self.diag.connections(vip).unwrap_or_else(|e| {
                tracing::error!(%vip, "sock_diag, connections: {e}");
                Vec::new()
            });
            for client in clients {
                if Ends::new(client, vip).is_some_and(|ends| table.slot_under(&key(ends).into()).is_some()) {
                    continue;
                }
                tracing::warn!(%client, %vip, "a connection adopted earlier has no record: ended");
                match self.diag.destroy(vip, client, &[SocketState::Alive]) {
                    Ok(()) => self.shared.metrics.ended(EndReason::RecordLost),
                    Err(e) => tracing::error!(%client, %vip, "sock_diag, destroy: {e}"),
                }
            }
        }
    }
}
