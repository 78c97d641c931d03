//! One packet: load the facts, find the flow, book the verdict, store the patch. The order is that of the eBPF
//! programs (`ebpf/src/programs/flow.rs`), and differential tests hold the two together.

use crate::plain::{self, Ruled};
use crate::report;
use baton_shared::addr::IpWords;
use baton_shared::packet::headers::{NoUpper, key, load_ip, load_segment};
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, FlowRecord};
use baton_shared::translate::fragments::{FragmentKey, is_remembered, judge_later_fragment};
use baton_shared::translate::{
    Account, Action, Direction, Patch, Verdict, judge_egress, judge_ingress, judge_unreadable,
    judge_unwalked, translate,
};
use baton_shared::wire::{Fragment, IpFacts, PROTOCOL_TCP, Segment, Sum};

/// Offset of the checksum in a TCP header, bytes.
const TCP_CHECKSUM: usize = 16;
/// Length of a TCP header without options, bytes.
const TCP_HEADER: usize = 20;

/// What was done with a packet of a known flow, for its record.
#[derive(Clone, Copy, Debug)]
pub struct Handled<'a> {
    /// The record as it was judged by.
    pub record: &'a FlowRecord,
    /// What the judge wants written into it.
    pub account: &'a Account,
    /// Payload bytes, if the packet was translated.
    pub translated: Option<u32>,
    /// CLOCK_MONOTONIC, ns.
    pub now_ns: u64,
}

/// The flow table and the counters.
pub trait Flows {
    /// The record under a key, with the number of its slot.
    fn find(&self, key: &FlowKey) -> Option<(u32, FlowRecord)>;

    /// Writes the account into a slot's record. The daemon and other threads may write to it at the same time.
    fn book(&self, slot: u32, handled: &Handled<'_>);

    /// The ruling in force (`baton_shared::translate::may_be_plain`); 0: none.
    fn ruling(&self) -> u32;

    /// The daemon is to have a copy of this packet, which is not rewritten yet.
    fn copy(&self, packet: &[u8]);

    /// When a first fragment under this key was dropped, CLOCK_MONOTONIC ns, if that is remembered.
    fn dropped_first(&self, key: &FragmentKey) -> Option<u64>;

    /// Remembers that a first fragment under this key was dropped, or forgets it.
    fn remember_first(&self, key: &FragmentKey, dropped_ns: Option<u64>);

    /// Counts one packet, by a [`PacketCounter`]'s code.
    fn count(&self, code: u32);
}

/// Judges one raw IP packet and rewrites it if the verdict says so.
///
/// [`Action::Pass`]: not ours, unchanged. [`Action::Translate`]: rewritten, to be sent to its new destination.
/// [`Action::Divert`]: unchanged, for the daemon. `marked` tells that the packet was held before. `now_ns` is
/// CLOCK_MONOTONIC.
///
/// Checksums are changed incrementally: a packet that was corrupted on its way stays one, for its receiver to drop.
pub fn carry(
    flows: &impl Flows,
    direction: Direction,
    packet: &mut [u8],
    marked: bool,
    now_ns: u64,
) -> Action {
    let ip = match load_ip(packet) {
        Ok(ip) => ip,
        Err(NoUpper::NotOurs) => return Action::Pass,
        Err(NoUpper::TooFar) => return unwalked(flows, direction),
    };
    // The server's kernel sends no errors about what it sent itself.
    if direction == Direction::FromClient && report::may_be(&ip) {
        return report::carry(flows, &ip, packet, now_ns);
    }
    if ip.fragment() == Fragment::Later {
        return later_fragment(flows, &ip, now_ns);
    }
    if ip.protocol != PROTOCOL_TCP {
        return Action::Pass;
    }
    let raw_tcp = packet.get(ip.upper_at as usize..).unwrap_or_default();
    let Some(key) = key(direction, &ip, raw_tcp) else {
        return if ip.hides_upper() { unwalked(flows, direction) } else { Action::Pass };
    };
    let Some((slot, record)) = flows.find(&key) else {
        first_fragment(flows, &ip, Action::Pass, now_ns);
        return Action::Pass;
    };

    let mut patch = Patch::default();
    let mut segment = Segment::default();
    let verdict = match load_segment(&ip, packet.len(), raw_tcp, &mut segment) {
        Err(reason) => judge_unreadable(&record, now_ns, reason),
        Ok(()) => match direction {
            Direction::FromClient => {
                let verdict = judge_ingress(&record, &segment, marked, now_ns, &mut patch);
                let ruled = Ruled { record: &record, ruling: flows.ruling(), key: &key };
                plain::judged(&ruled, &segment, raw_tcp, verdict, &mut patch.account)
            }
            Direction::ToClient => {
                let verdict = judge_egress(&record, &segment, &mut patch);
                plain::judge_begun(&record, &segment, raw_tcp, &mut patch.account);
                verdict
            }
        },
    };
    first_fragment(flows, &ip, verdict.action, now_ns);
    let Verdict { action, counter: Some(counter) } = verdict else { return verdict.action };
    let translates = action == Action::Translate;
    if translates {
        if patch.account.copy != 0 {
            flows.copy(packet);
            flows.count(PacketCounter::ResponseCopied.code());
        }
        translate(&record, &segment, direction, &mut patch);
        if store(packet, direction, &ip, &segment, &patch).is_none() {
            flows.count(PacketCounter::DropStoreFailed.code());
            return Action::Drop;
        }
    }
    flows.count(counter.code());
    if patch.account.also != 0 {
        flows.count(patch.account.also);
    }
    let translated = translates.then_some(segment.payload);
    flows.book(slot, &Handled { record: &record, account: &patch.account, translated, now_ns });
    action
}

/// A packet whose flow cannot be known.
fn unwalked(flows: &impl Flows, direction: Direction) -> Action {
    let verdict = judge_unwalked(direction);
    if let Some(counter) = verdict.counter {
        flows.count(counter.code());
    }
    verdict.action
}

/// What became of a packet, if it is a first fragment, for those behind it.
pub(crate) fn first_fragment(flows: &impl Flows, ip: &IpFacts, action: Action, now_ns: u64) {
    if ip.fragment() == Fragment::First {
        let mut key = FragmentKey::default();
        key.load(ip);
        flows.remember_first(&key, is_remembered(action).then_some(now_ns));
    }
}

fn later_fragment(flows: &impl Flows, ip: &IpFacts, now_ns: u64) -> Action {
    let mut key = FragmentKey::default();
    key.load(ip);
    let verdict = judge_later_fragment(flows.dropped_first(&key), now_ns);
    if let Some(counter) = verdict.counter {
        flows.count(counter.code());
    }
    verdict.action
}

/// Writes bytes at an offset; `None` if they do not fit.
pub(crate) fn put<const N: usize>(packet: &mut [u8], at: usize, bytes: [u8; N]) -> Option<()> {
    *packet.get_mut(at..)?.first_chunk_mut::<N>()? = bytes;
    Some(())
}

/// The 16 bytes of an address, wire order.
pub(crate) fn octets(address: IpWords) -> [u8; 16] {
    zerocopy::transmute!(address)
}

/// Writes the patch into the packet; `None` if it does not fit, which the facts loaded before rule out.
fn store(
    packet: &mut [u8],
    direction: Direction,
    ip: &IpFacts,
    segment: &Segment,
    patch: &Patch,
) -> Option<()> {
    let from_client = direction == Direction::FromClient;
    // IPv4: TTL, checksum, source, destination at 8, 10, 12, 16; IPv6: hop limit, source, destination at 7, 8, 24.
    if ip.source.is_v4() {
        put(packet, 8, [patch.ttl])?;
        put(packet, 10, patch.header_checksum.0.to_ne_bytes())?;
        put(packet, if from_client { 16 } else { 12 }, patch.new_addr.v4_word().to_ne_bytes())?;
    } else {
        put(packet, 7, [patch.ttl])?;
        put(packet, if from_client { 24 } else { 8 }, octets(patch.new_addr))?;
    }
    let tcp = packet.get_mut(ip.upper_at as usize..)?;
    put(tcp, if from_client { 2 } else { 0 }, patch.new_port.0.to_ne_bytes())?;
    put(tcp, 4, patch.seq.to_be_bytes())?;
    put(tcp, 8, patch.ack.to_be_bytes())?;
    put(tcp, 14, patch.window.to_be_bytes())?;
    let old = *tcp.get(TCP_CHECKSUM..)?.first_chunk::<2>()?;
    // Both are sums already; one's complement takes them as changes from nothing.
    let change = Sum::ZERO.replaced(u32::MAX, patch.tcp_change).replaced(u32::MAX, patch.address_change);
    let checksum = baton_shared::wire::HeaderChecksum(u16::from_ne_bytes(old)).changed(change);
    put(tcp, TCP_CHECKSUM, checksum.0.to_ne_bytes())?;
    let places = segment.options.places;
    if places.timestamps != 0 {
        let at = TCP_HEADER + places.timestamps as usize;
        put(tcp, at, patch.tsval.to_be_bytes())?;
        put(tcp, at + 4, patch.tsecr.to_be_bytes())?;
    }
    let edges = patch.sack_edges.iter().take(2 * places.sack_blocks as usize);
    for (at, edge) in (TCP_HEADER + places.sack as usize..).step_by(4).zip(edges) {
        put(tcp, at, edge.to_be_bytes())?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    /// Finds every packet's flow, whatever its key is.
    struct Every {
        record: FlowRecord,
        counted: Cell<u32>,
        booked: Cell<u32>,
    }

    impl Flows for Every {
        fn find(&self, key: &FlowKey) -> Option<(u32, FlowRecord)> {
            Some((0, FlowRecord { key: *key, ..self.record }))
        }

        fn book(&self, _: u32, _: &Handled<'_>) {
            self.booked.set(self.booked.get() + 1);
        }

        fn ruling(&self) -> u32 {
            0
        }

        fn copy(&self, _: &[u8]) {}

        fn dropped_first(&self, _: &FragmentKey) -> Option<u64> {
            Some(0)
        }

        fn remember_first(&self, _: &FragmentKey, _: Option<u64>) {}

        fn count(&self, _: u32) {
            self.counted.set(self.counted.get() + 1);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut packet in prop::collection::vec(any::<u8>(), 0..120), v6 in any::<bool>(),
                                  header in 5u8..16, protocol in prop::sample::select(vec![0u8, 1, 6, 43, 44, 58, 60]),
                                  state in 0u32..8, from_client in any::<bool>(), marked in any::<bool>()) {
            // Bytes that look like IP at first sight.
            for (at, byte) in if v6 { [(0, 0x60), (6, protocol)] } else { [(0, 0x40 | header), (9, protocol)] } {
                if let Some(place) = packet.get_mut(at) {
                    *place = byte;
                }
            }
            let record = FlowRecord { state, deadline_ns: 5, ..FlowRecord::default() };
            let flows = Every { record, counted: Cell::new(0), booked: Cell::new(0) };
            let direction = if from_client { Direction::FromClient } else { Direction::ToClient };
            let before = packet.clone();
            let action = carry(&flows, direction, &mut packet, marked, 1);
            prop_assert!(action == Action::Translate || packet == before);
            prop_assert!(action == Action::Pass || flows.counted.get() > 0);
            prop_assert!(flows.booked.get() <= flows.counted.get());
        }
    }
}
