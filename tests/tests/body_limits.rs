//! How long a request's body may be and how slowly it may come, where connections migrate: told from the head for first and
//! later requests alike, and counted by the proxy where the head does not say.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{Connection, Response};
use baton_tests::lab::{self, VIP};
use netns_lab::plan::INTERMEDIATE;
use std::time::Duration;

const ROUTES: &str = r#"
[[route]]
name = "small"
path = "/upload"
pool = "default"
limits = { body_bytes = 1000, body_min_rate = 2000, body_grace_ms = 500 }
[[route]]
name = "rest"
pool = "default"
"#;

fn post(path: &str, length: usize) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: lab\r\nContent-Length: {length}\r\n\r\n");
    [head.into_bytes(), vec![b'x'; length]].concat()
}

fn chunked(path: &str, chunks: usize) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("64\r\n{}\r\n", "x".repeat(100));
    (head + &chunk.repeat(chunks) + "0\r\n\r\n").into_bytes()
}

/// Whether a target answered, and the status.
fn told(response: &Response) -> (bool, u16) {
    (response.header("x-served-by").is_some(), response.status)
}

#[test]
fn a_body_over_its_routes_limit_is_answered_413_and_reaches_no_target_whichever_request_of_a_connection_it_is()
 {
    let order = |s: netns_lab::LabSpec| s.intermediate_also(ROUTES);
    let Some(t) = lab::up("bodylimit", order) else { return };
    let ask = |requests: Vec<Vec<u8>>| {
        t.client(move || {
            let mut connection = Connection::open(VIP).unwrap();
            let ask = |request: Vec<u8>| {
                connection.send(&request).unwrap();
                connection.response().unwrap()
            };
            requests.into_iter().map(ask).collect::<Vec<_>>()
        })
    };
    assert_eq!(told(&ask(vec![post("/upload", 1000)])[0]), (true, 200));
    assert_eq!(told(&ask(vec![post("/upload", 1001)])[0]), (false, 413));
    t.expect_closed("body_too_large", 1);
    // nginx takes no POST there: that it was asked is what matters.
    assert!(told(&ask(vec![post("/1k", 1001)])[0]).0, "another route");

    // The same on a connection that a target has by then.
    let get = b"GET /upload HTTP/1.1\r\nHost: lab\r\n\r\n".to_vec();
    let answers = ask(vec![get, post("/upload", 900), post("/1k", 5000), post("/upload", 1001)]);
    let told_each: Vec<_> = answers.iter().map(told).collect();
    assert_eq!(told_each[0], (true, 200));
    assert!(told_each[1].0 && told_each[2].0, "{told_each:?}");
    assert_eq!(told_each[3], (false, 413), "{told_each:?}");
    assert_eq!(t.all_proxied(), 0);

    // Without a length it is counted as it comes.
    let (fits, over) =
        (told(&ask(vec![chunked("/upload", 10)])[0]), told(&ask(vec![chunked("/upload", 11)])[0]));
    assert_eq!(fits, (true, 200));
    t.expect_proxied("body_counted", 2);
    assert_eq!(over, (false, 413));
    assert!(told(&ask(vec![chunked("/1k", 11)])[0]).0);
    assert_eq!(t.proxied("body_counted"), 2, "no limit, nothing to count");

    // What is counted is also left if it drips. A body that its target's server reads is that server's to wait for: its client
    // has no place here meanwhile.
    let mut waits = t.client(|| {
        let mut waits = Connection::open(VIP).unwrap();
        waits.send(b"PUT /upload/slow HTTP/1.1\r\nHost: lab\r\nContent-Length: 900\r\n\r\n").unwrap();
        waits
    });
    t.eventually("it is with its target", Duration::from_secs(10), |t| {
        t.flows(INTERMEDIATE).iter().any(|flow| {
            let client = waits.socket().local_addr().unwrap().to_string();
            flow["client"] == client.as_str() && flow["state"] == "committed"
        }) && t.metric(INTERMEDIATE, "baton_connections") == 0
    });
    let mut drips = t.client(|| {
        let mut drips = Connection::open(VIP).unwrap();
        drips.send(b"POST /upload HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        drips
    });
    t.eventually("the other is counted", Duration::from_secs(10), |t| t.proxied("body_counted") == 3);
    let mut sent = 0;
    // Until it is told, or the connection broken off behind the answer.
    while sent < 900 && t.closed("slow_body") == 0 && drips.send(b"1\r\nx\r\n").is_ok() {
        waits.send(b"x").unwrap();
        sent += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(told(&drips.response().unwrap()), (false, 408));
    t.eventually("its place is free", Duration::from_secs(15), |t| {
        t.metric(INTERMEDIATE, "baton_connections") == 0
    });
    waits.send(&vec![b'x'; 900 - sent]).unwrap();
    assert_eq!(told(&waits.response().unwrap()), (true, 201));
    t.expect_closed("slow_body", 1);
}
