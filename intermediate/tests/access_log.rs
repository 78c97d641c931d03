//! The access log of proxied and refused requests, over loopback: one line for each, saying what went over the wire.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod support;

use intermediate::access_log::{AccessLog, Destination, Format};
use intermediate::front::FrontLimits;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use support::{Bed, limits, nobody, server};

struct Logged {
    bed: Bed,
    log: AccessLog,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Logged {
    fn start(limits: FrontLimits, servers: &[std::net::SocketAddr]) -> Logged {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = AccessLog::open(Format::Json, Destination::File(path.clone())).unwrap();
        let bed = Bed::with_log(limits, &[servers], Vec::new(), |listener| listener, log.clone());
        Logged { bed, log, path, _dir: dir }
    }

    /// All lines, once there are so many.
    async fn lines(&self, count: usize) -> Vec<Value> {
        for _ in 0..1000 {
            self.log.finish(Duration::from_secs(1));
            let text = std::fs::read_to_string(&self.path).unwrap();
            if text.lines().count() >= count {
                // One more would be one too many.
                tokio::time::sleep(Duration::from_millis(50)).await;
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.log.finish(Duration::from_secs(1));
        let text = std::fs::read_to_string(&self.path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), count, "{text}");
        lines
    }
}

#[tokio::test]
async fn every_proxied_request_has_one_line_with_what_it_moved() {
    let (address, _) = server().await;
    let logged = Logged::start(limits(), &[address]);
    let answer = logged
        .bed
        .exchange(
            b"POST /echo?q HTTP/1.1\r\nHost: h.example:81\r\nUser-Agent: a \"b\"\r\nReferer: http://r/\r\n\
              Content-Length: 5\r\n\r\nhelloGET /x HTTP/1.1\r\nHost: h\r\n\r\n\
              GET /204 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(answer.matches("HTTP/1.1 20").count(), 3);
    let lines = logged.lines(3).await;
    let first = &lines[0];
    for (key, is) in [
        ("outcome", "proxied"),
        ("method", "POST"),
        ("path", "/echo?q"),
        ("host", "h.example:81"),
        ("version", "HTTP/1.1"),
        ("user_agent", "a \"b\""),
        ("referer", "http://r/"),
        ("listener", "web"),
        ("pool", "pool0"),
        ("target", "target0"),
        ("reason", "disabled"),
        ("termination", "--"),
    ] {
        assert_eq!(first[key], is, "{key} in {first}");
    }
    let numbers = |line: &Value, keys: [&str; 4]| keys.map(|key| line[key].as_u64().unwrap());
    let keys = ["status", "bytes", "request_bytes", "request_no"];
    assert_eq!(numbers(first, keys), [200, 5, 5, 1]);
    assert_eq!(numbers(&lines[1], keys), [200, "you asked for /x\n".len() as u64, 0, 2]);
    assert_eq!(numbers(&lines[2], keys), [204, 0, 0, 3]);
    let times = numbers(first, ["connect_us", "first_byte_us", "duration_us", "status"]);
    assert!(times[0] <= times[1] && times[1] <= times[2], "{first}");
}

#[tokio::test]
async fn what_is_refused_has_its_rule_wherever_it_is_refused() {
    let (address, _) = server().await;
    let logged = Logged::start(limits(), &[address]);
    logged.bed.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    logged.bed.exchange(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost : a\r\n\r\n").await;
    let mut client = logged.bed.client().await;
    client.send(b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send(b"5\nhello").await;
    client.rest().await;
    let lines = logged.lines(4).await;
    let told: Vec<_> = lines.iter().map(|l| (&l["rule"], &l["status"], &l["termination"])).collect();
    assert_eq!(told[0], (&"host_several".into(), &400.into(), &"PR".into()));
    assert_eq!(told[1], (&Value::Null, &200.into(), &"--".into()));
    assert_eq!(told[2], (&"name_space".into(), &400.into(), &"PR".into()));
    assert_eq!(told[3], (&"bare_lf".into(), &400.into(), &"PR".into()));
    assert_eq!((&lines[2]["request_no"], &lines[3]["path"]), (&2.into(), &"/count".into()));
    assert!(lines[0].get("method").is_none() && lines[2].get("path").is_none());
}

#[tokio::test]
async fn what_goes_wrong_is_told_from_whose_side_it_came() {
    let (address, _) = server().await;
    let logged = Logged::start(limits(), &[address]);
    // The server breaks off; falls silent; the client leaves in mid-response; says nothing; says half.
    logged.bed.exchange(b"GET /silent HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut client = logged.bed.client().await;
    client.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
    client.until("\r\n\r\n").await;
    drop(client);
    // One after the other: the ends of two are noticed in any order.
    logged.lines(2).await;
    logged.bed.client().await.rest().await;
    logged.lines(3).await;
    logged.bed.exchange(b"GET / HT").await;
    drop(logged.bed.client().await);
    let lines = logged.lines(4).await;
    let told: Vec<_> = lines.iter().map(|l| (l["termination"].as_str().unwrap(), l.get("status"))).collect();
    let expected = [("sH", Some(504)), ("CD", Some(200)), ("cR", None), ("cR", Some(408))];
    for (told, (letters, status)) in told.iter().zip(expected) {
        assert_eq!(*told, (letters, status.map(Value::from).as_ref()));
    }
    assert!(lines[1]["bytes"].as_u64().unwrap() < support::LARGE as u64);

    let nowhere = Logged::start(limits(), &[nobody().await]);
    nowhere.bed.exchange(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let lines = nowhere.lines(1).await;
    assert_eq!((&lines[0]["termination"], &lines[0]["status"]), (&"SC".into(), &503.into()));
    assert!(lines[0].get("target").is_none() && lines[0].get("connect_us").is_none());
}

#[tokio::test]
async fn a_tunnel_has_one_line_when_it_ends() {
    let (address, _) = server().await;
    let logged = Logged::start(limits(), &[address]);
    let mut client = logged.bed.client().await;
    client.send(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    client.until("\r\n\r\n").await;
    client.send(b"12345").await;
    client.until("12345").await;
    logged.lines(0).await;
    drop(client);
    let lines = logged.lines(1).await;
    assert_eq!((&lines[0]["status"], &lines[0]["termination"]), (&101.into(), &"--".into()));
    assert_eq!((&lines[0]["request_bytes"], &lines[0]["bytes"]), (&5.into(), &5.into()));
}
