//! The leg from the intermediate to the target in outer headers: downloads and uploads over a router that drops
//! clients' source addresses where no clients are.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{self, Connection};
use baton_tests::lab::{self, TestLab, patient};
use netns_lab::spec::Plane;
use netns_lab::{Family, plan};
use socket2::SockRef;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// The router checks sources on the intermediate's link, and lets targets send with the VIP: the one thing that any
/// direct return asks of a network. (The kernel takes the stricter of `all` and the device's own setting.)
fn let_targets_send_as_the_vip(t: &TestLab, family: Family) {
    if family == Family::V6 {
        let allow = format!("-6 rule add pref 99 from {} iif target1 lookup main", plan::VIP6.ip());
        let command: Vec<_> = ["ip"].into_iter().chain(allow.split(' ')).collect();
        t.lab.output(plan::ROUTER, &command).unwrap();
        let rules = t.lab.output(plan::ROUTER, &["ip", "-6", "rule"]).unwrap();
        assert!(rules.contains("from all iif intermediate blackhole"), "{rules}");
        return;
    }
    for conf in ["all", "target1"] {
        let setting = format!("net.ipv4.conf.{conf}.rp_filter=0");
        t.lab.output(plan::ROUTER, &["sysctl", "-q", "-w", &setting]).unwrap();
    }
    let left = t.lab.output(plan::ROUTER, &["sysctl", "-n", "net.ipv4.conf.intermediate.rp_filter"]).unwrap();
    assert_eq!(left.trim(), "1", "the router does not check the intermediate's sources");
}

/// Segments that the client has sent again so far. If they did not fit the leg, none would arrive at all.
fn retransmitted(t: &TestLab) -> u64 {
    t.kernel_count("client1", "TcpRetransSegs")
}

/// The MTU of a link behind the intermediate, smaller than what clients are told.
const NARROW: u16 = 1400;

/// An upload whose packets do not fit the way from the intermediate to the target: the client hears of it from the VIP.
fn narrows(leg: &str, family: Family, plane: Plane) {
    let v4 = family == Family::V4;
    let (vip, source): (SocketAddr, IpAddr) = if v4 {
        (plan::VIP.into(), plan::INTERMEDIATE_ADDR.into())
    } else {
        (plan::VIP6.into(), plan::INTERMEDIATE_ADDR6.into())
    };
    let name =
        format!("narrow-{leg}{}{}", if v4 { 4 } else { 6 }, if plane == Plane::Ebpf { "" } else { "-us" });
    let Some(t) = lab::up(&name, |s| {
        let s = patient(s.targets(1)).family(family).plane(plane).mtu_target(NARROW);
        if leg == "rewrite" {
            return s;
        }
        let s = s.intermediate_with("target", "leg", leg);
        s.agents_with("allow", "leg", leg).agents_with("allow", "leg_source", source.to_string())
    }) else {
        return;
    };
    let file = t.lab.www_dir().join("10m");
    let want = t.sha256("10m");
    let count = |name: &str| t.packets(plan::INTERMEDIATE, name);
    t.client(move || client::get(vip, "/1k")).unwrap();
    for n in 0..2 {
        let command =
            format!("curl -sSg --fail --max-time 60 -T {} http://{vip}/upload/narrow{n}", file.display());
        let (begun, before) = (Instant::now(), count("drop_too_big"));
        t.lab.output("client1", &["bash", "-c", &command]).unwrap();
        let took = begun.elapsed();
        let dropped = count("drop_too_big") - before;
        assert_eq!(t.uploaded(&format!("narrow{n}")), want);
        println!("{name}: 10 MB up in {took:?}, {dropped} packets were too big");
        // Once told, the client knows.
        assert_eq!(n == 0, dropped > 0, "upload {n}: {dropped} packets were too big");
    }
    let overhead = match (leg, v4) {
        ("ipip", true) => 20,
        ("udp", true) => 28,
        ("ipip", false) => 40,
        ("udp", false) => 48,
        _ => 0,
    };
    let route = t.lab.output("client1", &["ip", "route", "get", &vip.ip().to_string()]).unwrap();
    assert!(route.contains(&format!(" mtu {}", NARROW - overhead)), "{route}");
    t.expect_requests(3, 0);
}

#[test]
fn an_upload_over_a_narrow_way_heals() {
    narrows("rewrite", Family::V4, Plane::Ebpf);
}

#[test]
fn an_ipv6_upload_over_a_narrow_way_heals() {
    narrows("rewrite", Family::V6, Plane::Ebpf);
}

#[test]
fn an_upload_over_a_narrow_way_heals_in_outer_headers() {
    narrows("ipip", Family::V4, Plane::Ebpf);
    narrows("udp", Family::V6, Plane::Ebpf);
}

#[test]
fn an_upload_over_a_narrow_way_heals_in_user_space() {
    narrows("rewrite", Family::V4, Plane::Userspace);
}

/// The largest segment that a connection of client1 with the VIP sends: what the VIP's SYN-ACK allowed, without the
/// timestamps (TCP_MAXSEG, tcp(7)).
fn segment_size(t: &TestLab, vip: SocketAddr) -> u32 {
    t.client(move || {
        let connection = Connection::open(vip).unwrap();
        SockRef::from(connection.socket()).tcp_mss().unwrap()
    })
}

fn moves(leg: &str, family: Family) {
    let v4 = family == Family::V4;
    let (vip, source): (SocketAddr, IpAddr) = if v4 {
        (plan::VIP.into(), plan::INTERMEDIATE_ADDR.into())
    } else {
        (plan::VIP6.into(), plan::INTERMEDIATE_ADDR6.into())
    };
    let name = format!("leg-{leg}{}", if v4 { 4 } else { 6 });
    let Some(t) = lab::up(&name, |s| {
        let s = patient(s.targets(1)).family(family).intermediate_with("target", "leg", leg);
        let s = s.agents_with("allow", "leg", leg).agents_with("allow", "leg_source", source.to_string());
        netns_lab::LabSpec { urpf: true, ..s }
    }) else {
        return;
    };
    let_targets_send_as_the_vip(&t, family);
    let want = t.sha256("10m");
    // All that a leg of 1500 bytes takes with the outer headers, and no more.
    let fits = match (leg, v4) {
        ("ipip", true) => 1440,
        ("udp", true) => 1432,
        ("ipip", false) => 1400,
        _ => 1392,
    };
    // Twelve bytes of each are the timestamps' option.
    assert_eq!(segment_size(&t, vip), fits - 12);
    t.client(move || client::get(vip, "/1k")).unwrap();
    let begun = Instant::now();
    let response = t.client(move || client::get(vip, "/10m")).unwrap();
    assert_eq!((response.status, &response.sha256), (200, &want));
    let down = begun.elapsed();

    let (before, file) = (retransmitted(&t), t.lab.www_dir().join("10m"));
    let command = format!("curl -sSg --fail --max-time 60 -T {} http://{vip}/upload/leg", file.display());
    let begun = Instant::now();
    t.lab.output("client1", &["bash", "-c", &command]).unwrap();
    let up = begun.elapsed();
    assert_eq!(t.uploaded("leg"), want);
    t.expect_requests(3, 0);
    let stripped = t.packets("target1", "leg_stripped");
    let sent = t.packets(plan::INTERMEDIATE, "translated");
    println!(
        "{name}: 10 MB down in {down:?}, up in {up:?}; {sent} packets wrapped, {stripped} taken out, {} segments resent",
        retransmitted(&t) - before
    );
    assert!(stripped > 10 && stripped <= sent, "{stripped} of {sent} were taken out");
    assert_eq!(t.packets("target1", "drop_store_failed"), 0);
    assert_eq!(t.packets(plan::INTERMEDIATE, "drop_store_failed"), 0);
    // Nothing had to be told its size on the way.
    assert_eq!(t.packets(plan::INTERMEDIATE, "drop_too_big"), 0);
}

#[test]
fn ipip_carries_ipv4_past_a_router_that_checks_sources() {
    moves("ipip", Family::V4);
}

#[test]
fn udp_carries_ipv4_past_a_router_that_checks_sources() {
    moves("udp", Family::V4);
}

#[test]
fn ipip_carries_ipv6_past_a_router_that_checks_sources() {
    moves("ipip", Family::V6);
}

#[test]
fn udp_carries_ipv6_past_a_router_that_checks_sources() {
    moves("udp", Family::V6);
}
