//! A link behind the router with a smaller MTU than the servers know: its ICMP errors go to the VIP, and path-MTU
//! discovery works only if they reach the target, translated. Forged ones must not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{self, Connection};
use baton_tests::lab::{self, TestLab};
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header, TcpHeader,
};
use netns_lab::{Family, LabSpec, Plane, plan};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A packet counter of the intermediate.
fn counted(t: &TestLab, name: &str) -> u64 {
    t.metric(plan::INTERMEDIATE, &format!("baton_packets_total{{reason=\"{name}\"}}"))
}

/// The path MTU that a target has learnt for a client.
fn path_mtu(t: &TestLab, target: &str, client: IpAddr) -> Option<u32> {
    let route = t.lab.output(target, &["ip", "route", "get", &client.to_string()]).unwrap();
    let mut words = route.split_whitespace().skip_while(|w| *w != "mtu");
    words.nth(1).map(|mtu| mtu.parse().unwrap())
}

fn heals(name: &str, plane: Plane, family: Family, vip: SocketAddr, client: IpAddr, mtu: u16) {
    let order = |s: LabSpec| lab::patient(s.targets(1)).plane(plane).family(family).mtu_client(mtu);
    let Some(t) = lab::up(name, order) else { return };
    let want = t.sha256("1m");
    // Once for the neighbours to find each other.
    t.client(move || client::get(vip, "/1k")).unwrap();
    let begun = Instant::now();
    let response = t.client(move || client::get(vip, "/1m")).unwrap();
    assert_eq!((response.status, &response.sha256), (200, &want));
    println!("{name}: 1 MB over a link of MTU {mtu} in {:?}", begun.elapsed());
    t.expect_requests(2, 0);
    assert!(counted(&t, "icmp_translated") > 0);
    // In user space the route by which the server's packets leave is a rule's, which `ip route get` does not look for.
    if plane == Plane::Ebpf {
        assert_eq!(path_mtu(&t, "target1", client), Some(mtu.into()));
    }
}

#[test]
fn a_path_of_mtu_1400_is_found() {
    heals("mtu4", Plane::Ebpf, Family::V4, plan::VIP.into(), plan::client_addr(1).into(), 1400);
}

#[test]
fn an_ipv6_path_of_mtu_1280_is_found() {
    heals("mtu6", Plane::Ebpf, Family::V6, plan::VIP6.into(), plan::client_addr6(1).into(), 1280);
}

#[test]
fn both_are_found_in_user_space_too() {
    let plane = Plane::Userspace;
    heals("mtu4us", plane, Family::V4, plan::VIP.into(), plan::client_addr(1).into(), 1400);
    heals("mtu6us", plane, Family::V6, plan::VIP6.into(), plan::client_addr6(1).into(), 1280);
}

/// "Fragmentation needed" or "packet too big" about a segment of a connection, as somebody would forge it who has
/// guessed the ports. The kernel fills in ICMPv6's checksum.
fn forged(vip: SocketAddr, client: SocketAddr, seq: u32) -> Vec<u8> {
    let tcp = TcpHeader::new(vip.port(), client.port(), seq, 500).to_bytes();
    match (vip.ip(), client.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = Ipv4Header::new(1480, 60, IpNumber::TCP, from.octets(), to.octets()).unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            let quote = [&ip.to_bytes()[..], &tcp].concat();
            let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 600 };
            let kind = Icmpv4Type::DestinationUnreachable(needed);
            [&Icmpv4Header::with_checksum(kind, &quote).to_bytes()[..], &quote].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                payload_length: 1460,
                next_header: IpNumber::TCP,
                hop_limit: 60,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            let kind = Icmpv6Header::new(Icmpv6Type::PacketTooBig { mtu: 1300 });
            [&kind.to_bytes()[..], &ip.to_bytes(), &tcp].concat()
        }
        mixed => panic!("{mixed:?}"),
    }
}

fn ignored(name: &str, family: Family, vip: SocketAddr) {
    const FORGED: u32 = 200;
    let Some(t) = lab::up(name, |s| lab::patient(s.targets(1)).family(family)) else { return };
    let (mut connection, client) = t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
        connection.get("/100m").unwrap();
        let client = connection.socket().local_addr().unwrap();
        (connection, client)
    });
    t.expect_requests(1, 0);
    // The client does not read: data stays in flight, or waits for its window.
    let before = (counted(&t, "icmp_translated"), t.kernel_count("target1", "TcpExtOutOfWindowIcmps"));
    t.lab
        .inside(plan::ROUTER, move || {
            let (domain, protocol) = if vip.is_ipv4() {
                (Domain::IPV4, Protocol::ICMPV4)
            } else {
                (Domain::IPV6, Protocol::ICMPV6)
            };
            let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
            // The address alone: for a raw socket a port is a protocol.
            let to = SocketAddr::new(vip.ip(), 0).into();
            for n in 0..FORGED {
                socket.send_to(&forged(vip, client, n.wrapping_mul(0x0123_4567)), &to).unwrap();
            }
        })
        .unwrap();
    t.eventually("all are translated", Duration::from_secs(20), |t| {
        counted(t, "icmp_translated") - before.0 == u64::from(FORGED)
    });
    // Of 200 numbers all over the space, one in a window of some megabytes would be chance.
    let (begun, mut ignored) = (Instant::now(), 0);
    t.eventually("the server's kernel has taken them for forged", Duration::from_secs(20), |t| {
        ignored = t.kernel_count("target1", "TcpExtOutOfWindowIcmps") - before.1;
        let late = begun.elapsed() > Duration::from_secs(5);
        ignored == u64::from(FORGED) || late && ignored + 2 >= u64::from(FORGED)
    });
    if ignored == u64::from(FORGED) {
        assert_eq!(path_mtu(&t, "target1", client.ip()), None);
    }
    let response = t.client(move || connection.response()).unwrap();
    assert_eq!((response.status, response.sha256), (200, t.sha256("100m")));
}

#[test]
fn forged_errors_are_ignored_by_the_server() {
    ignored("forged4", Family::V4, plan::VIP.into());
}

#[test]
fn forged_ipv6_errors_are_ignored_by_the_server() {
    ignored("forged6", Family::V6, plan::VIP6.into());
}
