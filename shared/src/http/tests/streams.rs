//! Several requests on one connection, bodies and their ends.

use super::*;

/// What a stream does with these bytes, given in pieces of `cut`: heads as request lines, bodies as their
/// length.
fn walk(bytes: &[u8], cut: usize) -> (Vec<String>, Option<u16>) {
    let mut stream = RequestStream::new(HeadLimits::default());
    let mut log = Vec::new();
    let (mut start, mut end, mut body) = (0, 0, 0);
    let refusal = loop {
        match stream.step(&bytes[start..end]) {
            Step::NeedMore if end < bytes.len() => end = bytes.len().min(end + cut),
            Step::NeedMore | Step::Wait => break None,
            Step::Refuse(verdict) => break Some(verdict.status),
            Step::Skip(n) => start += n,
            Step::Pass(n) => {
                start += n;
                body += n;
            }
            Step::Head(head) => {
                if body > 0 {
                    log.push(body.to_string());
                    body = 0;
                }
                log.push(head.request_line(&bytes[start..]));
                start += head.head_len;
            }
        }
    };
    if body > 0 {
        log.push(body.to_string());
    }
    (log, refusal)
}

#[test]
fn requests_are_told_apart_however_they_are_cut() {
    let bytes = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
        PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /\
        PUT /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nabcd\r\n0A\r\n0123456789\r\n0\r\nT: u\r\n\r\n\
        \r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n";
    let expected = ["GET /1", "PUT /2", "5", "PUT /3", "40", "GET /4"];
    for cut in 1..bytes.len() + 1 {
        assert_eq!(walk(bytes, cut), (expected.map(str::to_owned).to_vec(), None), "cut {cut}");
    }
}

#[test]
fn a_malformed_chunk_is_refused() {
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bodies: &[&[u8]] = &[
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1;\0\r\n",
        b"1;\n",
        b"1000000000000000\r\n",
        b"0\r\n\n",
        b"0\r\n x\r\n\r\n",
        b"0\r\nT: a\rb\r\n\r\n",
        b"0\r\n\rGET",
    ];
    for body in bodies {
        let bytes = [&head[..], body].concat();
        assert_eq!(walk(&bytes, bytes.len()).1, Some(400), "{:?}", String::from_utf8_lossy(body));
    }
}

#[test]
fn nothing_follows_an_upgrade_before_its_answer() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\0";
    let mut stream = RequestStream::new(HeadLimits::default());
    let Step::Head(head) = stream.step(bytes) else { panic!("no head") };
    let rest = &bytes[head.head_len..];
    assert_eq!(stream.step(rest), Step::Wait);
    stream.on_switch(Switch::Tunnel);
    assert_eq!(stream.step(rest), Step::Pass(2));
    assert_eq!(stream.step(&[]), Step::NeedMore);

    let mut stream = RequestStream::new(HeadLimits::default());
    assert!(matches!(stream.step(bytes), Step::Head(_)));
    stream.on_switch(Switch::Stayed);
    assert!(matches!(stream.step(rest), Step::Refuse(Verdict { status: 400, .. })));
}

#[test]
fn a_request_is_followed_only_by_what_is_behind_its_end() {
    for (head, body, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", false),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "G", true),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", "ab", false),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", "abc", false),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", "abcd", true),
        ("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n0\r\n\r", false),
        ("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n", false),
        ("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\nGET", true),
    ] {
        let bytes = format!("{head}{body}");
        assert_eq!(accepted(bytes.as_bytes()).is_followed(bytes.as_bytes()), expected, "{bytes:?}");
    }
}
