//! ICMP errors on the intermediate's ingress about what a target sent: on to the target.

use super::flow::find;
use super::{ETHERNET, ETHERTYPE_IPV4, NEXT, SHOT, fragments};
use crate::maps::{Scratch, count};
use crate::skb::{self, Skb};
use baton_shared::reason::PacketCounter;
use baton_shared::record::FlowRecord;
use baton_shared::translate::adopt::{judge_arrived_report, readdress_report};
use baton_shared::translate::{Action, ReportPatch, Verdict, judge_report, reported_flow, translate_report};
use baton_shared::wire::{Fragment, IpFacts, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Report};

/// Offset of the checksum in an ICMP header, bytes.
const ICMP_CHECKSUM: u32 = 2;
/// Of time to live, protocol and header checksum in an IPv4 header.
const IPV4_THIRD: u32 = 8;
/// Of payload length, next header and hop limit in an IPv6 header.
const IPV6_SECOND: u32 = 4;
/// Of the source address there.
const IPV6_SOURCE: u32 = 8;

/// Whether the packet is ICMP of its version of IP and not a later fragment.
#[inline(always)]
pub(super) fn may_be(skb: Skb, ip: &IpFacts) -> bool {
    let protocol = if skb.protocol() == ETHERTYPE_IPV4 { PROTOCOL_ICMP } else { PROTOCOL_ICMPV6 };
    ip.protocol == protocol && ip.fragment() != Fragment::Later
}

/// Judges one ICMP packet and does what the verdict says.
#[inline(always)]
pub(super) fn handle(skb: Skb, scratch: &mut Scratch) -> i32 {
    match carry(skb, scratch, judge_report, translate_report) {
        Ok(out_ifindex) => skb::redirect_to_neighbour(out_ifindex),
        Err(verdict) => verdict,
    }
}

/// On a target that adopts: an error about what a server sent, as the intermediate sends it on.
#[inline(always)]
pub(super) fn handle_adopted(skb: Skb, scratch: &mut Scratch) -> i32 {
    match carry(skb, scratch, judge_arrived_report, readdress_report) {
        Ok(_) => NEXT,
        Err(verdict) => verdict,
    }
}

/// Judges an error and rewrites it: the flow's device, or else what becomes of the packet. The flow's record stays as it
/// is: an error, which anybody can forge, is no sign of life.
#[inline(always)]
fn carry(
    skb: Skb,
    scratch: &mut Scratch,
    judge: impl FnOnce(&FlowRecord, &Report, u32) -> Verdict,
    rewrite: impl FnOnce(&FlowRecord, &Report, &mut ReportPatch),
) -> Result<u32, i32> {
    if !load(skb, scratch) {
        return Err(NEXT);
    }
    let scratch = skb::opaque(scratch);
    if !reported_flow(&scratch.report, &mut scratch.key) {
        return Err(NEXT);
    }
    let scratch = skb::opaque(scratch);
    if find(scratch).is_none() {
        return Err(NEXT);
    }
    let verdict = judge(&scratch.record, &scratch.report, skb.len() - ETHERNET);
    let Some(counter) = verdict.counter else { return Err(NEXT) };
    if verdict.action != Action::Translate {
        fragments::judged(scratch, verdict.action, skb::now_ns());
        count(counter.code());
        return Err(SHOT);
    }
    rewrite(&scratch.record, &scratch.report, &mut scratch.report_patch);
    let scratch = skb::opaque(scratch);
    if !store(skb, scratch) {
        count(PacketCounter::DropStoreFailed.code());
        return Err(SHOT);
    }
    count(counter.code());
    Ok(scratch.record.out_ifindex)
}

/// Loads an error and what it quotes; false if the packet is none, or quotes too little to find a flow by.
#[inline(always)]
fn load(skb: Skb, scratch: &mut Scratch) -> bool {
    let report = &mut scratch.report;
    report.outer = scratch.ip;
    let icmp_at = ETHERNET + report.outer.upper_at;
    if !skb.load(icmp_at, &mut report.icmp) {
        return false;
    }
    let quoted_at = ETHERNET + report.quoted_at();
    if skb.protocol() == ETHERTYPE_IPV4 {
        if !report.icmp.is_error_v4() || !skb.load(quoted_at, &mut scratch.quoted_ipv4) {
            return false;
        }
        if !scratch.quoted_ipv4.is_sane() {
            return false;
        }
        report.quoted.load_v4(&scratch.quoted_ipv4);
    } else {
        if !report.icmp.is_error_v6() || !skb.load(quoted_at, &mut scratch.quoted_ipv6) {
            return false;
        }
        if !scratch.quoted_ipv6.is_sane() {
            return false;
        }
        // Servers' kernels put no extension headers in front of TCP; behind one no TCP is found.
        report.quoted.load_v6(&scratch.quoted_ipv6);
    }
    let report = skb::opaque(report);
    skb.load(ETHERNET + report.tcp_at(), &mut report.tcp)
}

/// Writes the patch into the packet. Nobody left the ICMP checksum to be finished later, so it is stored as it is.
#[inline(always)]
fn store(skb: Skb, scratch: &Scratch) -> bool {
    let (report, patch) = (&scratch.report, &scratch.report_patch);
    let icmp_at = ETHERNET + report.outer.upper_at;
    let quoted_at = ETHERNET + report.quoted_at();
    let ips = if skb.protocol() == ETHERTYPE_IPV4 {
        let third = scratch.ipv4.third_word(patch.ttl, patch.outer_checksum);
        let outer = [third, patch.source.v4_word(), patch.server.v4_word()];
        let third = scratch.quoted_ipv4.third_word(report.quoted.ttl, patch.quoted_checksum);
        skb.store_summed(ETHERNET + IPV4_THIRD, &outer)
            && skb.store_summed(quoted_at + IPV4_THIRD, &[third, patch.server.v4_word()])
    } else {
        let second = scratch.ipv6.second_word(patch.ttl);
        let ([a, b, c, d], [e, f, g, h]) = (patch.source.0, patch.server.0);
        skb.store_summed(ETHERNET + IPV6_SECOND, &[second, a, b, c, d, e, f, g, h])
            && skb.store_summed(quoted_at + IPV6_SOURCE, &patch.server.0)
    };
    ips && skb.store_summed(icmp_at + ICMP_CHECKSUM, &patch.icmp_checksum.0)
        && skb.store_summed(ETHERNET + report.tcp_at(), &[patch.ports, patch.seq])
}
