//! A client's packet that is held because it reaches beyond the request under way.

use super::cut::{Fresh, Part, cut};
use baton_daemon::tun::Offload;
use baton_shared::packet::held::{HeldFacts, facts};
use baton_shared::seq::{Client, Seq};

/// A packet, and what is looked at of it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    pub(super) offload: Offload,
    pub(super) seq: Seq<Client>,
    /// Bytes of payload.
    pub(super) payload: u32,
    pub(super) fin: bool,
    /// The client's timestamp, if it has one.
    pub(super) tsval: Option<u32>,
}

impl Held {
    /// `facts` are those of `packet`.
    pub(super) fn new(packet: &[u8], offload: Offload, facts: &HeldFacts<'_>) -> Self {
        Held {
            bytes: packet.to_vec(),
            offload,
            seq: Seq::new(facts.seq),
            payload: u32::try_from(facts.payload.len()).unwrap_or(u32::MAX),
            fin: facts.fin,
            tsval: facts.tsval,
        }
    }

    /// Numbers it takes: its payload, and its FIN.
    pub(super) fn length(&self) -> u32 {
        self.payload.wrapping_add(u32::from(self.fin))
    }

    /// The number behind it.
    pub(super) fn end(&self) -> Seq<Client> {
        self.seq.plus(self.length())
    }
}

/// The packets of what lies before `at`, and of the rest.
pub(super) fn divide(
    held: &Held,
    at: Seq<Client>,
    fresh: Option<Fresh>,
) -> Option<(Vec<Vec<u8>>, Vec<Held>)> {
    let size = usize::try_from(held.payload).ok()?;
    let place = usize::try_from(at.since(held.seq)).ok()?.min(size);
    let front = cut(&held.bytes, Part { from: 0, to: place, fin: false }, fresh)?;
    let rest = cut(&held.bytes, Part { from: place, to: size, fin: held.fin }, fresh)?;
    let rest = rest.iter().filter_map(|packet| Some(Held::new(packet, Offload::default(), &facts(packet)?)));
    Some((front, rest.collect()))
}
