//! Adopted sockets of a run whose records are gone. Nobody leads the client's packets to them any more, and the intermediate,
//! which hears that their flows are not known here, cannot reach them either.

use crate::local_vip;
use crate::serve::Engine;
use std::net::IpAddr;

impl Engine {
    /// Ends them, server and client. `adopted` are the VIPs for which a run before this one had set up what adopting
    /// needs: under others there may be connections, a transparent proxy's for one, and none is the agent's.
    pub(crate) fn end_strays(&mut self, adopted: &[IpAddr]) {
        // With its record every adopted socket can be reached.
        if self.shared.plane.found_earlier() {
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
                tracing::warn!(%client, %vip, "a connection adopted earlier has no record: ended");
                if let Err(e) = self.diag.destroy(vip, client) {
                    tracing::error!(%client, %vip, "sock_diag, destroy: {e}");
                }
            }
        }
    }
}
