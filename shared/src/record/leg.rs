//! What the programs must know of encapsulated legs from intermediate to target; one element of the array `LEGS`,
//! written by the daemon at start.

use crate::addr::IpWords;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many intermediates a target takes encapsulated packets from.
pub const LEG_PEERS: usize = 8;

/// Addresses of outer headers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LegSettings {
    /// I: this host's own IPv4 address on the uplink, the source of outer headers; zeros if none is needed.
    pub source_v4: IpWords,
    /// I: its IPv6 address.
    pub source_v6: IpWords,
    /// T: from whom outer headers are taken off; places without flags are free.
    pub peers: [LegPeer; LEG_PEERS],
}

/// An intermediate that encapsulates.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LegPeer {
    /// The source of its outer headers.
    pub address: IpWords,
    /// `FLAG_LEG_IPIP` or `FLAG_LEG_UDP`: the one kind that is taken; 0: nobody.
    pub flags: u32,
}

const _: () = assert!(size_of::<LegPeer>() == 20);
const _: () = assert!(size_of::<LegSettings>() == 32 + 20 * LEG_PEERS);
