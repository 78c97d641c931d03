//! What a program must know of its host; one element of the array `SETTINGS`, written by the daemon at start.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Device numbers and marks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// The daemon's TUN: the hold queue on the intermediate, the replay device on the target. 0: none yet.
    pub tun_ifindex: u32,
    /// The uplink whose ingress gets what the daemon writes into the TUN.
    pub uplink_ifindex: u32,
    /// `skb->mark` put on those packets: not 0 on the intermediate, where it tells released packets from new
    /// ones; 0 on the target.
    pub reinject_mark: u32,
    /// The uplink's MAC address, the destination of reinjected frames; zeros if the uplink has none.
    pub uplink_mac: [u8; 6],
    /// Explicit padding.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<Settings>() == 20);
