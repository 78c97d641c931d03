//! Flows as `/v1/flows` shows them.

use super::entry::Entry;
use crate::handoff::flow_id_text;
use crate::targets::Targets;
use baton_shared::access::without_query_values;
use baton_shared::control::EndReport;
use baton_shared::record::{DRAIN_BYTES, FlowRecord, FlowState};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// A flow as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct FlowView {
    /// 16 hexadecimal digits.
    pub id: String,
    /// Counts its handoffs, from 1.
    pub generation: u32,
    /// [`FlowState::name`].
    pub state: &'static str,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The VIP's address and port.
    pub vip: SocketAddr,
    /// The target's name; `None` for a flow taken over whose server the configuration no longer names.
    pub target: Option<String>,
    /// The server's address and port.
    pub server: SocketAddr,
    /// The target's agent is gone, the flow's end will not be reported until it is back.
    pub agent_lost: bool,
    /// Method and path, without the values of a query; empty for a flow taken over from an earlier run.
    pub request: String,
    /// Milliseconds since 1970, of the freeze or of the take-over.
    pub started: u64,
    /// Packets translated, client to server (GSO super-packets count one).
    pub packets: u64,
    /// Payload bytes translated, client to server.
    pub bytes: u64,
    /// Payload bytes that went through the hold queue, modulo 2^32; a FIN counts one.
    pub diverted: u32,
    /// Of those, what had arrived at the commit; modulo 2^32. 0 before it.
    pub diverted_at_commit: u32,
    /// Of those that went, come back; modulo 2^32.
    pub released: u32,
    /// Requests given to the target since the last handoff, the handed-off one included; 0 if they are not read.
    pub requests: u32,
    /// It is being taken back for its next request: it leaves its target when the response under way is through.
    pub leaving: bool,
    /// How it ended, if it has.
    pub end: Option<EndView>,
}

/// A flow's end as its agent reported it.
#[derive(Clone, Debug, Serialize)]
pub struct EndView {
    /// [`baton_shared::reason::EndReason::name`].
    pub reason: &'static str,
    /// Packets from the server to the client (GSO super-packets count one).
    pub packets: u64,
    /// Payload bytes from the server to the client.
    pub bytes: u64,
    /// Milliseconds from handoff to end.
    pub duration_ms: u64,
}

/// Which flows to list; `None` lets all pass.
#[derive(Clone, Debug, Default)]
pub struct FlowFilter {
    /// The target's name.
    pub target: Option<String>,
    /// The state's name.
    pub state: Option<String>,
    /// The client: `ADDRESS` or `ADDRESS:PORT`.
    pub client: Option<String>,
    /// The address and port the client connected to.
    pub vip: Option<String>,
}

impl FlowFilter {
    /// Whether a flow passes.
    pub fn passes(&self, flow: &FlowView) -> bool {
        let client = |wanted: &String| match wanted.parse::<IpAddr>() {
            Ok(ip) => flow.client.ip() == ip,
            Err(_) => wanted.parse() == Ok(flow.client),
        };
        self.target.as_ref().is_none_or(|t| flow.target.as_ref() == Some(t))
            && self.state.as_ref().is_none_or(|s| flow.state == s)
            && self.client.as_ref().is_none_or(client)
            && self.vip.as_ref().is_none_or(|vip| vip.parse() == Ok(flow.vip))
    }
}

pub(super) fn view(
    entry: &Entry,
    record: &FlowRecord,
    end: Option<&EndReport>,
    targets: &Targets,
) -> FlowView {
    let target = entry.target.and_then(|t| targets.get(t));
    FlowView {
        id: flow_id_text(record.flow_id),
        generation: entry.generation,
        state: FlowState::from_raw(record.state).name(),
        client: record.key.remote_addr(),
        vip: record.key.local_addr(),
        target: target.as_ref().map(|t| t.spec.name.clone()),
        server: record.rewritten_addr(),
        agent_lost: target.is_some_and(|t| t.is_lost()),
        request: without_query_values(&entry.request),
        started: entry.started_ms,
        packets: record.packets,
        bytes: record.bytes,
        diverted: record.diverted,
        diverted_at_commit: if entry.committed { record.drain_end.wrapping_sub(DRAIN_BYTES) } else { 0 },
        released: record.released,
        requests: if entry.later.is_some() { record.requests } else { 0 },
        leaving: entry.turning,
        end: end.map(|end| EndView {
            reason: end.reason.name(),
            packets: end.packets,
            bytes: end.bytes,
            duration_ms: end.duration_ms,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> FlowView {
        FlowView {
            id: flow_id_text(7),
            generation: 1,
            state: "committed",
            client: "10.0.0.1:1000".parse().unwrap(),
            vip: "10.0.0.2:80".parse().unwrap(),
            target: Some("target1".into()),
            server: "10.0.0.3:80".parse().unwrap(),
            agent_lost: false,
            request: "GET /".into(),
            started: 0,
            packets: 0,
            bytes: 0,
            diverted: 0,
            diverted_at_commit: 0,
            released: 0,
            requests: 0,
            leaving: false,
            end: None,
        }
    }

    #[test]
    fn filters_take_names_addresses_and_address_with_port() {
        let client = |c: &str| FlowFilter { client: Some(c.into()), ..FlowFilter::default() };
        assert!(FlowFilter::default().passes(&flow()));
        assert!(client("10.0.0.1").passes(&flow()));
        assert!(client("10.0.0.1:1000").passes(&flow()));
        assert!(!client("10.0.0.1:1001").passes(&flow()));
        assert!(!client("nonsense").passes(&flow()));
        assert!(!FlowFilter { state: Some("ended".into()), ..FlowFilter::default() }.passes(&flow()));
        assert!(!FlowFilter { target: Some("target2".into()), ..FlowFilter::default() }.passes(&flow()));
    }
}
