//! Later requests that the program judges by itself, since they are plain and every request there is treated alike: real
//! nginx on two targets, one pool, no access log. Whatever is not plain, and whatever changes, is read as before.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{Connection, Response};
use baton_tests::lab::{self, TestLab, VIPS, both};
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{LabSpec, Plane};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How long the daemons may take to note what has happened.
const LIMIT: Duration = Duration::from_secs(20);

fn ask(connection: &mut Connection, path: &str) -> Response {
    connection.get(path).unwrap();
    let response = connection.response().unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(response.status, 200, "{}", response.head);
    response
}

/// The status of what comes back for one request as it stands.
fn status_of(connection: &mut Connection, request: &str) -> u16 {
    connection.send(request.as_bytes()).unwrap();
    connection.response().unwrap_or_else(|e| panic!("{request}: {e}")).status
}

/// What became of later requests: those that were read and stayed, that were judged unread, that were handed on.
fn outcomes(t: &TestLab) -> [u64; 3] {
    let samples =
        ["stayed", "plain", "moved"].map(|o| format!("baton_later_requests_total{{outcome=\"{o}\"}}"));
    t.metrics(INTERMEDIATE, samples.each_ref().map(String::as_str))
}

/// A connection, and who serves it, once it is committed.
fn opened(t: &TestLab, vip: SocketAddr) -> (Connection, String) {
    let (connection, server) = t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
        let server = ask(&mut connection, "/1k").served_by().to_owned();
        (connection, server)
    });
    let client = connection.socket().local_addr().unwrap().to_string();
    t.eventually("it is committed", LIMIT, |t| {
        t.flows(INTERMEDIATE).iter().any(|f| f["client"] == *client && f["state"] == "committed")
    });
    (connection, server)
}

/// How many requests the intermediate knows of on this connection since its last handoff.
fn requests(t: &TestLab, connection: &Connection) -> u64 {
    let client = connection.socket().local_addr().unwrap().to_string();
    let flows: HashMap<String, u64> = t
        .flows(INTERMEDIATE)
        .iter()
        .map(|flow| (flow["client"].as_str().unwrap().to_owned(), flow["requests"].as_u64().unwrap()))
        .collect();
    flows[&client]
}

/// Asks for this file so many times; all are one server's.
fn ask_often(t: &TestLab, mut connection: Connection, server: &str, file: &str, times: usize) -> Connection {
    let (want, server, path) = (t.sha256(file), server.to_owned(), format!("/{file}"));
    t.client(move || {
        for n in 0..times {
            let response = ask(&mut connection, &path);
            assert_eq!(
                (response.sha256.as_str(), response.served_by()),
                (want.as_str(), &*server),
                "request {n}"
            );
        }
        connection
    })
}

/// Asks for 1 kB until the last request was judged unread: one that comes before the daemon has let go of the one before is read.
/// With how many were asked.
fn ask_until_unread(t: &TestLab, mut connection: Connection, server: &str) -> (Connection, u64) {
    for asked in 1..1000 {
        let [_, before, _] = outcomes(t);
        connection = ask_often(t, connection, server, "1k", 1);
        if outcomes(t)[1] > before {
            return (connection, asked);
        }
    }
    panic!("each of them was read");
}

fn of_every_kind(t: &TestLab) {
    let want = t.sha256("1k");
    for vip in VIPS {
        let (connection, server) = opened(t, vip);
        let [stayed, plain, moved] = outcomes(t);
        let connection = ask_often(t, connection, &server, "1k", 1);
        assert_eq!(outcomes(t), [stayed + 1, plain, moved], "{vip}: the first is read");
        let (connection, asked) = ask_until_unread(t, connection, &server);
        let connection = ask_often(t, connection, &server, "1k", 40);
        assert_eq!(requests(t, &connection), asked + 42, "{vip}");
        assert_eq!(outcomes(t), [stayed + asked, plain + 41, moved], "{vip}: and then none is");

        // What is not plain is read; each gets its own answer, in order.
        let server = server.clone();
        let before = outcomes(t);
        let want = want.clone();
        let connection = t.client(move || {
            let mut connection = connection;
            let post = "POST /upload HTTP/1.1\r\nHost: lab\r\nContent-Length: 5\r\n\r\nhello";
            assert_eq!(status_of(&mut connection, post), 200);
            for _ in 0..3 {
                assert_eq!(ask(&mut connection, "/1k").sha256, want);
            }
            connection.send(b"HEAD /1m HTTP/1.1\r\nHost: lab\r\n\r\n").unwrap();
            assert!(connection.head().unwrap().starts_with("HTTP/1.1 200"));
            for _ in 0..3 {
                assert_eq!(ask(&mut connection, "/1k").sha256, want);
            }
            // Two in one segment, and one in two.
            let get = "GET /1k HTTP/1.1\r\nHost: lab\r\n\r\n";
            connection.send(format!("{get}{get}").as_bytes()).unwrap();
            for _ in 0..2 {
                assert_eq!(connection.response().unwrap().sha256, want);
            }
            for piece in [&get[..11], &get[11..]] {
                connection.send(piece.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
            assert_eq!(connection.response().unwrap().sha256, want);
            for _ in 0..3 {
                let response = ask(&mut connection, "/1k");
                assert_eq!((response.sha256.as_str(), response.served_by()), (want.as_str(), &*server));
            }
            connection
        });
        let after = outcomes(t);
        let [stayed, plain, moved] = [0, 1, 2].map(|n| after[n] - before[n]);
        assert_eq!((stayed + plain, moved), (13, 1), "{vip}: {after:?}");
        // The POST, the one behind the HEAD since it was handed on anew, the two and that in pieces.
        assert!(stayed >= 5, "{vip}: {stayed} were read");
        // And the gate still stands in front of the server.
        let refused = t.client(move || {
            let mut connection = connection;
            status_of(&mut connection, "GET /1k HTTP/1.1\r\nHost: lab\r\nHost: other\r\n\r\n")
        });
        assert_eq!(refused, 400, "{vip}");
    }
}

#[test]
fn plain_requests_go_on_unread_and_whatever_is_none_is_read_on_the_same_connection() {
    let Some(t) = lab::up("plain", |s| lab::patient(both(s))) else { return };
    of_every_kind(&t);
}

#[test]
fn without_ebpf_plain_requests_go_on_just_so() {
    let spec = |s: LabSpec| lab::patient(both(s).plane(Plane::Userspace));
    let Some(t) = lab::up("plain-user", spec) else { return };
    of_every_kind(&t);
}

#[test]
fn an_order_reaches_connections_whose_requests_nobody_read() {
    let Some(t) = lab::up("plain-drain", |s| lab::patient(both(s))) else { return };
    for vip in VIPS {
        let (connection, first) = opened(&t, vip);
        let other = if first == "target1" { "target2" } else { "target1" };
        let (connection, _) = ask_until_unread(&t, connection, &first);
        t.order(&format!("/v1/targets/{first}/drain"));
        // At once, with the very next request; and the new one's are not read either after a while.
        let connection = ask_often(&t, connection, other, "1k", 1);
        let (connection, asked) = ask_until_unread(&t, connection, other);
        assert_eq!(requests(&t, &connection), 1 + asked, "{vip}");
        t.order(&format!("/v1/targets/{first}/undrain"));
        // It stays, and its next request is read, since what is known has changed.
        let [stayed, plain, moved] = outcomes(&t);
        let connection = ask_often(&t, connection, other, "1k", 1);
        assert_eq!(outcomes(&t), [stayed + 1, plain, moved], "{vip}");
        ask_until_unread(&t, connection, other);
    }
}

#[test]
fn while_the_intermediate_is_dead_plain_requests_go_on_and_afterwards_all_is_known_of_them() {
    let Some(t) = lab::up("plain-kill", |s| lab::patient(both(s))) else { return };
    let kept: Vec<_> = VIPS
        .into_iter()
        .map(|vip| {
            let (connection, server) = opened(&t, vip);
            let (connection, asked) = ask_until_unread(&t, connection, &server);
            (connection, server, 1 + asked)
        })
        .collect();
    t.lab.kill_intermediate().unwrap();
    let kept: Vec<_> = kept
        .into_iter()
        .map(|(connection, server, asked)| {
            (ask_often(&t, connection, &server, "10k", 30), server, asked + 30)
        })
        .collect();
    t.lab.start_intermediate().unwrap();
    for (connection, server, asked) in kept {
        assert_eq!(requests(&t, &connection), asked);
        let other = if server == "target1" { "target2" } else { "target1" };
        let connection = ask_often(&t, connection, &server, "1k", 5);
        assert_eq!(requests(&t, &connection), asked + 5);
        // A recall waits for the answers to all of them.
        t.order(&format!("/v1/targets/{server}/drain"));
        let connection = ask_often(&t, connection, other, "1k", 5);
        t.order(&format!("/v1/targets/{server}/undrain"));
        assert_eq!(requests(&t, &connection), 5);
    }
    assert_eq!(t.closed("recall_refused"), 0);
}

#[test]
fn loss_repetition_and_reordering_change_no_byte_and_no_count() {
    let impaired =
        |spec: LabSpec| both(spec).impair("loss=2%,dup=2%,reorder=3%,delay=2ms,seed=5".parse().unwrap());
    let Some(t) = lab::up("plain-bad", impaired) else { return };
    let (small, large) = (t.sha256("1k"), t.sha256("100k"));
    let kept = t.client(move || {
        VIPS.map(|vip| {
            let mut connection = Connection::open(vip).unwrap();
            for n in 0..120 {
                let (path, want) = if n % 8 == 5 { ("/100k", &large) } else { ("/1k", &small) };
                assert_eq!(&ask(&mut connection, path).sha256, want, "request {n}");
            }
            connection
        })
    });
    let [_, plain, _] = outcomes(&t);
    assert!(plain > 0, "each was read");
    for connection in kept {
        assert_eq!(requests(&t, &connection), 120);
    }
}
