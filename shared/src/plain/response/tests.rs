//! What head is plain, what is not, and that the agent's reader finds of the plain what this promises.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's panic is its report"
)]

use super::*;
use crate::http::{ResponseStream, Standing};
use crate::seq::Seq;
use crate::state::responses::Responses;
use proptest::prelude::*;

/// A head with these lines beside its length.
fn with(lines: &str, length: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}Content-Length:{length}\r\n\r\n")
}

/// Panics unless the reader takes the head and then as much content as this says.
fn assert_read_alike(bytes: &[u8]) {
    let Some((length, content)) = head(bytes) else { return };
    let (length, content) = (usize::try_from(length).unwrap(), u64::from(content));
    let shown = String::from_utf8_lossy(bytes);
    let mut stream = ResponseStream::new(false);
    stream.advance(&bytes[..length]);
    assert_eq!(stream.head_bytes(), u64::try_from(length).unwrap(), "{shown:?}");
    assert_eq!(stream.skippable(), content, "{shown:?}");
    let standing = if content == 0 { Standing::Between { responses: 1 } } else { Standing::Within };
    assert_eq!(stream.standing(), standing, "{shown:?}");
    // And who follows copies goes on at the very number to which the program went.
    let start = Seq::new(u32::MAX - 7);
    let mut responses = Responses::new(start, false);
    responses.on_copy(start, &bytes[..length]);
    let end = start.plus(u32::try_from(length).unwrap()).plus(u32::try_from(content).unwrap());
    assert_eq!(responses.read_from(), end, "{shown:?}");
}

fn plain(bytes: &str) -> Option<(usize, u32)> {
    assert_read_alike(bytes.as_bytes());
    head(bytes.as_bytes()).map(|(length, content)| (usize::try_from(length).unwrap(), content))
}

#[test]
fn heads_as_servers_send_them_are_plain() {
    let nginx = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Fri, 27 Nov 2026 14:00:00 GMT\r\n\
        Content-Type: application/octet-stream\r\nContent-Length: 102400\r\n\
        Last-Modified: Fri, 27 Nov 2026 13:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"6566a0d0-19000\"\r\n\
        Accept-Ranges: bytes\r\n\r\n";
    assert_eq!(plain(nginx), Some((nginx.len(), 102_400)));
    let ranged = "HTTP/1.1 206 Partial Content\r\ncontent-length: 7\r\ncontent-range: bytes 0-6/20\r\n\r\n";
    assert_eq!(plain(&format!("{ranged}content")), Some((ranged.len(), 7)), "behind it is content");
    for length in ["0", " 000000012 ", "\t999999999"] {
        let head = with("", length);
        assert_eq!(plain(&head), Some((head.len(), length.trim().parse().unwrap())));
    }
}

#[test]
fn what_another_could_read_otherwise_is_not_plain() {
    for head in [
        with("Content-Length: 5\r\n", "5"),
        with("Transfer-Encoding: chunked\r\n", "5"),
        with("Connection: close\r\n", "5"),
        with("Connection: keep-alive, close\r\n", "5"),
        with("A: b\n", "5"),
        with("A: b\r\n c\r\n", "5"),
        with("A : b\r\n", "5"),
        with("A: \u{e9}\r\n", "5"),
        with("", ""),
        with("", " 1000000000"),
        with("", " 5, 5"),
        with("", " 5 5"),
        with("", " +5"),
        with("", " 0x5"),
        with("", " 5").replace("200", "204"),
        with("", " 5").replace("200", "304"),
        with("", " 5").replace("200", "101"),
        with("", " 5").replace("HTTP/1.1", "HTTP/1.0"),
        with("", " 5").replace("200 OK", "200"),
        with("", " 5").replace("\r\n", "\n"),
        "HTTP/1.1 200 OK\r\nServer: a\r\n\r\n".to_owned(),
    ] {
        assert_eq!(plain(&head), None, "{head:?}");
    }
    let longest = PLAIN_HEAD_BYTES as usize;
    let padded =
        |bytes: usize| with(&format!("A: {}\r\n", "a".repeat(bytes - with("A: \r\n", "5").len())), "5");
    assert_eq!(plain(&padded(longest)), Some((longest, 5)));
    assert_eq!(plain(&padded(longest + 1)), None);
    assert_eq!(plain(&with("", "5")[..20]), None, "it goes on");
}

#[test]
fn what_stands_behind_a_head_changes_nothing() {
    let text = with("", " 5");
    let mut scanner = text.bytes().fold(HeadScanner::new(), HeadScanner::advance);
    for byte in (0..=255).chain(*b"\r\n\r\nContent-Length: 7\r\n\r\n") {
        let behind = scanner.advance(byte);
        assert_eq!((behind, behind.is_settled()), (scanner, true));
        scanner = behind;
    }
    assert_eq!(scanner.found(), Some((u32::try_from(text.len()).unwrap(), 5)));
}

/// Lines of heads, and what is nearly one.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[A-Za-z-]{1,12}:[ \t]?[ -~]{0,20}\r\n",
        2 => "(Content-Length|content-length|CONTENT-LENGTH):[ \t]{0,2}[0-9]{0,11}[ \t]{0,2}\r\n",
        1 => "(Connection|connection):( )?(keep-alive|Keep-Alive|close|keep-alive, close|te)\r\n",
        1 => "(Transfer-Encoding|transfer-encoding): (chunked|gzip, chunked|identity)\r\n",
        1 => "(\r)?\n",
        1 => "[ -~]{0,9}\r\n",
    ]
}

proptest! {
    #[test]
    fn the_reader_finds_of_the_plain_the_same_end(
        status in "HTTP/1\\.[01] (200|206|204|304|100|404)( [ -~]{0,9})?\r\n",
        lines in prop::collection::vec(line(), 0..9),
        body in "[ -~\r\n]{0,40}",
        at: prop::sample::Index,
        byte in prop::option::weighted(0.5, any::<u8>()),
    ) {
        let mut bytes = format!("{status}{}\r\n{body}", lines.concat()).into_bytes();
        assert_read_alike(&bytes);
        if let Some(byte) = byte {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            assert_read_alike(&bytes);
        }
    }

    #[test]
    fn any_plain_lines_around_the_length_are_taken(
        before in prop::collection::vec("[A-BD-SU-Za-bd-su-z][a-z-]{0,9}: [!-~]{0,20}\r\n", 0..6),
        after in prop::collection::vec("[A-BD-SU-Za-bd-su-z][a-z-]{0,9}: [!-~]{0,20}\r\n", 0..6),
        content in 0..1_000_000_000_u32,
    ) {
        let text = format!("HTTP/1.1 200 OK\r\n{}Content-Length: {content}\r\n{}\r\n", before.concat(), after.concat());
        prop_assert_eq!(plain(&text), Some((text.len(), content)));
    }
}
