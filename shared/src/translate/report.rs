//! ICMP errors about what the target sent in the VIP's name. Routers address them to the VIP, so they arrive at the
//! intermediate; the connection they are about lives on the target.
//!
//! The packet quoted inside becomes the one the server's kernel sent (its address, port and sequence number), the
//! packet around it goes from the VIP to the target: with the router's own address as its source, the target's or
//! the router's reverse-path filter would take it for a martian.
//!
//! **Forged errors** (RFC 5927). A stack acts on an error only if the quoted sequence number is in flight
//! (`tcp_v4_err()`, `tcp_v6_err()`: between `snd_una` and `snd_nxt`). The intermediate knows neither, since what the
//! server sends never passes it, and does not guess: it translates the quoted number as it translates an
//! acknowledgement, so a number out of the client's window is out of the server's by as much, and the server's
//! kernel ignores it as it would have without a migration.
//!
//! Of the quoted TCP header only ports and sequence number change: no stack reads more, and its checksum covers a
//! payload that is not quoted, so nobody can check it.

use super::{Action, Verdict};
use crate::addr::IpWords;
use crate::reason::PacketCounter;
use crate::record::{FlowKey, FlowRecord, FlowState};
use crate::wire::{Fragment, HeaderChecksum, PROTOCOL_TCP, Report, Sum, TcpWords};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// New values of an ICMP error's headers, memory order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ReportPatch {
    /// The outer source: the VIP.
    pub source: IpWords,
    /// The outer destination, and the quoted source: the server's address.
    pub server: IpWords,
    /// The quoted ports.
    pub ports: u32,
    /// The quoted sequence number.
    pub seq: u32,
    /// IPv4: the outer header's checksum.
    pub outer_checksum: HeaderChecksum,
    /// IPv4: the quoted header's checksum.
    pub quoted_checksum: HeaderChecksum,
    /// The ICMP message's checksum.
    pub icmp_checksum: HeaderChecksum,
    /// The outer time to live or hop limit.
    pub ttl: u8,
    /// Explicit padding.
    pub reserved: u8,
}

/// The key of the flow that an error on the intermediate's ingress can be about: if it quotes a TCP segment from the
/// address to which it was sent itself.
#[inline(always)]
pub fn reported_flow(report: &Report, key: &mut FlowKey) -> bool {
    let quoted = &report.quoted;
    if quoted.protocol != PROTOCOL_TCP
        || matches!(quoted.fragment(), Fragment::Later)
        || report.outer.destination != quoted.source
    {
        return false;
    }
    key.remote = quoted.destination;
    key.local = quoted.source;
    key.remote_port = report.tcp.destination();
    key.local_port = report.tcp.source();
    true
}

/// What to do with an error about a known flow; `there` is how many bytes of the packet there are.
///
/// Before the commit the connection is the ordinary stack's, and so are its errors. An error that cannot be
/// translated is dropped: nothing on the intermediate could make use of it.
#[inline(always)]
pub fn judge_report(record: &FlowRecord, report: &Report, there: u32) -> Verdict {
    match FlowState::from_raw(record.state) {
        FlowState::Committed | FlowState::Ended => {}
        _ => return Verdict { action: Action::Pass, counter: None },
    }
    let (action, counter) = if !matches!(report.outer.fragment(), Fragment::No) {
        (Action::Drop, PacketCounter::DropFragment)
    } else if report.bytes() > report.outer.total || report.outer.total > there {
        (Action::Drop, PacketCounter::DropIcmpMalformed)
    } else if report.outer.ttl <= 1 {
        (Action::Drop, PacketCounter::DropTtlExpired)
    } else {
        (Action::Translate, PacketCounter::IcmpTranslated)
    };
    Verdict { action, counter: Some(counter) }
}

/// Fills in the patch, where the judge said [`Action::Translate`].
#[inline(always)]
pub fn translate_report(record: &FlowRecord, report: &Report, patch: &mut ReportPatch) {
    let (vip, server) = (record.key.local, record.new_addr);
    let outer = &report.outer;
    patch.source = vip;
    patch.server = server;
    patch.ports = TcpWords::port_word(record.new_port, record.key.remote_port);
    // What the client acknowledges and what the server sent count the same bytes.
    patch.seq = report.tcp.seq().wrapping_add(record.ack_delta).to_be();
    patch.ttl = outer.ttl.wrapping_sub(1);

    let mut from_vip_to_server = Sum::ZERO;
    let mut from_router_to_vip = Sum::ZERO;
    for (old, new) in vip.0.iter().zip(server.0) {
        from_vip_to_server = from_vip_to_server.replaced(*old, new);
    }
    for (old, new) in outer.source.0.iter().zip(vip.0) {
        from_router_to_vip = from_router_to_vip.replaced(*old, new);
    }
    let outer_addresses = from_vip_to_server.plus(from_router_to_vip);
    let hops = u16::from_ne_bytes([outer.ttl, 0]);
    let fewer = u16::from_ne_bytes([patch.ttl, 0]);
    patch.outer_checksum = outer.header_checksum.changed(outer_addresses.replaced16(hops, fewer));

    let segment = Sum::ZERO.replaced(report.tcp.0[0], patch.ports).replaced(report.tcp.0[1], patch.seq);
    // ICMPv6's own checksum covers the outer addresses too (RFC 4443, section 2.3).
    patch.quoted_checksum = report.quoted.header_checksum.changed(from_vip_to_server);
    let message = if server.is_v4() {
        segment.plus(from_vip_to_server).replaced16(report.quoted.header_checksum.0, patch.quoted_checksum.0)
    } else {
        segment.plus(from_vip_to_server).plus(outer_addresses)
    };
    patch.icmp_checksum = report.icmp.checksum().changed(message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortWord;
    use crate::wire::{IcmpWords, IpFacts, QuotedTcp};
    use etherparse::checksum::Sum16BitWords;
    use proptest::prelude::*;

    fn address(v4: bool) -> BoxedStrategy<IpWords> {
        if v4 {
            any::<u32>().prop_map(IpWords::from_v4_word).boxed()
        } else {
            any::<[u32; 4]>().prop_map(IpWords).boxed()
        }
    }

    prop_compose! {
        fn record(v4: bool)(ends in [address(v4), address(v4), address(v4)], ports in any::<[u16; 3]>(),
                            ack_delta in any::<u32>()) -> FlowRecord {
            let [remote, local, new_addr] = ends;
            let [remote_port, local_port, new_port] = ports.map(PortWord);
            FlowRecord {
                key: FlowKey { remote, local, remote_port, local_port },
                new_addr, new_port, ack_delta,
                state: FlowState::Committed as u32,
                ..FlowRecord::default()
            }
        }
    }

    prop_compose! {
        fn report(v4: bool)(record in record(v4), router in address(v4), seq in any::<u32>(), icmp in any::<[u32; 2]>(),
                            sums in any::<[u16; 2]>(), ttl in 2u8..) -> (FlowRecord, Report) {
            let key = record.key;
            let mut outer = IpFacts::default();
            (outer.source, outer.destination) = (router, key.local);
            (outer.ttl, outer.upper_at, outer.total) = (ttl, 20, 1000);
            outer.header_checksum = HeaderChecksum(sums[0]);
            let mut quoted = IpFacts::default();
            (quoted.source, quoted.destination) = (key.local, key.remote);
            (quoted.protocol, quoted.upper_at) = (PROTOCOL_TCP, 20);
            quoted.header_checksum = HeaderChecksum(sums[1]);
            let tcp = QuotedTcp([TcpWords::port_word(key.local_port, key.remote_port), seq.to_be()]);
            (record, Report { outer, quoted, icmp: IcmpWords(icmp), tcp })
        }
    }

    fn either() -> impl Strategy<Value = (FlowRecord, Report)> {
        any::<bool>().prop_flat_map(report)
    }

    /// The report as it arrives at the target.
    fn arrived(report: &Report, patch: &ReportPatch) -> Report {
        let mut arrived = *report;
        (arrived.outer.source, arrived.outer.destination) = (patch.source, patch.server);
        (arrived.outer.ttl, arrived.outer.header_checksum) = (patch.ttl, patch.outer_checksum);
        (arrived.quoted.source, arrived.quoted.header_checksum) = (patch.server, patch.quoted_checksum);
        arrived.tcp = QuotedTcp([patch.ports, patch.seq]);
        let [a, b, ..] = report.icmp.0[0].to_ne_bytes();
        let [c, d] = patch.icmp_checksum.0.to_ne_bytes();
        arrived.icmp.0[0] = u32::from_ne_bytes([a, b, c, d]);
        arrived
    }

    /// What a checksum over all of these must come to: nothing that changed may change the sum.
    fn sums(report: &Report, v4: bool) -> [u16; 3] {
        let addresses = |sum: Sum16BitWords, ip: &IpFacts| {
            [ip.source, ip.destination]
                .iter()
                .flat_map(|a| a.0)
                .fold(sum, |mut s, w| s.add_4bytes(w.to_ne_bytes()))
        };
        let header = |ip: &IpFacts| {
            let sum = Sum16BitWords::new().add_2bytes([ip.ttl, 0]);
            addresses(sum, ip).add_2bytes(ip.header_checksum.0.to_ne_bytes())
        };
        let words = [report.icmp.0, report.tcp.0].concat();
        let mut message = words.iter().fold(Sum16BitWords::new(), |mut s, w| s.add_4bytes(w.to_ne_bytes()));
        message = addresses(message, &report.quoted);
        message = if v4 {
            message.add_2bytes(report.quoted.header_checksum.0.to_ne_bytes())
        } else {
            addresses(message, &report.outer)
        };
        [header(&report.outer), header(&report.quoted), message].map(|s| s.ones_complement())
    }

    proptest! {
        #[test]
        fn what_was_right_stays_right((record, report) in either()) {
            let v4 = record.new_addr.is_v4();
            let mut patch = ReportPatch::default();
            translate_report(&record, &report, &mut patch);
            let (before, after) = (sums(&report, v4), sums(&arrived(&report, &patch), v4));
            for (i, (a, b)) in before.iter().zip(after).enumerate() {
                // IPv6 headers have no checksums.
                let same = *a == b || (a.is_multiple_of(0xffff) && b.is_multiple_of(0xffff));
                prop_assert!(same || (!v4 && i < 2), "{i}: {a:x} {b:x}");
            }
        }

        #[test]
        fn the_server_finds_its_own_packet((record, report) in either()) {
            let mut key = FlowKey::default();
            prop_assert!(reported_flow(&report, &mut key));
            prop_assert_eq!(key, record.key);
            let mut patch = ReportPatch::default();
            translate_report(&record, &report, &mut patch);
            let arrived = arrived(&report, &patch);
            prop_assert!(reported_flow(&arrived, &mut key));
            let server = FlowKey { local: record.new_addr, local_port: record.new_port, ..record.key };
            prop_assert_eq!(key, server);
            // The server sent this number, of which the target's egress made the one that was quoted.
            let sent = crate::wire::Segment { seq: arrived.tcp.seq(), ..Default::default() };
            let egress = FlowRecord { key: server, seq_delta: record.ack_delta.wrapping_neg(), ..FlowRecord::default() };
            let mut out = crate::translate::Patch::default();
            crate::translate::translate(&egress, &sent, crate::translate::Direction::ToClient, &mut out);
            prop_assert_eq!(out.seq, report.tcp.seq());
        }

        #[test]
        fn other_states_leave_errors_alone((record, report) in either(), state in any::<u32>(), there in any::<u32>()) {
            let record = FlowRecord { state, ..record };
            let verdict = judge_report(&record, &report, there);
            let ours = matches!(FlowState::from_raw(state), FlowState::Committed | FlowState::Ended);
            prop_assert_eq!(verdict.action == Action::Pass, !ours);
            prop_assert_eq!(verdict.counter.is_some(), ours);
        }
    }
}
