//! `shared`'s verdict carried out on the host: etherparse takes the packet apart and computes the checksums anew.

use crate::bench::RULING;
use crate::{Case, Hook, Outcome, errors};
use baton_shared::addr::{IpWords, PortWord};
use baton_shared::plain::is_plain;
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, FlowRecord};
use baton_shared::translate::fragments::{FragmentKey, judge_later_fragment};
use baton_shared::translate::{
    Action, Direction, Patch, Verdict, judge_egress, judge_ingress, judge_plain, judge_response,
    judge_unreadable, may_be_plain, translate,
};
use baton_shared::wire::{HeaderChecksum, OPTION_BUFFER, Segment};
use etherparse::{Ipv4Header, Ipv6Header, TcpHeader};
use std::net::{IpAddr, Ipv6Addr};

/// Any time: the cases' deadlines are far before or after it.
pub(crate) const NOW: u64 = 1 << 62;

pub(crate) fn run(case: &Case) -> Outcome {
    let untouched = Outcome {
        verdict: -1,
        frame: case.frame.clone(),
        counters: vec![0; PacketCounter::CAPACITY as usize],
        record: FlowRecord { last_seen_ns: 0, ..case.record },
        remembered: case.dropped_first.is_some() && fragment_key(&case.frame).is_some(),
        copied: None,
        closes: false,
    };
    try_run(case, &untouched).unwrap_or(untouched)
}

/// An IP header of either version, and what stands between it and TCP, as this reference reads it.
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hops: u8,
    pub(crate) header_checksum: u16,
    pub(crate) protocol: u8,
    /// Of TCP or ICMP in the packet.
    pub(crate) upper_at: usize,
    pub(crate) total: usize,
    pub(crate) later_fragment: bool,
    pub(crate) more_fragments: bool,
    pub(crate) may_fragment: bool,
    /// Of IPv6 that of the fragment header.
    pub(crate) identification: u32,
}

/// `Err(true)`: more extension headers than are walked, or a first fragment that ends within them.
fn read_ip(ether_type: &[u8], packet: &[u8]) -> Result<Ip, bool> {
    let whole = |total: usize| if total == 0 { packet.len() } else { total };
    if ether_type == [8, 0] {
        let (ip, _) = Ipv4Header::from_slice(packet).map_err(|_| false)?;
        return Ok(Ip {
            source: ip.source.into(),
            destination: ip.destination.into(),
            hops: ip.time_to_live,
            header_checksum: ip.header_checksum,
            protocol: ip.protocol.0,
            upper_at: ip.header_len(),
            total: whole(ip.total_len.into()),
            later_fragment: ip.fragment_offset.value() != 0,
            more_fragments: ip.more_fragments,
            may_fragment: !ip.dont_fragment,
            identification: ip.identification.into(),
        });
    }
    if ether_type != [0x86, 0xdd] {
        return Err(false);
    }
    let (ip, _) = Ipv6Header::from_slice(packet).map_err(|_| false)?;
    let mapped = |a: Ipv6Addr| a.to_ipv4_mapped().is_some();
    if mapped(ip.source_addr()) || mapped(ip.destination_addr()) {
        return Err(false);
    }
    let mut read = Ip {
        source: ip.source.into(),
        destination: ip.destination.into(),
        hops: ip.hop_limit,
        header_checksum: 0,
        protocol: ip.next_header.0,
        upper_at: 40,
        total: whole(if ip.payload_length == 0 { 0 } else { 40 + usize::from(ip.payload_length) }),
        later_fragment: false,
        more_fragments: false,
        may_fragment: false,
        identification: 0,
    };
    let mut headers = 0;
    while matches!(read.protocol, 0 | 43 | 44 | 60) && !read.later_fragment {
        if headers == 8 {
            return Err(true);
        }
        headers += 1;
        // A first fragment must not end here.
        let bytes = packet.get(read.upper_at..read.upper_at + 8).ok_or(read.more_fragments)?;
        let mut length = 8;
        match read.protocol {
            44 => {
                let word = u16::from_be_bytes([bytes[2], bytes[3]]);
                read.later_fragment = word >> 3 != 0;
                read.more_fragments |= word & 1 != 0;
                read.identification = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
            }
            43 if bytes[3] != 0 => return Err(false),
            _ => length += 8 * usize::from(bytes[1]),
        }
        read.protocol = bytes[0];
        read.upper_at += length;
    }
    Ok(read)
}

/// What the frame's packet is remembered by, if it is a fragment.
pub(crate) fn fragment_key(frame: &[u8]) -> Option<FragmentKey> {
    let ip = read_ip(frame.get(12..14)?, frame.get(14..)?).ok()?;
    let v4 = ip.source.is_ipv4();
    (ip.later_fragment || ip.more_fragments).then(|| FragmentKey {
        source: ip.source.into(),
        destination: ip.destination.into(),
        identification: if v4 { ip.identification } else { ip.identification.to_be() },
        protocol: if v4 { ip.protocol.into() } else { 0 },
    })
}

/// What becomes of a packet that has no flow, dropped on the intermediate if it could hide one.
fn unknown(case: &Case, hides: bool, untouched: &Outcome) -> Outcome {
    let mut outcome = untouched.clone();
    if hides && case.hook == Hook::Ingress {
        outcome.counters[PacketCounter::DropExtensions.code() as usize] = 1;
        outcome.verdict = 2;
    }
    outcome
}

/// `None`: the packet is none of ours.
fn try_run(case: &Case, untouched: &Outcome) -> Option<Outcome> {
    let packet = case.frame.get(14..)?;
    let ip = match read_ip(case.frame.get(12..14)?, packet) {
        Ok(ip) => ip,
        Err(too_far) => return Some(unknown(case, too_far, untouched)),
    };
    if errors::meant_for(case.hook, &ip) {
        return errors::run(case, &ip, untouched);
    }
    if ip.later_fragment {
        let verdict = judge_later_fragment(case.dropped_first, NOW);
        let counter = verdict.counter?;
        let mut outcome = untouched.clone();
        outcome.counters[counter.code() as usize] = 1;
        outcome.verdict = 2;
        return Some(outcome);
    }
    if ip.protocol != 6 {
        return None;
    }
    let raw_tcp = packet.get(ip.upper_at..).unwrap_or_default();
    let Some(ports) = raw_tcp.get(..4) else {
        return Some(unknown(case, ip.more_fragments && ip.source.is_ipv6(), untouched));
    };
    let port = |at: usize| PortWord::new(u16::from_be_bytes([ports[at], ports[at + 1]]));
    let source = (IpWords::from(ip.source), port(0));
    let destination = (IpWords::from(ip.destination), port(2));
    let (remote, local) = match case.hook {
        Hook::Ingress => (source, destination),
        Hook::Egress => (destination, source),
    };
    let key = FlowKey { remote: remote.0, local: local.0, remote_port: remote.1, local_port: local.1 };
    if key != case.record.key {
        return Some(Outcome { remembered: false, ..untouched.clone() });
    }

    let mut patch = Patch::default();
    let unreadable = |reason| judge_unreadable(&case.record, NOW, reason);
    let there = packet.len();
    let mut copied = None;
    let tcp = TcpHeader::from_slice(raw_tcp).ok();
    let (verdict, written) = if ip.more_fragments {
        (unreadable(PacketCounter::DropFragment), None)
    } else if let Some((tcp, _)) = tcp.filter(|(t, _)| {
        let headers = ip.upper_at + t.header_len();
        headers <= ip.total && ip.total <= there
    }) {
        let payload = ip.total - ip.upper_at - tcp.header_len();
        let segment = segment_of(&ip, &tcp, payload);
        let verdict = match case.hook {
            Hook::Ingress => {
                let verdict = judge_ingress(&case.record, &segment, case.marked, NOW, &mut patch);
                let plain = may_be_plain(verdict, &case.record, &segment, RULING)
                    && is_whole_and_plain(&ip, &tcp, &packet[ip.upper_at + tcp.header_len()..ip.total]);
                if plain { judge_plain(&case.record, &segment, &mut patch.account) } else { verdict }
            }
            Hook::Egress => {
                let verdict = judge_egress(&case.record, &segment, &mut patch);
                let payload = &packet[ip.upper_at + tcp.header_len()..ip.total];
                judge_response(&case.record, &segment, payload, &mut patch.account);
                verdict
            }
        };
        let written = (verdict.action == Action::Translate).then(|| {
            let direction = match case.hook {
                Hook::Ingress => Direction::FromClient,
                Hook::Egress => Direction::ToClient,
            };
            translate(&case.record, &segment, direction, &mut patch);
            write(case, &ip, &tcp, &segment, &patch)
        });
        // What an adopted socket sends counts, though nothing of it is changed.
        let written = written.or_else(|| (patch.account.sent != 0).then(|| case.frame.clone()));
        if verdict.counter.is_some() && patch.account.copy != 0 {
            let bytes = &packet[ip.upper_at + tcp.header_len()..ip.total];
            copied = Some((key, segment.seq, bytes[..patch.account.copy as usize].to_vec()));
        }
        (verdict, written.map(|frame| (frame, payload)))
    } else {
        (unreadable(PacketCounter::DropMalformed), None)
    };
    let remembered = ip.more_fragments && verdict.action == Action::Drop;
    let closes = patch.account.closes != 0;
    let outcome = Outcome { remembered, copied, closes, ..untouched.clone() };
    Some(book(case.hook, verdict, &patch, written, outcome))
}

/// Whether a payload is a plain request, and its segment's checksum, computed anew, is right.
fn is_whole_and_plain(ip: &Ip, tcp: &TcpHeader, payload: &[u8]) -> bool {
    let sum = match (ip.source, ip.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => tcp.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload),
        mixed => panic!("{mixed:?}"),
    };
    is_plain(payload) && sum.unwrap() == tcp.checksum
}

fn segment_of(ip: &Ip, tcp: &TcpHeader, payload: usize) -> Segment {
    let bits = [tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr];
    let mut segment = Segment {
        seq: tcp.sequence_number,
        ack: tcp.acknowledgment_number,
        payload: u32::try_from(payload).unwrap(),
        window: tcp.window_size,
        flags: bits.iter().zip(0..).map(|(set, bit)| u8::from(*set) << bit).sum(),
        ttl: ip.hops,
        may_fragment: u8::from(ip.may_fragment),
        packet: u32::try_from(ip.total).unwrap(),
        header_checksum: HeaderChecksum(ip.header_checksum.to_be()),
        ..Segment::default()
    };
    let mut buffer = [0; OPTION_BUFFER];
    buffer[..tcp.options.len()].copy_from_slice(tcp.options.as_slice());
    segment.options.places.find(&buffer, u32::try_from(tcp.options.len()).unwrap());
    segment.options.load(&buffer);
    segment
}

/// The frame with the patch's values, all checksums computed from nothing.
fn write(case: &Case, ip: &Ip, tcp: &TcpHeader, segment: &Segment, patch: &Patch) -> Vec<u8> {
    let mut tcp = tcp.clone();
    let new = IpAddr::from(patch.new_addr);
    let (source, destination) = match case.hook {
        Hook::Ingress => (ip.source, new),
        Hook::Egress => (new, ip.destination),
    };
    match case.hook {
        Hook::Ingress => tcp.destination_port = patch.new_port.number(),
        Hook::Egress => tcp.source_port = patch.new_port.number(),
    }
    tcp.sequence_number = patch.seq;
    tcp.acknowledgment_number = patch.ack;
    tcp.window_size = patch.window;
    let mut options = tcp.options.as_slice().to_vec();
    let places = segment.options.places;
    let mut put = |at: u32, value: u32| {
        let at = usize::try_from(at).unwrap();
        options[at..at + 4].copy_from_slice(&value.to_be_bytes());
    };
    if places.timestamps != 0 {
        put(places.timestamps, patch.tsval);
        put(places.timestamps + 4, patch.tsecr);
    }
    for (i, edge) in (0..).zip(patch.sack_edges).take(2 * places.sack_blocks as usize) {
        put(places.sack + 4 * i, edge);
    }
    tcp.set_options_raw(&options).unwrap();

    let tcp_at = 14 + ip.upper_at;
    let payload_at = tcp_at + tcp.header_len();
    let payload = &case.frame[payload_at..14 + ip.total];
    let mut frame = case.frame.clone();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (mut header, _) = Ipv4Header::from_slice(&frame[14..]).unwrap();
            (header.source, header.destination) = (source.octets(), destination.octets());
            header.time_to_live = patch.ttl;
            header.header_checksum = header.calc_header_checksum();
            frame[14..14 + header.header_len()].copy_from_slice(&header.to_bytes());
            tcp.checksum =
                tcp.calc_checksum_ipv4_raw(source.octets(), destination.octets(), payload).unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (mut header, _) = Ipv6Header::from_slice(&frame[14..]).unwrap();
            (header.source, header.destination) = (source.octets(), destination.octets());
            header.hop_limit = patch.ttl;
            frame[14..54].copy_from_slice(&header.to_bytes());
            tcp.checksum =
                tcp.calc_checksum_ipv6_raw(source.octets(), destination.octets(), payload).unwrap();
        }
        mixed => panic!("{mixed:?}"),
    }
    frame[tcp_at..payload_at].copy_from_slice(&tcp.to_bytes());
    frame
}

fn book(
    hook: Hook,
    verdict: Verdict,
    patch: &Patch,
    written: Option<(Vec<u8>, usize)>,
    mut outcome: Outcome,
) -> Outcome {
    let (record, account) = (&mut outcome.record, &patch.account);
    if let Some(counter) = verdict.counter {
        outcome.counters[counter.code() as usize] += 1;
        if account.also != 0 {
            outcome.counters[account.also as usize] += 1;
        }
        outcome.counters[PacketCounter::ResponseCopied.code() as usize] += u64::from(account.copy != 0);
        record.last_seen_ns = 1;
    }
    record.diverted = record.diverted.wrapping_add(account.diverted);
    record.released = record.released.wrapping_add(account.released);
    if account.plain != 0 {
        record.read_from = account.read_from;
        record.requests = account.requests;
    }
    if account.state != 0 {
        record.state = account.state;
    }
    if account.noted != 0 {
        record.note_ack = account.note_ack;
        record.note_window = account.note_window;
        record.note_tsval = account.note_tsval;
        record.note_seq_end = account.note_seq_end;
        record.note_flags |= account.note_flags;
    }
    if let Some((frame, payload)) = written {
        outcome.frame = frame;
        record.packets = record.packets.wrapping_add(1);
        record.bytes = record.bytes.wrapping_add(u64::try_from(payload).unwrap());
    }
    const REDIRECT: i32 = 7;
    outcome.verdict = match (verdict.action, hook) {
        (Action::Pass, _) | (Action::Translate, Hook::Egress) => -1,
        (Action::Drop, _) => 2,
        (Action::Divert, _) | (Action::Translate, Hook::Ingress) => REDIRECT,
    };
    outcome
}
