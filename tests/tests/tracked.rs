//! Kept-alive connections whose every request is routed by itself: real nginx on two targets, one pool each, and the
//! client says which by `?to=a` or `?to=b`. Who answered is told by nginx.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{Connection, Response};
use baton_tests::events;
use baton_tests::lab::{self, TestLab, VIP, VIPS, both};
use baton_tests::two_pools::{served_by, two_pools};
use netns_lab::LabSpec;
use std::net::SocketAddr;
use std::time::Duration;

/// How long the daemons and nginx may take to note what has happened.
const LIMIT: Duration = Duration::from_secs(20);

/// The sample of later requests with an outcome.
fn later(outcome: &str) -> String {
    format!("baton_later_requests_total{{outcome=\"{outcome}\"}}")
}

fn ask(connection: &mut Connection, path: &str, to: char) -> Response {
    connection.get(&format!("{path}?to={to}")).unwrap();
    let response = connection.response().unwrap_or_else(|e| panic!("{path} to {to}: {e}"));
    assert_eq!(response.status, 200, "{}", response.head);
    assert_eq!(response.served_by(), served_by(to), "{path} to {to}");
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

/// The connection on which so many requests have been asked in turn of both pools.
fn alternate(t: &TestLab, vip: SocketAddr, requests: usize) -> Connection {
    let want = t.sha256("1k");
    let connection = t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
        for n in 0..requests {
            let to = if n % 2 == 0 { 'a' } else { 'b' };
            let response = ask(&mut connection, "/1k", to);
            assert_eq!(response.sha256, want, "request {n}");
        }
        connection
    });
    no_request_on_the_wrong_target(t);
    connection
}

#[test]
fn a_thousand_requests_on_one_connection_alternate_between_two_targets() {
    let Some(t) = lab::up("alternate", |s| lab::patient(two_pools(s))) else { return };
    let connection = alternate(&t, VIP, 1000);
    let flows = t.flows("intermediate");
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(flows[0]["generation"], 1000, "{flows:?}");
    // Each was moved without a socket here, and of its packets only those with a request in them were looked at.
    let mut counted = [0; 2];
    t.eventually("all are counted", LIMIT, |t| {
        let samples = ["moved", "returned"].map(later);
        counted = t.metrics("intermediate", samples.each_ref().map(String::as_str));
        counted.iter().sum::<u64>() >= 999
    });
    assert_eq!((counted, t.all_proxied()), ([999, 0], 0), "moved, returned, proxied");
    // A client that is quicker than the word of its answer asks while its flow is frozen yet.
    let [read, held, acks] = t.packets_of("intermediate", ["later_request", "diverted", "translated"]);
    assert!(read < 1100 && read + held >= 999 && acks > 500, "{read} were read, {held} held, {acks} passed");
    t.eventually("nginx writes its logs", LIMIT, |t| {
        t.access_log("target1").len() + t.access_log("target2").len() == 1000
    });
    drop(connection);
}

#[test]
fn the_same_over_ipv6_with_heads_in_several_segments_and_bodies_both_ways() {
    let Some(t) = lab::up("tracked6", |s| both(two_pools(s))) else { return };
    let [_, vip] = VIPS;
    alternate(&t, vip, 1000);
    let large = t.sha256("10m");
    let sink: Vec<u8> = (0..3_000_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
        for n in 0..6 {
            let to = if n % 2 == 0 { 'a' } else { 'b' };
            assert_eq!(ask(&mut connection, "/10m", to).sha256, large, "download {n}");
            // Its body follows its head at once; the answer comes when all of it was read.
            let head = format!(
                "POST /upload?to={to} HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\n\r\n",
                sink.len()
            );
            connection.send(head.as_bytes()).unwrap();
            connection.send(&sink).unwrap();
            let response = connection.response().unwrap();
            assert_eq!((response.status, response.served_by()), (200, served_by(to)));
            // A head of six thousand bytes, in pieces that the network carries one by one.
            let head =
                format!("GET /1k?to={to} HTTP/1.1\r\nHost: lab\r\nX-Fill: {}\r\n\r\n", "f".repeat(6000));
            for piece in head.as_bytes().chunks(1000) {
                connection.send(piece).unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
            assert_eq!(connection.response().unwrap().served_by(), served_by(to));
        }
    });
    no_request_on_the_wrong_target(&t);
}

#[test]
fn a_client_is_known_behind_a_response_of_more_than_two_gigabytes() {
    const BIG: u64 = (1 << 31) + (64 << 20);
    let Some(t) = lab::up("gigabytes", two_pools) else { return };
    std::fs::File::create(t.lab.www_dir().join("big")).unwrap().set_len(BIG).unwrap();
    let want = t.sha256("1k");
    t.client(move || {
        let mut connection = Connection::open(VIP).unwrap();
        // The next request is held meanwhile, or comes when nothing is.
        for (held, to) in [(false, 'a'), (true, 'b')] {
            connection.get("/big?to=a").unwrap();
            if held {
                connection.get(&format!("/1k?to={to}")).unwrap();
            }
            assert!(connection.head().unwrap().contains(&BIG.to_string()));
            connection.skip(BIG).unwrap();
            let response =
                if held { connection.response().unwrap() } else { ask(&mut connection, "/1k", to) };
            assert_eq!((response.sha256.as_str(), response.served_by()), (want.as_str(), served_by(to)));
        }
    });
    no_request_on_the_wrong_target(&t);
}

#[test]
fn pipelined_requests_are_answered_in_order_by_the_right_targets() {
    let Some(t) = lab::up("pipelined", |s| both(two_pools(s))) else { return };
    let (small, large) = (t.sha256("1k"), t.sha256("1m"));
    let is_large = |n: usize, round: usize| n % 3 == 1 && round % 25 < 3;
    t.client_at_each(move |vip| {
        // All that one target gets, all alternating, and mixed; as the first bytes of a connection and later. A thousand
        // of those that alternate.
        for (pattern, rounds) in [("aaaaaaaa", 3), ("abababab", 125), ("aabbbaab", 3)] {
            let mut connection = Connection::open(vip).unwrap();
            for round in 0..rounds {
                let batch: String = pattern
                    .chars()
                    .enumerate()
                    .map(|(n, to)| {
                        let path = if is_large(n, round) { "/1m" } else { "/1k" };
                        format!("GET {path}?to={to}&n={n} HTTP/1.1\r\nHost: lab\r\n\r\n")
                    })
                    .collect();
                connection.send(batch.as_bytes()).unwrap();
                for (n, to) in pattern.chars().enumerate() {
                    let response = connection
                        .response()
                        .unwrap_or_else(|e| panic!("{pattern}, round {round}, request {n}: {e}"));
                    assert_eq!(response.served_by(), served_by(to), "{pattern} {round} {n}");
                    let want = if is_large(n, round) { &large } else { &small };
                    assert_eq!(&response.sha256, want, "{pattern} {round} {n}");
                }
            }
        }
    });
    no_request_on_the_wrong_target(&t);
}

#[test]
fn tracked_connections_outlive_a_killed_intermediate_and_are_still_routed_request_by_request() {
    let Some(t) = lab::up("tracked-kill", |s| both(two_pools(s))) else { return };
    let (small, large) = (t.sha256("1k"), t.sha256("10m"));
    // Before the death: one request, several to one target, several to both, and one response that waits for its client.
    let histories = ["a", "aaa", "abab", "b"];
    let mut kept: Vec<Connection> = t.client(move || {
        let open = |(n, history): (usize, &str)| {
            let mut connection = Connection::open(VIPS[n % 2]).unwrap();
            for to in history.chars() {
                assert_eq!(ask(&mut connection, "/1k", to).sha256, small);
            }
            connection
        };
        let mut kept: Vec<Connection> = histories.into_iter().enumerate().map(open).collect();
        kept[1].get("/10m?to=a").unwrap();
        kept
    });
    // A client may have its answer before the intermediate has noted whose the connection is.
    let committed = |t: &TestLab| {
        let flows = t.flows("intermediate");
        flows.len() == 4 && flows.iter().all(|flow| flow["state"] == "committed")
    };
    t.eventually("all are given away, and the download is under way", LIMIT, |t| {
        committed(t) && t.flows("intermediate").iter().any(|flow| flow["requests"] == 4)
    });
    for round in 0..2 {
        t.lab.kill_intermediate().unwrap();
        t.lab.start_intermediate().unwrap();
        assert_eq!(t.flows("intermediate").len(), 4, "round {round}: all were found again");
        let (small, large) = (t.sha256("1k"), large.clone());
        kept = t.client(move || {
            if round == 0 {
                assert_eq!(kept[1].response().unwrap().sha256, large);
            }
            for (n, connection) in kept.iter_mut().enumerate() {
                // The same pool first on some, the other first on the rest; and both again.
                let pattern = if (n + round) % 2 == 0 { "aababb" } else { "bbabaa" };
                for to in pattern.chars() {
                    assert_eq!(ask(connection, "/1k", to).sha256, small, "round {round}, connection {n}");
                }
                assert_eq!(status_of(connection, "GET /1k HTTP/1.1\r\nHost: lab\r\n\r\n"), 404);
            }
            // Those came back to the intermediate's own stack for their answer, and closed: others, for the next time.
            (0..4)
                .map(|n| {
                    let mut connection = Connection::open(VIPS[n % 2]).unwrap();
                    ask(&mut connection, "/1k", if n < 2 { 'a' } else { 'b' });
                    connection
                })
                .collect()
        });
        t.eventually("the old ones are gone", Duration::from_secs(30), committed);
    }
    no_request_on_the_wrong_target(&t);
    assert_eq!(t.closed("recall_refused"), 0);
}

#[test]
fn a_client_whose_bytes_died_with_the_intermediate_is_reset_and_does_not_wait_for_ever() {
    let Some(t) = lab::up("tracked-owed", |s| both(two_pools(s))) else { return };
    let connections = t.client(|| {
        VIPS.map(|vip| {
            let mut connection = Connection::open(vip).unwrap();
            // The kernel acknowledges both requests; the second one waits here until the first response is complete.
            let both =
                "GET /100m?to=a HTTP/1.1\r\nHost: lab\r\n\r\nGET /1k?to=b HTTP/1.1\r\nHost: lab\r\n\r\n";
            connection.send(both.as_bytes()).unwrap();
            connection
        })
    });
    t.eventually("the first requests are under way", LIMIT, |t| {
        let given = t.flows("intermediate");
        given.len() == 2 && given.iter().all(|flow| flow["state"] == "committed")
    });
    t.lab.kill_intermediate().unwrap();
    t.lab.start_intermediate().unwrap();
    for mut connection in connections {
        let error = loop {
            match connection.read_some() {
                Ok(0) => panic!("the end of a response that was not complete"),
                Ok(_) => {}
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    no_request_on_the_wrong_target(&t);
}

/// The status of what comes back for one request as it stands.
fn status_of(connection: &mut Connection, request: &str) -> u16 {
    connection.send(request.as_bytes()).unwrap();
    connection.response().unwrap_or_else(|e| panic!("{request}: {e}")).status
}

#[test]
fn what_no_target_may_have_is_answered_here_on_the_same_connection() {
    let Some(t) = lab::up("taken-back", |s| both(two_pools(s))) else { return };
    let told = ["intermediate", "target1"].map(|node| events::of(&t, node, "?kind=recall"));
    t.client_at_each(move |vip| {
        let open = || {
            let mut connection = Connection::open(vip).unwrap();
            ask(&mut connection, "/1k", 'a');
            connection
        };
        // No route; the gate; a route that is gone right again afterwards.
        assert_eq!(status_of(&mut open(), "GET /1k HTTP/1.1\r\nHost: lab\r\n\r\n"), 404);
        let two = "GET /1k?to=a HTTP/1.1\r\nHost: lab\r\nHost: other\r\n\r\n";
        assert_eq!(status_of(&mut open(), two), 400);
        // A body whose end is not known: the connection's last request, wherever it goes.
        let mut connection = open();
        let chunked = "POST /upload?to=b HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(status_of(&mut connection, chunked), 200);
        // A head that comes too slowly to be held.
        let mut connection = open();
        let head = b"GET /1k?to=b HTTP/1.1\r\nHost: lab\r\nX-Slow: yes\r\n\r\n";
        let (first, rest) = head.split_at(20);
        connection.send(first).unwrap();
        std::thread::sleep(Duration::from_millis(900));
        connection.send(rest).unwrap();
        let response = connection.response().unwrap();
        assert_eq!((response.status, response.served_by()), (200, "target2"));
    });
    for events in told {
        events.wait("recall", |recall| recall["reason"] == "recalled");
    }
    t.eventually("each is counted", LIMIT, |t| t.metric("intermediate", &later("returned")) >= 8);
    no_request_on_the_wrong_target(&t);
}

/// The intermediate's kernel had acknowledged its end with the requests: no packet says it again.
#[test]
fn a_client_that_said_its_end_with_requests_that_are_served_here_sees_the_connection_end() {
    let Some(t) = lab::up("half-closed", |s| both(two_pools(s))) else { return };
    t.client_at_each(|vip| {
        for n in 0..5 {
            let mut connection = Connection::open(vip).unwrap();
            let requests = format!(
                "GET /1k?to=a&{n} HTTP/1.1\r\nHost: lab\r\n\r\n\
                 POST /upload?to=b HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
                 GET /1k?to=b HTTP/1.1\r\nHost: lab\r\n\r\n"
            );
            connection.send(requests.as_bytes()).unwrap();
            connection.socket().shutdown(std::net::Shutdown::Write).unwrap();
            for served_by in ["target1", "target2", "target2"] {
                let response = connection.response().unwrap();
                assert_eq!((response.status, response.served_by()), (200, served_by));
            }
            connection.socket().set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(connection.read_some().unwrap(), 0, "and then its end");
        }
    });
    t.eventually("such were served here", LIMIT, |t| t.metric("intermediate", &later("returned")) > 0);
    no_request_on_the_wrong_target(&t);
}

#[test]
fn responses_without_bodies_and_of_unknown_length_do_not_confuse_anybody() {
    let Some(t) = lab::up("framings", |s| both(two_pools(s))) else { return };
    let etag = t.get("/1k?to=a").unwrap().header("etag").unwrap().to_owned();
    t.client_at_each(move |vip| {
        let mut connection = Connection::open(vip).unwrap();
        for n in 0..40 {
            let to = if n % 2 == 0 { 'a' } else { 'b' };
            ask(&mut connection, "/1k", to);
            // HEAD: the response says a length and has no body.
            connection.send(format!("HEAD /1m?to={to} HTTP/1.1\r\nHost: lab\r\n\r\n").as_bytes()).unwrap();
            let head = connection.head().unwrap();
            assert!(head.starts_with("HTTP/1.1 200") && head.contains(served_by(to)), "{head}");
            let not_modified =
                format!("GET /1k?to={to} HTTP/1.1\r\nHost: lab\r\nIf-None-Match: {etag}\r\n\r\n");
            connection.send(not_modified.as_bytes()).unwrap();
            let head = connection.head().unwrap();
            assert!(head.starts_with("HTTP/1.1 304"), "{head}");
        }
    });
    no_request_on_the_wrong_target(&t);
}

#[test]
fn a_connection_that_ends_after_its_last_request_leaves_nothing_behind() {
    let Some(t) = lab::up("tracked-end", |s| both(two_pools(s))) else { return };
    t.client_at_each(move |vip| {
        for n in 0..20 {
            let mut connection = Connection::open(vip).unwrap();
            ask(&mut connection, "/1k", 'a');
            ask(&mut connection, "/1k", 'b');
            if n % 2 == 0 {
                // The last request and the end in one.
                connection.get("/1k?to=a").unwrap();
                connection.socket().shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(connection.response().unwrap().served_by(), "target1");
                assert_eq!(connection.read_some().unwrap(), 0, "the server closes");
            }
        }
    });
    t.eventually("all records are freed", Duration::from_secs(30), |t| {
        ["intermediate", "target1", "target2"].iter().all(|node| t.flows(node).is_empty())
    });
    no_request_on_the_wrong_target(&t);
}

#[test]
fn loss_and_reordering_change_no_byte_and_no_target() {
    let impaired = |spec: LabSpec| {
        both(two_pools(spec)).impair("loss=1%,dup=1%,reorder=2%,delay=2ms,seed=11".parse().unwrap())
    };
    let Some(t) = lab::up("tracked-bad", impaired) else { return };
    let (small, large) = (t.sha256("1k"), t.sha256("1m"));
    t.client_at_each(move |vip| {
        for _ in 0..4 {
            let mut connection = Connection::open(vip).unwrap();
            for n in 0..40 {
                let to = if n % 3 == 0 { 'a' } else { 'b' };
                let (path, want) = if n % 8 == 5 { ("/1m", &large) } else { ("/1k", &small) };
                assert_eq!(&ask(&mut connection, path, to).sha256, want, "request {n}");
            }
        }
    });
    no_request_on_the_wrong_target(&t);
}

#[test]
fn without_ebpf_later_requests_are_routed_just_so() {
    let Some(t) = lab::up("tracked-user", |s| both(two_pools(s)).plane(netns_lab::Plane::Userspace)) else {
        return;
    };
    VIPS.into_iter().for_each(|vip| drop(alternate(&t, vip, 100)));
    let large = t.sha256("1m");
    t.client_at_each(move |vip| {
        let mut connection = Connection::open(vip).unwrap();
        for n in 0..12 {
            let to = if n % 2 == 0 { 'a' } else { 'b' };
            assert_eq!(ask(&mut connection, "/1m", to).sha256, large, "download {n}");
        }
        assert_eq!(status_of(&mut connection, "GET /1k HTTP/1.1\r\nHost: lab\r\n\r\n"), 404);
    });
    no_request_on_the_wrong_target(&t);
}
