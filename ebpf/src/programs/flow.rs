//! What the two uplink programs have in common: load the facts, find the flow, book the verdict, store the patch.

use super::headers::{NoUpper, load_ip, load_key, load_segment};
use super::{ETHERNET, ETHERTYPE_IPV4, NEXT, SHOT, fragments, leg, plain, report, response};
use crate::maps::{COPIES, COPIES_WAKE, FLOWS, PIECE, SCRATCH, SETTINGS, SLOTS, Scratch, count};
use crate::skb::{self, SharedRecord, Skb};
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use baton_shared::addr::IpWords;
use baton_shared::reason::PacketCounter;
use baton_shared::record::{COPY_BYTES, COPY_PIECES, CopiedHead, Settings, wakes};
use baton_shared::translate::{
    Action, Direction, Verdict, judge_egress, judge_ingress, judge_unreadable, judge_unwalked, translate,
};
use baton_shared::wire::{Fragment, PROTOCOL_TCP, TcpWords};
use core::ptr;

/// Offset of the checksum in a TCP header, bytes.
const TCP_CHECKSUM: u32 = 16;

/// Judges one packet and does what the verdict says.
#[inline(always)]
pub(super) fn handle(skb: Skb, direction: Direction) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: this CPU's element of the map; programs do not interrupt each other on one CPU.
    let scratch = unsafe { &mut *scratch };
    match load_ip(skb, ETHERNET, scratch) {
        Ok(()) => {}
        Err(NoUpper::NotOurs) => return NEXT,
        Err(NoUpper::TooFar) => return unwalked(direction),
    }
    let scratch = skb::opaque(scratch);
    // The server's kernel sends no errors about what it sent itself.
    if direction == Direction::FromClient && report::may_be(skb, &scratch.ip) {
        return report::handle(skb, scratch);
    }
    if scratch.ip.fragment() == Fragment::Later {
        return fragments::later(scratch);
    }
    if scratch.ip.protocol != PROTOCOL_TCP {
        return NEXT;
    }
    let tcp_at = ETHERNET + scratch.ip.upper_at;
    if !load_key(skb, direction, tcp_at, scratch) {
        return if scratch.ip.hides_upper() { unwalked(direction) } else { NEXT };
    }
    let Some(record) = find(scratch) else {
        fragments::passes(scratch);
        return NEXT;
    };
    let Some(settings) = SETTINGS.get(0) else { return NEXT };
    let now = skb::now_ns();

    let loaded = load_segment(skb, tcp_at, scratch);
    let scratch = skb::opaque(scratch);
    let marked = direction == Direction::FromClient
        && settings.reinject_mark != 0
        && skb.mark() == settings.reinject_mark;
    let verdict = match loaded {
        Err(reason) => {
            scratch.patch.account = Default::default();
            let verdict = judge_unreadable(&scratch.record, now, reason);
            fragments::judged(scratch, verdict.action, now);
            verdict
        }
        Ok(()) => match direction {
            Direction::FromClient => {
                let verdict =
                    judge_ingress(&scratch.record, &scratch.segment, marked, now, &mut scratch.patch);
                plain::judged(skb, tcp_at, scratch, verdict)
            }
            Direction::ToClient => judge_egress(&scratch.record, &scratch.segment, &mut scratch.patch),
        },
    };
    // It has told what it had to; policy routing shall not see it.
    if marked {
        skb.set_mark(0);
    }
    act(skb, direction, tcp_at, verdict, settings, record, now, skb::opaque(scratch))
}

/// A packet whose flow cannot be known.
#[inline(always)]
fn unwalked(direction: Direction) -> i32 {
    let verdict = judge_unwalked(direction);
    match verdict.counter {
        Some(counter) if verdict.action == Action::Drop => {
            count(counter.code());
            SHOT
        }
        _ => NEXT,
    }
}

/// The record of the flow under the key in hand, and a copy of it as it is now.
#[inline(always)]
pub(super) fn find(scratch: &mut Scratch) -> Option<SharedRecord> {
    // SAFETY: the daemon may remove the key while we read its value, and give place and slot to another flow.
    let slot = unsafe { FLOWS.get(&scratch.key) }?;
    let record = SLOTS.get_ptr_mut(*slot)?;
    // SAFETY: an element of SLOTS.
    let record = unsafe { SharedRecord::new(record) };
    record.copy_to(&mut scratch.record);
    // Then it is as if the key had been gone.
    scratch.record.belongs_under(&scratch.key).then_some(record)
}

/// Books the verdict and carries it out.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one call, inlined")]
fn act(
    skb: Skb,
    direction: Direction,
    tcp_at: u32,
    verdict: Verdict,
    settings: &Settings,
    record: SharedRecord,
    now: u64,
    scratch: &mut Scratch,
) -> i32 {
    if verdict.action == Action::Divert && settings.tun_ifindex == 0 {
        count(PacketCounter::DropNoDevice.code());
        return SHOT;
    }
    if let Some(counter) = verdict.counter {
        if verdict.action == Action::Translate {
            translate(&scratch.record, &scratch.segment, direction, &mut scratch.patch);
            if !store(skb, direction, tcp_at, skb::opaque(scratch)) {
                count(PacketCounter::DropStoreFailed.code());
                return SHOT;
            }
        }
        count(counter.code());
        book(record, scratch, now);
        // Behind what it tells of. Where a part of a response follows, that tells it as well.
        if direction == Direction::ToClient
            && scratch.patch.account.closes != 0
            && scratch.patch.account.copy == 0
        {
            tell_closing(scratch);
        }
        // Nothing done to the headers has changed the payload.
        if direction == Direction::ToClient && scratch.patch.account.copy != 0 {
            if verdict.action == Action::Translate || scratch.patch.account.sent != 0 {
                record.add_packets(1);
                record.add_bytes(u64::from(scratch.segment.payload));
            }
            return pass_on(skb, record, skb::opaque(scratch));
        }
    }
    match verdict.action {
        Action::Pass => {
            if scratch.patch.account.sent != 0 {
                record.add_packets(1);
                record.add_bytes(u64::from(scratch.segment.payload));
            }
            NEXT
        }
        Action::Drop => SHOT,
        Action::Divert => skb::redirect(settings.tun_ifindex),
        Action::Translate => {
            record.add_packets(1);
            record.add_bytes(u64::from(scratch.segment.payload));
            match direction {
                Direction::FromClient => leg::send(skb, scratch),
                Direction::ToClient => NEXT,
            }
        }
    }
}

/// Lets a packet go whose payload is to be read. The end of the program, and all is loaded anew: for the verifier the ways that
/// come here are one, which it walks once with all its bytes and pieces.
#[inline(always)]
fn pass_on(skb: Skb, record: SharedRecord, scratch: &mut Scratch) -> i32 {
    response::judge(skb, scratch);
    let scratch = skb::opaque(scratch);
    move_end(record, scratch);
    count(if hand_over(skb, scratch) {
        PacketCounter::ResponseCopied.code()
    } else {
        PacketCounter::CopyFailed.code()
    });
    NEXT
}

/// Hands what is to be copied of the payload to the agent: to its ring buffer, piece by piece. False if not all of it had room.
#[inline(always)]
fn hand_over(skb: Skb, scratch: &mut Scratch) -> bool {
    let (Some(part), Some(wake_at)) = (PIECE.get_ptr_mut(0), COPIES_WAKE.get_ptr(0)) else { return false };
    // SAFETY: this CPU's element of the map; programs do not interrupt each other on one CPU.
    let part = unsafe { &mut *part };
    // SAFETY: an element of the map, one aligned word, which the daemon may write.
    let wake_at = unsafe { ptr::read_volatile(wake_at) };
    let copy = scratch.patch.account.copy;
    part.head = head(scratch);
    scratch.copy_at = ETHERNET + scratch.ip.upper_at + scratch.tcp.header_bytes();
    scratch.copy_left = copy;
    // What is kept in the map is any number to the verifier, so that the pieces differ in nothing but their count.
    let mut scratch = skb::opaque(scratch);
    for _ in 1..COPY_PIECES {
        if scratch.copy_left <= COPY_BYTES {
            break;
        }
        if !skb.put_into(&COPIES, scratch.copy_at, COPY_BYTES, part, u64::from(BPF_RB_NO_WAKEUP)) {
            return false;
        }
        scratch.copy_at += COPY_BYTES;
        scratch.copy_left -= COPY_BYTES;
        part.head.seq = part.head.seq.wrapping_add(COPY_BYTES);
        scratch = skb::opaque(scratch);
    }
    let left = scratch.copy_left;
    if left > COPY_BYTES {
        return false;
    }
    let wakes = wakes(copy, wake_at, || COPIES.query(u64::from(BPF_RB_AVAIL_DATA)));
    let flags = if wakes { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    skb.put_into(&COPIES, scratch.copy_at, left, part, u64::from(flags))
}

/// Tells the agent that it must look at the flow. It need not be woken: it reads with each of its scans. If there is no room it
/// comes by the flow later, when it walks all of them.
#[inline(always)]
pub(super) fn tell_closing(scratch: &Scratch) {
    let _no_room = COPIES.output::<CopiedHead>(head(scratch), u64::from(BPF_RB_NO_WAKEUP));
}

/// What an element for the agent begins with, of the packet in hand.
#[inline(always)]
fn head(scratch: &Scratch) -> CopiedHead {
    CopiedHead {
        flow_id: scratch.record.flow_id,
        generation: scratch.record.generation,
        seq: scratch.segment.seq,
        key: scratch.key,
        closes: scratch.patch.account.closes,
    }
}

/// Stores where what is to be read begins behind a plain message.
#[inline(always)]
fn move_end(record: SharedRecord, scratch: &Scratch) {
    let account = &scratch.patch.account;
    // Not for one that is there twice at once: the numbers are stored only by who sees none of them stored yet. The count
    // comes first, as the daemon stores it.
    if account.plain != 0 && record.read_from() == scratch.record.read_from {
        record.store_requests(account.requests);
        record.store_read_from(account.read_from);
    }
}

/// Writes the account into the record.
#[inline(always)]
fn book(record: SharedRecord, scratch: &Scratch, now: u64) {
    let account = &scratch.patch.account;
    record.store_last_seen(now);
    if account.also != 0 {
        count(account.also);
    }
    if account.diverted != 0 {
        record.add_diverted(account.diverted);
    }
    if account.released != 0 {
        record.add_released(account.released);
    }
    let copy = &scratch.record;
    move_end(record, scratch);
    // Only while the daemon has not freed the slot meanwhile.
    if account.state != 0 && record.state() == copy.state {
        record.store_state(account.state);
    }
    if account.noted != 0 {
        // What is news, and nothing else: since the copy was made another CPU may have noted more.
        if account.note_ack != copy.note_ack {
            record.store_note_ack(account.note_ack);
        }
        if account.note_window != copy.note_window {
            record.store_note_window(account.note_window);
        }
        if account.note_tsval != copy.note_tsval {
            record.store_note_tsval(account.note_tsval);
        }
        if account.note_seq_end != copy.note_seq_end {
            record.store_note_seq_end(account.note_seq_end);
        }
        record.add_note_flags(account.note_flags);
    }
}

/// Writes the patch into the packet. Right for `CHECKSUM_PARTIAL` (the helpers leave the sum of the segment to
/// whoever finishes it) and for GSO super-packets (same length, same options).
#[inline(always)]
fn store(skb: Skb, direction: Direction, tcp_at: u32, scratch: &Scratch) -> bool {
    let (tcp, patch, key) = (&scratch.tcp, &scratch.patch, &scratch.key);
    let (source, destination, ports) = match direction {
        Direction::FromClient => {
            (key.remote, patch.new_addr, TcpWords::port_word(key.remote_port, patch.new_port))
        }
        Direction::ToClient => {
            (patch.new_addr, key.remote, TcpWords::port_word(patch.new_port, key.remote_port))
        }
    };
    let head = [ports, patch.seq.to_be(), patch.ack.to_be(), tcp.fourth_word(patch.window)];
    let checksum_at = tcp_at + TCP_CHECKSUM;
    let mut stored = store_ip(skb, source, destination, scratch)
        && skb.store(tcp_at, &head)
        && skb.addresses_changed(checksum_at, patch.address_change)
        && skb.segment_changed(checksum_at, patch.tcp_change);
    let places = scratch.segment.options.places;
    let options_at = tcp_at + 20;
    if stored && places.timestamps != 0 {
        stored = skb.store(options_at + places.timestamps, &[patch.tsval.to_be(), patch.tsecr.to_be()]);
    }
    let mut at = options_at + places.sack;
    for (block, edges) in (0u32..).zip(patch.sack_edges.as_chunks::<2>().0) {
        if !stored || block >= places.sack_blocks {
            break;
        }
        stored = skb.store(at, &[edges[0].to_be(), edges[1].to_be()]);
        at += 8;
    }
    stored
}

/// Writes addresses and hop limit into the IP header.
#[inline(always)]
pub(super) fn store_ip(skb: Skb, source: IpWords, destination: IpWords, scratch: &Scratch) -> bool {
    let patch = &scratch.patch;
    if skb.protocol() == ETHERTYPE_IPV4 {
        let third = scratch.ipv4.third_word(patch.ttl, patch.header_checksum);
        return skb.store(ETHERNET + 8, &[third, source.v4_word(), destination.v4_word()]);
    }
    let second = scratch.ipv6.second_word(patch.ttl);
    let ([a, b, c, d], [e, f, g, h]) = (source.0, destination.0);
    skb.store_summed(ETHERNET + 4, &[second, a, b, c, d, e, f, g, h])
}
