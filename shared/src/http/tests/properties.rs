//! What holds for every head.

use super::*;
use proptest::prelude::*;

/// Bytes that look enough like HTTP to get far into the parser.
fn near_http() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(&b"GET / HTTP/1.1\r\n"[..]),
        Just(&b"POST /x HTTP/1.0\r\n"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"Host: a\r\n"[..]),
        Just(&b"Content-Length: 3\r\n"[..]),
        Just(&b"Transfer-Encoding: chunked\r\n"[..]),
        Just(&b"Connection: close\r\n"[..]),
        Just(&b" "[..]),
        Just(&b"\n"[..]),
        Just(&b"3\r\nabc\r\n0\r\n\r\n"[..]),
        Just(&b"x"[..]),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn small() -> HeadLimits {
    HeadLimits { head_bytes: 90, header_count: 3, target_bytes: 8, connect: false }
}

/// A request that passes the gate: method, target, other headers, `Connection`.
fn request() -> impl Strategy<Value = (String, String, Vec<(String, String)>, Option<String>)> {
    (
        "[A-Z]{1,10}",
        "/[a-zA-Z0-9/=&_~-]{0,20}(\\?[a-zA-Z0-9/?=&%._~-]{0,20})?",
        proptest::collection::vec(("X-[a-zA-Z0-9-]{0,12}", "[!-~]?[ -~]{0,20}"), 0..8),
        proptest::option::of("(close|keep-alive|Keep-Alive|TE|close, TE| keep-alive ,TE)"),
    )
        .prop_filter("these have other rules", |request| request.0 != "CONNECT" && request.0 != "TRACE")
}

fn serialise(
    method: &str,
    target: &str,
    headers: &[(String, String)],
    connection: &Option<String>,
) -> Vec<u8> {
    let mut out = format!("{method} {target} HTTP/1.1\r\nHost: example.org:8080\r\n");
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(connection) = connection {
        out.push_str(&format!("Connection: {connection}\r\n"));
    }
    out.push_str("\r\n");
    out.into_bytes()
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same_verdict(
        bytes in prop_oneof![near_http(), proptest::collection::vec(any::<u8>(), 0..120)],
        cuts in proptest::collection::vec(1usize..20, 1..20),
    ) {
        for limits in [small(), HeadLimits::default()] {
            let whole = parse(&bytes, &limits);
            let mut scanner = HeadScanner::new();
            let mut at = 0;
            let mut pieces = cuts.iter().cycle();
            let mut verdict = scanner.status(&[], &limits);
            while verdict == HeadStatus::Incomplete && at < bytes.len() {
                at = bytes.len().min(at + pieces.next().unwrap());
                verdict = scanner.status(&bytes[..at], &limits);
                prop_assert_eq!(&verdict, &parse(&bytes[..at], &limits));
            }
            prop_assert_eq!(verdict, whole);
        }
    }

    #[test]
    fn right_requests_pass_and_are_read_as_written((method, target, headers, connection) in request()) {
        let bytes = serialise(&method, &target, &headers, &connection);
        let head = accepted(&bytes);
        prop_assert_eq!(&bytes[head.method.clone()], method.as_bytes());
        prop_assert_eq!(&bytes[head.target.clone()], target.as_bytes());
        prop_assert_eq!(head.head_len, bytes.len());
        prop_assert_eq!(head.framing, Framing::None);
    }

    #[test]
    fn a_rewritten_head_reads_the_same_but_closes((method, target, headers, connection) in request()) {
        let bytes = serialise(&method, &target, &headers, &connection);
        let rewritten = canonical(&bytes, &accepted(&bytes), &Edits::default(), true);
        let head = accepted(&rewritten);
        prop_assert!(head.connection.close && !head.connection.keep_alive);
        prop_assert_eq!(head.request_line(&rewritten), format!("{method} {target}"));
        let lines = |bytes: &[u8]| -> Vec<String> {
            String::from_utf8_lossy(bytes)
                .split("\r\n")
                .filter(|line| !line.starts_with("Connection:"))
                .map(str::to_owned)
                .collect()
        };
        prop_assert_eq!(lines(&rewritten), lines(&bytes));
        // Rewriting again changes nothing more.
        prop_assert_eq!(canonical(&rewritten, &head, &Edits::default(), true), rewritten);
    }

    #[test]
    fn a_stream_never_panics_and_never_passes_more_than_it_has(
        bytes in prop_oneof![near_http(), proptest::collection::vec(any::<u8>(), 0..200)],
        cut in 1usize..50,
    ) {
        let mut stream = RequestStream::new(HeadLimits::default());
        let (mut start, mut end) = (0, 0);
        let mut steps = 0;
        loop {
            steps += 1;
            prop_assert!(steps < 10_000);
            match stream.step(&bytes[start..end]) {
                Step::NeedMore if end < bytes.len() => end = bytes.len().min(end + cut),
                Step::NeedMore | Step::Wait | Step::Refuse(_) => break,
                Step::Skip(n) | Step::Pass(n) => start += n,
                Step::Head(head) => start += head.head_len,
            }
            prop_assert!(start <= end);
        }
    }
}
