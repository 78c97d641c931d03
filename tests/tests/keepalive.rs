//! What reaches a server on a connection that it was given: by default, and where the connection is to end with its
//! first answer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIP, both, patient};
use netns_lab::LabSpec;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How long what must come is waited for.
const LIMIT: Duration = Duration::from_secs(20);

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: lab\r\n\r\n";

/// Requests that nobody configured or that can be read in two ways, and what the client is to be answered.
fn unwanted() -> Vec<(String, u16)> {
    let length = HIDDEN.len();
    let get = |lines: &str| format!("GET /whoami HTTP/1.1\r\nHost: lab\r\n{lines}\r\n");
    let post = |lines: &str| format!("POST /upload HTTP/1.1\r\nHost: lab\r\n{lines}\r\n{HIDDEN}");
    vec![
        (get("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"), 200),
        (
            get(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
            ),
            200,
        ),
        (format!("CONNECT hidden:80 HTTP/1.1\r\nHost: hidden:80\r\n\r\n{HIDDEN}"), 501),
        (post(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n")), 400),
        (post(&format!("Content-Length: 0\r\nContent-Length: {length}\r\n")), 400),
        (post("Transfer-Encoding: identity\r\n"), 501),
        (post("Content-Length : 0\r\n"), 400),
        (get(&format!("X-A: b\n\n{HIDDEN}")), 400),
        (get(&format!("X-A: b\r\n folded: c\r\n\r\n{HIDDEN}")), 400),
        (format!("GET http://other/whoami HTTP/1.1\r\nHost: lab\r\n\r\n{HIDDEN}"), 400),
    ]
}

#[test]
fn by_default_a_later_request_is_judged_before_a_server_gets_it() {
    let Some(t) = lab::up("later", |s| patient(both(s.targets(1)))) else { return };
    const FIRST: &str = "GET /1k?first HTTP/1.1\r\nHost: lab\r\n\r\n";
    let cases = unwanted();
    let want = t.sha256("1k");
    for at_once in [false, true] {
        for (request, status) in cases.clone() {
            let want = want.clone();
            t.client_at_each(move |vip| {
                let mut connection = Connection::open(vip).unwrap();
                // Given away, and answered from the target.
                connection.send(FIRST.as_bytes()).unwrap();
                assert_eq!(connection.response().unwrap().sha256, want);
                if at_once {
                    connection.send(format!("{FIRST}{request}").as_bytes()).unwrap();
                    assert_eq!(connection.response().unwrap().sha256, want);
                } else {
                    let (start, rest) = request.split_at(20);
                    connection.send(start.as_bytes()).unwrap();
                    connection.send(rest.as_bytes()).unwrap();
                }
                let response = connection.response().unwrap_or_else(|e| panic!("{request}: {e}"));
                assert_eq!(response.status, status, "{request}\n{}", response.head);
                assert!(!response.text().contains("Upgrade"), "{}", response.text());
            });
        }
    }
    let firsts = cases.len() * 3 * 2;
    t.eventually("nginx writes its log", LIMIT, |t| t.access_log("target1").len() >= firsts + 8);
    for line in t.access_log("target1") {
        let expected = ["\"GET /1k?first HTTP/1.1\" 200", "\"GET /whoami HTTP/1.1\" 200"];
        assert!(expected.iter().any(|text| line.contains(text)), "the server got {line}");
    }
    assert_eq!(t.access_log("target1").len(), firsts + 8, "{:?}", t.access_log("target1"));
    assert_eq!(t.all_proxied(), 0);
}

/// A server that tells all it was sent, and ends its answer when it is told to.
const SERVER: &str = "10.90.101.2:7001";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\nfirst, ";

fn site(spec: LabSpec) -> LabSpec {
    let listener = |port: u16, keys: &str| {
        format!(
            "\n[[listener]]\nname = \"at{port}\"\nvip = \"10.90.1.100:{port}\"\npool = \"told\"\n{keys}\n"
        )
    };
    let allow = |port: u16| {
        format!(
            "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"10.90.1.100:{port}\"\nserver = \"ADDRESS:7001\"\n"
        )
    };
    patient(spec.targets(1))
        .intermediate_with("listener", "pool", "told")
        .intermediate_also(
            "\n[[target]]\nname = \"told\"\nserver = \"10.90.101.2:7001\"\nagent = \"10.90.101.2:7400\"\n\
             agent_name = \"target1\"\n[[pool]]\nname = \"told\"\ntargets = [\"told\"]\n",
        )
        .intermediate_also(&(listener(7001, "keepalive = \"single\"") + &listener(7002, "")))
        .agents_also(&(allow(7001) + &allow(7002)))
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(VIP.ip(), port)
}

struct Told {
    /// All that came on a connection, once it has ended.
    received: Receiver<Vec<u8>>,
    /// Has the server end its answer.
    go_on: Sender<()>,
}

fn serve(t: &TestLab) -> Told {
    let listener = t.lab.inside("target1", || TcpListener::bind(SERVER)).unwrap().unwrap();
    let (tell, received) = channel();
    let (go_on, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            match stream.and_then(|stream| answer(stream, &told)) {
                Ok(all) => tell.send(all).unwrap_or_default(),
                // Whoever waits for it finds nobody, below this.
                Err(e) => return eprintln!("the server's connection: {e}"),
            }
        }
    });
    Told { received, go_on }
}

fn answer(mut stream: TcpStream, told: &Receiver<()>) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while !all.ends_with(b"\r\n\r\n") && !all.ends_with(b"the body") {
        let length = stream.read(&mut buffer)?;
        assert_ne!(length, 0, "closed in {all:?}");
        all.extend_from_slice(&buffer[..length]);
    }
    stream.write_all(ANSWER)?;
    let _ = told.recv();
    stream.write_all(b"whole")?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut all)?;
    Ok(all)
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nthe\r\n";

/// A request in two parts, the second sent once the target has the connection; what follows it is sent with that.
struct Closing {
    port: u16,
    start: &'static str,
    rest: &'static str,
}

const CLOSING: [Closing; 7] = [
    Closing { port: 7001, start: "GET / HTTP/1.1\r\nHost: lab\r\n\r\n", rest: "" },
    Closing {
        port: 7001,
        start: "PUT / HTTP/1.1\r\nHost: lab\r\nContent-Length: 8\r\n\r\nthe",
        rest: " body",
    },
    Closing { port: 7002, start: "GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n", rest: "" },
    Closing {
        port: 7002,
        start: "POST / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: 8\r\n\r\n",
        rest: "the body",
    },
    Closing { port: 7001, start: CHUNKED, rest: "5;x=y\r\n body\r\n0\r\nA: b\r\n\r\n" },
    Closing { port: 7002, start: CHUNKED, rest: "5\r\n body\r\n0\r\n\r\n" },
    Closing { port: 7002, start: "GET / HTTP/1.0\r\nHost: lab\r\n\r\n", rest: "" },
];

#[test]
fn behind_a_connections_last_request_the_server_gets_nothing_and_the_client_its_whole_response() {
    let Some(t) = lab::up("last", site) else { return };
    // A client that has begun to send again what nobody acknowledges has no room left for its FIN.
    let route = "ip route change $(ip route show default) rto_min 8s";
    t.lab.output("client1", &["sh", "-ec", route]).unwrap();
    let server = serve(&t);
    let mut dropped = 0;
    for (n, Closing { port, start, rest }) in CLOSING.into_iter().enumerate() {
        // A whole request behind it; garbage; the client's end, with nothing and with something before it.
        for (behind, fin) in [(HIDDEN, false), ("\0\0garbage", true), ("", true)] {
            let case = format!("{start}{rest}, then {behind:?}, FIN {fin}");
            let migrated = t.migrated();
            let mut connection = t.client(move || {
                let mut connection = Connection::open(at(port)).unwrap();
                connection.send(start.as_bytes()).unwrap();
                connection
            });
            t.eventually(&case, LIMIT, |t| t.migrated() == migrated + 1);
            connection.send(format!("{rest}{behind}").as_bytes()).unwrap();
            if fin {
                connection.socket().shutdown(Shutdown::Write).unwrap();
            }
            dropped += u64::from(!behind.is_empty());
            t.eventually(&case, LIMIT, |t| {
                t.metric("intermediate", "baton_later_requests_total{outcome=\"dropped\"}") == dropped
            });
            server.go_on.send(()).unwrap();
            let response = connection.response().unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!((response.status, response.text().as_str()), (200, "first, whole"), "{case}");
            assert_eq!(
                connection.read_some().unwrap_or_else(|e| panic!("{case}: {e}")),
                0,
                "the close: {case}"
            );
            drop(connection);
            let received = server.received.recv_timeout(LIMIT).unwrap_or_else(|e| panic!("{case}: {e}"));
            let received = String::from_utf8_lossy(&received).into_owned();
            assert_eq!(received.matches("HTTP/1.").count(), 1, "{n}: {received}");
            assert_eq!(
                received.to_ascii_lowercase().matches("connection: close\r\n").count(),
                1,
                "{n}: {received}"
            );
            let sent = format!("{start}{rest}");
            let body = |all: &str| all.split_once("\r\n\r\n").unwrap().1.to_owned();
            assert_eq!(body(&received), body(&sent), "{case}");
        }
    }
    // A body of which nobody could say who takes which bytes for what ends with a reset, for the server too.
    let migrated = t.migrated();
    let mut connection = t.client(move || {
        let mut connection = Connection::open(at(7002)).unwrap();
        connection.send(CHUNKED.as_bytes()).unwrap();
        connection
    });
    t.eventually("a chunked upload migrates", LIMIT, |t| t.migrated() == migrated + 1);
    connection.send(format!("5\r\nhello!{HIDDEN}").as_bytes()).unwrap();
    assert_eq!(connection.read_some().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(t.metric("intermediate", "baton_later_requests_total{outcome=\"broken_off\"}"), 1);
    let cut = server.received.recv_timeout(LIMIT);
    assert_eq!(cut.unwrap_err(), RecvTimeoutError::Disconnected, "the server's connection was reset");
    assert_eq!(t.metric("intermediate", "baton_flows_cut_total"), 0, "no target was lost");
    assert_eq!(t.all_proxied(), 0);
    // Clients whose bytes were never acknowledged have been told that their connections are gone.
    t.eventually("all records are freed", LIMIT * 2, |t| {
        ["intermediate", "target1"].iter().all(|node| t.flows(node).is_empty())
    });
}
