//! What is plain, what is not, and that the gate finds of the plain what this promises.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's panic is its report"
)]

mod examples;
mod properties;

use super::table::{Set, USED, has};
use super::*;
use crate::http::{
    ConnectionOptions, Edits, Framing, HeadLimits, HeadStatus, RequestStream, Step, Tunnel, Tunnels, Version,
    canonical, parse,
};
use crate::route::{HeadLines, HeaderLines, RequestFacts, path};
use crate::state::later::{is_followed, request_length};

/// A request of these lines; a `Host` is among them or not.
fn request(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{lines}\r\n")
}

/// The same, with a plain `Host`.
fn hosted(line: &str) -> String {
    request("/", &format!("Host: a\r\n{line}\r\n"))
}

/// Panics unless the gate, the request stream, the rewriting and the router find a later request that goes on as it is.
fn assert_judged_alike(bytes: &[u8]) {
    let shown = String::from_utf8_lossy(bytes);
    let limits = HeadLimits {
        head_bytes: usize::try_from(PLAIN_BYTES).unwrap(),
        header_count: usize::try_from(PLAIN_LINES).unwrap(),
        target_bytes: usize::try_from(PLAIN_BYTES).unwrap(),
        connect: false,
    };
    assert!(are_wide_enough(&limits) && are_wide_enough(&HeadLimits::default()));
    let HeadStatus::Complete(head) = parse(bytes, &limits) else { panic!("{:?}", parse(bytes, &limits)) };
    assert_eq!(parse(bytes, &HeadLimits::default()), HeadStatus::Complete(head.clone()), "{shown:?}");
    assert_eq!((head.start, head.head_len), (0, bytes.len()), "{shown:?}");
    assert_eq!(&bytes[head.method.clone()], b"GET", "{shown:?}");
    assert_eq!((head.version, head.framing), (Version::Http11, Framing::None), "{shown:?}");
    assert!(!head.upgrade && !head.connect && !head.expect_continue && !head.may_switch(), "{shown:?}");
    let keep_alive = head.connection.keep_alive;
    assert_eq!(
        head.connection,
        ConnectionOptions { keep_alive, ..ConnectionOptions::default() },
        "{shown:?}"
    );
    assert!(head.is_in_origin_form(bytes) && head.migration() == Ok(()), "{shown:?}");
    assert!(is_followed(&head) && !head.is_followed(bytes) && !head.is_head(bytes), "{shown:?}");
    assert_eq!(request_length(&head), u64::try_from(bytes.len()).ok(), "{shown:?}");

    let mut stream = RequestStream::new(HeadLimits::default());
    assert_eq!(stream.step(bytes), Step::Head(head.clone()), "{shown:?}");
    assert_eq!(stream.step(&[]), Step::NeedMore, "{shown:?}");
    assert!(!stream.in_head(), "{shown:?}");

    let any = Tunnels { upgrade: ["websocket".to_owned()].into(), connect: true };
    assert_eq!(any.judge(&head, bytes), Tunnel::Unasked, "{shown:?}");
    let unchanged = shown
        .split_inclusive("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .collect::<String>();
    let rewritten = canonical(bytes, &head, &Edits::default(), false);
    assert_eq!(String::from_utf8(rewritten).unwrap(), unchanged, "{shown:?}");

    let lines = HeadLines::new(bytes, &head);
    let facts = RequestFacts::of_head(0, &head, bytes, &lines);
    assert!(facts.method == "GET" && facts.path.starts_with('/'), "{shown:?}");
    assert!(facts.host.is_some() && facts.authority.is_some(), "{shown:?}");
    assert_eq!(path::loose(facts.path), None, "the path has one reading: {shown:?}");
    for name in UNPLAIN_NAMES {
        assert!(!lines.any(name, &mut |_| true), "{shown:?}");
    }
}

fn assert_plain(text: &str) {
    assert!(is_plain(text.as_bytes()), "not plain: {text:?}");
    assert_judged_alike(text.as_bytes());
}

fn assert_not_plain(why: &str, text: &str) {
    assert!(!is_plain(text.as_bytes()), "plain, with {why}: {text:?}");
}

/// Where the table leads from a state by a byte.
fn after(state: u8, byte: u8) -> u8 {
    u8::try_from(PlainScanner(u32::from(state)).advance(byte).0 & STATE).unwrap()
}

#[test]
fn a_class_of_bytes_is_wholly_in_a_set_or_wholly_out() {
    let sets = [
        Set::Name,
        Set::Value,
        Set::Target,
        Set::Label,
        Set::High,
        Set::Low,
        Set::Space,
        Set::From0To4,
        Set::From1To5,
        Set::From5To9,
        Set::From7To9,
        Set::Digit,
    ];
    for one in 0..=u8::MAX {
        for other in 0..=u8::MAX {
            if CLASSES[usize::from(one)] != CLASSES[usize::from(other)] {
                continue;
            }
            for set in sets {
                // The letters of a hexadecimal digit and of none are of different classes as well.
                assert_eq!(has(set, one), has(set, other), "{one:#x} {other:#x}");
            }
        }
    }
}

#[test]
fn what_is_over_stays_over_and_what_is_not_can_become_plain() {
    for byte in 0..=u8::MAX {
        assert_eq!((after(DEAD, byte), after(DONE, byte)), (DEAD, DEAD), "nothing comes behind a request");
    }
    let states = || 0..USED;
    let mut hopeful = vec![DONE];
    let mut reached = vec![START];
    let mut at = 0;
    while let Some(state) = hopeful.get(at).copied() {
        let before = |from: &u8| (0..=u8::MAX).any(|byte| after(*from, byte) == state);
        let new: Vec<u8> = states().filter(|from| !hopeful.contains(from) && before(from)).collect();
        hopeful.extend(new);
        at += 1;
    }
    at = 0;
    while let Some(state) = reached.get(at).copied() {
        for to in (0..=u8::MAX).map(|byte| after(state, byte)) {
            if !reached.contains(&to) {
                reached.push(to);
            }
        }
        at += 1;
    }
    for state in states() {
        assert!(reached.contains(&state), "state {state} is never reached");
        assert!(state == DEAD || hopeful.contains(&state), "state {state} leads nowhere");
    }
}

#[test]
fn limits_that_stand_against_a_plain_request_are_not_wide_enough() {
    let wide = HeadLimits::default();
    for narrow in [
        HeadLimits { head_bytes: 1023, ..wide },
        HeadLimits { header_count: 63, ..wide },
        HeadLimits { target_bytes: 1023, ..wide },
    ] {
        assert!(!are_wide_enough(&narrow), "{narrow:?}");
    }
}

#[test]
fn the_longest_plain_requests_have_a_kibibyte_and_64_header_lines() {
    let of = |length: usize| request(&format!("/{}", "x".repeat(length - 27)), "Host: a\r\n");
    let most = usize::try_from(PLAIN_BYTES).unwrap();
    assert_eq!((of(most).len(), of(most + 1).len()), (most, most + 1));
    assert_plain(&of(most));
    assert_not_plain("a byte too much", &of(most + 1));
    let lines = |count: usize| request("/", &format!("{}Host: a\r\n", "A: b\r\n".repeat(count - 1)));
    assert_plain(&lines(64));
    assert_not_plain("a line too much", &lines(65));
}
