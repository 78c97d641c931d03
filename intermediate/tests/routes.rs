//! Routes on the proxy path, over loopback: each request of a connection goes to its own pool, whatever the one before
//! it was.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod support;

use baton_shared::http::{Forwarded, HeaderChanges};
use baton_shared::reason::CloseReason;
use baton_shared::route::{HostRule, PathRule, PoolId, Route, Rules};
use std::sync::atomic::Ordering;
use support::{Bed, limits, server};

fn for_host(host: &str, pool: usize) -> Route {
    let hosts = vec![HostRule::parse(host).unwrap()];
    Route::new(host, PoolId(pool), Rules { hosts, ..Rules::default() })
}

fn get(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_later_request_for_another_host_never_reaches_the_first_hosts_server() {
    let ((a, taken_a), (b, taken_b)) = (server().await, server().await);
    let bed = Bed::with_routes(limits(), &[&[a], &[b]], vec![for_host("b.example", 1)]);
    let mut client = bed.client().await;
    for (host, path) in
        [("a.example", "/1"), ("b.example", "/2"), ("a.example", "/3"), ("B.EXAMPLE:80", "/4")]
    {
        client.send(&get(host, path)).await;
        assert!(client.until(&format!("asked for {path}\n")).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    // Which server answered is in the history.
    let history = bed.front.migration.history().recent(10);
    let targets: Vec<_> = history.iter().rev().map(|r| (r.request.as_str(), r.target.as_str())).collect();
    let expected =
        [("GET /1", "target0"), ("GET /2", "target1"), ("GET /3", "target0"), ("GET /4", "target1")];
    assert_eq!(targets, expected);
    assert_eq!(
        (taken_a.load(Ordering::Relaxed), taken_b.load(Ordering::Relaxed)),
        (1, 1),
        "connections are kept"
    );
}

#[tokio::test]
async fn pipelined_requests_for_two_hosts_are_answered_in_order_each_by_its_own() {
    let ((a, taken_a), (b, taken_b)) = (server().await, server().await);
    let bed = Bed::with_routes(limits(), &[&[a], &[b]], vec![for_host("b.example", 1)]);
    let mut client = bed.client().await;
    client.send(&[get("a.example", "/1"), get("b.example", "/2"), get("a.example", "/3")].concat()).await;
    let answer = client.until("asked for /3\n").await;
    let places: Vec<_> = (1..=3).map(|n| answer.find(&format!("asked for /{n}\n")).unwrap()).collect();
    assert!(places.is_sorted(), "{answer}");
    assert_eq!((taken_a.load(Ordering::Relaxed), taken_b.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test]
async fn a_pool_whose_servers_are_gone_is_503_and_not_another_pools_matter() {
    let (a, taken_a) = server().await;
    let gone = support::nobody().await;
    let bed = Bed::with_routes(limits(), &[&[a], &[gone]], vec![for_host("b.example", 1)]);
    let mut client = bed.client().await;
    client.send(&get("b.example", "/x")).await;
    assert!(client.until("reached\n").await.starts_with("HTTP/1.1 503"));
    assert_eq!(taken_a.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_no_route_takes_is_404_and_what_can_be_read_in_two_ways_400() {
    let ((a, taken_a), (b, _)) = (server().await, server().await);
    let path = |path: &str, pool| {
        let path = Some(PathRule::prefix(path).unwrap());
        Route::new("r", PoolId(pool), Rules { path, ..Rules::default() })
    };
    let bed = Bed::with_routes(limits(), &[&[a], &[b]], vec![path("/a", 0), path("/b", 1)]);
    let mut site = intermediate::site::Site {
        listeners: bed.front.site.load().listeners.clone(),
        pools: bed.front.site.load().pools.clone(),
        table: bed.front.site.load().table.clone(),
        limits: limits(),
        source_exempt: Vec::new(),
    };
    site.listeners[0].pool = None;
    bed.front.site.store(site.into());
    let mut client = bed.client().await;
    client.send(&get("h", "/b/1")).await;
    client.until("asked for /b/1\n").await;
    client.send(&get("h", "/c")).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert_eq!(bed.front.metrics.closed(CloseReason::NoRoute), 1);
    for (request, status) in [
        (&b"GET /c HTTP/1.1\r\nHost: h\r\n\r\n"[..], "404"),
        (b"GET /b%2fx HTTP/1.1\r\nHost: h\r\n\r\n", "400"),
    ] {
        let answer = bed.exchange(request).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
    }
    assert_eq!(bed.front.metrics.closed(CloseReason::AmbiguousPath), 1);
    assert_eq!(taken_a.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_routes_changes_reach_the_server_and_the_clients_own_lines_of_that_name_do_not() {
    let (a, _) = server().await;
    let mut route = for_host("h", 0);
    let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    route.headers = std::sync::Arc::new(HeaderChanges {
        set: pair("X-Env", "prod"),
        remove: vec!["X-Debug".into()],
        forwarded: Forwarded::Forwarded,
        traceparent: true,
        ..HeaderChanges::default()
    });
    let bed = Bed::with_routes(limits(), &[&[a]], vec![route]);
    let request =
        b"GET /headers HTTP/1.1\r\nHost: h:80\r\nx-env: evil\r\nX-Debug: 1\r\nConnection: close\r\n\r\n";
    let answer = bed.exchange(request).await;
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert!(body.contains("x-env: prod\n") && !body.contains("evil") && !body.contains("x-debug"), "{body}");
    assert!(body.contains("forwarded: for=127.0.0.1;proto=http;host=\"h:80\"\n"), "{body}");
    let trace = body.split_once("traceparent: 00-").unwrap().1;
    assert_eq!(
        trace.find("\n"),
        Some("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".len()),
        "{body}"
    );
}
