//! A thousand small requests on connections of their own, eight at a time, as many over each version of IP, and what must be
//! left of them: one line each.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use crate::client::Connection;
use crate::lab::{TestLab, VIPS};
use netns_lab::plan::INTERMEDIATE;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

const TARGETS: [&str; 2] = ["target1", "target2"];

/// Asks, of a lab with two targets and both versions of IP.
///
/// # Panics
/// If an answer is wrong, a request was not migrated, or a server has not logged each once with its client's address.
pub fn ask_and_find_logged_once(t: &TestLab) {
    let want = t.sha256("1k");
    let from: Vec<HashSet<SocketAddr>> = t.client(move || {
        let workers: Vec<_> = VIPS
            .into_iter()
            .cycle()
            .take(8)
            .map(|vip| {
                let want = want.clone();
                // A thread inherits its parent's network namespace.
                std::thread::spawn(move || (0..125).map(|n| came_from(vip, n, &want)).collect())
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    t.expect_requests(1000, 0);
    let from: HashSet<SocketAddr> = from.into_iter().flatten().collect();
    let logged = || TARGETS.iter().flat_map(|target| t.access_log(target)).collect::<Vec<_>>();
    t.eventually("nginx writes its log", Duration::from_secs(20), |_| logged().len() >= 1000);
    let lines = logged();
    assert_eq!(lines.len(), 1000, "each request ran once");
    for line in &lines {
        let mut words = line.split_whitespace();
        let (ip, port) = (words.next().unwrap(), words.next().unwrap());
        let client = SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
        assert!(from.contains(&client), "not the client's address: {line}");
    }
}

/// One request; where it came from.
fn came_from(vip: SocketAddr, n: usize, want: &str) -> SocketAddr {
    let mut connection = Connection::open(vip).unwrap();
    let client = connection.socket().local_addr().unwrap();
    connection.get("/1k").unwrap();
    let response = connection.response().unwrap_or_else(|e| panic!("request {n}: {e}"));
    assert_eq!((response.status, response.sha256.as_str()), (200, want));
    client
}

/// Waits until all flows have lingered, and nothing is left of them.
///
/// # Panics
/// If something is.
pub fn expect_nothing_left(t: &TestLab, linger: Duration) {
    let nodes = [INTERMEDIATE, TARGETS[0], TARGETS[1]];
    t.eventually("all records are freed", linger + Duration::from_secs(20), |t| {
        let nothing = |node| t.flows(node).is_empty() && t.metric(node, "baton_flow_table_used") == 0;
        nodes.into_iter().all(nothing)
    });
}
