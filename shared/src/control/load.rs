//! How a server fares, as its agent tells.

use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Of one server of an agent's host. Counts are since the agent's start, so that a lost report loses nothing and one
/// said twice counts once; what grew is the difference to the report before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerLoad {
    /// Its address and port.
    pub server: SocketAddr,
    /// Whether something listens there.
    pub listening: bool,
    /// Flows of this intermediate on it that have not ended.
    pub flows: u32,
    /// Flows of all intermediates on it.
    pub all_flows: u32,
    /// Connections that wait for the server to accept them, over all sockets that listen there.
    pub accept_queue: u32,
    /// How many may wait.
    pub accept_limit: u32,
    /// What the kernel dropped at those sockets: connections, when the queue was full, and segments that repeated what was known
    /// of one that was being made.
    pub listen_drops: u64,
    /// The same of the whole host for a full queue (`TcpExtListenOverflows`).
    pub host_overflows: u64,
    /// Handoffs the server's kernel refused or did not answer.
    pub refused: u64,
    /// Flows that ended.
    pub ended: u64,
    /// Of those, by a reset of the server.
    pub resets: u64,
    /// Payload bytes the server's kernel sent to clients on all flows, those sent again included. Of many thousand flows
    /// not all are looked at each second: then it comes in steps.
    pub bytes: u64,
    /// TCP segments the server's kernel sent on the flows that were looked at.
    pub segments: u64,
    /// Of those, sent again.
    pub retransmitted: u64,
    /// Responses that began and whose time to the first byte was taken.
    pub responses: u64,
    /// The sum of those times, microseconds, from the feeding of the request to the first byte of the response.
    pub response_us: u64,
    /// The smoothed round-trip time to clients, the mean over the flows looked at last, microseconds; 0 if none was.
    pub rtt_us: u32,
}

impl ServerLoad {
    /// Of a server that listens and of which nothing else is known.
    pub fn of(server: SocketAddr) -> Self {
        ServerLoad {
            server,
            listening: true,
            flows: 0,
            all_flows: 0,
            accept_queue: 0,
            accept_limit: 0,
            listen_drops: 0,
            host_overflows: 0,
            refused: 0,
            ended: 0,
            resets: 0,
            bytes: 0,
            segments: 0,
            retransmitted: 0,
            responses: 0,
            response_us: 0,
            rtt_us: 0,
        }
    }
}
