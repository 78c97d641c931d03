//! Fragments of packets that were dropped. Only a packet's first fragment has the ports; that it was dropped is
//! remembered by what all its fragments have in common, so that those behind it end where it did, and are counted as it
//! was, instead of waiting in the ordinary stack for what does not come.
//!
//! Nothing but a first fragment of a known flow makes an entry: there is none before somebody has finished a handshake
//! and sent a whole request head. A later fragment that is in front of its first is nobody's yet and passes; without
//! the first no stack makes a packet of it, and none tells its sender (`ip_expire()`, `ip6frag_expire_frag_queue()`).

use super::{Action, Verdict};
use crate::addr::IpWords;
use crate::reason::PacketCounter;
use crate::wire::IpFacts;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many packets are remembered, the latest.
pub const PACKETS_MAX: u32 = 4096;

/// For how long, ns: as long as Linux waits for an IPv4 packet's other fragments (`net.ipv4.ipfrag_time`). A sender on a
/// fast link has used all identifications by then, which is why a first fragment that passes puts an end to it too.
pub const REMEMBERED_NS: u64 = 30_000_000_000;

/// What all fragments of a packet have in common, and no other packet's (RFC 791, section 3.2; RFC 8200, section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FragmentKey {
    /// The source address.
    pub source: IpWords,
    /// The destination address.
    pub destination: IpWords,
    /// The identification; of IPv6 memory order.
    pub identification: u32,
    /// IPv4: the protocol number. 0 for IPv6, where the first fragment alone says what is in it.
    pub protocol: u32,
}

impl FragmentKey {
    /// Of a fragment.
    #[inline(always)]
    pub const fn load(&mut self, ip: &IpFacts) {
        self.source = ip.source;
        self.destination = ip.destination;
        self.identification = ip.identification;
        self.protocol = if ip.source.is_v4() { ip.protocol as u32 } else { 0 };
    }
}

/// Whether the first fragment's fate is to be remembered; else it is to be forgotten what was remembered under its key.
#[inline(always)]
pub const fn is_remembered(action: Action) -> bool {
    matches!(action, Action::Drop)
}

/// Either hook: a later fragment, whose packet's first one was dropped at `dropped_ns`, if that is remembered.
#[inline(always)]
pub const fn judge_later_fragment(dropped_ns: Option<u64>, now_ns: u64) -> Verdict {
    match dropped_ns {
        Some(then) if now_ns.saturating_sub(then) < REMEMBERED_NS => {
            Verdict { action: Action::Drop, counter: Some(PacketCounter::DropFragment) }
        }
        _ => Verdict { action: Action::Pass, counter: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Ipv4Words, Ipv6Words};

    #[test]
    fn fragments_of_a_dropped_packet_are_dropped_for_half_a_minute() {
        let dropped = Verdict { action: Action::Drop, counter: Some(PacketCounter::DropFragment) };
        let passed = Verdict { action: Action::Pass, counter: None };
        assert_eq!(judge_later_fragment(None, 5), passed);
        assert_eq!(judge_later_fragment(Some(5), 5), dropped);
        // Clocks of two processors.
        assert_eq!(judge_later_fragment(Some(6), 5), dropped);
        assert_eq!(judge_later_fragment(Some(5), 4 + REMEMBERED_NS), dropped);
        assert_eq!(judge_later_fragment(Some(5), 5 + REMEMBERED_NS), passed);
        assert!(is_remembered(Action::Drop) && !is_remembered(Action::Pass));
    }

    fn key(ip: &IpFacts) -> FragmentKey {
        let mut key = FragmentKey::default();
        key.load(ip);
        key
    }

    #[test]
    fn all_fragments_of_a_packet_have_one_key_and_another_packet_has_another() {
        // Identification 0x1234, more to follow; then at an offset.
        let v4 = |second: u32, third: u32| {
            let mut ip = IpFacts::default();
            ip.load_v4(&Ipv4Words([0x4500_0054u32.to_be(), second.to_be(), third.to_be(), 1, 2]));
            key(&ip)
        };
        let first = v4(0x1234_2000, 0x4006_0000);
        assert_eq!((first.identification, first.protocol), (0x1234, 6));
        assert_eq!(first, v4(0x1234_0010, 0x3f06_abcd));
        assert_ne!(first, v4(0x1235_0010, 0x4006_0000));
        assert_ne!(first, v4(0x1234_0010, 0x4011_0000), "another protocol's");

        let v6 = |first_word: u32, identification: u32| {
            let mut ip = IpFacts::default();
            ip.load_v6(&Ipv6Words([0x6000_0000u32.to_be(), 0x0010_2c40u32.to_be(), 1, 2, 3, 4, 5, 6, 7, 8]));
            assert!(ip.walk(&[first_word.to_be(), identification.to_be()]));
            key(&ip)
        };
        let first = v6(0x0600_0001, 0x1234_5678);
        assert_eq!((first.identification, first.protocol), (0x1234_5678u32.to_be(), 0));
        assert_eq!(
            first,
            v6(0x1100_0010, 0x1234_5678),
            "what a later fragment names as its protocol is nothing"
        );
        assert_ne!(first, v6(0x0600_0010, 0x1234_5679));
    }
}
