//! Bytes the captured socket acknowledged after its capture, as packets from the client to be translated and fed to
//! the server like any other.

use super::repair::Late;
use crate::hold::cut::PAYLOAD;
use baton_shared::capture::CapturedConnection;
use etherparse::{PacketBuilder, TcpOptionElement};
use std::net::IpAddr;

/// The packets, in order.
pub(super) fn packets(connection: &CapturedConnection, late: &Late) -> Vec<Vec<u8>> {
    let (client, vip) = (connection.client.ip(), connection.vip.ip());
    let shift = connection.options.window_scale.map_or(0, |scale| scale.client);
    let window = u16::try_from(connection.snd_wnd.checked_shr(shift.into()).unwrap_or(0)).unwrap_or(u16::MAX);
    let mut seq = connection.rcv_nxt;
    let mut chunks: Vec<&[u8]> = late.bytes.chunks(PAYLOAD).collect();
    if chunks.is_empty() && late.fin {
        chunks.push(&[]);
    }
    let last = chunks.len().saturating_sub(1);
    let mut packets = Vec::with_capacity(chunks.len());
    for (n, chunk) in chunks.into_iter().enumerate() {
        let ip = match (client, vip) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => PacketBuilder::ipv4(client.octets(), vip.octets(), 64),
            (IpAddr::V6(client), IpAddr::V6(vip)) => PacketBuilder::ipv6(client.octets(), vip.octets(), 64),
            // No connection has two families.
            _ => return packets,
        };
        let mut builder = ip
            .tcp(connection.client.port(), connection.vip.port(), seq.raw(), window)
            .ack(connection.snd_nxt.raw());
        if n == last {
            builder = builder.psh();
            if late.fin {
                builder = builder.fin();
            }
        }
        if connection.options.timestamps {
            // As old as the SYN: old enough never to hide the client's next packets.
            let echo = connection.vip_tsval;
            let options = [
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(connection.client_tsval, echo),
            ];
            let Ok(with_options) = builder.options(&options) else { return packets };
            builder = with_options;
        }
        let mut packet = Vec::with_capacity(builder.size(chunk.len()));
        if builder.write(&mut packet, chunk).is_err() {
            return packets;
        }
        packets.push(packet);
        seq = seq.plus(u32::try_from(chunk.len()).unwrap_or(0));
    }
    packets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::sample::captured;
    use baton_shared::seq::Seq;
    use etherparse::{SlicedPacket, TransportSlice};

    const ENDS: [(&str, &str); 2] =
        [("10.0.0.1:1000", "10.0.0.2:80"), ("[2001:db8::1]:1000", "[2001:db8::2]:80")];

    fn connection((client, vip): (&str, &str)) -> CapturedConnection {
        captured(client, vip, Seq::new(u32::MAX - 9))
    }

    fn sent(ends: (&str, &str), late: &Late) -> Vec<(u32, usize, bool)> {
        packets(&connection(ends), late)
            .iter()
            .map(|bytes| {
                let packet = SlicedPacket::from_ip(bytes).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
                assert_eq!(tcp.acknowledgment_number(), 500);
                (tcp.sequence_number(), tcp.payload().len(), tcp.fin())
            })
            .collect()
    }

    #[test]
    fn bytes_and_fin_have_the_numbers_the_client_gave_them() {
        let long = Late { bytes: vec![7; PAYLOAD + 5], fin: true };
        let first = u32::MAX - 9;
        let second = first.wrapping_add(u32::try_from(PAYLOAD).unwrap());
        for ends in ENDS {
            assert_eq!(sent(ends, &long), [(first, PAYLOAD, false), (second, 5, true)]);
            assert_eq!(sent(ends, &Late { bytes: Vec::new(), fin: true }), [(first, 0, true)]);
            assert_eq!(sent(ends, &Late { bytes: vec![1], fin: false }), [(first, 1, false)]);
        }
    }
}
