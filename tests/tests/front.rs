//! What reaches the VIP besides good requests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{Connection, Response};
use baton_tests::events;
use baton_tests::lab::{self, TestLab, VIP};
use std::io;
use std::time::{Duration, Instant};

fn say(t: &TestLab, bytes: Vec<u8>) -> io::Result<Response> {
    t.client(move || {
        let mut connection = Connection::open(VIP)?;
        connection.send(&bytes)?;
        connection.response()
    })
}

fn long_head(bytes: usize) -> Vec<u8> {
    let mut head = b"GET /1k HTTP/1.1\r\nHost: lab\r\n".to_vec();
    let mut n = 0;
    while head.len() < bytes {
        head.extend_from_slice(format!("X-{n}: {}\r\n", "y".repeat(1000)).as_bytes());
        n += 1;
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[test]
fn a_head_of_30_kb_is_refused_by_default_and_served_if_configured() {
    {
        let Some(t) = lab::up("longno", |s| s) else { return };
        assert_eq!(say(&t, long_head(30_000)).unwrap().status, 431);
        t.expect_closed("head_too_large", 1);
        t.expect_requests(0, 0);
    }
    let Some(t) = lab::up("longyes", |s| s.intermediate_with("limits", "head_bytes", 65536)) else { return };
    // nginx's own limit is 8 kB a line and 4 lines of that, so this head is within it.
    let response = say(&t, long_head(30_000)).unwrap();
    assert_eq!((response.status, response.sha256), (200, t.sha256("1k")));
    t.expect_requests(1, 0);
}

#[test]
fn garbage_is_answered_400_and_counted() {
    let Some(t) = lab::up("garbage", |s| s) else { return };
    let told = events::of(&t, "intermediate", "?kind=closed");
    let corpus: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello there\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    ];
    for (n, bytes) in corpus.iter().enumerate() {
        let response = say(&t, bytes.to_vec()).unwrap_or_else(|e| panic!("{n}: {e}"));
        assert_eq!(response.status, 400, "{n}");
        assert_eq!(response.header("connection"), Some("close"), "{n}");
    }
    t.expect_closed("bad_request", 5);
    t.expect_requests(0, 0);
    told.wait("closed", |closed| {
        closed["reason"] == "bad_request" && closed["rule"] == "coding_beside_length"
    });
    assert_eq!(t.get("/1k").unwrap().status, 200);
}

#[test]
fn a_client_that_says_nothing_is_closed_after_the_time_limit() {
    let Some(t) = lab::up("silent", |s| s.intermediate_with("limits", "head_timeout_ms", 700)) else {
        return;
    };
    let (first, second) = t.client(|| {
        let started = Instant::now();
        let mut silent = Connection::open(VIP).unwrap();
        let mut slow = Connection::open(VIP).unwrap();
        slow.send(b"GET /1k HTTP/1.1\r\nHost:").unwrap();
        assert_eq!(silent.read_some().unwrap(), 0, "closed without a word");
        let first = started.elapsed();
        (first, slow.response().unwrap().status)
    });
    // By default it is ten seconds.
    assert!(first > Duration::from_millis(600) && first < Duration::from_secs(9), "closed after {first:?}");
    assert_eq!(second, 408);
    t.expect_closed("head_timeout", 2);
}

#[test]
fn what_is_not_migrated_is_proxied_with_its_reason() {
    let Some(t) = lab::up("proxied", |s| s) else { return };
    let told = events::of(&t, "intermediate", "?kind=proxied");
    let old = b"GET /10k HTTP/1.0\r\nConnection: keep-alive\r\nHost: lab\r\n\r\n".to_vec();
    let response = say(&t, old).unwrap();
    assert_eq!((response.status, response.sha256), (200, t.sha256("10k")));
    t.expect_proxied("method_not_migrated", 1);
    assert_eq!(t.migrated(), 0);
    told.wait("proxied", |proxied| proxied["reason"] == "method_not_migrated");
    for (filter, found) in [("reason=method_not_migrated", 1), ("reason=draining", 0)] {
        let listed = t.admin("intermediate", &format!("/v1/migrations?{filter}"));
        assert_eq!(listed["migrations"].as_array().unwrap().len(), found, "{filter}");
    }
    let listed = t.admin("intermediate", "/v1/migrations");
    let newest = listed["migrations"].as_array().unwrap().first().unwrap();
    assert_eq!(
        (newest["outcome"].as_str(), newest["reason"].as_str()),
        (Some("proxied"), Some("method_not_migrated"))
    );
}

#[test]
fn the_admin_endpoint_shows_flows_migrations_and_targets() {
    let Some(t) = lab::up("admin", |s| s) else { return };
    let kept = t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get("/1k").unwrap();
        connection.response().unwrap();
        connection
    });
    let port = kept.socket().local_addr().unwrap().port();
    // The response may be there before the agent's answer, and that is noted last.
    t.eventually("the commit", Duration::from_secs(10), |t| {
        t.flows("intermediate").iter().any(|flow| flow["state"] == "committed")
            && ["intermediate", "target1"].iter().all(|node| {
                t.admin(node, "/v1/migrations")["migrations"].as_array().is_some_and(|all| !all.is_empty())
            })
    });
    for (node, path) in [("intermediate", "/v1/flows"), ("target1", "/v1/flows")] {
        let flows = t.admin(node, path);
        let flow = flows["flows"].as_array().unwrap().first().cloned().unwrap();
        assert_eq!(flow["client"], format!("10.90.11.2:{port}"), "{node}");
        assert_eq!(flow["state"], "committed", "{node}");
        let one = t.admin(node, &format!("/v1/flows/{}", flow["id"].as_str().unwrap()));
        assert_eq!(one["id"], flow["id"]);
        for (filter, found) in [
            (format!("client=10.90.11.2:{port}"), 1),
            ("client=10.90.99.9".to_owned(), 0),
            ("state=committed".to_owned(), 1),
            ("state=frozen".to_owned(), 0),
        ] {
            let flows = t.admin(node, &format!("/v1/flows?{filter}"));
            assert_eq!(flows["flows"].as_array().unwrap().len(), found, "{node} {filter}");
        }
    }
    let id = t.flows("intermediate")[0]["id"].as_str().unwrap().to_owned();
    for (node, query, found) in [
        ("intermediate", "flows?target=target1".to_owned(), 1),
        ("intermediate", format!("flows?vip={VIP}"), 1),
        ("intermediate", format!("flows?vip={}:81", VIP.ip()), 0),
        ("intermediate", "migrations?target=target1".to_owned(), 1),
        ("intermediate", "migrations?target=target2".to_owned(), 0),
        ("intermediate", format!("migrations?id={id}"), 1),
        ("intermediate", "migrations?id=0123456789abcdef".to_owned(), 0),
        ("target1", format!("migrations?client=10.90.11.2:{port}"), 1),
        ("target1", "migrations?client=10.90.99.9".to_owned(), 0),
    ] {
        let listed = t.admin(node, &format!("/v1/{query}"));
        let list = listed.get(query.split('?').next().unwrap()).unwrap();
        assert_eq!((list.as_array().unwrap().len(), &listed["truncated"]), (found, &false.into()), "{query}");
    }
    assert_eq!(t.admin("target1", "/v1/migrations?limit=0")["truncated"], true);
    assert_eq!(t.admin("intermediate", "/v1/targets")["targets"].as_array().unwrap().len(), 2);
    let migrations = t.admin("intermediate", "/v1/migrations");
    let newest = &migrations["migrations"][0];
    assert_eq!(newest["outcome"], "migrated");
    assert!(newest["total_us"].as_u64().unwrap() > 0 && !newest["stages_us"].as_object().unwrap().is_empty());
    for node in ["intermediate", "target1"] {
        assert_eq!(t.lab.admin_text(node, "/healthz").unwrap().0, 200);
        assert_eq!(t.lab.admin_text(node, "/readyz").unwrap().0, 200);
        assert_eq!(t.lab.admin_text(node, "/v1/nothing").unwrap().0, 404);
        assert_eq!(t.lab.admin_text(node, "/v1/flows/0123456789abcdef").unwrap().0, 404);
        assert!(t.lab.admin_text(node, "/metrics").unwrap().1.ends_with("# EOF\n"));
    }
}
