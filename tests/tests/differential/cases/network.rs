//! Cases of the network layer: extension headers, ICMP errors, addresses that are none.

use super::{Expected, Version, ends, error, frame, record, timestamps};
use crate::errors::Error;
use crate::host::NOW;
use crate::packet::Frame;
use crate::{Case, Hook};
use baton_shared::addr::PortWord;
use baton_shared::reason::PacketCounter as C;
use baton_shared::record::{FlowRecord, FlowState};
use std::net::SocketAddr;

/// What only IPv6 has: extension headers.
pub(super) fn extension_entries() -> Vec<(Expected, Case)> {
    use Hook::{Egress, Ingress};
    /// Kind and bytes without the next header.
    type Chain = Vec<(u8, Vec<u8>)>;
    // Length fields count 8 bytes beyond the first.
    let options = |more: u8| {
        let mut bytes = vec![more, 1, 4 + 8 * more.min(31)];
        bytes.resize(7 + 8 * usize::from(more), 0);
        bytes
    };
    let routing = |left: u8| vec![0, 4, left, 0, 0, 0, 0];
    let whole = vec![0, 0, 0, 0, 0, 0, 9];
    let chains: Vec<(&str, Chain, &[C])> = vec![
        ("hop-by-hop options", vec![(0, options(0))], &[C::Translated]),
        ("destination options of the largest size", vec![(60, options(255))], &[C::Translated]),
        ("a routing header at its end", vec![(43, routing(0))], &[C::Translated]),
        ("a routing header on its way", vec![(43, routing(1))], &[]),
        ("a fragment header on a whole packet", vec![(44, whole.clone())], &[C::Translated]),
        (
            "all of them",
            vec![(0, options(1)), (60, options(2)), (43, routing(0)), (44, whole), (60, options(3))],
            &[C::Translated],
        ),
        (
            "a first fragment behind options",
            vec![(0, options(0)), (44, vec![0, 0, 1, 0, 0, 0, 1]), (60, options(0))],
            &[C::DropFragment],
        ),
        ("eight", vec![(60, options(0)); 8], &[C::Translated]),
        ("authentication", vec![(51, options(1))], &[]),
        ("encapsulated", vec![(50, options(0))], &[]),
        ("an unknown one", vec![(253, options(0))], &[]),
        ("nothing behind it", vec![(59, options(0))], &[]),
    ];
    let mut all = Vec::new();
    for hook in [Ingress, Egress] {
        let mut add = |name: &str, counters: &[C], chain: &Chain, change: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = frame(hook, Version::V6).options(&timestamps(7, 8));
            chain.iter().for_each(|(kind, bytes)| frame.extension(*kind, bytes.clone()));
            let mut record = record(hook, Version::V6);
            (record.seq_delta, record.ack_delta, record.tsval_delta) = (3, 0x1000, 5);
            let mut frame = frame.bytes();
            change(&mut frame);
            let case = Case::new(format!("IPv6: {name}"), hook, record, frame);
            all.push((Expected(case.name.clone(), counters.to_vec()), case));
        };
        for (name, chain, counters) in &chains {
            add(name, counters, chain, &|_| {});
        }
        let drops: &[C] = if hook == Ingress { &[C::DropExtensions] } else { &[] };
        add("nine", drops, &vec![(60, options(0)); 9], &|_| {});
        add("an extension header past the end", &[], &vec![(60, options(0))], &|b| b[55] = 255);
        add("cut short in an extension header", &[], &vec![(60, options(0))], &|b| b.truncate(61));
        let first: Chain = vec![(44, vec![0, 0, 1, 0, 0, 0, 1]), (60, options(1))];
        add("a first fragment that ends in an extension header", drops, &first, &|b| b.truncate(68));
        add("a first fragment that ends behind an extension header", drops, &first, &|b| b.truncate(78));
        add("a first fragment that ends in the ports", drops, &first, &|b| b.truncate(81));
        add("a first fragment that ends behind the ports", &[C::DropFragment], &first, &|b| b.truncate(82));
        add("another version", &[], &vec![], &|b| b[14] = 0x45);
    }
    all
}

/// Fragments behind a first one that was dropped, just now or long ago.
pub(super) fn fragment_entries(version: Version) -> Vec<(Expected, Case)> {
    let mut all = Vec::new();
    for hook in [Hook::Ingress, Hook::Egress] {
        let mut add = |name: &str, counters: &[C], then, change: &dyn Fn(&mut FlowRecord, &mut Frame)| {
            let (mut record, mut frame) = (record(hook, version), frame(hook, version));
            change(&mut record, &mut frame);
            let plain = Case::new(format!("fragments: {name}"), hook, record, frame.bytes());
            let case = Case { dropped_first: Some(then), ..plain };
            all.push((Expected(case.name.clone(), counters.to_vec()), case));
        };
        let drops = &[C::DropFragment][..];
        add("one in the middle", drops, NOW, &|_, f| f.fragment(3, true));
        add("the last one", drops, NOW, &|_, f| f.fragment(0x1fff, false));
        add("one that comes much later", &[], 0, &|_, f| f.fragment(4, false));
        add("one behind options", drops, NOW, &|_, f| {
            f.ip_options(&[7, 7, 4, 0, 0, 0, 0, 0]);
            f.extension(60, vec![0; 7]);
            f.fragment(5, true);
        });
        if version == Version::V6 {
            add("the packet's protocol stands in the first one alone", drops, NOW, &|_, f| {
                f.fragment(6, true);
                f.protocol(17);
            });
        }
        add("the first one again", drops, 0, &|_, f| f.fragment(0, true));
        // The sender uses an identification again: those behind this one are to pass.
        add("the first one of another flow", &[], NOW, &|r, f| {
            r.key.remote_port = PortWord::new(1);
            f.fragment(0, true);
        });
        add("the first one of a flow that is gone", &[], NOW, &|r, f| {
            r.state = FlowState::Free as u32;
            f.fragment(0, true);
        });
        add("a whole packet is none of them", &[C::Translated], NOW, &|_, _| {});
    }
    let mut error = error(version);
    error.fragment = Some((7, false));
    let name = "fragments: of an ICMP error";
    let case = Case::new(name, Hook::Ingress, record(Hook::Ingress, version), error.bytes());
    all.push((Expected(name.into(), vec![C::DropFragment]), Case { dropped_first: Some(NOW), ..case }));
    all
}

/// ICMP errors.
pub(super) fn error_entries(version: Version) -> Vec<(Expected, Case)> {
    let v4 = version == Version::V4;
    let mut all = Vec::new();
    let mut add = |name: &str, counters: &[C], change: &dyn Fn(&mut FlowRecord, &mut Error)| {
        let (hook, mut record, mut error) = (Hook::Ingress, record(Hook::Ingress, version), error(version));
        record.ack_delta = 0xffff_ff00;
        change(&mut record, &mut error);
        let case = Case::new(format!("ICMP: {name}"), hook, record, error.bytes());
        all.push((Expected(case.name.clone(), counters.to_vec()), case));
    };
    let translated = &[C::IcmpTranslated][..];
    let header_bytes = if v4 { 20 } else { 40 };
    add("too big", translated, &|_, _| {});
    let kinds: &[u8] = if v4 { &[3, 11, 12] } else { &[1, 2, 3, 4] };
    for kind in 0..=u8::MAX {
        let counters = if kinds.contains(&kind) { translated } else { &[] };
        add(&format!("type {kind}"), counters, &|_, e| e.header[0] = kind);
    }
    for (state, counters) in [
        (FlowState::Free, &[][..]),
        (FlowState::Frozen, &[]),
        (FlowState::Ended, translated),
        (FlowState::Replaying, &[]),
        (FlowState::Fenced, &[]),
        (FlowState::Superseded, &[]),
    ] {
        add(state.name(), counters, &|r, _| r.state = state as u32);
    }
    add("a number that wraps", translated, &|r, e| {
        (r.ack_delta, e.about.tcp.sequence_number) = (0x8000_0005, 0x7fff_ffff);
    });
    add("an odd number of bytes", translated, &|_, e| e.quoted = 201);
    add("a quote of the least size", translated, &|_, e| e.quoted = header_bytes + 8);
    add("padding behind the least quote", translated, &|_, e| {
        (e.quoted, e.padding) = (header_bytes + 8, 20);
    });
    add("a quote that ends in the sequence number", &[], &|_, e| e.quoted = header_bytes + 7);
    add("the same with padding behind it", &[C::DropIcmpMalformed], &|_, e| {
        (e.quoted, e.padding) = (header_bytes + 7, 20);
    });
    add("one hop left", &[C::DropTtlExpired], &|_, e| e.hops = 1);
    add("two hops left", translated, &|_, e| e.hops = 2);
    add("a first fragment", &[C::DropFragment], &|_, e| e.fragment = Some((0, true)));
    add("a later fragment", &[], &|_, e| e.fragment = Some((5, false)));
    add("about another port", &[], &|r, _| r.key.remote_port = PortWord::new(1));
    add("about another protocol", &[], &|_, e| e.about.protocol(17));
    add("about a later fragment", &[], &|_, e| e.about.fragment(9, true));
    // Routers fragment IPv4 only.
    add("about a first fragment", if v4 { translated } else { &[] }, &|_, e| e.about.fragment(0, true));
    if v4 {
        add("about a packet with IP options", translated, &|_, e| e.about.ip_options(&[1; 40]));
    } else {
        add("behind extension headers", translated, &|_, e| {
            e.extensions = vec![(0, vec![0; 7]), (60, vec![0; 7])];
        });
        add("about a packet with extension headers", &[], &|_, e| e.about.extension(60, vec![0; 7]));
    }
    add("of the other family's protocol number", &[], &|_, e| e.protocol = if v4 { 58 } else { 1 });
    // Not sent to the address it is about.
    let mut error = error(version);
    let [client, vip, _] = ends(version);
    error.about = Frame::new(vip, client);
    error.to = Some(client.ip());
    let (hook, record, name) =
        (Hook::Ingress, record(Hook::Ingress, version), "ICMP: sent to another address");
    let case = Case::new(name, hook, record, error.bytes());
    all.push((Expected(name.into(), Vec::new()), case.clone()));
    // The target's egress does not look at them.
    let name = "ICMP: on the target's egress";
    let case = Case { name: name.into(), hook: Hook::Egress, ..case };
    all.push((Expected(name.into(), Vec::new()), case));
    all
}

/// An IPv6 packet whose addresses look like an IPv4 flow's.
pub(super) fn mapped_entry() -> (Expected, Case) {
    let mapped = |end: SocketAddr| {
        let std::net::IpAddr::V4(v4) = end.ip() else { panic!("{end}") };
        SocketAddr::new(v4.to_ipv6_mapped().into(), end.port())
    };
    let [client, vip, _] = ends(Version::V4);
    let frame = Frame::new(mapped(client), mapped(vip)).bytes();
    let (hook, name) = (Hook::Ingress, "v4-mapped addresses on the wire");
    let record = record(hook, Version::V4);
    (Expected(name.into(), Vec::new()), Case::new(name, hook, record, frame))
}
