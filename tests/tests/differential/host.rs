//! `shared`'s verdict carried out on the host: etherparse takes the packet apart and computes the checksums anew.

use crate::{Case, Hook, Outcome};
use baton_shared::addr::{IpWords, PortWord};
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, FlowRecord};
use baton_shared::translate::{
    Action, Direction, Patch, Verdict, judge_egress, judge_ingress, judge_unreadable, translate,
};
use baton_shared::wire::{HeaderChecksum, OPTION_BUFFER, Segment};
use etherparse::{IpNumber, Ipv4Header, TcpHeader};
use std::net::{IpAddr, Ipv4Addr};

/// Any time: the cases' deadlines are far before or after it.
const NOW: u64 = 1 << 62;

pub(crate) fn run(case: &Case) -> Outcome {
    let untouched = Outcome {
        verdict: -1,
        frame: case.frame.clone(),
        counters: vec![0; PacketCounter::CAPACITY as usize],
        record: FlowRecord { last_seen_ns: 0, ..case.record },
    };
    try_run(case, &untouched).unwrap_or(untouched)
}

/// `None`: the packet is none of ours.
fn try_run(case: &Case, untouched: &Outcome) -> Option<Outcome> {
    if case.frame.get(12..14)? != [8, 0] {
        return None;
    }
    let packet = case.frame.get(14..)?;
    let (ip, _) = Ipv4Header::from_slice(packet).ok()?;
    if ip.protocol != IpNumber::TCP || ip.fragment_offset.value() != 0 {
        return None;
    }
    let raw_tcp = packet.get(ip.header_len()..)?;
    let ports = raw_tcp.get(..20)?;
    let port = |at: usize| PortWord::new(u16::from_be_bytes([ports[at], ports[at + 1]]));
    let address = |a: [u8; 4]| IpWords::from(IpAddr::from(Ipv4Addr::from(a)));
    let source = (address(ip.source), port(0));
    let destination = (address(ip.destination), port(2));
    let (remote, local) = match case.hook {
        Hook::Ingress => (source, destination),
        Hook::Egress => (destination, source),
    };
    let key = FlowKey { remote: remote.0, local: local.0, remote_port: remote.1, local_port: local.1 };
    if key != case.record.key {
        return None;
    }

    let mut patch = Patch::default();
    let unreadable = |reason| judge_unreadable(&case.record, NOW, reason);
    let there = packet.len();
    let total = match ip.total_len {
        0 => there,
        total => usize::from(total),
    };
    let tcp = TcpHeader::from_slice(raw_tcp).ok();
    let (verdict, written) = if ip.more_fragments {
        (unreadable(PacketCounter::DropFragment), None)
    } else if let Some((tcp, _)) = tcp.filter(|(t, _)| {
        let headers = ip.header_len() + t.header_len();
        headers <= total && total <= there
    }) {
        let payload = total - ip.header_len() - tcp.header_len();
        let segment = segment_of(&ip, &tcp, payload);
        let verdict = match case.hook {
            Hook::Ingress => judge_ingress(&case.record, &segment, case.marked, NOW, &mut patch),
            Hook::Egress => judge_egress(&case.record, &segment, &mut patch),
        };
        let written = (verdict.action == Action::Translate).then(|| {
            let direction = match case.hook {
                Hook::Ingress => Direction::FromClient,
                Hook::Egress => Direction::ToClient,
            };
            translate(&case.record, &segment, direction, &mut patch);
            write(case, &ip, &tcp, &segment, &patch, total)
        });
        (verdict, written.map(|frame| (frame, payload)))
    } else {
        (unreadable(PacketCounter::DropMalformed), None)
    };
    Some(book(case.hook, verdict, &patch, written, untouched.clone()))
}

fn segment_of(ip: &Ipv4Header, tcp: &TcpHeader, payload: usize) -> Segment {
    let bits = [tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr];
    let mut segment = Segment {
        seq: tcp.sequence_number,
        ack: tcp.acknowledgment_number,
        payload: u32::try_from(payload).unwrap(),
        window: tcp.window_size,
        flags: bits.iter().zip(0..).map(|(set, bit)| u8::from(*set) << bit).sum(),
        ttl: ip.time_to_live,
        header_checksum: HeaderChecksum(ip.header_checksum.to_be()),
        ..Segment::default()
    };
    let mut buffer = [0; OPTION_BUFFER];
    buffer[..tcp.options.len()].copy_from_slice(tcp.options.as_slice());
    segment.options.places.find(&buffer, u32::try_from(tcp.options.len()).unwrap());
    segment.options.load(&buffer);
    segment
}

/// The frame with the patch's values, both checksums computed from nothing.
fn write(
    case: &Case,
    ip: &Ipv4Header,
    tcp: &TcpHeader,
    segment: &Segment,
    patch: &Patch,
    total: usize,
) -> Vec<u8> {
    let (mut ip, mut tcp) = (ip.clone(), tcp.clone());
    let IpAddr::V4(new) = IpAddr::from(patch.new_addr) else { panic!("not IPv4: {patch:?}") };
    match case.hook {
        Hook::Ingress => {
            ip.destination = new.octets();
            tcp.destination_port = patch.new_port.number();
        }
        Hook::Egress => {
            ip.source = new.octets();
            tcp.source_port = patch.new_port.number();
        }
    }
    ip.time_to_live = patch.ttl;
    ip.header_checksum = ip.calc_header_checksum();
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
    let payload_at = 14 + ip.header_len() + tcp.header_len();
    let payload = &case.frame[payload_at..14 + total];
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap();
    let mut frame = case.frame[..14].to_vec();
    frame.extend_from_slice(&ip.to_bytes());
    frame.extend_from_slice(&tcp.to_bytes());
    frame.extend_from_slice(&case.frame[payload_at..]);
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
        record.last_seen_ns = 1;
    }
    record.diverted = record.diverted.wrapping_add(account.diverted);
    record.released = record.released.wrapping_add(account.released);
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
