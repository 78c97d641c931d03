//! The daemon's TUN, ingress: what the daemon writes enters the uplink's ingress as if it had arrived there, so
//! that reverse-path filters find nothing odd and the ordinary program translates it.

use super::SHOT;
use crate::maps::{SETTINGS, count};
use crate::skb::{Skb, redirect_to_ingress};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use baton_shared::reason::PacketCounter;

/// Puts an Ethernet header in front, sets the mark, redirects.
#[classifier]
pub(crate) fn tun_reinject(context: TcContext) -> i32 {
    // SAFETY: the context of this run.
    reinject(unsafe { Skb::new(context.skb.skb) })
}

#[inline(always)]
fn reinject(skb: Skb) -> i32 {
    let drop = |reason: PacketCounter| {
        count(reason.code());
        SHOT
    };
    let Some(settings) = SETTINGS.get(0) else { return drop(PacketCounter::DropNoDevice) };
    if settings.uplink_ifindex == 0 {
        return drop(PacketCounter::DropNoDevice);
    }
    // Destination and source; the kernel takes the frame for ours by the destination.
    let [a, b, c, d, e, f] = settings.uplink_mac;
    let [high, low] = (skb.protocol() as u16).to_ne_bytes();
    let header: [u8; 14] = [a, b, c, d, e, f, a, b, c, d, e, f, high, low];
    if !skb.prepend(&header) {
        return drop(PacketCounter::DropTunFrame);
    }
    skb.set_mark(settings.reinject_mark);
    count(PacketCounter::Reinjected.code());
    redirect_to_ingress(settings.uplink_ifindex)
}
