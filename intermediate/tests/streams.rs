//! Listeners of protocol "tls" and "tcp" over loopback, without a data plane: what is routed where, what is relayed, and
//! what is closed with which word.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's panic is its report"
)]

mod support;

use baton_shared::reason::{CloseReason, ProxyReason};
use baton_shared::route::{HostRule, PoolId, Route, Rules};
use intermediate::config::Protocol;
use intermediate::site::SiteListener;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::{Bed, Client, limits, nobody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that says its name, then echoes until the client's end, and says how much it was.
async fn named(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await.unwrap();
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            });
        }
    });
    address
}

/// The ClientHello that rustls sends for a name, with these protocols.
fn hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    // For an address rustls sends no server name.
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

fn route(name: &str, pool: usize, host: &str, alpn: &[&str]) -> Route {
    let rules = Rules {
        hosts: vec![HostRule::parse(host).unwrap()],
        alpn: alpn.iter().map(|a| (*a).to_owned()).collect(),
        ..Rules::default()
    };
    Route::new(name, PoolId(pool), rules)
}

fn tls(listener: SiteListener) -> SiteListener {
    SiteListener { protocol: Protocol::Tls, ..listener }
}

/// Sends these bytes and its end, and reads all that comes.
async fn exchange(bed: &Bed, bytes: &[u8]) -> Vec<u8> {
    let mut client = bed.client().await;
    client.send(bytes).await;
    client.0.shutdown().await.unwrap();
    let mut all = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), client.0.read_to_end(&mut all)).await.unwrap().unwrap();
    all
}

#[tokio::test]
async fn a_tls_connection_goes_by_name_and_protocol_and_its_bytes_arrive_as_they_were() {
    let (default, a, b) = (named("default:").await, named("a:").await, named("b:").await);
    let routes = vec![
        route("a2", 2, "a.example", &["h2"]),
        route("a", 1, "a.example", &[]),
        route("b", 2, "*.b.example", &[]),
    ];
    let bed = Bed::with_listener(limits(), &[&[default], &[a], &[b]], routes, tls);
    for (name, alpn, expected) in [
        ("a.example", &[&b"http/1.1"[..]][..], "a:"),
        ("A.Example", &[], "a:"),
        ("a.example", &[b"h2", b"http/1.1"], "b:"),
        ("x.b.example", &[], "b:"),
        ("nobody.example", &[], "default:"),
        ("192.0.2.1", &[], "default:"),
    ] {
        let sent = [&hello(name, alpn)[..], &[0; 70_000]].concat();
        assert_eq!(exchange(&bed, &sent).await, [expected.as_bytes(), &sent].concat(), "{name} {alpn:?}");
    }
    assert_eq!(bed.front.metrics.proxied(ProxyReason::Disabled), 6);
    let history = bed.front.migration.history().recent(10);
    assert_eq!((history[1].request.as_str(), history[1].target.as_str()), ("TLS nobody.example", "target0"));
    assert_eq!(history[0].request, "TLS -");
}

#[tokio::test]
async fn a_hello_in_single_bytes_and_in_tiny_records_is_one() {
    let (default, a) = (named("default:").await, named("a:").await);
    let bed = Bed::with_listener(limits(), &[&[default], &[a]], vec![route("a", 1, "a.example", &[])], tls);
    let sent = hello("a.example", &[]);
    let mut client = bed.client().await;
    for byte in sent.chunks(1) {
        client.send(byte).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.until("a:").await, "a:");
    let record = |part: &[u8]| [&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat();
    let cut: Vec<u8> = sent[5..].chunks(7).flat_map(record).collect();
    assert_eq!(exchange(&bed, &cut).await, [b"a:", &cut[..]].concat());
}

#[tokio::test]
async fn what_cannot_be_routed_gets_its_alert_and_its_reason() {
    let a = named("a:").await;
    let only_a = |l: SiteListener| SiteListener { pool: None, ..tls(l) };
    let mut patient = limits();
    patient.head_timeout = Duration::from_secs(3);
    let bed = Bed::with_listener(patient, &[&[a]], vec![route("a", 0, "a.example", &[])], only_a);
    assert!(exchange(&bed, &hello("a.example", &[])).await.starts_with(b"a:"));
    // Nobody's name, and none at all: unrecognized_name.
    for name in ["b.example", "192.0.2.1"] {
        assert_eq!(exchange(&bed, &hello(name, &[])).await, [21, 3, 3, 0, 2, 2, 112]);
    }
    bed.closed_becomes(CloseReason::NoRoute, 2).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-x\r\n", b"\0"] {
        assert_eq!(bed.client_said(garbage).await, b"");
    }
    // For what they said, not for the time they took.
    bed.closed_becomes(CloseReason::NotTls, 3).await;
    // Too long, and one that contradicts itself: decode_error.
    let long = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 100]].concat();
    let whole = hello("a.example", &[]);
    let torn = [&[22, 3, 1, 0, 50], &whole[5..55], &[23, 3, 3, 0, 1, 0]].concat();
    for bytes in [&long, &torn] {
        assert_eq!(bed.client_said(bytes).await, [21, 3, 3, 0, 2, 2, 50]);
    }
    bed.closed_becomes(CloseReason::BadClientHello, 2).await;
    // Half of one, and nothing: closed when the time is up.
    assert_eq!(bed.client_said(&hello("a.example", &[])[..100]).await, b"");
    assert_eq!(bed.client_said(b"").await, b"");
    bed.closed_becomes(CloseReason::HeadTimeout, 2).await;
    let left = async {
        while bed.front.metrics.open_connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), left).await.expect("no connection is left");
}

#[tokio::test]
async fn a_tcp_client_that_says_nothing_hears_the_server_first() {
    let server = named("hello from the server").await;
    let order = |mut l: SiteListener| {
        l.protocol = Protocol::Tcp;
        l.times.silence = Duration::from_millis(100);
        l
    };
    let bed = Bed::with_listener(limits(), &[&[server]], vec![], order);
    let mut client = bed.client().await;
    assert_eq!(client.until("server").await, "hello from the server");
    client.send(b"late").await;
    client.0.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "late");
    assert_eq!(bed.front.metrics.proxied(ProxyReason::ClientSilent), 1);
    // One that speaks is not taken for one that does not.
    assert_eq!(exchange(&bed, b"early").await, b"hello from the serverearly");
    assert_eq!(bed.front.metrics.proxied(ProxyReason::Disabled), 1);
}

#[tokio::test]
async fn a_relay_passes_over_dead_servers_ends_when_idle_and_at_the_stop() {
    let server = named("x").await;
    let order = |mut l: SiteListener| {
        l.protocol = Protocol::Tcp;
        l.times.idle = Duration::from_secs(2);
        l
    };
    let bed = Bed::with_listener(limits(), &[&[nobody().await, server]], vec![], order);
    for _ in 0..2 {
        assert_eq!(exchange(&bed, b"y").await, b"xy");
    }
    let mut idle = bed.client().await;
    idle.send(b"z").await;
    assert_eq!(idle.rest().await, "x");
    bed.closed_becomes(CloseReason::RelayIdle, 1).await;
    let mut dead = Bed::with_listener(limits(), &[&[nobody().await]], vec![], order).client().await;
    dead.send(b"z").await;
    let _ = dead.0.read_to_end(&mut Vec::new()).await;

    let long = |mut l: SiteListener| {
        l.protocol = Protocol::Tcp;
        l
    };
    let bed = Bed::with_listener(limits(), &[&[server]], vec![], long);
    let mut client = bed.client().await;
    client.send(b"z").await;
    client.until("x").await;
    // Without waiting for it in vain: that would be said.
    assert!(bed.control.stop_and_wait(Duration::from_secs(10)).await);
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn no_server_at_all_is_counted() {
    let order = |l: SiteListener| SiteListener { protocol: Protocol::Tcp, ..l };
    let bed = Bed::with_listener(limits(), &[&[nobody().await]], vec![], order);
    let _ = bed.client_said(b"z").await;
    bed.closed_becomes(CloseReason::NoTarget, 1).await;
}

/// What a test of closing needs: all that comes though the client's end stays open.
trait Said {
    async fn client_said(&self, bytes: &[u8]) -> Vec<u8>;
}

impl Said for Bed {
    async fn client_said(&self, bytes: &[u8]) -> Vec<u8> {
        let mut client: Client = self.client().await;
        client.send(bytes).await;
        let mut all = Vec::new();
        let read = client.0.read_to_end(&mut all);
        let _ = tokio::time::timeout(Duration::from_secs(30), read).await.expect("the end");
        all
    }
}
