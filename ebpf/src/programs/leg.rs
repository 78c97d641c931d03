//! The leg from the intermediate to the target: into an outer header there, out of it here.

use super::flow::find;
use super::headers::{load_ip, load_key};
use super::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, NEXT, SHOT};
use crate::maps::{LEGS, SCRATCH, Scratch, count};
use crate::skb::{self, Skb, Wrapping};
use baton_shared::reason::PacketCounter;
use baton_shared::record::LegSettings;
use baton_shared::translate::{
    Direction, Leg, judge_inner, judge_outer, leg_of, outer_udp, outer_v4, outer_v6,
};
use baton_shared::wire::{Fragment, PROTOCOL_TCP};

/// Sends a translated packet to its target: the verdict to return.
#[inline(always)]
pub(super) fn send(skb: Skb, scratch: &mut Scratch) -> i32 {
    let leg = Leg::from_flags(scratch.record.flags);
    if leg != Leg::Rewrite {
        let wrapped = match LEGS.get(0) {
            Some(settings) => wrap(skb, leg, settings, scratch),
            None => false,
        };
        if !wrapped {
            count(PacketCounter::DropStoreFailed.code());
            return SHOT;
        }
    }
    skb::redirect_to_neighbour(scratch.record.out_ifindex)
}

#[inline(always)]
fn wrap(skb: Skb, leg: Leg, settings: &LegSettings, scratch: &Scratch) -> bool {
    let (record, v4) = (&scratch.record, skb.protocol() == ETHERTYPE_IPV4);
    let inner = match scratch.ip.total {
        0 => skb.len() - ETHERNET,
        total => total,
    };
    let udp = leg == Leg::Udp;
    if !skb.wrap(leg.overhead(v4), Wrapping { v4, udp }) {
        return false;
    }
    let key = &record.key;
    let (stored, udp_at) = if v4 {
        let header = outer_v4(leg, settings.source_v4, record.new_addr, scratch.ipv4.0[0], inner);
        (skb.store(ETHERNET, &header), ETHERNET + 20)
    } else {
        let (source, first) = (settings.source_v6, scratch.ipv6.0[0]);
        let header = outer_v6(leg, source, record.new_addr, first, key.remote_port, inner);
        (skb.store(ETHERNET, &header), ETHERNET + 40)
    };
    stored && (!udp || skb.store(udp_at, &outer_udp(key.remote, key.remote_port, inner)))
}

/// Takes a packet of an intermediate out of its outer header, if what is inside belongs to a flow of this host: the
/// verdict to return. All others are left as they came.
#[inline(always)]
pub(super) fn strip(skb: Skb) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: this CPU's element of the map; programs do not interrupt each other on one CPU.
    let scratch = unsafe { &mut *scratch };
    let Some(settings) = LEGS.get(0) else { return NEXT };
    let v4 = match skb.protocol() {
        ETHERTYPE_IPV4 => true,
        ETHERTYPE_IPV6 => false,
        _ => return NEXT,
    };
    if v4 {
        if !skb.load(ETHERNET, &mut scratch.ipv4) || !scratch.ipv4.is_sane() {
            return NEXT;
        }
        scratch.outer.load_v4(&scratch.ipv4);
    } else {
        if !skb.load(ETHERNET, &mut scratch.ipv6) || !scratch.ipv6.is_sane() {
            return NEXT;
        }
        scratch.outer.load_v6(&scratch.ipv6);
    }
    let scratch = skb::opaque(scratch);
    let leg = leg_of(&scratch.outer, v4);
    if leg == Leg::Rewrite {
        return NEXT;
    }
    let mut ports = 0u32;
    if leg == Leg::Udp && !skb.load(ETHERNET + if v4 { 20 } else { 40 }, &mut ports) {
        return NEXT;
    }
    if !judge_outer(settings, &scratch.outer, leg, ports) {
        return NEXT;
    }
    let bytes = leg.overhead(v4);
    if !is_of_a_flow(skb, ETHERNET + bytes, scratch) {
        count(PacketCounter::LegUnknown.code());
        return NEXT;
    }
    if !skb.unwrap(bytes) {
        count(PacketCounter::DropStoreFailed.code());
        return SHOT;
    }
    count(PacketCounter::LegStripped.code());
    NEXT
}

/// Whether a packet that stands at `ip_at` belongs to a flow of this host.
#[inline(always)]
fn is_of_a_flow(skb: Skb, ip_at: u32, scratch: &mut Scratch) -> bool {
    if load_ip(skb, ip_at, scratch).is_err() {
        return false;
    }
    let scratch = skb::opaque(scratch);
    if scratch.ip.protocol != PROTOCOL_TCP || scratch.ip.fragment() == Fragment::Later {
        return false;
    }
    // As the client's packets are seen: it is the source.
    if !load_key(skb, Direction::FromClient, ip_at + scratch.ip.upper_at, scratch) {
        return false;
    }
    find(scratch).is_some() && judge_inner(&scratch.record, &scratch.outer)
}
