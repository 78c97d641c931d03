//! What intermediate and agent say to each other. Every message about a flow names it by [`FlowRef`], and is
//! idempotent: saying it twice does what saying it once does.

use super::inspect::FlowReport;
use super::load::ServerLoad;
use crate::capture::{CapturedConnection, seq_serde};
use crate::http::Statuses;
use crate::reason::{EndReason, Refusal};
use crate::seq::{Client, Seq, Server};
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Raised with every change of a message. Peers of different versions close the channel with a clear word.
pub const PROTOCOL_VERSION: u32 = 4;

/// What a node is; also in its certificate, as the URI `baton://ROLE/NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Owns a VIP and hands flows off.
    Intermediate,
    /// Gives handed-off flows to a target's server.
    Agent,
}

impl Role {
    /// The name, as in certificates.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Intermediate => "intermediate",
            Role::Agent => "agent",
        }
    }
}

/// Names one handoff of one flow. `flow_id` is the intermediate's choice, `generation` counts its handoffs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowRef {
    /// The flow; unique per intermediate, across its restarts.
    pub flow_id: u64,
    /// Its handoff, from 1.
    pub generation: u32,
}

impl FlowRef {
    /// No flow: an agent that stops refuses its handoff ([`Refusal::Draining`]) and reports its end. To an intermediate the one
    /// says that the agent takes nothing more; its answer to the other says to the agent that it knows, and that all it had
    /// sent before has arrived.
    pub const NONE: FlowRef = FlowRef { flow_id: 0, generation: 0 };
}

/// A flow's number as people see it: 16 hexadecimal digits.
pub fn flow_id_text(flow_id: u64) -> String {
    format!("{flow_id:016x}")
}

/// The number of which [`flow_id_text`] is `text`.
pub fn flow_id(text: &str) -> Option<u64> {
    let id = u64::from_str_radix(text, 16).ok()?;
    (flow_id_text(id) == text).then_some(id)
}

/// The first message each way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub protocol: u32,
    /// The sender's role; must be the certificate's.
    pub role: Role,
    /// The sender's name; must be the certificate's.
    pub name: String,
    /// Chosen at random at each start of the process: tells a restarted peer from a reconnected one. Its lowest bits say which of
    /// the process's channels to the peer it is ([`Lane`](super::Lane)).
    pub instance: u64,
    /// The software's version, for people.
    pub software: String,
}

/// Take this connection. From its delivery on the request may run on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoff {
    /// Which flow.
    pub flow: FlowRef,
    /// Milliseconds from receipt within which the request must have been fed, else `Refused(Expired)`.
    pub deadline_ms: u32,
    /// The server's address and port on the target.
    pub server: SocketAddr,
    /// The connection.
    pub connection: CapturedConnection,
    /// The client was told that its bytes before this arrived; not before `connection.rcv_nxt`.
    #[serde(with = "seq_serde")]
    pub acknowledged: Seq<Client>,
    /// Later requests on this connection are read by the intermediate, which may recall the flow.
    pub tracked: Option<TrackedRequest>,
    /// What to feed to the server: the request head as it shall see it and all body bytes that had arrived.
    /// Its last byte is the one before `rcv_nxt` (before the FIN if there is one), whatever its length.
    #[serde(with = "super::bytes")]
    pub request: Vec<u8>,
}

/// What the agent must know of a request to find the end of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedRequest {
    /// The method is HEAD: the response has no body, whatever its head says (RFC 9112, section 6.3).
    pub head: bool,
}

/// Give a flow back once its last response is complete and the client has all of it. Answered by `Recalled` or
/// `RecallRefused`, at once or later; nothing is changed on the target before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecallRequest {
    /// Which handoff.
    pub flow: FlowRef,
    /// How many requests the server was given since the handoff, the handed-off one included.
    pub requests: u32,
    /// The client's number after the last byte of the last of them.
    #[serde(with = "seq_serde")]
    pub request_end: Seq<Client>,
    /// The newest acknowledgement known from the client.
    #[serde(with = "seq_serde")]
    pub client_ack: Seq<Client>,
}

/// The server's socket is gone without a word to the client; the flow is the intermediate's again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecalledAnswer {
    /// Which handoff.
    pub flow: FlowRef,
    /// The next sequence number to be sent to the client. It has acknowledged all before.
    #[serde(with = "seq_serde")]
    pub snd_nxt: Seq<Client>,
    /// The largest timestamp value the client was sent, 0 without timestamps.
    pub vip_tsval: u32,
    /// The window last promised to the client, bytes beyond `RecallRequest::request_end`.
    pub rcv_wnd: u32,
}

/// The server has the connection and the request; the target's record is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigratedAnswer {
    /// Which handoff.
    pub flow: FlowRef,
    /// The server's number for the byte the client knows as `snd_nxt`.
    #[serde(with = "seq_serde")]
    pub server_snd_nxt: Seq<Server>,
    /// The client's `snd_nxt` again, so that the answer is complete in itself.
    #[serde(with = "seq_serde")]
    pub client_snd_nxt: Seq<Client>,
    /// Added to the server's timestamp values for the client, and subtracted from the client's echoes.
    pub ts_delta: u32,
    /// The client's number up to which the server's kernel takes bytes, as far as is known when this is said: the right edge of
    /// its newest window. More may be said on being asked again (`Status`).
    #[serde(with = "seq_serde")]
    pub window_end: Seq<Client>,
    /// Microseconds from receipt of the handoff to the server's SYN-ACK.
    pub handshake_us: u32,
    /// Microseconds from receipt of the handoff to this answer.
    pub total_us: u32,
}

impl MigratedAnswer {
    /// Whether the kernel made the server's socket as the client's connection is, so that no number is translated. A
    /// handshake that was replayed begins at the server's own numbers.
    pub fn is_adopted(&self) -> bool {
        self.client_snd_nxt.delta_to(self.server_snd_nxt).0 == 0 && self.ts_delta == 0
    }
}

/// The agent did not take the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedAnswer {
    /// Which handoff.
    pub flow: FlowRef,
    /// Why; whether another may run the request is [`Refusal::request_not_run`].
    pub reason: Refusal,
}

/// A flow ended on the target. Repeated after a reconnection until [`Message::EndSeen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndReport {
    /// Which handoff.
    pub flow: FlowRef,
    /// How.
    pub reason: EndReason,
    /// Packets the server's kernel sent to the client (GSO super-packets count one).
    pub packets: u64,
    /// Payload bytes it sent to the client.
    pub bytes: u64,
    /// Milliseconds from handoff to end.
    pub duration_ms: u64,
    /// Of `bytes`, those that had been sent before.
    pub retransmitted_bytes: u64,
    /// Who ended the connection first, as far as the target could see.
    pub closed_by: Option<Closer>,
    /// Of the responses since the handoff, as far as they were read: none of a flow that is not tracked.
    pub statuses: Statuses,
    /// What the server's kernel last told of the way to the client; nothing if the connection was too short to be
    /// looked at.
    pub way: Option<WayReport>,
}

impl EndReport {
    /// The end of a flow of which the agent tells nothing.
    pub const fn unreported(flow: FlowRef, reason: EndReason) -> Self {
        EndReport {
            flow,
            reason,
            packets: 0,
            bytes: 0,
            duration_ms: 0,
            retransmitted_bytes: 0,
            closed_by: None,
            statuses: Statuses::NONE,
            way: None,
        }
    }
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Closer {
    /// The client.
    Client,
    /// The server.
    Server,
}

impl Closer {
    /// Its name in the access log.
    pub const fn name(self) -> &'static str {
        match self {
            Closer::Client => "client",
            Closer::Server => "server",
        }
    }
}

/// The way from the server to the client, from `TCP_INFO` of the server's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayReport {
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// The smallest there was, microseconds.
    pub min_rtt_us: u32,
    /// Segments sent again, from the handshake on.
    pub retransmitted_segments: u32,
    /// How long before the end the kernel was asked, milliseconds.
    pub age_ms: u64,
}

/// Ask the VIP once, as a client on the agent's host (`probe`). Answered by `Probed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeOrder {
    /// Comes back with the report.
    pub id: u64,
    /// Where to connect to.
    pub vip: SocketAddr,
    /// The value of `Host`.
    pub host: String,
    /// The path, with a query if there is one.
    pub path: String,
    /// The value of [`crate::probe::PROBE_HEADER`], hexadecimal.
    pub token: String,
    /// For all of it, milliseconds.
    pub timeout_ms: u32,
}

/// What came of a [`ProbeOrder`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The order's.
    pub id: u64,
    /// The connection's address and port on the agent's host, if there was one.
    pub local: Option<SocketAddr>,
    /// The response's status, if one came.
    pub status: Option<u16>,
    /// Bytes behind its head.
    pub body_bytes: u64,
    /// Microseconds from the connection's begin to the response's first byte; 0 if none came.
    pub first_byte_us: u32,
    /// Microseconds from the connection's begin to the end; 0 if the agent did not begin one: it cannot ask, or does not
    /// want to, and another may.
    pub total_us: u32,
    /// What went wrong on the asking host, for people.
    pub error: Option<String>,
}

/// All there is to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Both ways, first.
    Hello(Hello),
    /// To the agent.
    Handoff(Box<Handoff>),
    /// To the agent: where does this handoff stand? Answered by `Migrated`, `Refused` or, while it is under
    /// way, by the answer it will have.
    Status(FlowRef),
    /// To the agent: withdraw this handoff if the request has not been fed. Answered by `Migrated` (too late)
    /// or `Refused` (withdrawn, and it will not run even if the handoff arrives after this).
    Cancel(FlowRef),
    /// To the agent: the end was noted, it need not be repeated.
    EndSeen(FlowRef),
    /// To the intermediate.
    Migrated(MigratedAnswer),
    /// To the intermediate.
    Refused(RefusedAnswer),
    /// To the intermediate.
    Ended(EndReport),
    /// To the intermediate, about once a second for each server whose numbers changed.
    Load(Box<ServerLoad>),
    /// To the agent.
    Recall(RecallRequest),
    /// To the intermediate.
    Recalled(RecalledAnswer),
    /// To the intermediate: the flow stays as it is.
    RecallRefused(RefusedAnswer),
    /// To the agent.
    Probe(Box<ProbeOrder>),
    /// To the intermediate.
    Probed(Box<ProbeReport>),
    /// Both ways: are you alive? The number comes back.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// To the agent: what do you know of this handoff? Changes nothing.
    Inspect(FlowRef),
    /// To the intermediate.
    Inspected(Box<FlowReport>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flows_number_is_read_as_it_is_written_and_in_no_other_way() {
        for id in [0, 0xab, u64::MAX] {
            assert_eq!(flow_id(&flow_id_text(id)), Some(id));
        }
        for text in
            ["", "ab", "+0000000000000ab", "00000000000000AB", "000000000000000ab", "00000000000000a "]
        {
            assert_eq!(flow_id(text), None, "{text:?}");
        }
    }
}
