//! What the two uplink programs have in common: load the facts, find the flow, book the verdict, store the patch.

use super::{ETHERNET, NEXT, SHOT};
use crate::maps::{FLOWS, SCRATCH, SETTINGS, SLOTS, Scratch, count};
use crate::skb::{self, SharedRecord, Skb};
use baton_shared::addr::IpWords;
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, Settings};
use baton_shared::translate::{
    Action, Direction, Verdict, judge_egress, judge_ingress, judge_unreadable, judge_unwalked, translate,
};
use baton_shared::wire::{EXTENSIONS_MAX, Fragment, OPTIONS_MAX, PROTOCOL_TCP, TcpWords};

/// EtherType of IPv4 as `skb->protocol` has it.
const ETHERTYPE_IPV4: u32 = 0x0800u16.to_be() as u32;
/// EtherType of IPv6, likewise.
const ETHERTYPE_IPV6: u32 = 0x86ddu16.to_be() as u32;
/// Offset of the checksum in a TCP header, bytes.
const TCP_CHECKSUM: u32 = 16;

/// Judges one packet and does what the verdict says.
#[inline(always)]
pub(super) fn handle(skb: Skb, direction: Direction) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: this CPU's element of the map; programs do not interrupt each other on one CPU.
    let scratch = unsafe { &mut *scratch };
    match load_ip(skb, scratch) {
        Ok(()) => {}
        Err(NoUpper::NotOurs) => return NEXT,
        Err(NoUpper::TooFar) => {
            let verdict = judge_unwalked(direction);
            return match verdict.counter {
                Some(counter) if verdict.action == Action::Drop => {
                    count(counter.code());
                    SHOT
                }
                _ => NEXT,
            };
        }
    }
    let scratch = skb::opaque(scratch);
    if scratch.ip.protocol != PROTOCOL_TCP || scratch.ip.fragment() == Fragment::Later {
        return NEXT;
    }
    let tcp_at = ETHERNET + scratch.ip.upper_at;
    if !load_key(skb, direction, tcp_at, scratch) {
        return NEXT;
    }
    // SAFETY: the daemon may remove the key while we read its value, which then is another flow's number or a
    // freed one's: slots are given out again as late as possible, and a freed one's state says so.
    let Some(slot) = (unsafe { FLOWS.get(&scratch.key) }) else { return NEXT };
    let Some(record) = SLOTS.get_ptr_mut(*slot) else { return NEXT };
    // SAFETY: an element of SLOTS.
    let record = unsafe { SharedRecord::new(record) };
    record.copy_to(&mut scratch.record);
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
            judge_unreadable(&scratch.record, now, reason)
        }
        Ok(()) => match direction {
            Direction::FromClient => {
                judge_ingress(&scratch.record, &scratch.segment, marked, now, &mut scratch.patch)
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

/// Why no upper-layer header was found.
enum NoUpper {
    /// Not IP, cut short, or on a way that does not end here.
    NotOurs,
    /// More extension headers than are walked.
    TooFar,
}

/// Loads the IP header of either version, and walks over what stands between it and the upper layer's.
#[inline(always)]
fn load_ip(skb: Skb, scratch: &mut Scratch) -> Result<(), NoUpper> {
    match skb.protocol() {
        ETHERTYPE_IPV4 => {
            if !skb.load(ETHERNET, &mut scratch.ipv4) || !scratch.ipv4.is_sane() {
                return Err(NoUpper::NotOurs);
            }
            scratch.ip.load_v4(&scratch.ipv4);
            Ok(())
        }
        ETHERTYPE_IPV6 => {
            if !skb.load(ETHERNET, &mut scratch.ipv6) || !scratch.ipv6.is_sane() {
                return Err(NoUpper::NotOurs);
            }
            scratch.ip.load_v6(&scratch.ipv6);
            for _ in 0..EXTENSIONS_MAX {
                let ip = skb::opaque(&mut scratch.ip);
                if !ip.at_extension() {
                    return Ok(());
                }
                let there = skb.load(ETHERNET + ip.upper_at, &mut scratch.extension);
                if !there || !ip.walk(&scratch.extension) {
                    return Err(NoUpper::NotOurs);
                }
            }
            if skb::opaque(&mut scratch.ip).at_extension() { Err(NoUpper::TooFar) } else { Ok(()) }
        }
        _ => Err(NoUpper::NotOurs),
    }
}

/// Loads the TCP header and the flow's key; false: no ports to look up. Of a header cut short the ports alone are
/// loaded, for its length is 0 then, which no reader takes for a segment.
#[inline(always)]
fn load_key(skb: Skb, direction: Direction, tcp_at: u32, scratch: &mut Scratch) -> bool {
    if !skb.load(tcp_at, &mut scratch.tcp) {
        scratch.tcp = TcpWords::default();
        if !skb.load(tcp_at, &mut scratch.tcp.0[0]) {
            return false;
        }
    }
    let (ip, tcp) = (&scratch.ip, scratch.tcp);
    scratch.key = match direction {
        Direction::FromClient => FlowKey {
            remote: ip.source,
            local: ip.destination,
            remote_port: tcp.source(),
            local_port: tcp.destination(),
        },
        Direction::ToClient => FlowKey {
            remote: ip.destination,
            local: ip.source,
            remote_port: tcp.destination(),
            local_port: tcp.source(),
        },
    };
    true
}

/// Loads the rest of a known flow's segment, or says why it cannot be read.
#[inline(always)]
fn load_segment(skb: Skb, tcp_at: u32, scratch: &mut Scratch) -> Result<(), PacketCounter> {
    if scratch.ip.fragment() != Fragment::No {
        return Err(PacketCounter::DropFragment);
    }
    let header = scratch.tcp.header_bytes();
    let headers = scratch.ip.upper_at + header;
    let there = skb.len() - ETHERNET;
    // A super-packet over 64 kB has no total length; a short frame has padding behind its total length.
    let total = match scratch.ip.total {
        0 => there,
        total => total,
    };
    if header < 20 || total < headers || total > there {
        return Err(PacketCounter::DropMalformed);
    }
    scratch.segment.load(&scratch.ip, &scratch.tcp, total - headers);
    scratch.segment.options.places = Default::default();
    let length = header - 20;
    if length != 0 {
        if !skb.load_up_to_64(tcp_at + 20, length, &mut scratch.options) {
            return Err(PacketCounter::DropMalformed);
        }
        for at in 0..OPTIONS_MAX {
            if !skb::opaque(&mut scratch.segment.options.places).step(&scratch.options, length, at) {
                break;
            }
        }
        let scratch = skb::opaque(scratch);
        scratch.segment.options.load(&scratch.options);
    }
    Ok(())
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
    }
    match verdict.action {
        Action::Pass => NEXT,
        Action::Drop => SHOT,
        Action::Divert => skb::redirect(settings.tun_ifindex),
        Action::Translate => {
            record.add_packets(1);
            record.add_bytes(u64::from(scratch.segment.payload));
            match direction {
                Direction::FromClient => skb::redirect_to_neighbour(scratch.record.out_ifindex),
                Direction::ToClient => NEXT,
            }
        }
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
    if account.state != 0 {
        record.store_state(account.state);
    }
    if account.noted != 0 {
        record.store_note_ack(account.note_ack);
        record.store_note_window(account.note_window);
        record.store_note_tsval(account.note_tsval);
        record.store_note_seq_end(account.note_seq_end);
        record.store_note_flags(scratch.record.note_flags | account.note_flags);
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
fn store_ip(skb: Skb, source: IpWords, destination: IpWords, scratch: &Scratch) -> bool {
    let patch = &scratch.patch;
    if skb.protocol() == ETHERTYPE_IPV4 {
        let third = scratch.ipv4.third_word(patch.ttl, patch.header_checksum);
        return skb.store(ETHERNET + 8, &[third, source.v4_word(), destination.v4_word()]);
    }
    let second = scratch.ipv6.second_word(patch.ttl);
    let ([a, b, c, d], [e, f, g, h]) = (source.0, destination.0);
    skb.store_summed(ETHERNET + 4, &[second, a, b, c, d, e, f, g, h])
}
