//! Rules against requests written out, and against a naive reading of them.

use super::*;
use crate::http::{HeadLimits, HeadStatus, parse};

/// Asks a table with one route of these rules about a whole head.
fn takes(rules: Rules, request: &str) -> bool {
    let head = match parse(request.as_bytes(), &HeadLimits::default()) {
        HeadStatus::Complete(head) => head,
        other => panic!("{request:?}: {other:?}"),
    };
    let lines = HeadLines::new(request.as_bytes(), &head);
    let facts = RequestFacts::of_head(0, &head, request.as_bytes(), &lines);
    RouteTable::new(vec![Route::new("r", PoolId(0), rules)]).find(&facts).unwrap().is_some()
}

fn host(rule: &str) -> Rules {
    Rules { hosts: vec![HostRule::parse(rule).unwrap()], ..Rules::default() }
}

#[test]
fn hosts_match_without_case_port_and_last_dot() {
    for (rule, host_header, expected) in [
        ("a.example.com", "a.example.com", true),
        ("a.example.com", "A.Example.COM:8080", true),
        ("A.example.com.", "a.example.com.", true),
        ("a.example.com", "a.example.com.evil.org", false),
        ("a.example.com", "b.example.com", false),
        ("a.example.com", "", false),
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "a.b.example.com:80", true),
        ("*.example.com", "example.com", false),
        ("*.example.com", ".example.com", false),
        ("*.example.com", "badexample.com", false),
        ("[2001:db8::1]", "[2001:DB8::1]:80", true),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host_header}\r\n\r\n");
        assert_eq!(takes(host(rule), &request), expected, "{rule} {host_header}");
    }
    assert!(takes(host("h"), "GET http://h:80/x HTTP/1.1\r\nHost: h:80\r\n\r\n"));
    assert!(
        takes(host("h"), "CONNECT h:443 HTTP/1.1\r\nHost: other\r\n\r\n"),
        "a tunnel's end is its target"
    );
    assert!(!takes(host("h"), "GET / HTTP/1.0\r\n\r\n"), "no host is no host");
}
