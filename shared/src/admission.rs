//! Who gets a place when there are too few: by source, and by how long a connection has waited for its first request;
//! and which packets are held.

use crate::reason::CloseReason;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

/// Addresses that share a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl core::hash::Hash for Network {
    /// All of it at once, which takes a third of the time of one field after the other.
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        match self.address {
            IpAddr::V4(v4) => state.write_u64(u64::from(v4.to_bits()) << 8 | u64::from(self.prefix)),
            // Two prefixes of one address may well share a hash: they do not share a table.
            IpAddr::V6(v6) => state.write_u128(v6.to_bits()),
        }
    }
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No address.
    #[error("is no address, nor a network like 192.0.2.0/24 or 2001:db8::/32")]
    Address,
    /// No such prefix.
    #[error("has a prefix that its family does not have: at most 32 for IPv4, 128 for IPv6")]
    Prefix,
    /// Bits behind the prefix.
    #[error("has bits behind its prefix")]
    Bits,
}

impl Network {
    /// The network of this prefix that an address is in; prefixes longer than the address are the address.
    pub fn of(address: IpAddr, prefix: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let prefix = prefix.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Network { address: Ipv4Addr::from_bits(v4.to_bits() & mask).into(), prefix }
            }
            IpAddr::V6(v6) => {
                let prefix = prefix.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Network { address: Ipv6Addr::from_bits(v6.to_bits() & mask).into(), prefix }
            }
        }
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Network::of(address, self.prefix) == *self
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = match prefix {
            None => longest,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| NetworkError::Prefix)?
            }
            Some(_) => return Err(NetworkError::Address),
        };
        if prefix > longest {
            return Err(NetworkError::Prefix);
        }
        let network = Network::of(address, prefix);
        if network.address == address { Ok(network) } else { Err(NetworkError::Bits) }
    }
}

/// How many connections one source may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// At a time; 0: any number.
    pub connections: u32,
    /// How much of an IPv4 address is the source.
    pub prefix_v4: u8,
    /// How much of an IPv6 address is the source.
    pub prefix_v6: u8,
}

impl Default for SourceLimits {
    fn default() -> Self {
        SourceLimits { connections: 0, prefix_v4: 32, prefix_v6: 64 }
    }
}

impl SourceLimits {
    /// The source an address belongs to.
    pub fn source(&self, address: IpAddr) -> Network {
        // What reaches an IPv6 socket from an IPv4 client.
        let address = address.to_canonical();
        Network::of(address, if address.is_ipv4() { self.prefix_v4 } else { self.prefix_v6 })
    }
}

/// How many connections each source has. A source without any takes no room.
#[derive(Debug, Default)]
pub struct Sources(HashMap<Network, u32>);

impl Sources {
    /// One more of a source, if it may have one more. Each one that was let in must [`Sources::leave`].
    pub fn enter(&mut self, source: Network, limits: &SourceLimits) -> bool {
        match self.0.entry(source) {
            Entry::Occupied(full) if limits.connections > 0 && *full.get() >= limits.connections => false,
            Entry::Occupied(mut count) => {
                *count.get_mut() = count.get().saturating_add(1);
                true
            }
            Entry::Vacant(first) => {
                first.insert(1);
                true
            }
        }
    }

    /// One less.
    pub fn leave(&mut self, source: Network) {
        if let Entry::Occupied(mut count) = self.0.entry(source) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// How many sources have any.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Streams of HTTP/2 under way over all connections. Each may need a connection to a server as a connection of HTTP/1
/// does, so there may be as many as connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenStreams(usize);

impl OpenStreams {
    /// One more, if there may be. Each one that was let in must [`OpenStreams::leave`].
    pub fn enter(&mut self, limit: usize) -> Result<(), CloseReason> {
        if self.0 >= limit {
            return Err(CloseReason::StreamLimit);
        }
        self.0 += 1;
        Ok(())
    }

    /// One less.
    pub fn leave(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

/// How much may be held of clients' packets while their flows are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldLimits {
    /// Bytes per flow (`limits.hold_bytes_per_flow`).
    pub per_flow: usize,
    /// Bytes in all (`limits.hold_bytes`).
    pub total: usize,
}

impl HoldLimits {
    /// Whether a packet of so many bytes may be held beside those of its flow, and those of all flows, that are.
    pub const fn admit(&self, of_flow: usize, of_all: usize, packet: usize) -> bool {
        of_flow.saturating_add(packet) <= self.per_flow && of_all.saturating_add(packet) <= self.total
    }

    /// The same of a packet with a later request, which waits as long as a response takes: half of all is left for flows
    /// that are frozen, so that nobody keeps others from being handed off by asking ahead.
    pub const fn admit_later(&self, of_flow: usize, of_all: usize, packet: usize) -> bool {
        self.admit(of_flow, of_all, packet) && of_all.saturating_add(packet) <= self.total / 2
    }
}

/// Connections whose first request is awaited, oldest first. When there are too many connections these make way, in
/// this order: who opens connections to hold them open is old before long; who has a request to make is not.
#[derive(Debug)]
pub struct Waiting<T> {
    next: u64,
    by_age: BTreeMap<u64, T>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Waiting { next: 0, by_age: BTreeMap::new() }
    }
}

impl<T> Waiting<T> {
    /// One more, behind all others. Its number.
    pub fn enter(&mut self, who: T) -> u64 {
        let number = self.next;
        self.next += 1;
        self.by_age.insert(number, who);
        number
    }

    /// One less: its request has come, or it is gone.
    pub fn leave(&mut self, number: u64) {
        self.by_age.remove(&number);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    /// What becomes of a connection that was just accepted, as the last of `open`, of which there may be `limit`.
    pub fn admit(&mut self, open: usize, limit: usize) -> Admission<T> {
        if open <= limit {
            return Admission::Admitted;
        }
        match self.by_age.pop_first() {
            Some((_, oldest)) => Admission::InPlaceOf(oldest),
            None => Admission::Refused(CloseReason::ConnectionLimit),
        }
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<T> {
    /// It has a place.
    Admitted,
    /// It has the place of this one, which is closed.
    InPlaceOf(T),
    /// It is closed.
    Refused(CloseReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_read_and_hold_their_addresses() {
        let table = [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "ffff::", "0.0.0.0"),
            ("::1", "::1", "::2"),
        ];
        for (network, inside, outside) in table {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.contains(ip(inside)) && !parsed.contains(ip(outside)), "{network}");
        }
        let wrong = [
            ("", NetworkError::Address),
            ("a", NetworkError::Address),
            ("192.0.2.0/", NetworkError::Prefix),
            ("192.0.2.0/33", NetworkError::Prefix),
            ("192.0.2.0/256", NetworkError::Prefix),
            ("192.0.2.0/+1", NetworkError::Address),
            ("::/129", NetworkError::Prefix),
            ("192.0.2.1/24", NetworkError::Bits),
            ("2001:db8::1/64", NetworkError::Bits),
        ];
        for (text, error) in wrong {
            assert_eq!(text.parse::<Network>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_source_is_its_prefix_and_has_so_many_places() {
        let limits = SourceLimits { connections: 2, ..SourceLimits::default() };
        let mut sources = Sources::default();
        for (first, same, other) in [
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:db8:1:3::1"),
            ("::ffff:192.0.2.9", "192.0.2.9", "192.0.2.8"),
        ] {
            let of = |text| limits.source(ip(text));
            assert!(sources.enter(of(first), &limits) && sources.enter(of(same), &limits));
            assert!(!sources.enter(of(first), &limits), "{first} a third time");
            assert!(sources.enter(of(other), &limits), "{other} is another");
            sources.leave(of(same));
            assert!(sources.enter(of(first), &limits));
            for left in [first, same, other] {
                sources.leave(of(left));
            }
        }
        assert!(sources.is_empty(), "{sources:?}");
        let any = SourceLimits::default();
        assert!((0..1000).all(|_| sources.enter(any.source(ip("::1")), &any)));
        assert_eq!(sources.len(), 1);
    }

    #[test]
    fn a_packet_is_held_while_neither_its_flow_nor_all_flows_hold_too_much() {
        let limits = HoldLimits { per_flow: 100, total: 250 };
        for (of_flow, of_all, packet, held) in [
            (0, 0, 100, true),
            (0, 0, 101, false),
            (99, 99, 1, true),
            (100, 100, 1, false),
            (0, 249, 1, true),
            (0, 250, 1, false),
            (0, 250, 0, true),
            (usize::MAX, 0, 1, false),
            (0, usize::MAX, 1, false),
        ] {
            assert_eq!(limits.admit(of_flow, of_all, packet), held, "{of_flow} {of_all} {packet}");
        }
    }

    #[test]
    fn later_requests_leave_half_of_all_to_flows_that_are_frozen() {
        let limits = HoldLimits { per_flow: 100, total: 250 };
        assert!(limits.admit_later(0, 25, 100) && limits.admit_later(99, 124, 1));
        assert!(!limits.admit_later(0, 26, 100) && !limits.admit_later(0, usize::MAX, 1));
        assert!(!limits.admit_later(100, 100, 1), "the flow's own limit is the same");
        assert!(limits.admit(0, 125, 1));
    }

    #[test]
    fn there_are_as_many_streams_as_connections_and_no_more() {
        let mut streams = OpenStreams::default();
        assert_eq!([(); 3].map(|()| streams.enter(2)), [Ok(()), Ok(()), Err(CloseReason::StreamLimit)]);
        streams.leave();
        assert_eq!((streams.enter(2), streams.len()), (Ok(()), 2));
        (0..3).for_each(|_| streams.leave());
        assert!(streams.is_empty());
    }

    #[test]
    fn the_one_that_has_waited_longest_makes_way() {
        let mut waiting = Waiting::default();
        let numbers = ["a", "b", "c"].map(|who| waiting.enter(who));
        assert_eq!(waiting.admit(3, 3), Admission::Admitted);
        waiting.leave(numbers[0]);
        assert_eq!(waiting.admit(4, 3), Admission::InPlaceOf("b"));
        assert_eq!(waiting.admit(4, 3), Admission::InPlaceOf("c"));
        assert_eq!(waiting.admit(4, 3), Admission::Refused(CloseReason::ConnectionLimit));
        assert!(waiting.is_empty());
    }
}
