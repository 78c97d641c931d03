//! The target's uplink, ingress, where connections are adopted: takes encapsulated packets out of their outer header as
//! `target_ingress` does, gives the agent's packet to the kernel to make the server's socket from, and puts the VIP
//! back as the destination of what clients send to adopted sockets. Loaded only where the kernel has the function.

use super::flow::{find, store_ip, tell_closing};
use super::headers::{load_ip, load_key, load_segment};
use super::leg::strip;
use super::{ETHERNET, ETHERTYPE_IPV4, NEXT, SHOT, fragments, report};
use crate::maps::{LEGS, SCRATCH, SETTINGS, Scratch, count};
use crate::skb::{self, SharedRecord, Skb};
use crate::sock;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use baton_shared::reason::PacketCounter;
use baton_shared::record::FlowState;
use baton_shared::translate::adopt::{
    Arrival, Holder, asks_for_holder, is_adopted, is_stray, judge_arrival, judge_assignment, readdress,
};
use baton_shared::translate::{Action, Direction, judge_unreadable};
use baton_shared::wire::{Fragment, PROTOCOL_TCP, TcpWords};

/// Offset of the checksum in a TCP header, bytes.
const TCP_CHECKSUM: u32 = 16;

/// See [`baton_shared::translate::adopt::judge_arrival`].
#[classifier]
pub(crate) fn target_adopt(context: TcContext) -> i32 {
    // SAFETY: the context of this run.
    let skb = unsafe { Skb::new(context.skb.skb) };
    let encapsulated = LEGS.get(0).is_some_and(|legs| legs.peers[0].flags != 0);
    if encapsulated && strip(skb) == SHOT {
        return SHOT;
    }
    let Some(settings) = SETTINGS.get(0) else { return NEXT };
    let marked = settings.reinject_mark != 0 && skb.mark() == settings.reinject_mark;
    // It has told what it had to; policy routing shall not see it.
    if marked {
        skb.set_mark(0);
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: this CPU's element of the map; programs do not interrupt each other on one CPU.
    arrive(skb, marked, unsafe { &mut *scratch })
}

#[inline(always)]
fn arrive(skb: Skb, marked: bool, scratch: &mut Scratch) -> i32 {
    if load_ip(skb, ETHERNET, scratch).is_err() {
        return NEXT;
    }
    let scratch = skb::opaque(scratch);
    if report::may_be(skb, &scratch.ip) {
        return report::handle_adopted(skb, scratch);
    }
    if scratch.ip.fragment() == Fragment::Later {
        return fragments::later(scratch);
    }
    if scratch.ip.protocol != PROTOCOL_TCP {
        return NEXT;
    }
    let tcp_at = ETHERNET + scratch.ip.upper_at;
    if !load_key(skb, Direction::FromClient, tcp_at, scratch) {
        return NEXT;
    }
    let Some(record) = find(scratch) else {
        if is_stray(marked, scratch.tcp.flags()) {
            count(PacketCounter::DropAdoptEarly.code());
            return SHOT;
        }
        fragments::passes(scratch);
        return NEXT;
    };
    if !is_adopted(&scratch.record) {
        fragments::passes(scratch);
        return NEXT;
    }
    let now = skb::now_ns();
    if let Err(reason) = load(skb, tcp_at, scratch) {
        let verdict = judge_unreadable(&scratch.record, now, reason);
        fragments::judged(scratch, verdict.action, now);
        if verdict.action != Action::Drop {
            return NEXT;
        }
        count(reason.code());
        return SHOT;
    }
    let scratch = skb::opaque(scratch);
    let v4 = skb.protocol() == ETHERTYPE_IPV4;
    let holder = if asks_for_holder(&scratch.record, &scratch.segment) {
        Holder::from_kernel(sock::state_under(skb, &scratch.record.key, v4))
    } else {
        Holder::Connection
    };
    let to_server = scratch.key != scratch.record.key;
    let (mut arrival, mut counter) =
        judge_arrival(&scratch.record, &scratch.segment, marked, to_server, holder, &mut scratch.patch);
    if arrival == Arrival::Assign {
        scratch.attributes.load(&scratch.record, &scratch.segment);
        let listener = scratch.record.arrival_key();
        let code = sock::assign(skb, &listener, v4, &mut scratch.attributes);
        let (then, counted) = judge_assignment(code, &mut scratch.patch);
        (arrival, counter) = (then, Some(counted));
    }
    book(record, scratch, now);
    if scratch.patch.account.closes != 0 {
        tell_closing(scratch);
    }
    if arrival == Arrival::Readdress {
        readdress(&scratch.record, &scratch.segment, &mut scratch.patch);
        let scratch = skb::opaque(scratch);
        if !store(skb, tcp_at, scratch) {
            arrival = Arrival::Drop;
            counter = Some(PacketCounter::DropStoreFailed);
        }
    }
    if let Some(counter) = counter {
        count(counter.code());
    }
    if arrival == Arrival::Drop { SHOT } else { NEXT }
}

/// Loads what the judgement needs: of a packet that may be the agent's all of the segment, else no options.
#[inline(always)]
fn load(skb: Skb, tcp_at: u32, scratch: &mut Scratch) -> Result<(), PacketCounter> {
    if FlowState::from_raw(scratch.record.state) == FlowState::Adopting {
        return load_segment(skb, tcp_at, scratch);
    }
    if scratch.ip.fragment() != Fragment::No {
        return Err(PacketCounter::DropFragment);
    }
    if scratch.tcp.header_bytes() < 20 {
        return Err(PacketCounter::DropMalformed);
    }
    scratch.segment.load(&scratch.ip, &scratch.tcp, 0, scratch.ip.total);
    Ok(())
}

/// Writes the account into the record: the daemon waits for it, so before the packet goes on.
#[inline(always)]
fn book(record: SharedRecord, scratch: &Scratch, now: u64) {
    let account = &scratch.patch.account;
    record.store_last_seen(now);
    if account.errno != 0 {
        record.store_released(account.errno);
    }
    record.add_note_flags(account.note_flags);
}

/// Writes another destination into the packet.
#[inline(always)]
fn store(skb: Skb, tcp_at: u32, scratch: &Scratch) -> bool {
    let (key, patch) = (&scratch.record.key, &scratch.patch);
    let ports = TcpWords::port_word(key.remote_port, patch.new_port);
    let checksum_at = tcp_at + TCP_CHECKSUM;
    store_ip(skb, key.remote, patch.new_addr, scratch)
        && skb.store(tcp_at, &ports)
        && skb.addresses_changed(checksum_at, patch.address_change)
        && skb.segment_changed(checksum_at, patch.tcp_change)
}
