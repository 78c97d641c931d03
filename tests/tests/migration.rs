//! The main job, end to end: real nginx, real kernels, both streams hashed, both versions of IP.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{self, Connection};
use baton_tests::lab::{self, VIPS, both, patient};
use baton_tests::thousand;
use netns_lab::{LabSpec, plan};
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

const LINGER: Duration = Duration::from_secs(3);

fn usual(spec: LabSpec) -> LabSpec {
    patient(both(spec))
}

#[test]
fn twenty_downloads_of_100_mb_by_curl_are_byte_exact_and_bypass_the_intermediate() {
    let Some(t) = lab::up("download", usual) else { return };
    let want = t.sha256("100m");
    let before = t.lab.link_counters().unwrap();
    for (n, vip) in (1..=20).zip(VIPS.into_iter().cycle()) {
        let fetch = format!("curl -gsS --fail http://{vip}/100m | sha256sum");
        let out = t.lab.output("client1", &["bash", "-o", "pipefail", "-c", &fetch]);
        let out = out.unwrap_or_else(|e| panic!("download {n} from {vip}: {e:#}"));
        assert_eq!(out.split_whitespace().next(), Some(want.as_str()), "download {n} from {vip} differs");
    }
    t.expect_requests(20, 0);
    let moved = netns_lab::counters::difference(&before, &t.lab.link_counters().unwrap());
    let sent = |link: &str| moved.iter().find(|l| l.link == link).unwrap().node.tx_bytes;
    let by_targets = sent("target1") + sent("target2");
    assert!(by_targets > 20 * 100_000_000, "the targets sent only {by_targets} bytes");
    // What leaves the intermediate goes to the client's side or, translated, to the targets: all of it counts here.
    let by_intermediate = sent("intermediate");
    assert!(
        by_intermediate * 50 < by_targets,
        "the intermediate sent {by_intermediate}, the targets {by_targets}"
    );
}

#[test]
fn a_thousand_small_requests_on_new_connections_8_at_a_time_are_all_migrated() {
    let Some(t) = lab::up("small", usual) else { return };
    thousand::ask_and_find_logged_once(&t);
    thousand::expect_nothing_left(&t, LINGER);
}

#[test]
fn a_request_in_several_segments_with_pauses_is_migrated_once_it_is_complete() {
    let Some(t) = lab::up("pieces", usual) else { return };
    let want = t.sha256("10k");
    t.client_at_each(move |vip| {
        let mut connection = Connection::open(vip).unwrap();
        for piece in ["GE", "T /10k HTTP/1.1\r\nHo", "st: lab\r\n", "X-Long: ", "abcdef\r\n\r", "\n"] {
            connection.send(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(150));
        }
        let response = connection.response().unwrap();
        assert_eq!((response.status, &response.sha256), (200, &want), "{vip}");
    });
    t.expect_requests(2, 0);
}

#[test]
fn two_requests_on_one_kept_connection_are_both_answered_by_the_server() {
    let Some(t) = lab::up("kept", usual) else { return };
    let want = ["1k", "100k", "10k"].map(|file| t.sha256(file));
    t.client_at_each(move |vip| {
        let mut connection = Connection::open(vip).unwrap();
        let hashes = ["/1k", "/100k", "/10k"].map(|path| {
            connection.get(path).unwrap();
            connection.response().unwrap().sha256
        });
        assert_eq!(hashes, want, "{vip}");
    });
    t.expect_requests(2, 0);
}

#[test]
fn keepalive_single_ends_the_connection_after_one_response() {
    let Some(t) = lab::up("single", |s| usual(s).intermediate_with("listener", "keepalive", "single")) else {
        return;
    };
    let want = t.sha256("10k");
    t.client_at_each(move |vip| {
        let mut connection = Connection::open(vip).unwrap();
        connection.get("/10k").unwrap();
        let response = connection.response().unwrap();
        assert_eq!((&response.sha256, response.header("connection")), (&want, Some("close")), "{vip}");
        assert_eq!(connection.read_some().unwrap(), 0, "the server closed: {vip}");
    });
    t.expect_requests(2, 0);
}

#[test]
fn the_server_sees_the_clients_address_and_the_request_as_sent() {
    let Some(t) = lab::up("whoami", usual) else { return };
    let addresses = [plan::client_addr(1).into(), plan::client_addr6(1).into()];
    for (vip, address) in VIPS.into_iter().zip(addresses) {
        let (client, text) = t.client(move || {
            let mut connection = Connection::open(vip).unwrap();
            connection.get("/whoami").unwrap();
            (connection.socket().local_addr().unwrap(), connection.response().unwrap().text())
        });
        assert_eq!(client, SocketAddr::new(address, client.port()));
        assert!(text.contains(&format!("client: {}:{}", client.ip(), client.port())), "{text}");
        assert!(text.contains("baton-tests"), "{text}");
        assert!(!text.to_ascii_lowercase().contains("x-forwarded-for: 1"), "{text}");
        assert!(!text.to_ascii_lowercase().contains("x-forwarded-for: f"), "{text}");
    }
}

#[test]
fn an_upload_with_its_body_in_flight_arrives_byte_exact() {
    let Some(t) = lab::up("upload", usual) else { return };
    let source = t.lab.www_dir().join("100m");
    for (round, vip) in ["a", "b"].into_iter().zip(VIPS) {
        let source = source.clone();
        let put = t.client(move || client::upload(vip, round, &std::fs::read(&source).unwrap()));
        assert_eq!((put.unwrap().status, t.uploaded(round)), (201, t.sha256("100m")), "{round}");
    }
    t.expect_requests(2, 0);
}

#[test]
fn a_client_that_closes_its_direction_with_the_request_gets_its_answer() {
    let Some(t) = lab::up("halfclose", usual) else { return };
    let want = t.sha256("10k");
    t.client_at_each(move |vip| {
        let mut connection = Connection::open(vip).unwrap();
        // nginx itself gives up on a half-closed client once a write would block: a small answer has none that does.
        connection.get("/10k").unwrap();
        connection.socket().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(connection.response().unwrap().sha256, want, "{vip}");
    });
    t.expect_requests(2, 0);
}

#[test]
fn options_the_client_does_not_have_are_not_needed() {
    let Some(t) = lab::up("options", usual) else { return };
    let want = t.sha256("10m");
    for (key, off, on) in [
        ("tcp_timestamps", "0", "1"),
        ("tcp_sack", "0", "1"),
        ("tcp_window_scaling", "0", "1"),
        ("tcp_ecn", "1", "2"),
    ] {
        let set = |value: &str| {
            let file = format!("/proc/sys/net/ipv4/{key}");
            let value = value.to_owned();
            t.client(move || {
                std::fs::File::options().write(true).open(file).unwrap().write_all(value.as_bytes()).unwrap()
            });
        };
        set(off);
        for vip in VIPS {
            let response = t.get_at(vip, "/10m").unwrap();
            assert_eq!((response.status, &response.sha256), (200, &want), "{vip} with {key}={off}");
        }
        set(on);
    }
    t.expect_requests(8, 0);
}

#[test]
fn two_targets_share_the_requests() {
    let Some(t) = lab::up("share", usual) else { return };
    for (n, vip) in VIPS.into_iter().enumerate() {
        for _ in 0..10 {
            assert_eq!(t.get_at(vip, "/1k").unwrap().status, 200);
        }
        for target in ["target1", "target2"] {
            let whose = format!("five requests each of {vip}");
            t.eventually(&whose, Duration::from_secs(20), |t| t.access_log(target).len() == 5 * (n + 1));
        }
    }
}

#[test]
fn a_client_that_resets_in_mid_download_leaves_nothing_behind() {
    let Some(t) = lab::up("reset", usual) else { return };
    t.client_at_each(|vip| {
        for _ in 0..10 {
            let mut connection = Connection::open(vip).unwrap();
            connection.get("/100m").unwrap();
            assert!(connection.read_some().unwrap() > 0);
            connection.reset().unwrap();
        }
    });
    t.expect_requests(20, 0);
    t.eventually("all records are freed", LINGER * 10, |t| {
        ["intermediate", "target1", "target2"].iter().all(|node| t.flows(node).is_empty())
    });
}

#[test]
fn a_port_used_again_at_once_gets_a_migration_of_its_own() {
    let Some(t) = lab::up("ports", usual) else { return };
    let want = t.sha256("1k");
    t.client(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40015").unwrap());
    t.client_at_each(move |vip| {
        for n in 0..60 {
            // Sixteen ports and two ends in TIME_WAIT: the kernel itself may have no port left.
            let response = match client::get(vip, "/1k") {
                Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable => continue,
                other => other.unwrap_or_else(|e| panic!("request {n} at {vip}: {e}")),
            };
            assert_eq!((response.status, &response.sha256), (200, &want), "request {n} at {vip}");
        }
    });
    assert_eq!(t.all_proxied(), 0);
}
