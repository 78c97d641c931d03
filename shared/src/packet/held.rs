//! A client's packet that was diverted to the intermediate's hold queue.

use super::headers;
use crate::record::FlowKey;
use crate::translate::Direction;
use crate::wire::ACK;

/// What the daemon needs to know of a held packet. Numbers in the client's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldFacts {
    /// The flow.
    pub key: FlowKey,
    /// Its acknowledgement number, if it has one.
    pub ack: Option<u32>,
}

/// Reads a raw IP packet; `None` if it is no whole TCP packet. A super-packet over 64 kB is one.
pub fn facts(packet: &[u8]) -> Option<HeldFacts> {
    let (key, segment, _) = headers::read(packet, Direction::FromClient)?;
    Some(HeldFacts { key, ack: segment.has(ACK).then_some(segment.ack) })
}
