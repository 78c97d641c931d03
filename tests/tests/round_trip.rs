//! What a server's kernel takes for the round-trip time of a client far away: the replayed handshake is local and must
//! not tell it, or BBR would send at a hundredth of the path's rate for ten seconds.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab};
use netns_lab::{Family, Impairment, LabSpec, Serve};
use std::net::SocketAddr;
use std::time::Duration;

/// In each direction.
const DELAY: Duration = Duration::from_millis(10);

/// The least round-trip time, milliseconds, that the kernel of target1 has seen on the connection of this client.
fn least_round_trip(t: &TestLab, client: SocketAddr) -> f64 {
    let filter = format!("dport = :{}", client.port());
    let text = t.lab.output("target1", &["ss", "-tinH", "state", "established", &filter]).unwrap();
    let word = text.split_whitespace().find_map(|word| word.strip_prefix("minrtt:"));
    word.unwrap_or_else(|| panic!("no minrtt in {text:?}")).parse().unwrap()
}

/// A download of 1 MB on a connection that stays open, and the client's address.
fn download(t: &TestLab, vip: SocketAddr) -> (Connection, SocketAddr) {
    let want = t.sha256("1m");
    let (connection, response, client) = t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
        connection.get("/1m").unwrap();
        let response = connection.response().unwrap();
        let client = connection.socket().local_addr().unwrap();
        (connection, response, client)
    });
    assert_eq!((response.status, response.sha256), (200, want));
    (connection, client)
}

#[test]
fn a_client_that_is_far_away_is_known_to_be_so_by_its_servers_kernel() {
    let order = |s: LabSpec| {
        let far = Impairment { delay: DELAY, ..Impairment::default() };
        lab::patient(s.targets(1)).family(Family::Dual).impair(far).serve(Serve::Translate)
    };
    let Some(t) = lab::up("roundtrip", order) else { return };
    for vip in t.lab.vips() {
        let (_connection, client) = download(&t, vip);
        let least = least_round_trip(&t, client);
        assert!(least >= 2.0 * DELAY.as_secs_f64() * 1e3, "{vip}: {least} ms");
    }
    // A SYN cookie's options are in the timestamp that must come back: without it, nothing would fit any more.
    let cookies = ["sysctl", "-qw", "net.ipv4.tcp_syncookies=2"];
    t.lab.output("target1", &cookies).unwrap();
    for vip in t.lab.vips() {
        download(&t, vip);
    }
    t.expect_requests(4, 0);
}
