//! What there is to say of a request.

use crate::handoff::StageTimes;
use baton_shared::control::{EndReport, FlowRef};
use baton_shared::http::{GateRule, RequestHead, Version};
use baton_shared::reason::{CloseReason, EndReason, ProxyReason, Refusal};
use baton_shared::termination::{ProxiedEnd, Termination};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// What is kept of one thing a client said, bytes: a queue of records must not be as large as clients like.
const TEXT_BYTES: usize = 2048;

/// Who asked, where and when.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port it connected to.
    pub vip: SocketAddr,
    /// The listener's name.
    pub listener: String,
    /// When the request's head was complete; of a connection without a request, when it was accepted.
    pub at: SystemTime,
    /// What was asked; none if it was not understood.
    pub request: Option<RequestText>,
    /// The request's place on its connection, from 1.
    pub request_no: u32,
}

/// What the client said of its request, as it came: none of it can be trusted to be text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestText {
    /// The method.
    pub method: Vec<u8>,
    /// The target: path and query, or the other forms.
    pub target: Vec<u8>,
    /// `HTTP/1.1` and so on.
    pub version: &'static str,
    /// The host, from `Host` or `:authority`.
    pub host: Vec<u8>,
    /// `User-Agent`.
    pub user_agent: Vec<u8>,
    /// `Referer`.
    pub referer: Vec<u8>,
}

impl RequestText {
    /// Of a head that passed the gate; `bytes` are those it was parsed from.
    pub fn of_head(head: &RequestHead, bytes: &[u8]) -> Self {
        let part = |range: &std::ops::Range<usize>| short(bytes.get(range.clone()).unwrap_or_default());
        let mut text = RequestText {
            method: part(&head.method),
            target: part(&head.target),
            version: match head.version {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
            },
            ..RequestText::default()
        };
        let lines = bytes.get(head.target.end..head.head_len).unwrap_or_default().split(|b| *b == b'\n');
        for line in lines.skip(1) {
            let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let place = match name {
                name if name.eq_ignore_ascii_case(b"host") => &mut text.host,
                name if name.eq_ignore_ascii_case(b"user-agent") => &mut text.user_agent,
                name if name.eq_ignore_ascii_case(b"referer") => &mut text.referer,
                _ => continue,
            };
            *place = short(value);
        }
        text
    }
}

/// No more than is kept.
fn short(value: &[u8]) -> Vec<u8> {
    value.get(..TEXT_BYTES).unwrap_or(value).to_vec()
}

/// Where it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The route that took it; none: the listener's own pool.
    pub route: Option<String>,
    /// The pool; empty if it got to none.
    pub pool: String,
    /// The target; empty if it got to none.
    pub target: String,
}

/// A request that was proxied, when it is over.
#[derive(Clone, Debug)]
pub struct ProxiedRecord {
    /// Who asked what.
    pub asked: Asked,
    /// Where it went.
    pub placed: Placed,
    /// The flow's number, if there was an attempt at a handoff, or the connection was once given away.
    pub flow_id: Option<u64>,
    /// Why it was not migrated.
    pub reason: ProxyReason,
    /// The agent's reason, if it refused.
    pub refusal: Option<Refusal>,
    /// Of the response, whoever gave it; none if there was none.
    pub status: Option<u16>,
    /// Bytes of the request's body that were passed on.
    pub request_bytes: u64,
    /// Bytes of the response's body that were passed on.
    pub bytes: u64,
    /// From the complete head to a connection to the server; none if there was none.
    pub connect: Option<Duration>,
    /// From the complete head to that of the response; none if there was none.
    pub first_byte: Option<Duration>,
    /// From the complete head to the end.
    pub total: Duration,
    /// How it ended.
    pub end: ProxiedEnd,
    /// The gate's rule, if a body broke one.
    pub rule: Option<GateRule>,
}

/// A connection that was closed, or a request that the intermediate answered by itself before a server was chosen.
#[derive(Clone, Debug)]
pub struct ClosedRecord {
    /// Who asked what.
    pub asked: Asked,
    /// Where it would have gone.
    pub placed: Placed,
    /// Why.
    pub reason: CloseReason,
    /// The gate's rule.
    pub rule: Option<GateRule>,
    /// What it was answered; none: nothing.
    pub status: Option<u16>,
    /// The flow's number, if there was a handoff.
    pub flow_id: Option<u64>,
}

/// A request whose connection was given to a target: the half the front knows.
#[derive(Clone, Debug)]
pub struct MigratedRecord {
    /// Who asked what.
    pub asked: Asked,
    /// Where it went.
    pub placed: Placed,
    /// The handoff.
    pub flow: FlowRef,
    /// The request's place among those the server got since that handoff, from 1.
    pub since_handoff: u32,
    /// Of the response, if the agent read it; filled in when both halves are there.
    pub status: Option<u16>,
    /// How long each stage took; none for a later request that stayed with its target.
    pub stages: Option<StageTimes>,
}

/// The half the agent knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentHalf {
    /// As it reported.
    Reported(EndReport),
    /// It reported nothing, and will not.
    Unreported(EndReason),
    /// The next request on the same connection came first: the report will stand with the last one.
    NextRequest,
    /// The connection came back to the intermediate: the request had been answered.
    TakenBack,
    /// The intermediate stops; the flow goes on.
    Stopped,
}

impl AgentHalf {
    /// The code.
    pub fn termination(&self) -> Termination {
        match self {
            AgentHalf::Reported(report) => Termination::of_end(report.reason),
            AgentHalf::Unreported(reason) => Termination::of_end(*reason),
            AgentHalf::NextRequest | AgentHalf::TakenBack => Termination::Normal,
            AgentHalf::Stopped => Termination::Unknown,
        }
    }
}

/// What is written as one line.
#[derive(Clone, Debug)]
pub enum Record {
    /// See there.
    Proxied(ProxiedRecord),
    /// See there.
    Closed(ClosedRecord),
    /// Both halves.
    Migrated(Box<MigratedRecord>, AgentHalf),
}
