//! The admin endpoint over a front without a data plane.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod support;

use baton_daemon::admin::differences;
use baton_daemon::config::{AdminSettings, Spanned};
use baton_shared::access::Level;
use intermediate::admin::{Admin, OPENAPI};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use support::{Bed, limits, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn get(endpoint: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(endpoint).await.unwrap();
    // 1.0: a list of unknown length then ends with the connection, without chunks.
    // A capture asks for the second header.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {endpoint}\r\nX-Baton-CSRF: 1\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn every_path_answers_and_what_was_counted_is_shown() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    bed.exchange(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    bed.exchange(b"\x16garbage").await;
    let admin = Admin::new(Arc::clone(&bed.front), None, None);
    let settings = AdminSettings {
        tcp: Some(Spanned::new(0..0, "127.0.0.1:0".parse().unwrap())),
        tcp_level: Level::Operate,
        ..AdminSettings::default()
    };
    let running = baton_daemon::admin::serve(&settings, Arc::clone(&admin).router()).await.unwrap();
    let endpoint = running.tcp_addr().unwrap();
    let json = async |path: &str, status: u16| -> Value {
        let (found, body) = get(endpoint, path).await;
        assert_eq!(found, status, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    };

    assert_eq!(json("/healthz", 200).await["status"], "ok");
    let ready = json("/readyz", 200).await;
    assert_eq!((&ready["ready"], &ready["data_plane"]), (&Value::Bool(true), &Value::from("none")));
    let targets = json("/v1/targets", 200).await;
    assert_eq!(
        (&targets["targets"][0]["name"], &targets["targets"][0]["up"]),
        (&"target0".into(), &false.into())
    );
    assert_eq!(
        json("/v1/flows?target=x&state=ended&client=10.0.0.1&limit=3", 200).await["flows"],
        Value::Array(vec![])
    );
    json("/v1/flows?colour=red", 400).await;
    json("/v1/flows/nonsense", 400).await;
    json("/v1/flows/00ff", 404).await;
    let captured = json("/v1/capture", 409).await;
    assert!(captured["error"].as_str().unwrap().contains("no listener migrates"), "{captured}");
    let migrations = json("/v1/migrations?limit=1", 200).await;
    assert_eq!(migrations["migrations"].as_array().unwrap().len(), 1);
    assert_eq!(migrations["migrations"][0]["reason"], "bad_request");
    assert_eq!(json("/v1/migrations", 200).await["migrations"][1]["request"], "GET /a");
    for unknown in ["/v2", "/v1/flows/1/2"] {
        json(unknown, 404).await;
    }
    let (status, metrics) = get(endpoint, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "baton_requests_total{outcome=\"proxied\"} 1",
        "baton_requests_total{outcome=\"migrated\"} 0",
        "baton_proxied_total{reason=\"disabled\"} 1",
        "baton_closed_total{reason=\"bad_request\"} 1",
        "baton_closed_total{reason=\"unresolved\"} 0",
        "baton_accepted_total 2",
        "baton_target_up{target=\"target0\"} 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));

    admin.set_stopping();
    assert_eq!(json("/readyz", 503).await["stopping"], true);
}

#[tokio::test]
async fn every_route_is_described_and_nothing_else() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let routes = Admin::new(Arc::clone(&bed.front), None, None).routes();
    assert_eq!(differences(routes.known(), OPENAPI), Vec::<String>::new());
    assert_eq!(differences(&routes.known()[1..], OPENAPI), ["GET / (view)"], "it can fail");
}
