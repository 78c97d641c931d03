//! What of one flow waits: packets that are held, and since when what has come of a request has come in part.

use crate::hold::Account;
use crate::hold::HeldPacket;
use baton_shared::seq::{Client, Seq};
use baton_shared::state::heard::Heard;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// It, the packets in the order they came, counted among those of all flows as long as they are here. Apart, and there only
/// while something waits: most flows have nothing most of their time.
#[derive(Debug, Default)]
pub(super) struct Waiting(Option<Box<Here>>);

#[derive(Debug, Default)]
struct Here {
    packets: VecDeque<HeldPacket>,
    bytes: usize,
    /// Where they are counted; there from the first on.
    account: Option<Arc<Account>>,
    /// What the client said last of what it has and takes.
    heard: Option<Heard>,
    unfinished: Unfinished,
}

/// What has come in part, and since when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unfinished {
    /// Since when the head in front has been incomplete.
    pub(super) partial_since: Option<Instant>,
    /// Where what has come breaks off before more that has, and since when it has done so.
    pub(super) gap: Option<(Seq<Client>, Instant)>,
    /// It is to be looked at.
    pub(super) gap_noted: bool,
}

impl Waiting {
    /// How many bytes they have.
    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |here| here.bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |here| here.packets.len())
    }

    /// What the client said last of what it has and takes, if it may have been in one of these.
    pub(super) fn heard(&self) -> Option<Heard> {
        self.0.as_ref().filter(|here| !here.packets.is_empty())?.heard
    }

    /// The same by now. The program has heard what was in none of these.
    pub(super) fn set_heard(&mut self, heard: Heard) {
        if let Some(here) = &mut self.0 {
            here.heard = Some(heard);
        }
    }

    /// What has come in part.
    pub(super) fn unfinished(&self) -> Unfinished {
        self.0.as_ref().map(|here| here.unfinished).unwrap_or_default()
    }

    pub(super) fn change_unfinished(&mut self, change: impl FnOnce(&mut Unfinished)) {
        let mut unfinished = self.unfinished();
        change(&mut unfinished);
        if unfinished != self.unfinished() {
            self.0.get_or_insert_default().unfinished = unfinished;
        }
    }

    /// Where nothing waits nothing is kept.
    pub(super) fn settle(&mut self) {
        self.0.take_if(|here| here.packets.is_empty() && here.unfinished == Unfinished::default());
    }

    /// The first packet, or a further one; with it the client has said this.
    pub(super) fn admit(&mut self, held: HeldPacket, account: &Arc<Account>, heard: Heard) {
        let here = self.0.get_or_insert_default();
        here.heard = Some(heard);
        here.account.get_or_insert_with(|| Arc::clone(account)).admit(held.bytes.len());
        here.bytes += held.bytes.len();
        here.packets.push_back(held);
    }

    /// One of those that were taken, or a part of it.
    pub(super) fn put(&mut self, held: HeldPacket) {
        let here = self.0.get_or_insert_default();
        here.bytes += held.bytes.len();
        if let Some(account) = &here.account {
            account.enter(held.bytes.len());
        }
        here.packets.push_back(held);
    }

    /// All of them: none is here any more.
    pub(super) fn take(&mut self) -> VecDeque<HeldPacket> {
        let Some(here) = &mut self.0 else { return VecDeque::new() };
        if let Some(account) = &here.account {
            account.leave(here.packets.len(), here.bytes);
        }
        here.bytes = 0;
        std::mem::take(&mut here.packets)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::divide;
    use crate::hold::{Hold, HoldLimits, PacketSink};
    use baton_daemon::tun::Offload;
    use baton_shared::packet::held::facts;
    use baton_shared::seq::Seq;
    use etherparse::PacketBuilder;

    struct Nowhere;
    impl PacketSink for Nowhere {
        fn send(&self, _: Option<u32>, _: &[u8], _: Offload) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn held() -> HeldPacket {
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1000, 80, 7, 1000).ack(1);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"GET / HTTP/1.1").unwrap();
        HeldPacket::new(&bytes, Offload::default(), &facts(&bytes).unwrap())
    }

    #[test]
    fn what_is_held_of_later_requests_counts_among_all_and_no_flow_keeps_its_part_beyond_its_end() {
        let size = held().bytes.len();
        let hold = Hold::new(Arc::new(Nowhere), HoldLimits { per_flow: 2 * size, total: 6 * size });
        let heard = Heard { ack: Seq::new(1), window: 1, said_at: Seq::new(1) };
        let keep = |packets: &mut Waiting| match hold.admits_later(packets.bytes(), size) {
            Some(account) => {
                packets.admit(held(), account, heard);
                true
            }
            None => false,
        };
        let shown = || (hold.stats().packets, hold.stats().bytes, hold.stats().dropped_full);
        let (mut one, mut two) = (Waiting::default(), Waiting::default());
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

    #[test]
    fn a_flow_of_which_nothing_waits_keeps_nothing() {
        let mut waiting = Waiting::default();
        waiting.change_unfinished(|unfinished| unfinished.gap = None);
        assert!(waiting.0.is_none());
        let now = Instant::now();
        waiting.change_unfinished(|unfinished| unfinished.partial_since = Some(now));
        waiting.put(held());
        waiting.settle();
        assert_eq!((waiting.len(), waiting.unfinished().partial_since), (1, Some(now)));
        drop(waiting.take());
        waiting.settle();
        assert!(waiting.0.is_some(), "its head is incomplete");
        waiting.change_unfinished(|unfinished| unfinished.partial_since = None);
        waiting.settle();
        assert!(waiting.0.is_none());
    }
}
