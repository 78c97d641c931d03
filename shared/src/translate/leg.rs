//! The leg from the intermediate to the target: the translated packet as it is, or in an outer header, for networks
//! whose routers drop a client's source address where no clients are.
//!
//! The outer header is of the inner one's version of IP, without options, never to be fragmented: IP in IP (RFC 2003,
//! RFC 2473), or UDP to [`LEG_PORT`], whose payload is the bare packet (as variant 1 of Generic UDP Encapsulation has
//! it) and whose checksum is zero (RFC 6935 allows that to tunnels over IPv6). Its congestion field says "not capable",
//! so that a router in between drops rather than marks what nobody would pass on (RFC 6040, section 4.3).

use crate::addr::{IpWords, PortWord};
use crate::record::{FLAG_LEG_IPIP, FLAG_LEG_UDP, FlowRecord, FlowState, LegSettings};
use crate::wire::{Fragment, HeaderChecksum, IpFacts, PROTOCOL_UDP, Sum};

/// Destination port of encapsulated packets: Generic UDP Encapsulation's.
pub const LEG_PORT: PortWord = PortWord::new(6080);
/// Protocol number of IPv4 in IP.
pub const PROTOCOL_IPIP: u8 = 4;
/// Protocol number of IPv6 in IP.
pub const PROTOCOL_IPV6: u8 = 41;
/// Time to live or hop limit of outer headers.
const OUTER_HOPS: u8 = 64;
/// A UDP header's length, bytes.
const UDP_BYTES: u32 = 8;

/// How packets go from the intermediate to the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema))]
#[cfg_attr(feature = "std", serde(rename_all = "lowercase"))]
pub enum Leg {
    /// As they are: the client's source address, the server's destination address.
    #[default]
    Rewrite,
    /// Inside another IP header.
    Ipip,
    /// Inside IP and UDP.
    Udp,
}

impl Leg {
    /// What a record's flags say.
    #[inline(always)]
    pub const fn from_flags(flags: u32) -> Self {
        if flags & FLAG_LEG_IPIP != 0 {
            Leg::Ipip
        } else if flags & FLAG_LEG_UDP != 0 {
            Leg::Udp
        } else {
            Leg::Rewrite
        }
    }

    /// For a record's flags.
    #[inline(always)]
    pub const fn flags(self) -> u32 {
        match self {
            Leg::Rewrite => 0,
            Leg::Ipip => FLAG_LEG_IPIP,
            Leg::Udp => FLAG_LEG_UDP,
        }
    }

    /// Its name in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Leg::Rewrite => "rewrite",
            Leg::Ipip => "ipip",
            Leg::Udp => "udp",
        }
    }

    /// Bytes that stand in front of the packet.
    #[inline(always)]
    pub const fn overhead(self, v4: bool) -> u32 {
        let ip = if v4 { 20 } else { 40 };
        match self {
            Leg::Rewrite => 0,
            Leg::Ipip => ip,
            Leg::Udp => ip + UDP_BYTES,
        }
    }

    /// The largest segment (MSS, RFC 9293 section 3.7.1) that fits a link of this MTU with the outer header.
    pub const fn segment_bytes(self, mtu: u32, v4: bool) -> u32 {
        let headers = if v4 { 40 } else { 60 };
        mtu.saturating_sub(headers + self.overhead(v4))
    }

    #[inline(always)]
    const fn protocol(self, v4: bool) -> u8 {
        match self {
            Leg::Udp => PROTOCOL_UDP,
            _ if v4 => PROTOCOL_IPIP,
            _ => PROTOCOL_IPV6,
        }
    }
}

/// A length for a header's field: 0 if it is over 64 kB, as the kernel has it in super-packets. Memory order.
#[inline(always)]
const fn length_bytes(length: u32) -> [u8; 2] {
    let [high, mid, a, b] = length.to_be_bytes();
    if high | mid == 0 { [a, b] } else { [0, 0] }
}

/// The outer IPv4 header of a packet of `inner` bytes. `first` is the first word of the inner header.
#[inline(always)]
pub const fn outer_v4(leg: Leg, source: IpWords, destination: IpWords, first: u32, inner: u32) -> [u32; 5] {
    let [_, service, _, _] = first.to_ne_bytes();
    let [a, b] = length_bytes(inner + leg.overhead(true));
    let first = u32::from_ne_bytes([0x45, service & 0xfc, a, b]);
    // Not to be fragmented: a fragment could not be taken out where it arrives.
    let second = u32::from_ne_bytes([0, 0, 0x40, 0]);
    let third = u32::from_ne_bytes([OUTER_HOPS, leg.protocol(true), 0, 0]);
    let (source, destination) = (source.v4_word(), destination.v4_word());
    let sum = Sum::ZERO
        .replaced(0, first)
        .replaced(0, second)
        .replaced(0, third)
        .replaced(0, source)
        .replaced(0, destination);
    let [c, d] = HeaderChecksum(!0).changed(sum).0.to_ne_bytes();
    let third = u32::from_ne_bytes([OUTER_HOPS, leg.protocol(true), c, d]);
    [first, second, third, source, destination]
}

/// The outer IPv6 header of a packet of `inner` bytes. `first` is the first word of the inner header; the client's
/// port is the flow label, so that routers keep a flow together and flows apart (RFC 6438).
#[inline(always)]
pub const fn outer_v6(
    leg: Leg,
    source: IpWords,
    destination: IpWords,
    first: u32,
    client: PortWord,
    inner: u32,
) -> [u32; 10] {
    let [one, two, _, _] = first.to_ne_bytes();
    let [p, q] = client.0.to_ne_bytes();
    let first = u32::from_ne_bytes([0x60 | one & 0x0f, two & 0xc0, p, q]);
    let [a, b] = length_bytes(inner + leg.overhead(false) - 40);
    let second = u32::from_ne_bytes([a, b, leg.protocol(false), OUTER_HOPS]);
    let ([c, d, e, f], [g, h, i, j]) = (source.0, destination.0);
    [first, second, c, d, e, f, g, h, i, j]
}

/// The UDP header between outer and inner IP header. The source port, of those for any use, tells flows apart to
/// routers with several ways (RFC 6335, section 6).
#[inline(always)]
pub const fn outer_udp(client: IpWords, port: PortWord, inner: u32) -> [u32; 2] {
    let [a, b, c, d] = client.0[3].to_ne_bytes();
    let [p, q] = port.0.to_ne_bytes();
    let [r, s] = LEG_PORT.0.to_ne_bytes();
    let [l, m] = length_bytes(inner + UDP_BYTES);
    [u32::from_ne_bytes([a ^ c ^ p | 0xc0, b ^ d ^ q, r, s]), u32::from_ne_bytes([l, m, 0, 0])]
}

/// On the target's ingress: the kind of a packet that may be one of ours, by its IP header alone.
#[inline(always)]
pub const fn leg_of(outer: &IpFacts, v4: bool) -> Leg {
    let bare = if v4 { 20 } else { 40 };
    if outer.upper_at != bare || !matches!(outer.fragment(), Fragment::No) {
        return Leg::Rewrite;
    }
    match (outer.protocol, v4) {
        (PROTOCOL_IPIP, true) | (PROTOCOL_IPV6, false) => Leg::Ipip,
        (PROTOCOL_UDP, _) => Leg::Udp,
        _ => Leg::Rewrite,
    }
}

/// On the target's ingress: whether a packet of this kind comes from an intermediate that sends this kind. `ports` is
/// the first word behind the IP header.
#[inline(always)]
pub fn judge_outer(settings: &LegSettings, outer: &IpFacts, leg: Leg, ports: u32) -> bool {
    let [_, _, a, b] = ports.to_ne_bytes();
    if leg == Leg::Udp && u16::from_ne_bytes([a, b]) != LEG_PORT.0 {
        return false;
    }
    let mut known = false;
    for peer in &settings.peers {
        known |= peer.flags & leg.flags() != 0 && peer.address == outer.source;
    }
    known
}

/// On the target's ingress: whether what came inside goes to a flow of this host, whose record this is. It was sent to
/// the server's own address, inside and out.
#[inline(always)]
pub fn judge_inner(record: &FlowRecord, outer: &IpFacts) -> bool {
    !matches!(FlowState::from_raw(record.state), FlowState::Free)
        && outer.destination == record.server_address()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::LegPeer;
    use crate::wire::{Ipv4Words, Ipv6Words};
    use core::net::IpAddr;
    use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader};
    use proptest::prelude::*;

    fn ip(text: &str) -> IpWords {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn bytes<const N: usize>(words: [u32; N]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    fn number(leg: Leg, v4: bool) -> IpNumber {
        match leg {
            Leg::Udp => IpNumber::UDP,
            _ if v4 => IpNumber::IPV4,
            _ => IpNumber::IPV6,
        }
    }

    proptest! {
        #[test]
        fn outer_headers_are_what_etherparse_says(inner in 40u32..70_000, service: u8, port: u16, udp: bool,
                                                  from: [u8; 16], to: [u8; 16]) {
            let leg = if udp { Leg::Udp } else { Leg::Ipip };
            let client = PortWord::new(port);
            let length = |n: u32| u16::try_from(n).unwrap_or(0);

            let (source, destination): ([u8; 4], [u8; 4]) = (from[..4].try_into().unwrap(), to[..4].try_into().unwrap());
            let first = u32::from_ne_bytes([0x45, service, 1, 2]);
            let words = outer_v4(leg, IpAddr::from(source).into(), IpAddr::from(destination).into(), first, inner);
            let (header, rest) = Ipv4Header::from_slice(&bytes(words)).map(|(h, r)| (h, r.len())).unwrap();
            prop_assert_eq!(rest, 0);
            prop_assert_eq!((header.source, header.destination), (source, destination));
            prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
            prop_assert_eq!(header.protocol, number(leg, true));
            prop_assert_eq!(header.total_len, length(inner + leg.overhead(true)));
            prop_assert_eq!((header.dscp.value(), header.ecn.value()), (service >> 2, 0));
            prop_assert!(header.dont_fragment && !header.more_fragments && header.time_to_live == 64);

            let first = (0x6000_0000 | u32::from(service) << 20 | 0x12345).to_be();
            let words = outer_v6(leg, IpAddr::from(from).into(), IpAddr::from(to).into(), first, client, inner);
            if !IpWords::from(IpAddr::from(from)).is_v4() && !IpWords::from(IpAddr::from(to)).is_v4() {
                let (header, _) = Ipv6Header::from_slice(&bytes(words)).unwrap();
                prop_assert_eq!((header.source, header.destination), (from, to));
                prop_assert_eq!(header.next_header, number(leg, false));
                prop_assert_eq!(header.payload_length, length(inner + leg.overhead(false) - 40));
                prop_assert_eq!((header.traffic_class, header.hop_limit), (service & 0xfc, 64));
                prop_assert_eq!(header.flow_label.value(), u32::from(port));
            }

            let (header, _) = UdpHeader::from_slice(&bytes(outer_udp(IpAddr::from(from).into(), client, inner))).unwrap();
            prop_assert_eq!((header.destination_port, header.checksum), (6080, 0));
            prop_assert_eq!(header.length, length(inner + 8));
            prop_assert!(header.source_port >= 0xc000);
        }
    }

    fn outer(leg: Leg, source: &str, destination: &str) -> IpFacts {
        let mut facts = IpFacts::default();
        let (source, destination) = (ip(source), ip(destination));
        if source.is_v4() {
            facts.load_v4(&Ipv4Words(outer_v4(leg, source, destination, 0, 100)));
        } else {
            facts.load_v6(&Ipv6Words(outer_v6(leg, source, destination, 0, PortWord::new(1), 100)));
        }
        facts
    }

    #[test]
    fn what_a_peer_sends_is_taken_and_nothing_else() {
        let mut settings = LegSettings::default();
        settings.peers[3] = LegPeer { address: ip("10.0.0.1"), flags: FLAG_LEG_UDP };
        settings.peers[7] = LegPeer { address: ip("2001:db8::1"), flags: FLAG_LEG_IPIP };
        let ports = outer_udp(ip("1.2.3.4"), PortWord::new(5), 100)[0];
        let udp = outer(Leg::Udp, "10.0.0.1", "10.0.0.2");
        assert_eq!(leg_of(&udp, true), Leg::Udp);
        assert!(judge_outer(&settings, &udp, Leg::Udp, ports));
        assert!(!judge_outer(&settings, &udp, Leg::Udp, 0), "another port");
        assert!(!judge_outer(&settings, &udp, Leg::Ipip, ports), "another kind");
        assert!(!judge_outer(&settings, &outer(Leg::Udp, "10.0.0.3", "10.0.0.2"), Leg::Udp, ports));
        let ipip = outer(Leg::Ipip, "2001:db8::1", "2001:db8::2");
        assert_eq!(leg_of(&ipip, false), Leg::Ipip);
        assert!(judge_outer(&settings, &ipip, Leg::Ipip, 0));
        assert!(
            !judge_outer(&LegSettings::default(), &IpFacts::default(), Leg::Ipip, 0),
            "free places are nobody"
        );

        let mut other = udp;
        other.set_fragment(Fragment::First);
        assert_eq!(leg_of(&other, true), Leg::Rewrite, "a fragment");
        let mut other = udp;
        other.upper_at = 24;
        assert_eq!(leg_of(&other, true), Leg::Rewrite, "options");
        let mut other = udp;
        other.protocol = PROTOCOL_IPV6;
        assert_eq!(leg_of(&other, true), Leg::Rewrite, "another version inside");
    }

    #[test]
    fn what_is_inside_must_be_of_a_flow_of_the_address_outside() {
        let mut record = FlowRecord { state: FlowState::Committed as u32, ..FlowRecord::default() };
        record.key.local = ip("10.0.0.2");
        let facts = outer(Leg::Ipip, "10.0.0.1", "10.0.0.2");
        assert!(judge_inner(&record, &facts));
        assert!(!judge_inner(&record, &outer(Leg::Ipip, "10.0.0.1", "10.0.0.9")));
        // The key of an adopted flow has the VIP for its local address.
        let mut adopted =
            FlowRecord { flags: crate::record::FLAG_ADOPTED, new_addr: record.key.local, ..record };
        adopted.key.local = ip("192.0.2.1");
        assert!(judge_inner(&adopted, &facts));
        assert!(!judge_inner(&adopted, &outer(Leg::Ipip, "10.0.0.1", "192.0.2.1")));
        record.state = FlowState::Free as u32;
        assert!(!judge_inner(&record, &facts));
    }

    #[test]
    fn segments_fit_with_the_outer_header() {
        let sizes = |leg: Leg| (leg.segment_bytes(1500, true), leg.segment_bytes(1500, false));
        assert_eq!(sizes(Leg::Rewrite), (1460, 1440));
        assert_eq!(sizes(Leg::Ipip), (1440, 1400));
        assert_eq!(sizes(Leg::Udp), (1432, 1392));
        assert_eq!(Leg::Udp.segment_bytes(50, false), 0);
    }

    #[test]
    fn flags_lead_back() {
        for leg in [Leg::Rewrite, Leg::Ipip, Leg::Udp] {
            assert_eq!(Leg::from_flags(leg.flags() | 3), leg);
        }
    }
}
