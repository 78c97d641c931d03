//! The main job, end to end: real nginx, real kernels, both streams hashed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{self, Connection};
use baton_tests::lab::{self, VIP};
use baton_tests::thousand;
use std::io::Write;
use std::time::Duration;

const LINGER: Duration = Duration::from_secs(3);

#[test]
fn twenty_downloads_of_100_mb_by_curl_are_byte_exact_and_bypass_the_intermediate() {
    let Some(t) = lab::up("download", |s| s) else { return };
    let want = t.sha256("100m");
    let before = t.lab.link_counters().unwrap();
    for n in 1..=20 {
        let fetch = "curl -sS --fail http://10.90.1.100/100m | sha256sum";
        let out = t.lab.output("client1", &["bash", "-o", "pipefail", "-c", fetch]);
        let out = out.unwrap_or_else(|e| panic!("download {n}: {e:#}"));
        assert_eq!(out.split_whitespace().next(), Some(want.as_str()), "download {n} differs");
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
    let Some(t) = lab::up("small", |s| s) else { return };
    thousand::ask_and_find_logged_once(&t);
    thousand::expect_nothing_left(&t, LINGER);
}

#[test]
fn a_request_in_several_segments_with_pauses_is_migrated_once_it_is_complete() {
    let Some(t) = lab::up("pieces", |s| s) else { return };
    let response = t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        for piece in ["GE", "T /10k HTTP/1.1\r\nHo", "st: lab\r\n", "X-Long: ", "abcdef\r\n\r", "\n"] {
            connection.send(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(150));
        }
        connection.response().unwrap()
    });
    assert_eq!((response.status, response.sha256), (200, t.sha256("10k")));
    t.expect_requests(1, 0);
}

#[test]
fn two_requests_on_one_kept_connection_are_both_answered_by_the_server() {
    let Some(t) = lab::up("kept", |s| s) else { return };
    let hashes = t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        ["/1k", "/100k", "/10k"].map(|path| {
            connection.get(path).unwrap();
            connection.response().unwrap().sha256
        })
    });
    assert_eq!(hashes, [t.sha256("1k"), t.sha256("100k"), t.sha256("10k")]);
    t.expect_requests(1, 0);
}

#[test]
fn keepalive_single_ends_the_connection_after_one_response() {
    let Some(t) = lab::up("single", |s| s.intermediate_with("listener", "keepalive", "single")) else {
        return;
    };
    let (response, after) = t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get("/10k").unwrap();
        (connection.response().unwrap(), connection.read_some().unwrap())
    });
    assert_eq!(response.sha256, t.sha256("10k"));
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(after, 0, "the server closed");
    t.expect_requests(1, 0);
}

#[test]
fn the_server_sees_the_clients_address_and_the_request_as_sent() {
    let Some(t) = lab::up("whoami", |s| s) else { return };
    let (port, text) = t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get("/whoami").unwrap();
        (connection.socket().local_addr().unwrap().port(), connection.response().unwrap().text())
    });
    assert!(text.contains("10.90.11.2") && text.contains(&port.to_string()), "{text}");
    assert!(text.contains("baton-tests"), "{text}");
    assert!(!text.to_ascii_lowercase().contains("x-forwarded-for: 1"), "{text}");
}

#[test]
fn an_upload_with_its_body_in_flight_arrives_byte_exact() {
    let Some(t) = lab::up("upload", |s| s) else { return };
    let source = t.lab.www_dir().join("100m");
    for round in ["a", "b"] {
        let source = source.clone();
        let put = t.client(move || client::upload(VIP, round, &std::fs::read(&source).unwrap()));
        assert_eq!((put.unwrap().status, t.uploaded(round)), (201, t.sha256("100m")), "{round}");
    }
    t.expect_requests(2, 0);
}

#[test]
fn a_client_that_closes_its_direction_with_the_request_gets_its_answer() {
    let Some(t) = lab::up("halfclose", |s| s) else { return };
    let hash = t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        // nginx itself gives up on a half-closed client once a write would block: a small answer has none that does.
        connection.get("/10k").unwrap();
        connection.socket().shutdown(std::net::Shutdown::Write).unwrap();
        connection.response().unwrap().sha256
    });
    assert_eq!(hash, t.sha256("10k"));
    t.expect_requests(1, 0);
}

#[test]
fn options_the_client_does_not_have_are_not_needed() {
    let Some(t) = lab::up("options", |s| s) else { return };
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
        let response = t.get("/10m").unwrap();
        assert_eq!((response.status, &response.sha256), (200, &want), "with {key}={off}");
        set(on);
    }
    t.expect_requests(4, 0);
}

#[test]
fn two_targets_share_the_requests() {
    let Some(t) = lab::up("share", |s| s) else { return };
    for _ in 0..10 {
        assert_eq!(t.get("/1k").unwrap().status, 200);
    }
    for target in ["target1", "target2"] {
        t.eventually("five requests each", Duration::from_secs(5), |t| t.access_log(target).len() == 5);
    }
}

#[test]
fn a_client_that_resets_in_mid_download_leaves_nothing_behind() {
    let Some(t) = lab::up("reset", |s| s) else { return };
    t.client(|| {
        for _ in 0..10 {
            let mut connection = Connection::open(VIP).unwrap();
            connection.get("/100m").unwrap();
            assert!(connection.read_some().unwrap() > 0);
            connection.reset().unwrap();
        }
    });
    t.expect_requests(10, 0);
    t.eventually("all records are freed", LINGER * 6, |t| {
        ["intermediate", "target1", "target2"].iter().all(|node| t.flows(node).is_empty())
    });
}

#[test]
fn a_port_used_again_at_once_gets_a_migration_of_its_own() {
    let Some(t) = lab::up("ports", |s| s) else { return };
    let want = t.sha256("1k");
    t.client(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40015").unwrap());
    for n in 0..60 {
        let response = t.client(|| client::get(VIP, "/1k"));
        // Sixteen ports and two ends in TIME_WAIT: the kernel itself may have no port left.
        let response = match response {
            Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable => continue,
            other => other.unwrap_or_else(|e| panic!("request {n}: {e}")),
        };
        assert_eq!((response.status, &response.sha256), (200, &want), "request {n}");
    }
    assert_eq!(t.all_proxied(), 0);
}
