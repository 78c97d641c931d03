//! ICMP errors: built, and translated on the host, by etherparse.

use crate::host::Ip;
use crate::packet::Frame;
use crate::{Case, Hook, Outcome};
use baton_shared::record::FlowKey;
use baton_shared::translate::{Action, ReportPatch, judge_report, reported_flow, translate_report};
use baton_shared::wire::{Fragment, HeaderChecksum, IcmpWords, IpFacts, QuotedTcp, Report};
use etherparse::{Icmpv6Header, Icmpv6Type, Ipv4Header, Ipv6Header, checksum};
use std::net::{IpAddr, SocketAddr};

/// An error of a router about a packet.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    pub(crate) router: SocketAddr,
    /// Type, code, and the four bytes behind the checksum.
    pub(crate) header: [u8; 6],
    /// The packet it is about.
    pub(crate) about: Frame,
    /// How many of its bytes are quoted.
    pub(crate) quoted: usize,
    pub(crate) hops: u8,
    pub(crate) padding: usize,
    pub(crate) fragment: Option<(u16, bool)>,
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    /// ICMP's number of the version.
    pub(crate) protocol: u8,
    /// Where it is sent, if not to the source of what it is about.
    pub(crate) to: Option<IpAddr>,
}

impl Error {
    /// A plain one, to the source of what it is about: "fragmentation needed" or "packet too big", MTU 1400.
    pub(crate) fn new(router: SocketAddr, about: Frame) -> Self {
        let header = if router.is_ipv4() { [3, 4, 0, 0, 5, 0x78] } else { [2, 0, 0, 0, 5, 0x78] };
        Error {
            router,
            header,
            about,
            quoted: 200,
            hops: 64,
            padding: 0,
            fragment: None,
            extensions: Vec::new(),
            protocol: if router.is_ipv4() { 1 } else { 58 },
            to: None,
        }
    }

    /// The frame, all lengths and checksums right.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let about = self.about.bytes();
        let about = &about[14..];
        let h = self.header;
        let mut message = vec![h[0], h[1], 0, 0, h[2], h[3], h[4], h[5]];
        message.extend_from_slice(&about[..self.quoted.min(about.len())]);
        // A frame of the same addresses, whose TCP header and payload the message replaces.
        let from = match self.router {
            SocketAddr::V4(_) => <[u8; 4]>::try_from(&about[12..16]).unwrap().into(),
            SocketAddr::V6(_) => <[u8; 16]>::try_from(&about[8..24]).unwrap().into(),
        };
        let to = self.to.unwrap_or(from);
        let mut frame = Frame::new(self.router, SocketAddr::new(to, 0));
        frame.payload = vec![0; message.len().saturating_sub(20)];
        frame.ttl(self.hops);
        self.extensions.iter().for_each(|(kind, bytes)| frame.extension(*kind, bytes.clone()));
        if let Some((offset, more)) = self.fragment {
            frame.fragment(offset, more);
        }
        frame.protocol(self.protocol);
        let sum = match (self.router.ip(), to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => checksum_v6(from.octets(), to.octets(), &message),
            _ => checksum_v4(&message),
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let at = usize::try_from(frame.tcp_at()).unwrap();
        let mut bytes = frame.bytes();
        bytes.truncate(at);
        bytes.append(&mut message);
        bytes.resize(bytes.len() + self.padding, 0xee);
        bytes
    }
}

fn checksum_v4(message: &[u8]) -> u16 {
    checksum::Sum16BitWords::new().add_slice(message).ones_complement().to_be()
}

fn checksum_v6(source: [u8; 16], destination: [u8; 16], message: &[u8]) -> u16 {
    // Of any type: etherparse adds the header's own words from it.
    let kind = Icmpv6Type::Unknown {
        type_u8: message[0],
        code_u8: message[1],
        bytes5to8: message[4..8].try_into().unwrap(),
    };
    Icmpv6Header::with_checksum(kind, source, destination, &message[8..]).unwrap().checksum
}

fn facts(ip: &Ip) -> IpFacts {
    let mut facts = IpFacts::default();
    (facts.source, facts.destination) = (ip.source.into(), ip.destination.into());
    facts.upper_at = u32::try_from(ip.upper_at).unwrap();
    facts.total = u32::try_from(ip.total).unwrap();
    (facts.ttl, facts.protocol) = (ip.hops, ip.protocol);
    facts.identification = ip.identification;
    facts.header_checksum = HeaderChecksum(ip.header_checksum.to_be());
    facts.set_fragment(match (ip.later_fragment, ip.more_fragments) {
        (true, _) => Fragment::Later,
        (false, true) => Fragment::First,
        _ => Fragment::No,
    });
    facts
}

/// The quoted header, whatever it says of lengths; of IPv6 without a walk.
fn read_quoted(v4: bool, quoted: &[u8]) -> Option<Ip> {
    if v4 {
        let header: [u8; 20] = quoted.get(..20)?.try_into().unwrap();
        if header[0] >> 4 != 4 || header[0] & 15 < 5 {
            return None;
        }
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let address = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).unwrap().into();
        return Some(Ip {
            source: address(12),
            destination: address(16),
            hops: header[8],
            header_checksum: word(10),
            protocol: header[9],
            upper_at: usize::from(header[0] & 15) * 4,
            total: word(2).into(),
            later_fragment: word(6) & 0x1fff != 0,
            more_fragments: word(6) & 0x2000 != 0,
            may_fragment: false,
            identification: 0,
        });
    }
    let (header, _) = Ipv6Header::from_slice(quoted).ok()?;
    let (source, destination) = (header.source_addr(), header.destination_addr());
    if source.to_ipv4_mapped().is_some() || destination.to_ipv4_mapped().is_some() {
        return None;
    }
    Some(Ip {
        source: source.into(),
        destination: destination.into(),
        hops: header.hop_limit,
        header_checksum: 0,
        protocol: header.next_header.0,
        upper_at: 40,
        total: 0,
        later_fragment: false,
        more_fragments: false,
        may_fragment: false,
        identification: 0,
    })
}

/// What becomes of an ICMP packet on the intermediate; `None`: it is none of ours.
pub(crate) fn run(case: &Case, ip: &Ip, untouched: &Outcome) -> Option<Outcome> {
    let packet = &case.frame[14..];
    let v4 = ip.source.is_ipv4();
    let icmp: [u8; 8] = packet.get(ip.upper_at..ip.upper_at + 8)?.try_into().unwrap();
    let errors: &[u8] = if v4 { &[3, 11, 12] } else { &[1, 2, 3, 4] };
    if !errors.contains(&icmp[0]) {
        return None;
    }
    let quoted_at = ip.upper_at + 8;
    let quoted = read_quoted(v4, packet.get(quoted_at..)?)?;
    let tcp_at = quoted_at + quoted.upper_at;
    let tcp: [u8; 8] = packet.get(tcp_at..tcp_at + 8)?.try_into().unwrap();
    let report = Report {
        outer: facts(ip),
        quoted: facts(&quoted),
        icmp: IcmpWords(zerocopy::transmute!(icmp)),
        tcp: QuotedTcp(zerocopy::transmute!(tcp)),
    };
    let mut key = FlowKey::default();
    if !reported_flow(&report, &mut key) || key != case.record.key {
        return None;
    }
    let verdict = judge_report(&case.record, &report, u32::try_from(packet.len()).unwrap());
    let mut outcome = untouched.clone();
    if let Some(counter) = verdict.counter {
        outcome.counters[counter.code() as usize] = 1;
        outcome.verdict = 2;
        outcome.remembered = ip.more_fragments;
    }
    if verdict.action == Action::Translate {
        outcome.verdict = 7;
        let mut patch = ReportPatch::default();
        translate_report(&case.record, &report, &mut patch);
        write(&mut outcome.frame[14..], ip, quoted_at, tcp_at, &patch);
    }
    Some(outcome)
}

/// Writes the patch's addresses, ports and number, and every checksum from nothing.
fn write(packet: &mut [u8], ip: &Ip, quoted_at: usize, tcp_at: usize, patch: &ReportPatch) {
    packet[tcp_at..tcp_at + 4].copy_from_slice(&patch.ports.to_ne_bytes());
    packet[tcp_at + 4..tcp_at + 8].copy_from_slice(&patch.seq.to_ne_bytes());
    let (vip, server) = (IpAddr::from(patch.source), IpAddr::from(patch.server));
    match (vip, server) {
        (IpAddr::V4(vip), IpAddr::V4(server)) => {
            packet[quoted_at + 12..quoted_at + 16].copy_from_slice(&server.octets());
            packet[quoted_at + 10..quoted_at + 12].fill(0);
            let sum = checksum_v4(&packet[quoted_at..tcp_at]);
            packet[quoted_at + 10..quoted_at + 12].copy_from_slice(&sum.to_be_bytes());
            let (mut outer, _) = Ipv4Header::from_slice(packet).unwrap();
            (outer.source, outer.destination) = (vip.octets(), server.octets());
            outer.time_to_live = patch.ttl;
            outer.header_checksum = outer.calc_header_checksum();
            packet[..outer.header_len()].copy_from_slice(&outer.to_bytes());
            let message = &mut packet[ip.upper_at..ip.total];
            message[2..4].fill(0);
            let sum = checksum_v4(message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(vip), IpAddr::V6(server)) => {
            packet[quoted_at + 8..quoted_at + 24].copy_from_slice(&server.octets());
            let (mut outer, _) = Ipv6Header::from_slice(packet).unwrap();
            (outer.source, outer.destination) = (vip.octets(), server.octets());
            outer.hop_limit = patch.ttl;
            packet[..40].copy_from_slice(&outer.to_bytes());
            let message = &mut packet[ip.upper_at..ip.total];
            let sum = checksum_v6(vip.octets(), server.octets(), message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        mixed => panic!("{mixed:?}"),
    }
}

/// Whether this case's packet can only be an ICMP error for the intermediate.
pub(crate) fn meant_for(hook: Hook, ip: &Ip) -> bool {
    let icmp = if ip.source.is_ipv4() { 1 } else { 58 };
    hook == Hook::Ingress && ip.protocol == icmp && !ip.later_fragment
}
