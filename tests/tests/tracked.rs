//! Kept-alive connections whose every request is routed by itself: real nginx on two targets, one pool each, and the
//! client says which by `?to=a` or `?to=b`. Who answered is told by nginx.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{Connection, Response};
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::LabSpec;
use std::net::SocketAddr;
use std::time::Duration;

const SITE: &str = r#"
[[pool]]
name = "a"
targets = ["target1"]
[[pool]]
name = "b"
targets = ["target2"]
[[route]]
name = "b"
query = { to = "b" }
pool = "b"
[[route]]
name = "a"
query = { to = "a" }
pool = "a"
"#;

/// Requests without `to` go nowhere.
fn site(spec: LabSpec) -> LabSpec {
    spec.intermediate_with("listener", "keepalive", "tracked").intermediate_also(SITE)
}

fn served_by(to: char) -> &'static str {
    if to == 'a' { "target1" } else { "target2" }
}

fn ask(connection: &mut Connection, path: &str, to: char) -> Response {
    connection.get(&format!("{path}?to={to}")).unwrap();
    let response = connection.response().unwrap_or_else(|e| panic!("{path} to {to}: {e}"));
    assert_eq!(response.status, 200, "{}", response.head);
    assert_eq!(response.header("x-served-by"), Some(served_by(to)), "{path} to {to}");
    response
}

/// Every request that nginx on a target has seen was for it.
fn no_request_on_the_wrong_target(t: &TestLab) {
    for (target, other) in [("target1", "to=b"), ("target2", "to=a")] {
        for line in t.access_log(target) {
            assert!(!line.contains(other), "on {target}: {line}");
        }
    }
}

fn alternate(t: &TestLab, vip: SocketAddr, requests: usize) {
    let want = t.sha256("1k");
    t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
        for n in 0..requests {
            let to = if n % 2 == 0 { 'a' } else { 'b' };
            let response = ask(&mut connection, "/1k", to);
            assert_eq!(response.sha256, want, "request {n}");
        }
    });
    no_request_on_the_wrong_target(t);
}

#[test]
fn a_thousand_requests_on_one_connection_alternate_between_two_targets() {
    let Some(t) = lab::up("alternate", site) else { return };
    alternate(&t, VIP, 1000);
    let flows = t.flows("intermediate");
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(flows[0]["generation"], 1000, "{flows:?}");
    t.eventually("nginx writes its logs", Duration::from_secs(5), |t| {
        t.access_log("target1").len() + t.access_log("target2").len() == 1000
    });
}
