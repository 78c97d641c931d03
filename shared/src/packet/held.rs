//! A client's packet that was diverted to the intermediate's hold queue.

use super::headers;
use crate::record::FlowKey;
use crate::translate::Direction;
use crate::wire::{ACK, FIN, RST, Segment};

/// What the daemon needs to know of a held packet. Numbers in the client's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldFacts<'a> {
    /// The flow.
    pub key: FlowKey,
    /// Its sequence number.
    pub seq: u32,
    /// Its acknowledgement number, if it has one.
    pub ack: Option<u32>,
    /// It is a FIN.
    pub fin: bool,
    /// It is a reset.
    pub rst: bool,
    /// The window as in the header.
    pub window: u16,
    /// The timestamp value, if it has one.
    pub tsval: Option<u32>,
    /// Its payload.
    pub payload: &'a [u8],
    /// All of its facts.
    pub segment: Segment,
}

/// Reads a raw IP packet; `None` if it is no whole TCP packet. A super-packet over 64 kB is one.
pub fn facts(packet: &[u8]) -> Option<HeldFacts<'_>> {
    let (key, segment, tcp_at) = headers::read(packet, Direction::FromClient)?;
    Some(HeldFacts {
        key,
        seq: segment.seq,
        ack: segment.has(ACK).then_some(segment.ack),
        fin: segment.has(FIN),
        rst: segment.has(RST),
        window: segment.window,
        tsval: (segment.options.places.timestamps != 0).then_some(segment.options.tsval),
        payload: headers::payload(packet, &segment, tcp_at)?,
        segment,
    })
}
