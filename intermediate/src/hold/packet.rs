//! A client's packet that is held: while its connection is frozen, for its server's window, or because it reaches beyond the
//! request under way.

use super::cut::{Fresh, Part, cut};
use baton_daemon::tun::Offload;
use baton_shared::packet::acks::Acknowledging;
use baton_shared::packet::held::{HeldFacts, facts};
use baton_shared::seq::{Client, Seq};

/// A packet, and what is looked at of it.
#[derive(Debug)]
pub(crate) struct HeldPacket {
    pub(crate) bytes: Vec<u8>,
    pub(crate) offload: Offload,
    pub(crate) seq: Seq<Client>,
    /// Bytes of payload.
    pub(crate) payload: u32,
    pub(crate) fin: bool,
    /// The client's timestamp, if it has one.
    pub(crate) tsval: Option<u32>,
    /// What it says of the stream to the client, if that may go without saying.
    pub(crate) said: Option<Acknowledging>,
}

impl HeldPacket {
    /// `facts` are those of `packet`.
    pub(crate) fn new(packet: &[u8], offload: Offload, facts: &HeldFacts<'_>) -> Self {
        HeldPacket {
            bytes: packet.to_vec(),
            offload,
            seq: Seq::new(facts.seq),
            payload: facts.segment.payload,
            fin: facts.fin,
            tsval: facts.tsval,
            said: None,
        }
    }

    /// Numbers it takes: its payload, and its FIN.
    pub(crate) fn length(&self) -> u32 {
        self.payload.wrapping_add(u32::from(self.fin))
    }

    /// The number behind it.
    pub(crate) fn end(&self) -> Seq<Client> {
        self.seq.plus(self.length())
    }
}

/// The packets of what lies before `at`, and of the rest.
pub(crate) fn divide(
    held: &HeldPacket,
    at: Seq<Client>,
    fresh: Option<Fresh>,
) -> Option<(Vec<Vec<u8>>, Vec<HeldPacket>)> {
    let size = usize::try_from(held.payload).ok()?;
    let place = usize::try_from(at.since(held.seq)).ok()?.min(size);
    let front = cut(&held.bytes, Part { from: 0, to: place, fin: false }, fresh)?;
    let rest = cut(&held.bytes, Part { from: place, to: size, fin: held.fin }, fresh)?;
    let rest =
        rest.iter().filter_map(|packet| Some(HeldPacket::new(packet, Offload::default(), &facts(packet)?)));
    Some((front, rest.collect()))
}
