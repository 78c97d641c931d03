//! The hold queue: client packets of frozen flows, diverted by the ingress program into a TUN device.
//!
//! Held, not dropped: a dropped packet costs the client a retransmission. They are kept in the order they came and
//! written back into the TUN when the flow is committed, as far as its server's window takes them, or given up (the ordinary
//! stack gets them). Packets of flows that are not frozen, which the program still diverts so that nothing
//! overtakes what is held, are written back at once.

pub(crate) mod cut;
mod packet;
mod window;

pub(crate) use packet::{HeldPacket, divide};
pub(crate) use window::Ends;

use crate::flows::{ByKey, HashedKey};
use arc_swap::ArcSwap;
use baton_daemon::tun::Offload;
pub use baton_shared::admission::HoldLimits;
use baton_shared::packet::acks::Acknowledging;
use baton_shared::packet::held::{HeldFacts, facts, is_intact};
use baton_shared::reason::HoldDrop;
use baton_shared::seq::{Client, Seq};
use serde::Serialize;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Where packets are written back to: the TUN device, or a test's stand-in.
pub trait PacketSink: Send + Sync {
    /// Writes one raw IP packet of the flow in this slot, if that is known, with what of it the kernel leaves to hardware.
    fn send(&self, slot: Option<u32>, packet: &[u8], offload: Offload) -> io::Result<()>;
}

/// What the hold queue did, for `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HoldStats {
    /// Packets in the queue now.
    pub packets: u64,
    /// Bytes in the queue now.
    pub bytes: u64,
    /// Packets held so far.
    pub held: u64,
    /// Packets written back into the TUN.
    pub written_back: u64,
    /// Packets dropped because a limit was reached.
    pub dropped_full: u64,
    /// Packets dropped because they could not be parsed.
    pub dropped_malformed: u64,
    /// Packets that could not be written back.
    pub dropped_write_failed: u64,
    /// Packets that were left out, since the one behind them said all that they said.
    pub said_again: u64,
}

/// A packet from the TUN that nobody holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotHeld<'a> {
    /// What it is.
    pub(crate) facts: HeldFacts<'a>,
    /// Its flow's.
    pub(crate) key: HashedKey,
}

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<HeldPacket>,
    bytes: usize,
    newest_ack: Option<u32>,
    /// How far the client has sent.
    newest_end: Option<Seq<Client>>,
    /// Where its FIN ends, if that has come.
    fin_end: Option<Seq<Client>>,
    /// No longer frozen: nothing is queued any more.
    released: bool,
}

/// The held packets of one frozen flow.
#[derive(Debug)]
pub struct HeldFlow {
    key: HashedKey,
    queue: Mutex<Queue>,
    arrived: Notify,
}

impl HeldFlow {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest acknowledgement number in the held packets, client's space: what the client has of the stream
    /// to it.
    pub fn newest_ack(&self) -> Option<u32> {
        self.queue().newest_ack
    }

    /// Waits until another packet is held.
    pub async fn packet_arrived(&self) {
        self.arrived.notified().await;
    }
}

/// What is held now of all flows.
#[derive(Debug, Default)]
pub(crate) struct Account {
    bytes: AtomicUsize,
    packets: AtomicU64,
    /// So far.
    held: AtomicU64,
}

impl Account {
    /// One more is held.
    pub(crate) fn admit(&self, bytes: usize) {
        self.held.fetch_add(1, Ordering::Relaxed);
        self.enter(bytes);
    }

    /// One is held again, or a part of it.
    pub(crate) fn enter(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.packets.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self, packets: usize, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.packets.fetch_sub(u64::try_from(packets).unwrap_or(0), Ordering::Relaxed);
    }
}

/// All held packets.
pub struct Hold {
    sink: Arc<dyn PacketSink>,
    limits: ArcSwap<HoldLimits>,
    flows: Mutex<ByKey<Arc<HeldFlow>>>,
    account: Arc<Account>,
    written_back: AtomicU64,
    dropped_full: AtomicU64,
    dropped_malformed: AtomicU64,
    dropped_write_failed: AtomicU64,
    said_again: AtomicU64,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl HoldStats {
    /// Packets dropped for this reason.
    pub fn dropped(&self, reason: HoldDrop) -> u64 {
        match reason {
            HoldDrop::Full => self.dropped_full,
            HoldDrop::Malformed => self.dropped_malformed,
            HoldDrop::WriteFailed => self.dropped_write_failed,
            HoldDrop::SaidAgain => self.said_again,
        }
    }
}

impl Hold {
    /// An empty queue in front of `sink`.
    pub fn new(sink: Arc<dyn PacketSink>, limits: HoldLimits) -> Self {
        Hold {
            sink,
            limits: ArcSwap::from_pointee(limits),
            flows: Mutex::default(),
            account: Arc::default(),
            written_back: AtomicU64::new(0),
            dropped_full: AtomicU64::new(0),
            dropped_malformed: AtomicU64::new(0),
            dropped_write_failed: AtomicU64::new(0),
            said_again: AtomicU64::new(0),
        }
    }

    /// From here on; what is held already stays.
    pub fn set_limits(&self, limits: HoldLimits) {
        self.limits.store(Arc::new(limits));
    }

    fn flows(&self) -> MutexGuard<'_, ByKey<Arc<HeldFlow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on the flow's packets are held. Before its key is inserted into the plane.
    pub fn begin(&self, key: impl Into<HashedKey>) -> Arc<HeldFlow> {
        let key = key.into();
        let flow = Arc::new(HeldFlow { key, queue: Mutex::default(), arrived: Notify::new() });
        self.flows().insert(key, flow.clone());
        flow
    }

    /// Writes the flow's packets back in their order, and holds none of it any more. The plane must know before where they
    /// belong.
    pub fn release(&self, flow: &Arc<HeldFlow>) {
        {
            // A packet of the flow that comes in meanwhile waits here and is written behind them.
            let mut queue = flow.queue();
            for packet in self.empty(&mut queue) {
                self.write_back(None, &packet.bytes, packet.offload);
            }
        }
        self.forget(flow);
    }

    /// Drops the flow's packets: its connection is gone.
    pub fn discard(&self, flow: &Arc<HeldFlow>) {
        drop(self.empty(&mut flow.queue()));
        self.forget(flow);
    }

    fn empty(&self, queue: &mut Queue) -> VecDeque<HeldPacket> {
        queue.released = true;
        self.account.leave(queue.packets.len(), std::mem::take(&mut queue.bytes));
        std::mem::take(&mut queue.packets)
    }

    fn forget(&self, flow: &Arc<HeldFlow>) {
        let mut flows = self.flows();
        // The key may belong to a newer flow by now.
        if flows.get(&flow.key).is_some_and(|f| Arc::ptr_eq(f, flow)) {
            flows.remove(&flow.key);
        }
    }

    /// A packet came from the TUN. Only one task may call this: order rests on it.
    pub fn on_packet(&self, packet: &[u8], offload: Offload) {
        if self.offer(packet, offload).is_some() {
            self.write_back(None, packet, offload);
        }
    }

    /// As [`Hold::on_packet`], but what nobody holds is the caller's. `None`: it is held, or dropped.
    pub(crate) fn offer<'a>(&self, packet: &'a [u8], offload: Offload) -> Option<NotHeld<'a>> {
        let Some(facts) = facts(packet) else {
            self.dropped_malformed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let key = HashedKey::from(facts.key);
        let flow = self.flows().get(&key).cloned();
        let Some(flow) = flow else { return Some(NotHeld { facts, key }) };
        {
            let mut queue = flow.queue();
            if queue.released {
                return Some(NotHeld { facts, key });
            }
            let intact = offload.is_checked() || is_intact(packet);
            let said = Acknowledging::of(&facts, queue.newest_ack).filter(|_| intact);
            if let Some(ack) = facts.ack.filter(|_| intact) {
                let newer = |newest| baton_shared::seq::before(newest, ack);
                if queue.newest_ack.is_none_or(newer) {
                    queue.newest_ack = Some(ack);
                }
            }
            let size = packet.len();
            let total = self.account.bytes.load(Ordering::Relaxed);
            if !self.limits.load().admit(queue.bytes, total, size) {
                self.dropped_full.fetch_add(1, Ordering::Relaxed);
            } else {
                queue.bytes += size;
                self.account.admit(size);
                let packet = HeldPacket { said, ..HeldPacket::new(packet, offload, &facts) };
                if queue.newest_end.is_none_or(|newest| newest.before(packet.end())) {
                    queue.newest_end = Some(packet.end());
                }
                if packet.fin && intact {
                    queue.fin_end = Some(packet.end());
                }
                queue.packets.push_back(packet);
            }
        }
        flow.arrived.notify_one();
        None
    }

    /// Whether a packet with a later request may be held beside the bytes of its flow that are: the account into which it is
    /// to be entered then. One that may not is counted as dropped.
    pub(crate) fn admits_later(&self, of_flow: usize, size: usize) -> Option<&Arc<Account>> {
        let room = self.room_for_later(of_flow, size);
        if room.is_none() {
            self.dropped_full.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    /// The same of one that is not dropped if it may not.
    pub(crate) fn room_for_later(&self, of_flow: usize, size: usize) -> Option<&Arc<Account>> {
        let total = self.account.bytes.load(Ordering::Relaxed);
        self.limits.load().admit_later(of_flow, total, size).then_some(&self.account)
    }

    /// Of the flow in this slot, if that is known.
    pub(crate) fn write_back(&self, slot: Option<u32>, packet: &[u8], offload: Offload) {
        match self.sink.send(slot, packet, offload) {
            Ok(()) => self.written_back.fetch_add(1, Ordering::Relaxed),
            Err(e) => {
                tracing::debug!(error = %e, "a held packet could not be written back");
                self.dropped_write_failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }

    /// Counts and gauges.
    pub fn stats(&self) -> HoldStats {
        HoldStats {
            packets: self.account.packets.load(Ordering::Relaxed),
            bytes: u64::try_from(self.account.bytes.load(Ordering::Relaxed)).unwrap_or(u64::MAX),
            held: self.account.held.load(Ordering::Relaxed),
            written_back: self.written_back.load(Ordering::Relaxed),
            dropped_full: self.dropped_full.load(Ordering::Relaxed),
            dropped_malformed: self.dropped_malformed.load(Ordering::Relaxed),
            dropped_write_failed: self.dropped_write_failed.load(Ordering::Relaxed),
            said_again: self.said_again.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    #[derive(Default)]
    struct Written(Mutex<Vec<Vec<u8>>>);
    impl PacketSink for Written {
        fn send(&self, _: Option<u32>, packet: &[u8], _: Offload) -> io::Result<()> {
            self.0.lock().unwrap().push(packet.to_vec());
            Ok(())
        }
    }

    fn packet(port: u16, seq: u32, ack: u32) -> Vec<u8> {
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(port, 80, seq, 1000).ack(ack);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"data").unwrap();
        bytes
    }

    fn hold(per_flow: usize, total: usize) -> (Hold, Arc<Written>) {
        let sink = Arc::new(Written::default());
        (Hold::new(sink.clone(), HoldLimits { per_flow, total }), sink)
    }

    #[test]
    fn held_packets_come_back_in_order_and_later_ones_at_once() {
        let (hold, sink) = hold(10_000, 10_000);
        let first = packet(1000, 1, 5);
        let flow = hold.begin(facts(&first).unwrap().key);
        hold.on_packet(&first, Offload::default());
        hold.on_packet(&packet(1000, 5, 9), Offload::default());
        hold.on_packet(&packet(2000, 1, 1), Offload::default());
        assert_eq!(sink.0.lock().unwrap().len(), 1, "another flow's packet goes back at once");
        assert_eq!(flow.newest_ack(), Some(9));
        assert_eq!((hold.stats().packets, hold.stats().held), (2, 2));
        hold.release(&flow);
        hold.on_packet(&packet(1000, 9, 9), Offload::default());
        let written = sink.0.lock().unwrap().clone();
        assert_eq!(written[1..], [first, packet(1000, 5, 9), packet(1000, 9, 9)]);
        let stats = hold.stats();
        assert_eq!((stats.packets, stats.bytes, stats.written_back, stats.dropped_full), (0, 0, 4, 0));
    }

    #[test]
    fn limits_drop_and_count() {
        let size = packet(1000, 1, 1).len();
        let (hold, sink) = hold(2 * size, 3 * size);
        let one = hold.begin(facts(&packet(1000, 1, 1)).unwrap().key);
        let two = hold.begin(facts(&packet(2000, 1, 1)).unwrap().key);
        for _ in 0..3 {
            hold.on_packet(&packet(1000, 1, 1), Offload::default());
            hold.on_packet(&packet(2000, 1, 1), Offload::default());
        }
        assert_eq!((hold.stats().packets, hold.stats().dropped_full), (3, 3));
        hold.discard(&one);
        assert_eq!(hold.stats().packets, 1);
        hold.release(&two);
        assert_eq!(sink.0.lock().unwrap().len(), 1);
        assert_eq!(hold.stats().bytes, 0);
    }

    #[test]
    fn the_newest_acknowledgement_wraps_and_is_kept_when_packets_are_dropped() {
        let (hold, _) = hold(0, 0);
        let flow = hold.begin(facts(&packet(1000, 1, 1)).unwrap().key);
        for ack in [u32::MAX - 1, 3, u32::MAX] {
            hold.on_packet(&packet(1000, 1, ack), Offload::default());
        }
        assert_eq!(flow.newest_ack(), Some(3));
        hold.on_packet(b"garbage", Offload::default());
        assert_eq!(hold.stats().dropped_malformed, 1);
    }

    #[test]
    fn a_newer_flow_on_the_same_addresses_is_not_forgotten_with_the_older() {
        let (hold, sink) = hold(10_000, 10_000);
        let key = facts(&packet(1000, 1, 1)).unwrap().key;
        let old = hold.begin(key);
        let new = hold.begin(key);
        hold.release(&old);
        hold.on_packet(&packet(1000, 1, 1), Offload::default());
        assert!(sink.0.lock().unwrap().is_empty());
        hold.release(&new);
        assert_eq!(sink.0.lock().unwrap().len(), 1);
    }
}
