//! A client's packets that are held because they reach beyond the request under way.

use super::cut::{Fresh, Part, cut};
use crate::hold::Account;
use baton_daemon::tun::Offload;
use baton_shared::packet::held::{HeldFacts, facts};
use baton_shared::seq::{Client, Seq};
use std::collections::VecDeque;
use std::sync::Arc;

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

/// One flow's, in the order they came, counted among those of all flows as long as they are here. Apart from the first on:
/// most flows have none most of their time.
#[derive(Debug, Default)]
pub(super) struct HeldPackets(Option<Box<Packets>>);

#[derive(Debug, Default)]
struct Packets {
    packets: VecDeque<Held>,
    bytes: usize,
    /// Where they are counted; there from the first on.
    account: Option<Arc<Account>>,
}

impl HeldPackets {
    /// How many bytes they have.
    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.packets.len())
    }

    /// The first packet, or a further one.
    pub(super) fn admit(&mut self, held: Held, account: &Arc<Account>) {
        let here = self.0.get_or_insert_default();
        here.account.get_or_insert_with(|| Arc::clone(account)).admit(held.bytes.len());
        here.bytes += held.bytes.len();
        here.packets.push_back(held);
    }

    /// One of those that were taken, or a part of it.
    pub(super) fn put(&mut self, held: Held) {
        let here = self.0.get_or_insert_default();
        here.bytes += held.bytes.len();
        if let Some(account) = &here.account {
            account.enter(held.bytes.len());
        }
        here.packets.push_back(held);
    }

    /// All of them: none is here any more.
    pub(super) fn take(&mut self) -> VecDeque<Held> {
        let Some(here) = &mut self.0 else { return VecDeque::new() };
        if let Some(account) = &here.account {
            account.leave(here.packets.len(), here.bytes);
        }
        here.bytes = 0;
        std::mem::take(&mut here.packets)
    }
}

impl Drop for HeldPackets {
    fn drop(&mut self) {
        drop(self.take());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::{Hold, HoldLimits, PacketSink};
    use etherparse::PacketBuilder;

    struct Nowhere;
    impl PacketSink for Nowhere {
        fn send(&self, _: &[u8], _: Offload) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn held() -> Held {
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1000, 80, 7, 1000).ack(1);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"GET / HTTP/1.1").unwrap();
        Held::new(&bytes, Offload::default(), &facts(&bytes).unwrap())
    }

    #[test]
    fn what_is_held_of_later_requests_counts_among_all_and_no_flow_keeps_its_part_beyond_its_end() {
        let size = held().bytes.len();
        let hold = Hold::new(Arc::new(Nowhere), HoldLimits { per_flow: 2 * size, total: 6 * size });
        let keep = |packets: &mut HeldPackets| match hold.admits_later(packets.bytes(), size) {
            Some(account) => {
                packets.admit(held(), account);
                true
            }
            None => false,
        };
        let shown = || (hold.stats().packets, hold.stats().bytes, hold.stats().dropped_full);
        let (mut one, mut two) = (HeldPackets::default(), HeldPackets::default());
        assert!(keep(&mut one) && keep(&mut one) && !keep(&mut one), "of one flow");
        assert!(keep(&mut two) && !keep(&mut two), "half of what all may hold");
        assert_eq!(shown(), (3, 3 * size as u64, 2));
        // One is cut in two, its front goes on.
        let mut parts = VecDeque::new();
        for held in one.take() {
            parts.extend(divide(&held, held.seq.plus(4), None).unwrap().1);
        }
        assert_eq!(shown().0, 1);
        parts.into_iter().for_each(|part| one.put(part));
        assert_eq!(shown(), (3, 3 * size as u64 - 8, 2));
        drop(one);
        assert_eq!(shown(), (1, size as u64, 2));
        drop(two);
        assert_eq!(shown(), (0, 0, 2));
    }
}
