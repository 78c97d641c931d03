//! Requests made at random, against the gate and against the description of what is plain in other words.

use super::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use regex::bytes::Regex;
use std::sync::LazyLock;

static DESCRIPTION: LazyLock<Description> = LazyLock::new(Description::new);

/// The description once more, of whole lines instead of bytes.
struct Description {
    request_line: Regex,
    line: Regex,
    host: Regex,
    connection: Regex,
    escape: Regex,
}

impl Description {
    fn new() -> Self {
        let regex = |text: &str| Regex::new(text).unwrap();
        Description {
            request_line: regex(r##"\AGET (/[!-~&&[^"#<>\\`?;]]*)(\?[!-~&&[^"#<>\\`]]*)? HTTP/1\.1\z"##),
            line: regex(r"\A([A-Za-z0-9-]+):([\t -~]*)\z"),
            host: regex(r"\A[ \t]*[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:[1-9][0-9]{0,4})?[ \t]*\z"),
            connection: regex(r"\A[ \t]*(?i:keep-alive)[ \t]*\z"),
            escape: regex(r"%([1-9A-Fa-f][0-9A-Fa-f])?"),
        }
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        let Some(text) = bytes.strip_suffix(b"\r\n\r\n") else { return false };
        if bytes.len() > 1024 || !bytes.is_ascii() {
            return false;
        }
        let text = str::from_utf8(text).unwrap();
        let mut lines = text.split("\r\n");
        let Some(parts) = self.request_line.captures(lines.next().unwrap().as_bytes()) else { return false };
        let lines: Vec<&str> = lines.collect();
        let is_host = |line: &&&str| line.to_ascii_lowercase().starts_with("host:");
        lines.len() <= 64
            && lines.iter().filter(is_host).count() == 1
            && self.has_one_reading(&parts[1])
            && lines.iter().all(|line| self.is_plain_line(line.as_bytes()))
    }

    fn has_one_reading(&self, path: &[u8]) -> bool {
        let escapes = self.escape.captures_iter(path).all(|escape| match escape.get(1) {
            None => false,
            Some(digits) => {
                let digits = str::from_utf8(digits.as_bytes()).unwrap();
                u8::from_str_radix(digits, 16).is_ok_and(|byte| !b"./;\\".contains(&byte))
            }
        });
        escapes && !path.split(|b| *b == b'/').any(|segment| segment == b"." || segment == b"..")
    }

    fn is_plain_line(&self, line: &[u8]) -> bool {
        let Some(parts) = self.line.captures(line) else { return false };
        let name = str::from_utf8(&parts[1]).unwrap().to_ascii_lowercase();
        match name.as_str() {
            "host" => {
                let value = str::from_utf8(&parts[2]).unwrap().trim_matches([' ', '\t']);
                let port = value.split_once(':').map_or(Ok(1), |(_, port)| port.parse::<u32>());
                self.host.is_match(&parts[2]) && port.is_ok_and(|port| port < 10_000 || port < 65_000)
            }
            "connection" => self.connection.is_match(&parts[2]),
            "content-length" | "expect" | "keep-alive" | "te" | "trailer" | "transfer-encoding"
            | "upgrade" => false,
            _ => !["http2-", "proxy", "sec-websocket"].iter().any(|start| name.starts_with(start)),
        }
    }
}

/// Targets of pieces, most of them plain ones.
fn target() -> impl Strategy<Value = String> {
    let plain = proptest::sample::select(vec![
        "/", "a", "objects", ".", "b.c", "%20", "+", "~", "%41", "-_", "?", "=1&",
    ]);
    let odd = proptest::sample::select(vec![
        "..", "/../", "/.", "%2e", "%2F", "%5c", "%3B", "%00", "%", "%4", ";", "\\", "#", "*", "{}",
        "\u{e4}", "%7f", " ",
    ]);
    let piece = prop_oneof![30 => plain, 1 => odd];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

/// A name in some case.
fn name() -> impl Strategy<Value = String> {
    let plain = vec![
        "accept",
        "x-a",
        "cookie",
        "range",
        "user-agent",
        "upgrade-insecure-requests",
        "ten",
        "sec-fetch-site",
    ];
    let near = vec![
        "host",
        "hos",
        "connection",
        "content-length",
        "content_length",
        "transfer-encoding",
        "te",
        "trailer",
        "expect",
        "keep-alive",
        "upgrade",
        "proxy-connection",
        "proxie",
        "http2-settings",
        "http2",
        "sec-websocket-key",
        "sec-websocke",
    ];
    let any = prop_oneof![12 => proptest::sample::select(plain), 1 => proptest::sample::select(near)];
    (any, any_case()).prop_map(|(name, capitals)| {
        let in_case =
            |(at, c): (usize, char)| if capitals >> (at % 32) & 1 == 1 { c.to_ascii_uppercase() } else { c };
        name.chars().enumerate().map(in_case).collect()
    })
}

fn any_case() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(u32::MAX), any::<u32>()]
}

fn line() -> impl Strategy<Value = String> {
    let value = prop_oneof!["[ -~]{0,20}", Just(" keep-alive".to_owned()), Just("\t1 ".to_owned())];
    (name(), value).prop_map(|(name, value)| format!("{name}:{value}\r\n"))
}

fn host() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        4 => "[a-z0-9_-]{1,8}(\\.[A-Z0-9]{1,3}){0,3}(:[1-9][0-9]{0,3})?",
        1 => "[a-z.]{0,4}(:[0-9]{0,6})?",
        1 => "a:6[0-9]{4}",
    ];
    (value, prop_oneof![Just("Host: "), Just("host:"), Just("HOST:\t ")])
        .prop_map(|(v, n)| format!("{n}{v}\r\n"))
}

/// What is done to the bytes: where (of 1000), how, with which byte.
fn mutation() -> impl Strategy<Value = (usize, u8, u8)> {
    let byte = prop_oneof![3 => proptest::sample::select(b"\r\n :/.%;?\tHhte-_0A\0\x7f\x80".to_vec()), 1 => any::<u8>()];
    (0usize..1000, 0u8..3, byte)
}

fn mutated(text: String, mutations: Vec<(usize, u8, u8)>) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    for (place, how, byte) in mutations {
        let at = place * bytes.len() / 1000;
        match how {
            0 => bytes.insert(at, byte),
            _ if bytes.is_empty() => {}
            1 => drop(bytes.remove(at)),
            _ => bytes[at] = byte,
        }
    }
    bytes
}

/// Something like a request; about half are plain.
fn near_plain() -> impl Strategy<Value = Vec<u8>> {
    let lines = || proptest::collection::vec(line(), 0..4);
    let mutations = prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(mutation(), 1..4)];
    (target(), lines(), host(), lines(), mutations).prop_map(|(target, before, host, behind, mutations)| {
        mutated(request(&target, &[before.concat(), host, behind.concat()].concat()), mutations)
    })
}

/// Panics unless the scanner says what the description says, and the gate agrees.
fn check(bytes: &[u8]) {
    let plain = is_plain(bytes);
    assert_eq!(plain, DESCRIPTION.holds(bytes), "{:?}", String::from_utf8_lossy(bytes));
    if plain {
        assert_judged_alike(bytes);
    }
}

#[test]
fn of_the_requests_made_here_a_good_share_is_plain_and_a_good_share_is_not() {
    let mut runner = TestRunner::deterministic();
    let made = (0..1000).map(|_| near_plain().new_tree(&mut runner).unwrap().current());
    let plain = made.filter(|bytes| is_plain(bytes)).count();
    assert!((200..800).contains(&plain), "{plain} of 1000");
}

proptest! {
    #[test]
    fn what_is_like_a_request_is_plain_if_described_so_and_then_judged_alike(bytes in near_plain()) {
        check(&bytes);
    }

    #[test]
    fn arbitrary_bytes_are_plain_if_described_so(bytes in proptest::collection::vec(any::<u8>(), 0..1100)) {
        check(&bytes);
    }

    #[test]
    fn arbitrary_bytes_within_a_plain_request_are_judged_alike_if_plain(
        bytes in proptest::collection::vec(any::<u8>(), 0..4),
        place in 0usize..=39,
    ) {
        let text = b"GET /ab HTTP/1.1\r\nHost: ab\r\nTE1: ab\r\n\r\n";
        let (front, back) = text.split_at(place);
        check(&[front, &bytes, back].concat());
    }

    #[test]
    fn what_is_over_is_so_for_good(bytes in near_plain(), more in proptest::collection::vec(any::<u8>(), 0..50)) {
        let mut over = false;
        let mut scanner = PlainScanner::new();
        for byte in bytes.iter().chain(&more) {
            scanner = scanner.advance(*byte);
            prop_assert!(!over || scanner.is_over());
            over = scanner.is_over();
            prop_assert!(!(over && scanner.is_plain()));
        }
    }
}
