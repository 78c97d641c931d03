//! Spans as a collector gets them: OTLP over HTTP, read with the protocol's own messages.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{Connection, Response, hex};
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::Program;
use netns_lab::plan::INTERMEDIATE;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ENDPOINT: &str = "http://127.0.0.1:4318/v1/traces";

const SITE: &str = r#"
[[route]]
name = "proxied"
path = "/10k"
pool = "all"
mode = "proxy"
[[route]]
name = "begun"
path_exact = "/whoami"
pool = "all"
[route.request_headers]
traceparent = true
[[pool]]
name = "all"
targets = ["target1"]
"#;

type Got = Arc<Mutex<Vec<(HashMap<String, String>, Span)>>>;

/// A collector on the intermediate's host. It ends with the test.
fn collector(t: &TestLab) -> Got {
    let got = Got::default();
    let (into, netns) = (Arc::clone(&got), t.lab.netns(INTERMEDIATE).unwrap());
    let (ready, listens) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        netns_lab::sys::enter_netns(&File::open(netns).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:4318").unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let (mut stream, into) = (stream.unwrap(), Arc::clone(&into));
            std::thread::spawn(move || while take(&mut stream, &into).is_some() {});
        }
    });
    listens.recv().unwrap();
    got
}

/// One message; `None` at the end of the connection.
fn take(stream: &mut std::net::TcpStream, into: &Got) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    let length = head.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let message = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
    for of in message.resource_spans {
        let resource = texts(&of.resource.unwrap().attributes);
        let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
        into.lock().unwrap().extend(spans.map(|span| (resource.clone(), span)));
    }
    let ok = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(ok.as_bytes()).ok()
}

fn texts(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> HashMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |a: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        text(a.value.as_ref().unwrap().value.as_ref().unwrap())
    };
    attributes.iter().map(|a| (a.key.clone(), value(a))).collect()
}

fn ask(t: &TestLab, path: &str, more: &str) -> Response {
    let bytes = format!("GET {path} HTTP/1.1\r\nHost: lab\r\n{more}\r\n").into_bytes();
    t.client(move || {
        let mut connection = Connection::open(VIP).unwrap();
        connection.send(&bytes).unwrap();
        connection.response().unwrap()
    })
}

/// The spans of the request with this path, its own first.
fn spans_of(t: &TestLab, got: &Got, path: &str, whole: usize) -> Vec<Span> {
    let mut found = Vec::new();
    t.eventually(&format!("the spans of {path}"), Duration::from_secs(30), |_| {
        let got = got.lock().unwrap();
        let Some((_, root)) =
            got.iter().find(|(_, s)| texts(&s.attributes).get("url.path").is_some_and(|p| p == path))
        else {
            return false;
        };
        let rest =
            got.iter().map(|(_, s)| s).filter(|s| s.trace_id == root.trace_id && s.span_id != root.span_id);
        found = [root].into_iter().chain(rest).cloned().collect();
        found.len() == whole
    });
    found
}

#[test]
fn a_collector_gets_the_stages_of_a_migration_and_why_a_request_was_proxied() {
    let order = |s: netns_lab::LabSpec| {
        lab::patient(s)
            .intermediate_with("tracing", "endpoint", ENDPOINT)
            .intermediate_with("listener", "pool", "all")
            .intermediate_also(SITE)
    };
    let Some(t) = lab::up("tracing", order) else { return };
    let capabilities = t.capabilities(INTERMEDIATE, Program::Balancer);
    assert_eq!(capabilities.len(), 1, "the thread that sends has others: {capabilities:?}");
    // Before anybody collects: served all the same, and counted.
    assert_eq!(t.get("/1k").unwrap().status, 200);
    t.eventually("what nobody took is counted", Duration::from_secs(30), |t| {
        t.metric(INTERMEDIATE, "baton_spans_total{outcome=\"failed\"}") > 0
    });
    let got = collector(&t);

    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    ask(&t, "/100k?token=secret", &format!("traceparent: {parent}\r\n"));
    let spans = spans_of(&t, &got, "/100k", 12);
    let root = &spans[0];
    assert_eq!(hex(&root.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&root.parent_span_id), "00f067aa0ba902b7");
    let told = texts(&root.attributes);
    assert_eq!((told["baton.outcome"].as_str(), told["baton.target"].as_str()), ("migrated", "target1"));
    let names: Vec<&str> = spans[1..].iter().map(|s| s.name.as_str()).collect();
    let served = t.admin("target1", "/v1/targets")["targets"][0]["serve"]["way"].clone();
    let own = if served == "adopt" { "adopt" } else { "replay" };
    let stages = [
        "accept", "head", "route", "freeze", "drain", "capture", "transfer", own, "commit", "release",
        "close",
    ];
    for name in stages {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    for span in &spans[1..] {
        assert!(root.start_time_unix_nano <= span.start_time_unix_nano, "{span:?}");
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano, "{span:?}");
    }

    // A trace that begins here: what the server is told is the span that the collector gets.
    let response = ask(&t, "/whoami", "");
    let root = &spans_of(&t, &got, "/whoami", 12)[0];
    let told = format!("00-{}-{}-01", hex(&root.trace_id), hex(&root.span_id));
    assert!(response.text().contains(&told), "{told} in {}", response.text());

    ask(&t, "/10k", "");
    let spans = spans_of(&t, &got, "/10k", 2);
    let told = texts(&spans[0].attributes);
    assert_eq!((told["baton.outcome"].as_str(), told["baton.reason"].as_str()), ("proxied", "disabled"));
    assert_eq!(told["http.response.status_code"], "200");

    // Who began the trace does not record it.
    let before = got.lock().unwrap().len();
    ask(&t, "/1m", &format!("traceparent: {}\r\n", parent.replace("-01", "-00")));
    ask(&t, "/10k", "");
    t.eventually("the request after it", Duration::from_secs(30), |_| {
        got.lock().unwrap().len() == before + 2
    });

    // What got no server's answer is told as well.
    t.lab.stop("target1", Program::Server).unwrap();
    assert_eq!(ask(&t, "/10k/gone", "").status, 503);
    let spans = spans_of(&t, &got, "/10k/gone", 2);
    assert_eq!(texts(&spans[0].attributes)["http.response.status_code"], "503");
    assert_eq!(spans[0].status.as_ref().unwrap().code(), StatusCode::Error);

    let all = got.lock().unwrap();
    assert!(all.iter().all(|(resource, _)| resource["service.name"] == "baton-intermediate"));
    assert!(!format!("{all:?}").contains("secret"), "no query is told");
}
