//! Heads as the server sees them.

use super::*;
use crate::http::changes::check_change;
use crate::route::HeadLines;
use core::net::IpAddr;
use proptest::prelude::*;

const IDS: TraceIds = TraceIds { trace: 0xabc, parent: 0xdef };

fn rewritten(before: &str, changes: &HeaderChanges, close: bool) -> String {
    let head = accepted(before.as_bytes());
    let lines = HeadLines::new(before.as_bytes(), &head);
    let client: IpAddr = "192.0.2.7".parse().unwrap();
    let origin = Origin { client, secure: false, authority: Some("a:80") };
    let edits = changes.edits(&lines, &origin, IDS);
    String::from_utf8(canonical(before.as_bytes(), &head, &edits, close)).unwrap()
}

#[test]
fn the_form_is_canonical_and_the_rest_stays() {
    let table: &[(&str, bool, &str)] = &[
        (
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nbody",
            true,
            "GET / HTTP/1.1\r\nConnection: close\r\nHost: a\r\n\r\n",
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nX:  y \r\n\r\n", false, "GET / HTTP/1.1\r\nHost: a\r\nX:  y \r\n\r\n"),
        (
            "\r\nGET / HTTP/1.1\r\nHost: a\r\nconnection: Keep-Alive\r\nKeep-Alive: 5\r\nX:  y \r\n\r\n",
            true,
            "GET / HTTP/1.1\r\nConnection: close\r\nHost: a\r\nX:  y \r\n\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nConnection: TE, keep-alive\r\nTE: trailers\r\nConnection: close\r\nHost: a\r\n\r\n",
            false,
            "GET / HTTP/1.1\r\nConnection: close, TE\r\nTE: trailers\r\nHost: a\r\n\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: keep-alive\r\nConnection: keep-alive\r\n\r\n",
            false,
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "GET http://a:80/x?y HTTP/1.1\r\nHost: a:80\r\n\r\n",
            false,
            "GET /x?y HTTP/1.1\r\nHost: a:80\r\n\r\n",
        ),
        ("GET HTTP://a HTTP/1.1\r\nHost: a\r\n\r\n", false, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("GET http://a?q HTTP/1.0\r\n\r\n", false, "GET /?q HTTP/1.0\r\nHost: a\r\n\r\n"),
        ("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", false, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    for (before, close, after) in table {
        assert_eq!(rewritten(before, &HeaderChanges::default(), *close), *after, "{before:?}");
    }
}

#[test]
fn changes_are_made_and_the_client_cannot_make_them_first() {
    let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let before =
        "GET / HTTP/1.1\r\nHost: a\r\nx-env: client\r\nX-Env: again\r\nX-Debug: 1\r\nX-More: 1\r\n\r\n";
    let changes = HeaderChanges {
        set: pair("X-Env", "prod"),
        add: pair("X-More", "2"),
        remove: vec!["x-debug".into()],
        ..HeaderChanges::default()
    };
    assert_eq!(
        rewritten(before, &changes, false),
        "GET / HTTP/1.1\r\nHost: a\r\nX-More: 1\r\nX-Env: prod\r\nX-More: 2\r\n\r\n"
    );
    let host = HeaderChanges { set: pair("Host", "inner"), ..HeaderChanges::default() };
    assert_eq!(rewritten(before, &host, false).matches("Host").count(), 1);
    assert_eq!(
        rewritten("GET http://a/ HTTP/1.0\r\n\r\n", &host, false),
        "GET / HTTP/1.0\r\nHost: inner\r\n\r\n"
    );
}

#[test]
fn the_server_is_told_who_asked_in_the_way_it_is_used_to() {
    let before = "GET / HTTP/1.1\r\nHost: a:80\r\nX-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\n\
                  X-Forwarded-Proto: https\r\nForwarded: for=1.1.1.1\r\n\r\n";
    let told = |forwarded| rewritten(before, &HeaderChanges { forwarded, ..HeaderChanges::default() }, false);
    assert_eq!(told(Forwarded::Off), before);
    assert!(told(Forwarded::XForwarded).ends_with(
        "Forwarded: for=1.1.1.1\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.7\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Host: a:80\r\n\r\n"
    ));
    let forwarded = "\r\nForwarded: for=1.1.1.1, for=192.0.2.7;proto=http;host=\"a:80\"\r\n\r\n";
    assert!(told(Forwarded::Forwarded).ends_with(forwarded));
    let traced = HeaderChanges { traceparent: true, ..HeaderChanges::default() };
    let own = "traceparent: 00-00000000000000000000000000000abc-0000000000000def-01\r\n\r\n";
    assert!(rewritten(before, &traced, false).ends_with(own));
    let good = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n";
    let with = |lines: &str| rewritten(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"), &traced, false);
    assert!(with(good).ends_with(&format!("{good}\r\n")), "taken over");
    let twice = with(&format!("{good}{good}"));
    assert!(twice.ends_with(own) && !twice.contains("tracestate"), "{twice}");
}

/// Names and values as a configuration may have them: right ones often, and ones that try to break out.
fn change() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![Just("X-A".to_owned()), Just("Host".to_owned()), "[A-Za-z:\r\n -]{0,8}"];
    (name, prop_oneof!["[ -~]{0,12}", "[\t\r\n -~\u{80}-\u{ff}]{0,12}"])
}

proptest! {
    /// Whatever the configuration accepts and whatever the client sends: one request stays one request, with the same
    /// target, framing and hosts, and lines that nobody asked for do not appear.
    #[test]
    fn nothing_is_injected(
        set in proptest::collection::vec(change(), 0..3),
        add in proptest::collection::vec(change(), 0..3),
        lines in proptest::collection::vec(("X-[A-C]", "[!-~]{0,8}( [!-~]{1,8})?"), 0..5),
        absolute in any::<bool>(),
        length in proptest::option::of(0u32..1000),
        close in any::<bool>(),
        forwarded in prop_oneof![Just(Forwarded::Off), Just(Forwarded::XForwarded), Just(Forwarded::Forwarded)],
        traceparent in any::<bool>(),
    ) {
        let accepted_changes = |all: Vec<(String, String)>, host: bool| -> Vec<(String, String)> {
            let is_host = |name: &str| name.eq_ignore_ascii_case("host");
            all.into_iter().filter(|(n, v)| check_change(n, Some(v)).is_ok() && (host || !is_host(n))).take(2).collect()
        };
        let mut set = accepted_changes(set, true);
        set.dedup_by(|a, b| a.0.eq_ignore_ascii_case(&b.0));
        let changes = HeaderChanges { set, add: accepted_changes(add, false), forwarded, traceparent, remove: vec![] };
        let target = if absolute { "http://a/x?q=1" } else { "/x?q=1" };
        let mut before = format!("POST {target} HTTP/1.1\r\nHost: a\r\n");
        for (name, value) in &lines {
            before += &format!("{name}: {value}\r\n");
        }
        if let Some(length) = length {
            before += &format!("Content-Length: {length}\r\n");
        }
        before += "\r\n";
        let old = accepted(before.as_bytes());
        let lines_of = HeadLines::new(before.as_bytes(), &old);
        let origin = Origin { client: "2001:db8::1".parse().unwrap(), secure: true, authority: Some("a") };
        let edits = changes.edits(&lines_of, &origin, IDS);
        let after = canonical(before.as_bytes(), &old, &edits, close);
        let new = accepted(&after);
        prop_assert_eq!(new.head_len, after.len());
        prop_assert_eq!(new.request_line(&after), "POST /x?q=1");
        prop_assert_eq!((new.framing, new.version), (old.framing, old.version));
        prop_assert_eq!(new.connection.close, close);
        // Every line is one that was there or one that was asked for.
        let found: Vec<(String, Vec<u8>)> = HeadLines::new(&after, &new)
            .iter()
            .map(|(n, v)| (String::from_utf8_lossy(n).to_lowercase(), v.to_vec()))
            .filter(|(n, _)| n != "connection")
            .collect();
        let gone = |name: &str| edits.remove.iter().any(|other| other.eq_ignore_ascii_case(name));
        let mut expected: Vec<(String, Vec<u8>)> = HeadLines::new(before.as_bytes(), &old)
            .iter()
            .map(|(n, v)| (String::from_utf8_lossy(n).to_lowercase(), v.to_vec()))
            .filter(|(n, _)| !gone(n))
            .collect();
        expected.extend(edits.append.iter().map(|(n, v)| (n.to_lowercase(), v.trim_ascii().to_vec())));
        prop_assert_eq!(found, expected);
        // Canonical already: once more changes nothing.
        prop_assert_eq!(canonical(&after, &new, &Edits::default(), close), after);
    }
}
