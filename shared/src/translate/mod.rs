//! What becomes of a packet of a known flow: the verdict, and the new header values.
//!
//! Facts in, patch out: the caller loads a [`FlowRecord`](crate::record::FlowRecord) and a
//! [`Segment`](crate::wire::Segment), asks [`judge_ingress`] or [`judge_egress`] and does what the [`Verdict`] says;
//! if that is to translate, [`translate`] fills in the [`Patch`]. The eBPF programs and every other plane call the
//! same code. (Two calls, since the eBPF verifier multiplies the paths of one with those of the other if the caller
//! cannot stand in between.)

pub mod adopt;
pub mod fragments;
#[cfg(feature = "std")]
mod inverse;
mod judge;
mod leg;
mod patch;
mod plain;
mod report;
mod response;
mod rewrite;
#[cfg(test)]
mod tests;

#[cfg(feature = "std")]
pub use inverse::inverse;
pub use judge::{
    Action, Verdict, exceeds_leg, judge_egress, judge_ingress, judge_unreadable, judge_unwalked,
};
pub use leg::{
    LEG_PORT, Leg, PROTOCOL_IPIP, PROTOCOL_IPV6, judge_inner, judge_outer, leg_of, outer_udp, outer_v4,
    outer_v6,
};
pub use patch::{Account, Patch};
pub use plain::{PlainReading, judge_plain, may_be_plain};
pub use report::{ReportPatch, judge_report, reported_flow, translate_report};
pub use response::{judge_head, judge_response, may_begin_plain};
pub use rewrite::{Direction, translate};
