//! ICMP errors on the intermediate about what a target sent, in the order of `ebpf/src/programs/report.rs`.

use crate::Flows;
use crate::packet::{first_fragment, octets, put};
use baton_shared::reason::PacketCounter;
use baton_shared::record::FlowKey;
use baton_shared::translate::{Action, ReportPatch, judge_report, reported_flow, translate_report};
use baton_shared::wire::{
    Fragment, IcmpWords, IpFacts, Ipv4Words, Ipv6Words, PROTOCOL_ICMP, PROTOCOL_ICMPV6, QuotedTcp, Report,
};
use zerocopy::FromBytes;

/// Whether the packet is ICMP of its version of IP and not a later fragment.
pub(crate) fn may_be(ip: &IpFacts) -> bool {
    let protocol = if ip.source.is_v4() { PROTOCOL_ICMP } else { PROTOCOL_ICMPV6 };
    ip.protocol == protocol && ip.fragment() != Fragment::Later
}

/// Judges one ICMP packet and rewrites it if the verdict says so. The flow's record stays as it is.
pub(crate) fn carry(flows: &impl Flows, ip: &IpFacts, packet: &mut [u8], now_ns: u64) -> Action {
    let Some(report) = load(ip, packet) else { return Action::Pass };
    let mut key = FlowKey::default();
    if !reported_flow(&report, &mut key) {
        return Action::Pass;
    }
    let Some((_, record)) = flows.find(&key) else { return Action::Pass };
    let verdict = judge_report(&record, &report, u32::try_from(packet.len()).unwrap_or(0));
    let Some(counter) = verdict.counter else { return Action::Pass };
    first_fragment(flows, ip, verdict.action, now_ns);
    if verdict.action == Action::Translate {
        let mut patch = ReportPatch::default();
        translate_report(&record, &report, &mut patch);
        if store(packet, &report, &patch).is_none() {
            flows.count(PacketCounter::DropStoreFailed.code());
            return Action::Drop;
        }
    }
    flows.count(counter.code());
    verdict.action
}

fn read<T: FromBytes>(packet: &[u8], at: u32) -> Option<T> {
    T::read_from_prefix(packet.get(at as usize..)?).ok().map(|(value, _)| value)
}

/// Loads an error and what it quotes; `None` if the packet is none, or quotes too little to find a flow by.
fn load(ip: &IpFacts, packet: &[u8]) -> Option<Report> {
    let mut report = Report { outer: *ip, icmp: read(packet, ip.upper_at)?, ..Report::default() };
    let quoted_at = ip.upper_at + IcmpWords::BYTES;
    if ip.source.is_v4() {
        let quoted: Ipv4Words = read(packet, quoted_at)?;
        if !report.icmp.is_error_v4() || !quoted.is_sane() {
            return None;
        }
        report.quoted.load_v4(&quoted);
    } else {
        let quoted: Ipv6Words = read(packet, quoted_at)?;
        if !report.icmp.is_error_v6() || !quoted.is_sane() {
            return None;
        }
        report.quoted.load_v6(&quoted);
    }
    report.tcp = read::<QuotedTcp>(packet, report.tcp_at())?;
    Some(report)
}

/// Writes the patch into the packet; `None` if it does not fit, which the facts loaded before rule out.
fn store(packet: &mut [u8], report: &Report, patch: &ReportPatch) -> Option<()> {
    let quoted_at = report.quoted_at() as usize;
    if report.outer.source.is_v4() {
        let (source, server) = (patch.source.v4_word().to_ne_bytes(), patch.server.v4_word().to_ne_bytes());
        put(packet, 8, [patch.ttl])?;
        put(packet, 10, patch.outer_checksum.0.to_ne_bytes())?;
        put(packet, 12, source)?;
        put(packet, 16, server)?;
        put(packet, quoted_at + 10, patch.quoted_checksum.0.to_ne_bytes())?;
        put(packet, quoted_at + 12, server)?;
    } else {
        put(packet, 7, [patch.ttl])?;
        put(packet, 8, octets(patch.source))?;
        put(packet, 24, octets(patch.server))?;
        put(packet, quoted_at + 8, octets(patch.server))?;
    }
    put(packet, report.outer.upper_at as usize + 2, patch.icmp_checksum.0.to_ne_bytes())?;
    put(packet, report.tcp_at() as usize, patch.ports.to_ne_bytes())?;
    put(packet, report.tcp_at() as usize + 4, patch.seq.to_ne_bytes())
}
