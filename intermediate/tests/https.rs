//! TLS that ends at the listener, over loopback: real curl in HTTP/1.1 and HTTP/2, and raw HTTP/2 frames where no client
//! would send what must be refused.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's panic is its report"
)]

mod frames;
mod support;

use arc_swap::Guard;
use baton_shared::reason::{CloseReason, ProxyReason};
use frames::{Http2, connect};
use intermediate::config::Protocol;
use intermediate::front::FrontLimits;
use intermediate::site::{Site, SiteListener};
use std::fs;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::tls::{certificate, config_of};
use support::{Bed, LARGE, limits, server};
use tempfile::TempDir;

struct Https {
    bed: Bed,
    dir: TempDir,
}

fn https(limits: FrontLimits, servers: &[SocketAddr]) -> Https {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        certificate(dir.path(), "first", &["first.example"]),
        certificate(dir.path(), "wild", &["*.wild.example"]),
    ];
    let tls = Some(config_of(&files));
    let order = |l: SiteListener| SiteListener { protocol: Protocol::Https, tls, ..l };
    Https { bed: Bed::with_listener(limits, &[servers], vec![], order), dir }
}

impl Https {
    /// curl to `name`, which trusts the certificate in that file alone.
    async fn curl(&self, trusted: &str, name: &str, path: &str, options: &[&str]) -> Output {
        let vip = self.bed.vip;
        tokio::process::Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert"])
            .arg(self.dir.path().join(trusted))
            .args(["--resolve", &format!("{name}:{}:127.0.0.1", vip.port())])
            .args(options)
            .arg(format!("https://{name}:{}{path}", vip.port()))
            .output()
            .await
            .expect("curl must be installed")
    }

    async fn text(&self, path: &str, options: &[&str]) -> String {
        let out = self.curl("first.pem", "first.example", path, options).await;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

/// With enough time for curl's own start.
fn patient() -> FrontLimits {
    FrontLimits { head_timeout: Duration::from_secs(3), ..limits() }
}

#[tokio::test]
async fn curl_gets_the_same_in_http_1_1_and_http_2() {
    let (address, _) = server().await;
    let https = https(patient(), &[address]);
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let told = https.text("/a", &[option, "-w", "%{http_version}"]).await;
        assert_eq!(told, format!("you asked for /a\n{version}"));
        let seen = https.text("/headers?q=1", &[option, "-H", "X-Mine: 1", "-H", "Cookie: a=1"]).await;
        assert!(seen.starts_with("GET /headers?q=1\n"), "{seen}");
        assert!(seen.contains("x-mine: 1\n") && seen.contains("cookie: a=1\n"), "{seen}");
        assert!(seen.contains(&format!("host: first.example:{}\n", https.bed.vip.port())), "{seen}");
        assert!(seen.contains("x-forwarded-for: 127.0.0.1\n"), "{seen}");
        assert_eq!(https.text("/echo", &[option, "-d", "some body"]).await, "some body");
        let chunked = ["-H", "Transfer-Encoding: chunked", "-d", "in chunks"];
        assert_eq!(https.text("/echo", &[&[option][..], &chunked].concat()).await, "in chunks");
        let status = ["-o", "/dev/null", "-w", "%{http_code}"];
        assert_eq!(https.text("/204", &[&[option][..], &status].concat()).await, "204");
        assert_eq!(https.text("/x", &[&[option, "-I"][..], &status].concat()).await, "200");
    }
    assert_eq!(https.bed.front.metrics.proxied(ProxyReason::TlsTerminated), 12);
    let newest = &https.bed.front.migration.history().recent(1)[0];
    assert_eq!((newest.request.as_str(), newest.reason), ("HEAD /x", Some("tls_terminated")));
}

#[tokio::test]
async fn large_bodies_pass_both_ways_in_both_versions() {
    let (address, _) = server().await;
    let https = https(patient(), &[address]);
    let file = https.dir.path().join("up");
    fs::write(&file, vec![b'u'; 5_000_000]).unwrap();
    let upload = format!("@{}", file.display());
    for option in ["--http1.1", "--http2"] {
        let down = ["-o", "/dev/null", "-w", "%{size_download}"];
        assert_eq!(https.text("/large", &[&[option][..], &down].concat()).await, LARGE.to_string());
        assert_eq!(https.text("/count", &[option, "--data-binary", &upload]).await, "5000000");
    }
}

#[tokio::test]
async fn fifty_streams_at_once_each_get_their_own_answer() {
    let (address, _) = server().await;
    let https = https(patient(), &[address]);
    let told = https.text("/stream[1-50]", &["--http2", "-Z", "--parallel-max", "50"]).await;
    for n in 1..=50 {
        assert_eq!(told.matches(&format!("you asked for /stream{n}\n")).count(), 1, "{n}");
    }
}

#[tokio::test]
async fn the_name_chooses_the_certificate_and_an_unknown_one_gets_the_first() {
    let (address, _) = server().await;
    let https = https(patient(), &[address]);
    for (trusted, name, right) in [
        ("first.pem", "first.example", true),
        ("wild.pem", "a.wild.example", true),
        ("first.pem", "a.wild.example", false),
        // The first one is shown, and is not for that name.
        ("wild.pem", "a.b.wild.example", false),
        ("first.pem", "nobody.example", false),
    ] {
        let out = https.curl(trusted, name, "/a", &["--http2"]).await;
        assert_eq!(out.status.success(), right, "{name}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let out = https.curl("first.pem", "nobody.example", "/a", &["-k"]).await;
    assert_eq!(out.stdout, b"you asked for /a\n");
    for version in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
        assert_eq!(https.text("/a", &version).await, "you asked for /a\n");
    }
    let old = https.curl("first.pem", "first.example", "/a", &["--tlsv1.0", "--tls-max", "1.1"]).await;
    assert!(!old.status.success());
}

#[tokio::test]
async fn a_changed_certificate_is_shown_to_new_connections_and_cuts_no_old_one() {
    let (address, _) = server().await;
    let https = https(patient(), &[address]);
    let mut old = Http2::open(https.bed.vip).await;
    assert_eq!(old.get(1, "/a").await, (200, b"you asked for /a\n".to_vec()));
    let renewed = certificate(https.dir.path(), "renewed", &["first.example"]);
    let before: Guard<Arc<Site>> = https.bed.front.site.load();
    let listener = SiteListener { tls: Some(config_of(&[renewed])), ..before.listeners[0].clone() };
    let site = Site {
        listeners: vec![listener],
        pools: before.pools.clone(),
        table: baton_shared::route::RouteTable::new(vec![]),
        limits: before.limits,
        source_exempt: Vec::new(),
    };
    https.bed.front.site.store(Arc::new(site));
    assert!(https.curl("renewed.pem", "first.example", "/a", &[]).await.status.success());
    assert!(!https.curl("first.pem", "first.example", "/a", &[]).await.status.success());
    assert_eq!(old.get(3, "/b").await, (200, b"you asked for /b\n".to_vec()));
}

#[tokio::test]
async fn what_http_1_would_read_otherwise_is_refused_and_reaches_no_server() {
    let (address, taken) = server().await;
    let https = https(patient(), &[address]);
    let mut client = Http2::open(https.bed.vip).await;
    let base =
        [(":method", "POST"), (":scheme", "https"), (":authority", "first.example"), (":path", "/evil")];
    let with = |more: &[(&'static str, &'static str)]| [&base[..], more].concat();
    let without = |name: &str| base.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    let cases: Vec<Vec<(&str, &str)>> = vec![
        with(&[("transfer-encoding", "chunked")]),
        with(&[("connection", "close")]),
        with(&[("keep-alive", "1")]),
        with(&[("proxy-connection", "close")]),
        with(&[("upgrade", "websocket")]),
        with(&[("te", "gzip")]),
        with(&[("X-Upper", "1")]),
        with(&[("x", "a\r\nhost: evil")]),
        with(&[("x", "a\nb")]),
        with(&[("x", "a\0b")]),
        with(&[("x\r\nhost", "evil")]),
        with(&[("x y", "1")]),
        with(&[("x:", "1")]),
        with(&[("host", "other.example")]),
        with(&[("host", "first.example"), ("host", "first.example2")]),
        with(&[("content-length", "1"), ("content-length", "2")]),
        with(&[("content-length", "+1")]),
        with(&[("content-length", "7")]),
        with(&[(":path", "/twice")]),
        without(":method"),
        without(":path"),
        without(":authority"),
        [&without(":path")[..], &[(":path", "/a b")]].concat(),
        [&without(":path")[..], &[(":path", "/a HTTP/1.1\r\nx: y")]].concat(),
        [&without(":path")[..], &[(":path", "")]].concat(),
        [&without(":path")[..], &[(":path", "evil")]].concat(),
        [&without(":method")[..], &[(":method", "GET /evil HTTP/1.1\r\n")]].concat(),
        [&without(":method")[..], &[(":method", "CONNECT")]].concat(),
        [&without(":authority")[..], &[(":authority", "a@b")]].concat(),
        [&without(":authority")[..], &[(":authority", "a\r\nx: y")]].concat(),
    ];
    for (n, headers) in cases.iter().enumerate() {
        let stream = client.next_stream();
        client.headers(stream, headers, true).await;
        match client.outcome(stream).await {
            Some((status, _)) => assert!([400, 501].contains(&status), "{n}: {headers:?}: {status}"),
            // Reset, or the whole connection closed: as good.
            None => client = Http2::open(https.bed.vip).await,
        }
    }
    // A body that is not as long as promised, either way.
    for body in [&b"ab"[..], b"abcd"] {
        let stream = client.next_stream();
        client.headers(stream, &with(&[("content-length", "3")]), false).await;
        client.data(stream, body, true).await;
        if let Some((status, _)) = client.outcome(stream).await {
            assert!(status >= 400, "{status}");
        }
        client = Http2::open(https.bed.vip).await;
    }
    assert!(taken.load(Ordering::Relaxed) <= 2, "but for the two whose head was right");
    assert_eq!(client.get(1, "/a").await.0, 200);
}

#[tokio::test]
async fn streams_opened_and_reset_at_once_end_the_connection() {
    let (address, taken) = server().await;
    let https = https(patient(), &[address]);
    let mut client = Http2::open(https.bed.vip).await;
    for _ in 0..2000 {
        let stream = client.next_stream();
        client.ask(stream, "/silent").await;
        if !client.reset(stream).await {
            break;
        }
    }
    assert!(client.is_ended().await, "the connection goes on");
    assert!(taken.load(Ordering::Relaxed) < 200, "{taken:?}");
    assert_eq!(Http2::open(https.bed.vip).await.get(1, "/a").await.0, 200);
}

#[tokio::test]
async fn a_client_that_takes_nothing_in_is_closed() {
    let (address, _) = server().await;
    let https = https(patient(), &[address]);
    let mut client = Http2::open(https.bed.vip).await;
    client.ask(1, "/large").await;
    // Its window is never opened again.
    assert!(client.is_ended().await);
    https.bed.closed_becomes(CloseReason::SlowReader, 1).await;
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_its_time_with_or_without_a_request_before() {
    let (address, _) = server().await;
    let https = https(limits(), &[address]);
    for asks in [false, true] {
        let mut client = Http2::open(https.bed.vip).await;
        if asks {
            assert_eq!(client.get(1, "/a").await.0, 200);
        }
        assert!(client.is_ended().await);
    }
    https.bed.closed_becomes(CloseReason::HeadTimeout, 1).await;
    https.bed.closed_becomes(CloseReason::IdleTimeout, 1).await;
}

#[tokio::test]
async fn what_is_no_handshake_and_what_takes_too_long_is_closed_and_counted() {
    let (address, _) = server().await;
    let https = https(limits(), &[address]);
    let mut plain = https.bed.client().await;
    plain.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut plain.0, &mut Vec::new()).await;
    let mut silent = https.bed.client().await;
    assert_eq!(silent.rest().await, "");
    https.bed.closed_becomes(CloseReason::NotTls, 1).await;
    https.bed.closed_becomes(CloseReason::TlsHandshake, 1).await;
    // In TLS, what is no request is answered as without it.
    let mut garbage = connect(https.bed.vip, &[b"http/1.1"]).await;
    tokio::io::AsyncWriteExt::write_all(&mut garbage, b"nonsense\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut garbage, &mut said).await;
    assert!(said.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn a_stop_and_a_drain_let_the_streams_under_way_end_and_open_no_new_one() {
    let (address, _) = server().await;
    for drain in [false, true] {
        let https = https(patient(), &[address]);
        let mut client = Http2::open(https.bed.vip).await;
        let base = [(":method", "POST"), (":scheme", "https"), (":authority", "h"), (":path", "/echo")];
        client.headers(1, &base, false).await;
        client.data(1, b"ab", false).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let stopping = if drain {
            assert!(https.bed.front.drains.drain_listener(https.bed.vip, true));
            None
        } else {
            Some(tokio::spawn(https.bed.control.stop_and_wait(Duration::from_secs(5))))
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.data(1, b"cd", true).await;
        assert_eq!(client.outcome(1).await, Some((200, b"abcd".to_vec())));
        match stopping {
            Some(stopping) => assert!(stopping.await.unwrap()),
            None => {
                let left = async { while client.settled().await {} };
                tokio::time::timeout(Duration::from_secs(10), left).await.expect("it is closed");
            }
        }
    }
}
