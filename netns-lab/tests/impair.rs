//! The impairment box: that it does what was ordered, packet by packet, and nothing else.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{Traces, able, name};
use netns_lab::impair::{Counts, Direction, Impairment, Lot};
use netns_lab::{Balancer, Family, Lab, LabSpec, content, plan};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

fn spec(text: &str) -> Impairment {
    text.parse().unwrap()
}

fn lab(test: &str, it: &str) -> Lab {
    let order = LabSpec::new(name(test)).balancer(Balancer::None).targets(1);
    Lab::up(&order.family(Family::Dual).impair(spec(it))).unwrap()
}

/// Sends numbered datagrams from client1 to target1, a millisecond apart, and gives back the numbers in the order in which
/// they arrived.
fn datagrams(lab: &Lab, to: IpAddr, count: u32) -> Vec<u32> {
    let bind = move |port| UdpSocket::bind((to, port));
    let receiver = lab.inside("target1", move || bind(9000)).unwrap().unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let before = lab.impairment("client1").unwrap().from_node;
    let sender = lab
        .inside("client1", move || {
            let any = if to.is_ipv4() { IpAddr::from([0, 0, 0, 0]) } else { Ipv6Addr::UNSPECIFIED.into() };
            UdpSocket::bind((any, 0))
        })
        .unwrap()
        .unwrap();
    // Not more than the receiver's socket has room for, if that is kept waiting.
    let seen = Arc::new(AtomicU32::new(0));
    let so_far = Arc::clone(&seen);
    let sending = std::thread::spawn(move || {
        for n in 0..count {
            let until = Instant::now() + Duration::from_secs(10);
            while n > so_far.load(Ordering::Relaxed) + 150 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            sender.send_to(&[n.to_be_bytes(); 16].concat(), SocketAddr::new(to, 9000)).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let mut numbers = Vec::new();
    let mut buffer = [0; 100];
    loop {
        // Asked before, so that a pause of a busy machine is not taken for the end: of the sender's, or of the box.
        let sent = sending.is_finished() && is_through(lab, &before, count);
        match receiver.recv(&mut buffer) {
            Ok(length) => {
                assert_eq!(length, 64);
                let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
                seen.fetch_max(number, Ordering::Relaxed);
                numbers.push(number);
            }
            Err(_) if sent => break,
            Err(_) => {}
        }
    }
    sending.join().unwrap();
    numbers
}

/// Whether the box has sent on all it is to send on of as many more packets.
fn is_through(lab: &Lab, before: &Counts, count: u32) -> bool {
    let counts = lab.impairment("client1").unwrap().from_node;
    let Counts { packets, link_local, lost, duplicated, overflowed, sent, .. } = counts;
    packets >= before.packets + u64::from(count)
        && sent >= (packets + link_local + duplicated).saturating_sub(lost + overflowed)
}

/// How often each datagram was received, and how often the lots say it is.
fn compare(it: &Impairment, received: &[u32], count: u32) {
    let mut times = BTreeMap::new();
    received.iter().for_each(|n| *times.entry(*n).or_insert(0) += 1);
    for n in 0..count {
        let lot = Lot::draw(it, Direction::FromNode, n.into());
        let want = if lot.lost || lot.flip.is_some() { 0 } else { 1 + u32::from(lot.twice) };
        assert_eq!(times.get(&n).copied().unwrap_or(0), want, "datagram {n} of '{it}': {lot:?}");
    }
}

#[test]
fn with_nothing_ordered_no_packet_is_missing_and_the_bytes_are_right() {
    if !able("with_nothing_ordered_no_packet_is_missing_and_the_bytes_are_right") {
        return;
    }
    let lab = lab("calm", "");
    let traces = Traces::of(&lab.spec().name);
    let want = content::sha256_of_file(&lab.www_dir().join("100m")).unwrap();
    for url in ["http://10.90.101.2/100m", "http://[fd90:101::2]/100m"] {
        let fetch = format!("curl -sSf '{url}' | sha256sum");
        let got = lab.output("client1", &["bash", "-o", "pipefail", "-c", &fetch]).unwrap();
        assert_eq!(got.split(' ').next(), Some(want.as_str()));
    }
    std::thread::sleep(Duration::from_millis(300));
    let link = lab.link_counters().unwrap().into_iter().find(|l| l.link == "client1").unwrap();
    let state = lab.impairment("client1").unwrap();
    for (counts, sent, received) in [
        (state.from_node, link.node.tx_packets, link.router.rx_packets),
        (state.to_node, link.router.tx_packets, link.node.rx_packets),
    ] {
        let Counts { packets, link_local, .. } = counts;
        assert_eq!(counts, Counts { packets, link_local, sent: packets + link_local, ..Counts::default() });
        // Acknowledgements of 200 MB, however many of them are joined on a busy machine.
        assert!(packets > 1_000, "{packets}");
        // Multicast reports of the hosts may come in between the readings.
        assert!(
            sent.abs_diff(counts.sent) < 10 && received.abs_diff(counts.sent) < 10,
            "{link:?} {counts:?}"
        );
    }
    assert_eq!((link.node.tx_dropped, link.router.tx_dropped), (0, 0));
    drop(lab);
    traces.assert_gone();
}

#[test]
fn every_datagram_meets_the_lot_that_was_drawn_for_it() {
    if !able("every_datagram_meets_the_lot_that_was_drawn_for_it") {
        return;
    }
    let lab = lab("lots", "");
    let (v4, v6) = (plan::target_addr(1).into(), plan::target_addr6(1).into());
    // Neighbours know each other before something is lost.
    assert_eq!(datagrams(&lab, v4, 50), (0..50).collect::<Vec<_>>());
    assert_eq!(datagrams(&lab, v6, 50), (0..50).collect::<Vec<_>>());
    for (text, to) in [
        ("loss=5%,seed=1", v4),
        ("loss=2%,dup=5%,delay=5ms,jitter=2ms,seed=2", v6),
        ("corrupt=5%,dup=1%,seed=3", v4),
        ("loss=5%,dup=5%,reorder=5%,corrupt=1%,delay=10ms,seed=4", v4),
    ] {
        let it = spec(text);
        let once = || {
            lab.impair("client1", it).unwrap();
            assert_eq!(lab.impairment("client1").unwrap().from_node.packets, 0, "numbered anew");
            let received = datagrams(&lab, to, 500);
            let counts = lab.impairment("client1").unwrap().from_node;
            // Neighbours may be asked again at any time.
            (received, Counts { sent: counts.sent - counts.link_local, link_local: 0, ..counts })
        };
        let (received, counts) = once();
        assert_eq!(counts.packets, 500, "{counts:?}");
        compare(&it, &received, 500);
        let (again, counts_again) = once();
        compare(&it, &again, 500);
        assert_eq!(counts, counts_again, "'{it}' replays");
        let in_order = received.windows(2).all(|w| w[0] <= w[1]);
        assert_eq!(in_order, counts.reordered == 0, "'{it}' reorders {} packets", counts.reordered);
    }
    // The comparison itself can fail.
    let other =
        std::panic::catch_unwind(|| compare(&spec("loss=5%,seed=1"), &(0..500).collect::<Vec<_>>(), 500));
    assert!(other.is_err());
}

#[test]
fn a_delay_is_there_in_both_directions_and_a_rate_is_kept() {
    if !able("a_delay_is_there_in_both_directions_and_a_rate_is_kept") {
        return;
    }
    let lab = lab("delay", "delay=30ms");
    let ask = |path: &str| {
        let url = format!("http://10.90.101.2{path}");
        let start = Instant::now();
        lab.output("client1", &["curl", "-sSf", "-o", "/dev/null", &url]).unwrap();
        start.elapsed()
    };
    // Handshake and request: two round trips of 60 ms.
    assert!(ask("/1k") >= Duration::from_millis(120));
    lab.impair("client1", spec("rate=20mbit")).unwrap();
    assert!(ask("/1m") >= Duration::from_millis(400));
    lab.impair("client1", spec("")).unwrap();
    assert!(lab.impair("target1", spec("")).is_err(), "that link has no box");
}

#[test]
fn a_small_mtu_is_found_out_by_the_server_in_both_ip_versions() {
    if !able("a_small_mtu_is_found_out_by_the_server_in_both_ip_versions") {
        return;
    }
    let order = LabSpec::new(name("mtu")).balancer(Balancer::None).targets(1);
    let lab = Lab::up(&order.family(Family::Dual).mtu_client(1400)).unwrap();
    for (url, version) in [("http://10.90.101.2/1m", "-4"), ("http://[fd90:101::2]/1m", "-6")] {
        let size =
            ["curl", "-sSf", "-g", "--max-time", "20", "-o", "/dev/null", "-w", "%{size_download}", url];
        assert_eq!(lab.output("client1", &size).unwrap(), "1048576");
        let to = if version == "-4" { "10.90.11.2" } else { "fd90:11::2" };
        let route = lab.output("target1", &["ip", version, "route", "get", to]).unwrap();
        assert!(route.contains("mtu 1400"), "the router told the server: {route}");
    }
}

#[test]
fn a_router_that_checks_sources_drops_what_comes_from_elsewhere() {
    if !able("a_router_that_checks_sources_drops_what_comes_from_elsewhere") {
        return;
    }
    let order = LabSpec::new(name("urpf")).balancer(Balancer::None).family(Family::Dual).targets(1);
    let lab = Lab::up(&LabSpec { urpf: true, ..order }).unwrap();
    for (vip, client, target) in [
        ("10.90.1.100", "10.90.11.2:9000", "10.90.101.2:0"),
        ("fd90:1::100", "[fd90:11::2]:9000", "[fd90:101::2]:0"),
    ] {
        // An address of another link, which its owner is not asked about: it is only used.
        // On the loopback device too an IPv6 address can be used only when the kernel has got round to it, unless told otherwise.
        let at_once = vip.contains(':').then_some("nodad");
        let add = ["ip", "addr", "add", vip, "dev", "lo"].into_iter().chain(at_once);
        lab.output("target1", &add.collect::<Vec<_>>()).unwrap();
        let receiver = lab.inside("client1", move || UdpSocket::bind(client)).unwrap().unwrap();
        let came = |from: SocketAddr, within: u64| {
            receiver.set_read_timeout(Some(Duration::from_secs(within))).unwrap();
            let sender = lab.inside("target1", move || UdpSocket::bind(from)).unwrap().unwrap();
            sender.send_to(b"x", client).unwrap();
            receiver.recv(&mut [0; 10]).is_ok()
        };
        assert!(came(target.parse().unwrap(), 10));
        assert!(!came(SocketAddr::new(vip.parse().unwrap(), 0), 1), "{vip} came from the target's link");
    }
}
