//! A part of a client's segment as packets of its own: the same header, other bytes.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use std::net::IpAddr;

/// Payload per packet: no more than any path between the hosts of one site carries.
pub(crate) const PAYLOAD: usize = 1200;

/// What the client has acknowledged since it sent a segment, and what its clock says by now: to a server that the
/// connection was given to meanwhile the segment's own acknowledgement is older than anything it has sent, and its
/// timestamp older than that of the handshake, and it would take neither (RFC 5961, section 5.2; RFC 7323, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fresh {
    /// The acknowledgement number.
    pub(crate) ack: u32,
    /// The client's timestamp.
    pub(crate) tsval: u32,
    /// The timestamp it echoes.
    pub(crate) tsecr: u32,
}

/// What of a segment to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The first payload byte's place in the segment.
    pub(crate) from: usize,
    /// One past the last.
    pub(crate) to: usize,
    /// With the segment's FIN, behind the last byte.
    pub(crate) fin: bool,
}

/// The packets of `part`, in order; `None` if the packet cannot be read. Their checksums are whole, and none is larger
/// than a path between hosts of one site carries. IP options and extension headers, which say nothing to a server, are
/// left out.
pub(crate) fn cut(packet: &[u8], part: Part, fresh: Option<Fresh>) -> Option<Vec<Vec<u8>>> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (source, destination) = ends_of(sliced.net.as_ref()?)?;
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { return None };
    let mut header = tcp.to_header();
    let first = header.sequence_number.wrapping_add(u32::try_from(part.from).ok()?);
    let payload = tcp.payload().get(part.from..part.to)?;
    if let Some(fresh) = fresh {
        header.acknowledgment_number = fresh.ack;
        renew_timestamps(&mut header, fresh);
    }
    let (fin, push) = (part.fin, header.psh);
    let mut chunks: Vec<&[u8]> = payload.chunks(PAYLOAD).collect();
    if chunks.is_empty() && fin {
        chunks.push(&[]);
    }
    let last = chunks.len().saturating_sub(1);
    let mut packets = Vec::with_capacity(chunks.len());
    let mut seq = first;
    for (n, chunk) in chunks.into_iter().enumerate() {
        header.sequence_number = seq;
        header.fin = fin && n == last;
        header.psh = push || n == last;
        packets.push(write(source, destination, header.clone(), chunk)?);
        seq = seq.wrapping_add(u32::try_from(chunk.len()).ok()?);
    }
    Some(packets)
}

/// The packet without its payload, as a FIN with the number `seq`.
pub(crate) fn fin_at(packet: &[u8], seq: u32) -> Option<Vec<u8>> {
    without_payload(packet, |header| (header.sequence_number, header.fin) = (seq, true))
}

/// The packet without its payload and without its FIN.
pub(crate) fn bare(packet: &[u8]) -> Option<Vec<u8>> {
    without_payload(packet, |header| header.fin = false)
}

fn without_payload(packet: &[u8], change: impl FnOnce(&mut TcpHeader)) -> Option<Vec<u8>> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (source, destination) = ends_of(sliced.net.as_ref()?)?;
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { return None };
    let mut header = tcp.to_header();
    change(&mut header);
    write(source, destination, header, &[])
}

/// Replaces both values of the timestamps option, if there is one (RFC 7323, section 3.2).
fn renew_timestamps(header: &mut TcpHeader, fresh: Fresh) {
    const KIND: u8 = 8;
    let mut options = header.options.as_slice().to_vec();
    let mut at = 0;
    while let Some(kind) = options.get(at).copied() {
        let length = match kind {
            0 => return,
            1 => 1,
            _ => options.get(at + 1).map_or(0, |length| usize::from(*length)),
        };
        if kind == KIND
            && let Some((value, echo)) =
                options.get_mut(at + 2..at + 10).and_then(|v| v.split_at_mut_checked(4))
        {
            value.copy_from_slice(&fresh.tsval.to_be_bytes());
            echo.copy_from_slice(&fresh.tsecr.to_be_bytes());
            // As long as before, so it fits.
            let _ = header.set_options_raw(&options);
            return;
        }
        if length == 0 {
            return;
        }
        at += length;
    }
}

/// The builder makes length and checksum anew.
fn write(source: IpAddr, destination: IpAddr, header: TcpHeader, payload: &[u8]) -> Option<Vec<u8>> {
    let ip = match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        // No packet has two families.
        _ => return None,
    };
    let builder = ip.tcp_header(header);
    let mut bytes = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut bytes, payload).ok()?;
    Some(bytes)
}

/// Source and destination.
fn ends_of(net: &NetSlice<'_>) -> Option<(IpAddr, IpAddr)> {
    match net {
        NetSlice::Ipv4(ip) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        NetSlice::Ipv6(ip) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        NetSlice::Arp(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::TcpOptionElement;

    fn packet(v6: bool, payload: &[u8], fin: bool) -> Vec<u8> {
        let ip = if v6 {
            PacketBuilder::ipv6([1; 16], [2; 16], 9)
        } else {
            PacketBuilder::ipv4([1; 4], [2; 4], 9)
        };
        let options = [TcpOptionElement::Noop, TcpOptionElement::Noop, TcpOptionElement::Timestamp(7, 8)];
        let mut tcp = ip.tcp(1000, 80, u32::MAX - 1, 500).ack(77).options(&options).unwrap();
        if fin {
            tcp = tcp.fin();
        }
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, payload).unwrap();
        bytes
    }

    #[test]
    fn an_old_segment_can_be_given_what_the_client_acknowledged_since() {
        let fresh = Some(Fresh { ack: 99, tsval: 9, tsecr: 1234 });
        let part = Part { from: 1, to: 3, fin: false };
        let bytes = cut(&packet(true, b"abc", false), part, fresh).unwrap().remove(0);
        let sliced = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
        assert_eq!((tcp.acknowledgment_number(), tcp.payload()), (99, &b"bc"[..]));
        let echoes = tcp.options_iterator().filter_map(|option| match option {
            Ok(TcpOptionElement::Timestamp(value, echo)) => Some((value, echo)),
            _ => None,
        });
        assert_eq!(echoes.collect::<Vec<_>>(), [(9, 1234)]);
    }

    #[test]
    fn the_parts_have_their_own_numbers_and_right_checksums() {
        let payload: Vec<u8> = (0..3000).map(|n| u8::try_from(n % 251).unwrap()).collect();
        for v6 in [false, true] {
            let whole = packet(v6, &payload, true);
            let mut put_together = Vec::new();
            let mut ends = Vec::new();
            for part in [Part { from: 0, to: 1500, fin: false }, Part { from: 1500, to: 3000, fin: true }] {
                for bytes in cut(&whole, part, None).unwrap() {
                    let sliced = SlicedPacket::from_ip(&bytes).unwrap();
                    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
                    let at = u32::try_from(put_together.len()).unwrap();
                    assert_eq!(tcp.sequence_number(), (u32::MAX - 1).wrapping_add(at));
                    assert_eq!((tcp.acknowledgment_number(), tcp.window_size()), (77, 500));
                    assert_eq!(tcp.options().len(), 12);
                    put_together.extend_from_slice(tcp.payload());
                    ends.push(tcp.fin());
                    let sum = match sliced.net.unwrap() {
                        etherparse::NetSlice::Ipv4(ip) => {
                            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap()
                        }
                        etherparse::NetSlice::Ipv6(ip) => {
                            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap()
                        }
                        etherparse::NetSlice::Arp(_) => panic!("ARP"),
                    };
                    assert_eq!(sum, tcp.checksum());
                }
            }
            assert_eq!(put_together, payload);
            assert_eq!(ends.iter().filter(|fin| **fin).count(), 1);
            assert_eq!(ends.last(), Some(&true));
        }
        let bare = cut(&packet(false, b"", true), Part { from: 0, to: 0, fin: true }, None).unwrap();
        assert_eq!(bare.len(), 1);
        assert_eq!(cut(b"no packet", Part { from: 0, to: 0, fin: true }, None), None);
    }
}
