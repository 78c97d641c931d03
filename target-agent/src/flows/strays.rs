//! Adopted sockets without a record: of a run whose records are gone. Nobody leads the client's packets to them any more,
//! and the intermediate, which hears that their flows are not known here, cannot reach them either.

use super::table::Table;
use crate::local_vip;
use crate::serve::Engine;
use crate::serve::handoff::key;
use crate::serve::packet::Ends;

impl Engine {
    /// Ends them, server and client. To be called when the records there are have been taken over.
    pub(crate) fn end_strays(&mut self, table: &Table) {
        let policy = std::sync::Arc::clone(&self.shared.policy);
        for (_, vip, _) in policy.allowed() {
            // Then programs on this host may have connections of their own under it, an intermediate for one.
            if local_vip::is_own(vip.ip()).unwrap_or(true) {
                continue;
            }
            let clients = self.diag.connections(vip).unwrap_or_else(|e| {
                tracing::error!(%vip, "sock_diag, connections: {e}");
                Vec::new()
            });
            for client in clients {
                let known = Ends::new(client, vip).is_some_and(|ends| table.slot_under(&key(ends)).is_some());
                if !known {
                    tracing::warn!(%client, %vip, "a connection adopted earlier has no record: ended");
                    if let Err(e) = self.diag.destroy(vip, client) {
                        tracing::error!(%client, %vip, "sock_diag, destroy: {e}");
                    }
                }
            }
        }
    }
}
