//! Headers from bytes, into the values that the verdicts are on: the order and the limits are those of the eBPF programs
//! (`ebpf/src/programs/headers.rs`), and differential tests hold the two together.

use crate::reason::PacketCounter;
use crate::record::FlowKey;
use crate::translate::Direction;
use crate::wire::{
    EXTENSIONS_MAX, Fragment, IpFacts, Ipv4Words, Ipv6Words, OPTION_BUFFER, OptionPlaces, OptionValues,
    PROTOCOL_TCP, Segment, TcpWords,
};
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeader, TcpHeaderSlice};
use zerocopy::FromBytes;

/// Why no upper-layer header was found.
pub enum NoUpper {
    /// Not IP, cut short, or on a way that does not end here.
    NotOurs,
    /// More extension headers than are walked, or a first fragment that ends within them.
    TooFar,
}

/// Loads the IP header of either version, and walks over what stands between it and the upper layer's.
pub fn load_ip(packet: &[u8]) -> Result<IpFacts, NoUpper> {
    let mut ip = IpFacts::default();
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let header = Ipv4HeaderSlice::from_slice(packet).map_err(|_| NoUpper::NotOurs)?;
            let (words, _) = Ipv4Words::read_from_prefix(header.slice()).map_err(|_| NoUpper::NotOurs)?;
            if !words.is_sane() {
                return Err(NoUpper::NotOurs);
            }
            ip.load_v4(&words);
            Ok(ip)
        }
        Some(6) => {
            let header = Ipv6HeaderSlice::from_slice(packet).map_err(|_| NoUpper::NotOurs)?;
            let (words, _) = Ipv6Words::read_from_prefix(header.slice()).map_err(|_| NoUpper::NotOurs)?;
            if !words.is_sane() {
                return Err(NoUpper::NotOurs);
            }
            ip.load_v6(&words);
            for _ in 0..EXTENSIONS_MAX {
                if !ip.at_extension() {
                    return Ok(ip);
                }
                let there = packet.get(ip.upper_at as usize..).unwrap_or_default();
                let Ok((first, _)) = <[u32; 2]>::read_from_prefix(there) else {
                    return Err(if ip.hides_upper() { NoUpper::TooFar } else { NoUpper::NotOurs });
                };
                if !ip.walk(&first) {
                    return Err(NoUpper::NotOurs);
                }
            }
            if ip.at_extension() { Err(NoUpper::TooFar) } else { Ok(ip) }
        }
        _ => Err(NoUpper::NotOurs),
    }
}

/// The flow's key. Of a TCP header cut short the ports are enough.
pub fn key(direction: Direction, ip: &IpFacts, raw_tcp: &[u8]) -> Option<FlowKey> {
    let (ports, _) = u32::read_from_prefix(raw_tcp).ok()?;
    let ports = TcpWords([ports, 0, 0, 0, 0]);
    let (source, destination) = ((ip.source, ports.source()), (ip.destination, ports.destination()));
    let (remote, local) = match direction {
        Direction::FromClient => (source, destination),
        Direction::ToClient => (destination, source),
    };
    Some(FlowKey { remote: remote.0, local: local.0, remote_port: remote.1, local_port: local.1 })
}

/// Loads a known flow's segment, or says why it cannot be read. `there` is the packet's length, bytes.
pub fn load_segment(
    ip: &IpFacts,
    there: usize,
    raw_tcp: &[u8],
    segment: &mut Segment,
) -> Result<(), PacketCounter> {
    if ip.fragment() != Fragment::No {
        return Err(PacketCounter::DropFragment);
    }
    let malformed = PacketCounter::DropMalformed;
    let tcp = TcpHeaderSlice::from_slice(raw_tcp).map_err(|_| malformed)?;
    let there = u32::try_from(there).map_err(|_| malformed)?;
    let headers = ip.upper_at + u32::from(tcp.data_offset()) * 4;
    // A super-packet over 64 kB has no total length.
    let total = if ip.total == 0 { there } else { ip.total };
    if total < headers || total > there {
        return Err(malformed);
    }
    let (words, _) = TcpWords::read_from_prefix(tcp.slice()).map_err(|_| malformed)?;
    segment.load(ip, &words, total - headers, total);
    segment.options =
        timestamps_alone(tcp.options()).or_else(|| any_options(tcp.options())).ok_or(malformed)?;
    Ok(())
}

fn any_options(options: &[u8]) -> Option<OptionValues> {
    let mut buffer = [0; OPTION_BUFFER];
    buffer.get_mut(..options.len())?.copy_from_slice(options);
    let mut values = OptionValues::default();
    values.places.find(&buffer, u32::try_from(options.len()).ok()?);
    values.load(&buffer);
    Some(values)
}

/// What nearly all segments have that are no SYN (RFC 7323, appendix A): known without a walk, byte by byte, over them.
fn timestamps_alone(options: &[u8]) -> Option<OptionValues> {
    let [1, 1, 8, 10, a, b, c, d, e, f, g, h] = *options else { return None };
    let (tsval, tsecr) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let places = OptionPlaces { timestamps: 4, next: 12, ..OptionPlaces::default() };
    Some(OptionValues { places, tsval, tsecr, ..OptionValues::default() })
}

/// A whole TCP segment of whatever flow: its key, its facts, and where its TCP header begins. `None` for fragments, for what
/// is cut short or contradicts itself, and for what is no TCP.
pub fn read(packet: &[u8], direction: Direction) -> Option<(FlowKey, Segment, usize)> {
    let ip = load_ip(packet).ok()?;
    if ip.protocol != PROTOCOL_TCP {
        return None;
    }
    let tcp_at = usize::try_from(ip.upper_at).ok()?;
    let raw_tcp = packet.get(tcp_at..)?;
    let key = key(direction, &ip, raw_tcp)?;
    let mut segment = Segment::default();
    load_segment(&ip, packet.len(), raw_tcp, &mut segment).ok()?;
    Some((key, segment, tcp_at))
}

/// Bytes of the TCP header, whose twelfth byte begins with their number in words (RFC 9293, section 3.1).
fn header(packet: &[u8], tcp_at: usize) -> Option<usize> {
    Some(usize::from(packet.get(tcp_at.checked_add(12)?)? >> 4) * 4)
}

/// How many bytes of options a segment has that [`read`] has read.
pub fn options(packet: &[u8], tcp_at: usize) -> Option<usize> {
    header(packet, tcp_at)?.checked_sub(TcpHeader::MIN_LEN)
}

/// The payload of a segment that [`read`] has read.
pub fn payload<'a>(packet: &'a [u8], segment: &Segment, tcp_at: usize) -> Option<&'a [u8]> {
    let from = tcp_at.checked_add(header(packet, tcp_at)?)?;
    packet.get(from..from.checked_add(usize::try_from(segment.payload).ok()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn timestamps_alone_are_what_a_walk_finds(values: [u8; 8], other: Vec<u8>) {
            let options = [&[1, 1, 8, 10][..], &values].concat();
            prop_assert_eq!(timestamps_alone(&options), any_options(&options));
            prop_assert!(timestamps_alone(&options).is_some());
            prop_assert_eq!(timestamps_alone(&other), None);
            prop_assert_eq!(timestamps_alone(&[&options[..], &[0; 4]].concat()), None);
        }
    }
}
