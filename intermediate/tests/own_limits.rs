//! Limits of listeners and routes, through a real daemon: each is in force where it stands and nowhere else, and a reload
//! changes it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod daemon;

use daemon::{Daemon, server};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// `VIP` has the site's limits but for its own, `OTHER` those of the site.
const SITE: &str = r#"name = "lb"
workers = 1
[admin]
unix = "DIR/admin.sock"
[limits]
head_timeout_ms = 60000
[[listener]]
name = "own"
vip = "VIP"
mode = "proxy"
pool = "all"
[listener.limits]
head_bytes = 1000
head_timeout_ms = 2000
connections_per_source = 2
body_bytes = 5000
[[listener]]
name = "other"
vip = "OTHER"
mode = "proxy"
pool = "all"
[[target]]
name = "down"
server = "DOWN"
agent = "127.0.0.1:7400"
[[target]]
name = "up"
server = "UP"
agent = "127.0.0.1:7401"
[[pool]]
name = "all"
targets = ["up"]
[[pool]]
name = "half"
targets = ["down", "up"]
balance = "round_robin"
[[route]]
name = "small"
path = "/small"
pool = "all"
limits = { body_bytes = 100 }
[[route]]
name = "any"
path = "/any"
pool = "all"
limits = { body_bytes = 0, body_min_rate = 100000, body_grace_ms = 300 }
[[route]]
name = "quick"
path = "/quick"
pool = "all"
limits = { upstream_timeout_ms = 300 }
[[route]]
name = "once"
path = "/once"
pool = "half"
limits = { connect_retries = 0 }
[[route]]
name = "again"
path = "/again"
pool = "half"
"#;

/// Answers a request when it has its body with its length, but for `/quick`, and `/slow` after a second.
fn serve(mut stream: TcpStream) {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let n = stream.read(&mut piece).unwrap_or(0);
        read.extend_from_slice(&piece[..n]);
        if n == 0 {
            return;
        }
        let Some(at) = read.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&read[..at]).to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let whole = match length {
            Some(length) => read.len() >= at + 4 + length,
            None => !head.contains("transfer-encoding") || read.ends_with(b"\r\n0\r\n\r\n"),
        };
        if !whole || head.contains(" /quick") {
            continue;
        }
        if head.contains("/slow") {
            std::thread::sleep(Duration::from_secs(1));
        }
        let body = (read.len() - at - 4).to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        read.clear();
        stream.write_all(answer.as_bytes()).unwrap();
    }
}

/// An address of nobody.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Status of the answer, and how long it took.
fn ask(vip: &str, request: &[u8]) -> (u16, Duration) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(vip).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(request);
    (status(&mut stream), began.elapsed())
}

/// Of the next answer; 0 if the connection ends without.
fn status(stream: &mut TcpStream) -> u16 {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => answer.push(byte[0]),
            Ok(_) => return 0,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return 0,
            Err(e) => panic!("{e} after {answer:?}"),
        }
    }
    String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap().parse().unwrap()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").into_bytes()
}

fn post(path: &str, length: usize) -> Vec<u8> {
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    [head.into_bytes(), vec![b'x'; length]].concat()
}

/// In chunks of 50.
fn chunked(path: &str, length: usize) -> Vec<u8> {
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("32\r\n{}\r\n", "x".repeat(50));
    (head + &chunk.repeat(length / 50) + "0\r\n\r\n").into_bytes()
}

#[test]
fn each_limit_is_in_force_where_it_stands_and_nowhere_else() {
    let other = nobody();
    let site = SITE.replace("OTHER", &other).replace("DOWN", &nobody()).replace("UP", &server(serve));
    let daemon = Daemon::start(&site);
    let own = daemon.vip.as_str();
    let other = other.as_str();
    let of = |vip: &str, request: &[u8]| ask(vip, request).0;

    // Bodies: the route's, else the listener's, else any; by their length, or counted.
    for (vip, request, expected) in [
        (own, post("/small", 100), 200),
        (own, post("/small", 101), 413),
        (other, post("/small", 101), 413),
        (own, post("/x", 5000), 200),
        (own, post("/x", 5001), 413),
        (other, post("/x", 5001), 200),
        (own, post("/any", 9000), 200),
        (own, chunked("/small", 100), 200),
        (own, chunked("/small", 150), 413),
        (own, chunked("/x", 5050), 413),
        (other, chunked("/x", 5050), 200),
        (own, get("/small"), 200),
    ] {
        assert_eq!(of(vip, &request), expected, "{vip} {:?}", String::from_utf8_lossy(&request[..60]));
    }

    // Heads, which are read before there is a route: the listener's.
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(1500));
    assert_eq!((of(own, long.as_bytes()), of(other, long.as_bytes())), (431, 200));
    let (late, after) = ask(own, b"GET / HT");
    assert_eq!(late, 408);
    assert!(after < Duration::from_secs(20), "{after:?}: of two seconds, not a minute");
    let mut patient = TcpStream::connect(other).unwrap();
    patient.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnec").unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    patient.write_all(b"tion: close\r\n\r\n").unwrap();
    assert_eq!(status(&mut patient), 200);

    // Connections of one source: counted by the listener that says so, apart from the others.
    let hold = |vip: &str| {
        let mut stream = TcpStream::connect(vip).unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        stream
    };
    let mut many: Vec<TcpStream> = (0..5).map(|_| hold(other)).collect();
    let mut two = [hold(own), hold(own)];
    let third = of(own, &get("/"));
    assert_eq!(third, 0, "a third one is closed");
    for stream in many.iter_mut().chain(&mut two) {
        assert_eq!(status(stream), 200);
    }
    drop((many, two));
    daemon.eventually("its places are free again", || of(own, &get("/")) == 200);

    // Servers: how long one may keep silent, how many are tried.
    let (silent, after) = ask(other, &get("/quick"));
    assert_eq!(silent, 504);
    assert!(after < Duration::from_secs(20), "{after:?}: of 300 ms, not a minute");
    let answers: Vec<u16> = (0..4).map(|_| of(other, &get("/once"))).collect();
    assert!(answers.contains(&503), "the one that is down has its turn: {answers:?}");
    assert_eq!([(); 4].map(|()| of(other, &get("/again"))), [200; 4]);

    // A body that drips.
    let mut drip = TcpStream::connect(other).unwrap();
    drip.write_all(b"POST /any HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nx").unwrap();
    assert_eq!(status(&mut drip), 408);
    let mut pause = TcpStream::connect(other).unwrap();
    pause.write_all(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nx").unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    pause.write_all(b"x").unwrap();
    assert_eq!(status(&mut pause), 200);

    // A reload changes them.
    let wider = site
        .replace("body_bytes = 100 ", "body_bytes = 200 ")
        .replace("head_bytes = 1000", "head_bytes = 9000");
    assert_eq!(daemon.reload(&wider).0, 200);
    assert_eq!((of(own, &post("/small", 101)), of(own, &post("/small", 201))), (200, 413));
    assert_eq!(of(own, long.as_bytes()), 200);
}
