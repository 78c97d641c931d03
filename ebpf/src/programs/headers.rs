//! Loading headers into the scratch.

use super::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::maps::Scratch;
use crate::skb::{self, Skb};
use baton_shared::reason::PacketCounter;
use baton_shared::record::FlowKey;
use baton_shared::translate::Direction;
use baton_shared::wire::{EXTENSIONS_MAX, Fragment, OPTIONS_MAX, TcpWords};

/// Why no upper-layer header was found.
pub(super) enum NoUpper {
    /// Not IP, cut short, or on a way that does not end here.
    NotOurs,
    /// More extension headers than are walked, or a first fragment that ends within them.
    TooFar,
}

/// Loads the IP header of either version that stands at `ip_at`, and walks over what stands between it and the upper layer's.
#[inline(always)]
pub(super) fn load_ip(skb: Skb, ip_at: u32, scratch: &mut Scratch) -> Result<(), NoUpper> {
    match skb.protocol() {
        ETHERTYPE_IPV4 => {
            if !skb.load(ip_at, &mut scratch.ipv4) || !scratch.ipv4.is_sane() {
                return Err(NoUpper::NotOurs);
            }
            scratch.ip.load_v4(&scratch.ipv4);
            Ok(())
        }
        ETHERTYPE_IPV6 => {
            if !skb.load(ip_at, &mut scratch.ipv6) || !scratch.ipv6.is_sane() {
                return Err(NoUpper::NotOurs);
            }
            scratch.ip.load_v6(&scratch.ipv6);
            for _ in 0..EXTENSIONS_MAX {
                let ip = skb::opaque(&mut scratch.ip);
                if !ip.at_extension() {
                    return Ok(());
                }
                if !skb.load(ip_at + ip.upper_at, &mut scratch.extension) {
                    return Err(if ip.hides_upper() { NoUpper::TooFar } else { NoUpper::NotOurs });
                }
                if !ip.walk(&scratch.extension) {
                    return Err(NoUpper::NotOurs);
                }
            }
            if skb::opaque(&mut scratch.ip).at_extension() { Err(NoUpper::TooFar) } else { Ok(()) }
        }
        _ => Err(NoUpper::NotOurs),
    }
}

/// Loads the TCP header and the flow's key; false: no ports to look up. Of a header cut short the ports alone are
/// loaded, for its length is 0 then, which no reader takes for a segment.
#[inline(always)]
pub(super) fn load_key(skb: Skb, direction: Direction, tcp_at: u32, scratch: &mut Scratch) -> bool {
    if !skb.load(tcp_at, &mut scratch.tcp) {
        scratch.tcp = TcpWords::default();
        if !skb.load(tcp_at, &mut scratch.tcp.0[0]) {
            return false;
        }
    }
    let (ip, tcp) = (&scratch.ip, scratch.tcp);
    scratch.key = match direction {
        Direction::FromClient => FlowKey {
            remote: ip.source,
            local: ip.destination,
            remote_port: tcp.source(),
            local_port: tcp.destination(),
        },
        Direction::ToClient => FlowKey {
            remote: ip.destination,
            local: ip.source,
            remote_port: tcp.destination(),
            local_port: tcp.source(),
        },
    };
    true
}

/// Loads the rest of a known flow's segment, or says why it cannot be read.
#[inline(always)]
pub(super) fn load_segment(skb: Skb, tcp_at: u32, scratch: &mut Scratch) -> Result<(), PacketCounter> {
    if scratch.ip.fragment() != Fragment::No {
        return Err(PacketCounter::DropFragment);
    }
    let header = scratch.tcp.header_bytes();
    let headers = scratch.ip.upper_at + header;
    let there = skb.len() - ETHERNET;
    // A super-packet over 64 kB has no total length; a short frame has padding behind its total length.
    let total = match scratch.ip.total {
        0 => there,
        total => total,
    };
    if header < 20 || total < headers || total > there {
        return Err(PacketCounter::DropMalformed);
    }
    let largest = match skb.segment_bytes() {
        0 => total,
        // The last one of a super-packet may be the only one.
        bytes => total.min(headers - scratch.ip.jumbo_bytes() + bytes),
    };
    scratch.segment.load(&scratch.ip, &scratch.tcp, total - headers, largest);
    scratch.segment.options.places = Default::default();
    let length = header - 20;
    if length != 0 {
        if !skb.load_up_to(tcp_at + 20, length, &mut scratch.options) {
            return Err(PacketCounter::DropMalformed);
        }
        for at in 0..OPTIONS_MAX {
            if !skb::opaque(&mut scratch.segment.options.places).step(&scratch.options, length, at) {
                break;
            }
        }
        let scratch = skb::opaque(scratch);
        scratch.segment.options.load(&scratch.options);
    }
    Ok(())
}
