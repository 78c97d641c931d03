//! Outer headers on the leg to a target: put on by the intermediate's program, built here by etherparse; taken off by
//! the target's, which must give the very bytes back.

use crate::cases::{Version, ends, frame, record, timestamps};
use crate::packet::Frame;
use crate::{Case, Hook, host, with_bench};
use baton_shared::reason::PacketCounter as C;
use baton_shared::record::{FlowState, LegPeer, LegSettings};
use baton_shared::translate::Leg;
use etherparse::{IpDscp, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, UdpHeader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 90, 1, 2);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd90, 1, 0, 0, 0, 0, 0, 2);

pub(crate) fn settings(leg: Leg) -> LegSettings {
    let (v4, v6) = (IpAddr::from(SOURCE).into(), IpAddr::from(SOURCE6).into());
    let mut legs = LegSettings { source_v4: v4, source_v6: v6, ..LegSettings::default() };
    legs.peers[1] = LegPeer { address: v4, flags: leg.flags() };
    legs.peers[2] = LegPeer { address: v6, flags: leg.flags() };
    legs
}

/// A translated frame with the outer headers behind its Ethernet header.
pub(crate) fn wrapped(bare: &[u8], leg: Leg, client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let inner = &bare[14..];
    let udp = if leg == Leg::Udp { 8 } else { 0 };
    let (mut frame, length) = match server.ip() {
        IpAddr::V4(to) => {
            let length = u16::from_be_bytes([inner[2], inner[3]]);
            let number = if udp == 0 { IpNumber::IPV4 } else { IpNumber::UDP };
            let mut ip = Ipv4Header::new(length + udp, 64, number, SOURCE.octets(), to.octets()).unwrap();
            ip.dscp = IpDscp::try_new(inner[1] >> 2).unwrap();
            ip.dont_fragment = true;
            ip.header_checksum = ip.calc_header_checksum();
            ([&bare[..14], &ip.to_bytes()].concat(), length)
        }
        IpAddr::V6(to) => {
            let length = 40 + u16::from_be_bytes([inner[4], inner[5]]);
            let ip = Ipv6Header {
                traffic_class: (inner[0] << 4 | inner[1] >> 4) & 0xfc,
                flow_label: Ipv6FlowLabel::try_new(client.port().into()).unwrap(),
                payload_length: length + udp,
                next_header: if udp == 0 { IpNumber::IPV6 } else { IpNumber::UDP },
                hop_limit: 64,
                source: SOURCE6.octets(),
                destination: to.octets(),
            };
            ([&bare[..14], &ip.to_bytes()].concat(), length)
        }
    };
    if udp != 0 {
        let address = match client.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets()[12..].to_vec(),
        };
        let spread = u16::from_be_bytes([address[0] ^ address[2], address[1] ^ address[3]]);
        let header = UdpHeader {
            source_port: (spread ^ client.port()) | 0xc000,
            destination_port: 6080,
            length: length + udp,
            checksum: 0,
        };
        frame.extend(header.to_bytes());
    }
    frame.extend(inner);
    frame
}

pub(crate) fn counted(counters: &[C]) -> Vec<u64> {
    let mut all = vec![0; C::CAPACITY as usize];
    counters.iter().for_each(|c| all[c.code() as usize] += 1);
    all
}

fn case(name: &str, hook: Hook, version: Version, frame: Vec<u8>) -> Case {
    Case::new(name, hook, record(hook, version), frame)
}

pub(crate) fn frames(version: Version) -> Vec<(&'static str, Frame)> {
    let plain = frame(Hook::Ingress, version);
    let mut padded = plain.clone();
    padded.payload.clear();
    padded.padding = 6;
    let with_options = plain.clone().options(&timestamps(1, 2));
    let mut large = plain.clone();
    large.payload = (0u8..=255).cycle().take(1400).collect();
    vec![("plain", plain), ("padded", padded), ("timestamps", with_options), ("large", large)]
}

#[test]
fn outer_headers_are_put_on_and_taken_off() {
    with_bench(|bench| {
        for (version, leg) in
            [Version::V4, Version::V6].into_iter().flat_map(|v| [(v, Leg::Ipip), (v, Leg::Udp)])
        {
            let [client, _, server] = ends(version);
            bench.set_legs(&settings(leg));
            for (name, frame) in frames(version) {
                let mut there = case(name, Hook::Ingress, version, frame.bytes());
                let bare = host::run(&there);
                there.record.flags |= leg.flags();
                let sent = bench.run(&there);
                assert_eq!((sent.verdict, &sent.counters), (7, &counted(&[C::Translated])), "{name}");
                assert_eq!(
                    sent.frame,
                    wrapped(&bare.frame, leg, client, server),
                    "{name} {version:?} {leg:?}"
                );

                let here = case(name, Hook::Egress, version, sent.frame);
                let got = bench.run_by("target_ingress", &here);
                assert_eq!((got.verdict, &got.counters), (-1, &counted(&[C::LegStripped])), "{name}");
                assert_eq!(got.frame, bare.frame, "{name} {version:?} {leg:?}");
                left_alone(bench, leg, &here);
            }
        }
        bench.set_legs(&LegSettings::default());
    });
}

/// What nobody asked for stays as it is.
fn left_alone(bench: &mut crate::bench::Bench, leg: Leg, case: &Case) {
    let mut stays = |what: &str, case: &Case, counters: &[C]| {
        let got = bench.run_by("target_ingress", case);
        assert_eq!((got.verdict, got.counters), (-1, counted(counters)), "{what}: {}", case.name);
        assert_eq!(got.frame, case.frame, "{what}: {}", case.name);
    };
    let v4 = case.frame[12] == 8;
    let inner_at = 14 + usize::try_from(leg.overhead(v4)).unwrap();
    let changed = |at: usize| {
        let mut other = case.clone();
        other.frame[at] ^= 1;
        other
    };
    let mut free = case.clone();
    free.record.state = FlowState::Free as u32;
    stays("no flow", &free, &[C::LegUnknown]);
    let ports = inner_at + if v4 { 20 } else { 40 };
    stays("another client port", &changed(ports), &[C::LegUnknown]);
    stays("sent to another address", &changed(if v4 { 33 } else { 53 }), &[C::LegUnknown]);
    let mut version = case.clone();
    version.frame[inner_at] ^= 0x10;
    stays("another version inside", &version, &[C::LegUnknown]);
    stays("from somebody else", &changed(if v4 { 29 } else { 37 }), &[]);
    let mut short = case.clone();
    short.frame.truncate(inner_at + 10);
    stays("cut short", &short, &[C::LegUnknown]);
    if v4 {
        let mut fragment = case.clone();
        fragment.frame[20] |= 0x20;
        stays("a fragment", &fragment, &[]);
    }
    if leg == Leg::Udp {
        stays("another port", &changed(inner_at - 5), &[]);
    }
}
