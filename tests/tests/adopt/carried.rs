//! What adopted connections carry, and what befalls them.

use crate::{LINGER, SOON, TARGETS, adopted, adopting, counted, expect_adopted, sysctl};
use baton_tests::client::{self, Connection, Response};
use baton_tests::lab::{self, TestLab, VIP, VIPS, both};
use baton_tests::thousand;
use baton_tests::two_pools::{served_by, two_pools};
use netns_lab::{Family, LabSpec, Program, Serve, plan};
use serde_json::Value;
use std::io;
use std::net::SocketAddr;

#[test]
fn twenty_downloads_of_100_mb_are_byte_exact_and_nothing_is_translated_on_the_targets() {
    let Some(t) = adopting("adl", both) else { return };
    let want = t.sha256("100m");
    for (n, vip) in (1..=20).zip(VIPS.into_iter().cycle()) {
        let response = t.get_at(vip, "/100m").unwrap_or_else(|e| panic!("download {n} from {vip}: {e}"));
        assert_eq!((response.status, &response.sha256), (200, &want), "download {n} from {vip}");
    }
    t.expect_requests(20, 0);
    expect_adopted(&t, 20);
    let sent: u64 = TARGETS.iter().map(|target| counted(&t, target, "adopted_sent")).sum();
    let acknowledged: u64 = TARGETS.iter().map(|target| counted(&t, target, "readdressed")).sum();
    assert!(sent > 1000 && acknowledged > 1000, "{sent} {acknowledged}");
}

#[test]
fn a_thousand_small_requests_8_at_a_time_are_adopted_and_logged_once_with_the_clients_address() {
    let Some(t) = adopting("asmall", both) else { return };
    thousand::ask_and_find_logged_once(&t);
    expect_adopted(&t, 1000);
    thousand::expect_nothing_left(&t, LINGER);
}

#[test]
fn kept_connections_uploads_and_half_closed_ones_work_over_both_ip_versions() {
    let Some(t) = adopting("afam", |s| s.family(Family::Dual)) else { return };
    for vip in [VIP, SocketAddr::V6(plan::VIP6)] {
        let hashes = t.client(move || {
            let mut connection = Connection::open(vip).unwrap();
            ["/1k", "/100k", "/10m"].map(|path| {
                connection.get(path).unwrap();
                connection.response().unwrap().sha256
            })
        });
        assert_eq!(hashes, [t.sha256("1k"), t.sha256("100k"), t.sha256("10m")], "{vip}");
        let source = t.lab.www_dir().join("10m");
        let name = if vip.is_ipv4() { "four" } else { "six" };
        let put = t.client(move || client::upload(vip, name, &std::fs::read(&source).unwrap()));
        assert_eq!((put.unwrap().status, t.uploaded(name)), (201, t.sha256("10m")), "{vip}");
        let half = t.client(move || {
            let mut connection = Connection::open(vip).unwrap();
            connection.get("/10k").unwrap();
            connection.socket().shutdown(std::net::Shutdown::Write).unwrap();
            connection.response().unwrap().sha256
        });
        assert_eq!(half, t.sha256("10k"), "{vip}");
    }
    expect_adopted(&t, 6);
    assert_eq!(t.all_proxied(), 0);
}

#[test]
fn an_agent_killed_in_mid_download_takes_nothing_with_it_and_a_new_one_takes_the_flow_over() {
    let Some(t) = adopting("akill", |s| s.targets(1)) else { return };
    let want = t.sha256("100m");
    // Begun, and read on when the new agent is there.
    let mut connection = t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get("/100m").unwrap();
        assert!(connection.read_some().unwrap() > 0);
        connection
    });
    t.eventually("the flow is there", SOON, |t| {
        let flows = t.flows("target1");
        flows.len() == 1 && flows[0]["adopted"] == true && flows[0]["state"] == "committed"
    });
    t.lab.kill("target1", Program::Agent).unwrap();
    t.lab.start("target1", Program::Agent).unwrap();
    t.eventually("taken over", SOON, |t| t.flows("target1").len() == 1);
    let flow = &t.flows("target1")[0];
    assert_eq!((&flow["adopted"], flow["state"].as_str()), (&Value::Bool(true), Some("committed")), "{flow}");
    assert_eq!(flow["vip"], VIP.to_string());
    assert_eq!(flow["server"], "10.90.101.2:80");
    assert_eq!(connection.response().unwrap().sha256, want);
    drop(connection);
    t.eventually("its end is noticed and its record freed", LINGER * 4, |t| {
        ["intermediate", "target1"].iter().all(|node| t.flows(node).is_empty())
    });
    assert_eq!(t.get("/1k").unwrap().status, 200);
}

/// So that it is the server that has the socket in TIME_WAIT.
fn ask_and_see_the_server_close() -> io::Result<Response> {
    let mut connection = Connection::open(VIP)?;
    connection.get("/1k")?;
    let response = connection.response()?;
    while connection.read_some()? > 0 {}
    Ok(response)
}

#[test]
fn a_port_used_again_finds_room_whether_the_agent_knows_of_the_socket_in_time_wait_or_meets_it() {
    let Some(t) = adopting("aports", |s| s.targets(1).intermediate_with("listener", "keepalive", "single"))
    else {
        return;
    };
    let want = t.sha256("1k");
    t.client(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40015").unwrap());
    let met = || counted(&t, "target1", "drop_adopt_refused");
    let use_ports_again = || {
        let before = met();
        for n in 0..60 {
            let response = match t.client(ask_and_see_the_server_close) {
                Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable => continue,
                other => other.unwrap_or_else(|e| panic!("request {n}: {e}")),
            };
            assert_eq!((response.status, &response.sha256), (200, &want), "request {n}");
        }
        met() - before
    };
    // The server closes first, so its sockets stay in TIME_WAIT for a minute. Those of flows that the agent still has it
    // knows of.
    let known = use_ports_again();
    assert!(known < 20, "{known} of some 40 were met");
    t.eventually("the agent has forgotten the flows", LINGER * 4, |t| t.flows("target1").is_empty());
    let unknown = use_ports_again();
    assert!(unknown > 3, "{unknown} of 16 were met");
    assert_eq!(t.all_proxied(), 0);
}

#[test]
fn clients_without_timestamps_sack_or_window_scaling_and_with_ecn_are_adopted() {
    let Some(t) = adopting("aopts", |s| s) else { return };
    let want = t.sha256("10m");
    for (key, off, on) in [
        ("tcp_timestamps", "0", "1"),
        ("tcp_sack", "0", "1"),
        ("tcp_window_scaling", "0", "1"),
        ("tcp_ecn", "1", "2"),
    ] {
        sysctl(&t, "client1", &format!("net.ipv4.{key}"), off);
        let response = t.get("/10m").unwrap();
        assert_eq!((response.status, &response.sha256), (200, &want), "with {key}={off}");
        sysctl(&t, "client1", &format!("net.ipv4.{key}"), on);
    }
    expect_adopted(&t, 4);
}

#[test]
fn requests_longer_than_the_first_window_are_fed_whole() {
    // nginx reads bodies of this size before it answers.
    let Some(t) = adopting("along", |s| s.targets(1).intermediate_with("limits", "prefetch_bytes", 262_144))
    else {
        return;
    };
    let source = t.lab.www_dir().join("100k");
    for n in 0..5 {
        let (source, name) = (source.clone(), format!("long{n}"));
        let put = {
            let name = name.clone();
            t.client(move || client::upload(VIP, &name, &std::fs::read(&source).unwrap()))
        };
        assert_eq!((put.unwrap().status, t.uploaded(&name)), (201, t.sha256("100k")), "{name}");
    }
    t.eventually("all were adopted", SOON, |t| adopted(t, &["target1"]) == 5);
}

#[test]
fn the_socket_knows_the_clients_round_trip_time_from_its_first_byte() {
    let Some(t) = adopting("artt", |s| s.targets(1).impair("delay=15ms".parse().unwrap())) else { return };
    let measured = || {
        let connection = t.client(|| {
            let mut connection = Connection::open(VIP).unwrap();
            connection.get("/whoami").unwrap();
            connection.response().unwrap();
            connection
        });
        let client = connection.socket().local_addr().unwrap().to_string();
        let mut min = None;
        t.eventually("the server's socket is there", SOON, |t| {
            let words = ["ss", "-tniH", "state", "established", "src", "10.90.1.100", "dst", &client];
            let found = t.lab.output("target1", &words).unwrap();
            min = found.split_whitespace().find_map(|word| word.strip_prefix("minrtt:")?.parse::<f64>().ok());
            min.is_some()
        });
        min.unwrap()
    };
    // A replayed handshake would leave some hundredths of a millisecond. A busy machine lengthens one or another.
    let mut all = Vec::new();
    while all.last().is_none_or(|rtt| *rtt >= 60.0) {
        assert!(all.len() < 10, "{all:?} ms");
        let rtt = measured();
        assert!(rtt >= 25.0, "{rtt} ms");
        all.push(rtt);
    }
}

#[test]
fn a_server_that_does_not_listen_is_refused_and_the_client_gets_no_reset_from_the_target() {
    let Some(t) = adopting("anone", |s| s.targets(1)) else { return };
    t.lab.kill("target1", Program::Server).unwrap();
    let answer = t.get("/1k").map(|response| response.status);
    assert_eq!(answer.unwrap(), 503, "no target could take it");
    assert_eq!(t.metric("target1", "baton_handoffs_refused_total{reason=\"server_refused\"}"), 1);
}

#[test]
fn reverse_path_filters_are_no_obstacle_even_when_strict() {
    let Some(t) = adopting("arpf", |s| s.targets(1)) else { return };
    for device in ["all", "eth0"] {
        sysctl(&t, "target1", &format!("net.ipv4.conf.{device}.rp_filter"), "1");
    }
    let response = t.get("/10m").unwrap();
    assert_eq!((response.status, response.sha256), (200, t.sha256("10m")));
    t.eventually("adopted", SOON, |t| adopted(t, &["target1"]) == 1);
}

#[test]
fn a_path_with_a_smaller_mtu_is_discovered_by_adopted_sockets() {
    let Some(t) = adopting("amtu", |s| s.targets(1).mtu_client(1300)) else { return };
    let response = t.get("/10m").unwrap();
    assert_eq!((response.status, response.sha256), (200, t.sha256("10m")));
    t.eventually("adopted", SOON, |t| adopted(t, &["target1"]) == 1);
    assert!(counted(&t, "target1", "icmp_translated") > 0, "the error found the socket");
}

#[test]
fn requests_of_one_connection_go_to_two_targets_in_turn_adopted_each_time_or_replayed_each_time() {
    for way in [Serve::Adopt, Serve::Translate] {
        let Some(t) = lab::up_beside("atracked", |s| two_pools(s.serve(way))) else { return };
        in_turn(&t);
        if way == Serve::Adopt {
            expect_adopted(&t, 200);
        }
        assert_eq!(t.all_proxied(), 0);
    }
}

fn in_turn(t: &TestLab) {
    let want = t.sha256("100k");
    t.client(move || {
        let mut connection = Connection::open(VIP).unwrap();
        for n in 0..200 {
            let to = if n % 2 == 0 { 'a' } else { 'b' };
            connection.get(&format!("/100k?to={to}")).unwrap();
            let response = connection.response().unwrap_or_else(|e| panic!("request {n}: {e}"));
            assert_eq!((response.status, &response.sha256), (200, &want), "request {n}");
            assert_eq!(response.served_by(), served_by(to), "request {n}");
        }
    });
}

#[test]
fn an_encapsulated_leg_carries_adopted_flows() {
    for leg in ["ipip", "udp"] {
        let order = |s: LabSpec| {
            s.targets(1).intermediate_with("target", "leg", leg).agents_with("allow", "leg", leg).agents_with(
                "allow",
                "leg_source",
                "10.90.1.2",
            )
        };
        let Some(t) = adopting("aleg", order) else { return };
        let response = t.get("/10m").unwrap();
        assert_eq!((response.status, response.sha256), (200, t.sha256("10m")), "{leg}");
        t.eventually("adopted", SOON, |t| adopted(t, &["target1"]) == 1);
        assert!(counted(&t, "target1", "leg_stripped") > 0, "{leg}");
        assert!(counted(&t, "target1", "readdressed") > 0, "{leg}");
    }
}
