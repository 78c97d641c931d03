//! Requests written out.

use super::*;

/// As clients of later requests send them.
const PLAIN: &[(&str, &str)] = &[
    ("wrk", "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"),
    (
        "curl",
        "GET /objects/a%20b+c.bin?part=1&x=%2e%2F HTTP/1.1\r\nHost: cdn.example.com\r\nUser-Agent: curl/8.5.0\r\n\
         Accept: */*\r\n\r\n",
    ),
    (
        "curl of a range",
        "GET /.well-known/x HTTP/1.1\r\nHost: cdn.example.com:8443\r\nRange: bytes=0-1023\r\nUser-Agent: curl/8.5.0\r\n\
         Accept: */*\r\nIf-None-Match: \"abc\"\r\n\r\n",
    ),
    (
        "Go, hey",
        "GET /1k HTTP/1.1\r\nHost: baton_test\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n",
    ),
    (
        "python-requests",
        "GET /api/v1/items HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: python-requests/2.31.0\r\n\
         Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n",
    ),
    (
        "Apache HttpClient",
        "GET /x HTTP/1.1\r\nHost: h:9000\r\nConnection: Keep-Alive\r\n\
         User-Agent: Apache-HttpClient/4.5.14 (Java/17.0.9)\r\nAccept-Encoding: gzip,deflate\r\n\r\n",
    ),
    (
        "one that names its host late, as ab does",
        "GET / HTTP/1.1\r\nConnection: Keep-Alive\r\nHost: 10.0.0.1\r\nUser-Agent: ApacheBench/2.3\r\nAccept: */*\r\n\r\n",
    ),
    (
        "nginx, from which keep-alive is kept",
        "GET /static/app.js HTTP/1.1\r\nHost: backend\r\nX-Real-IP: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\n\
         X-Forwarded-Proto: https\r\nX-Request-ID: 0af7651916cd43dd8448eb211c80319c\r\nAccept: */*\r\n\r\n",
    ),
    (
        "Chromium",
        "GET /index.html HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\nCache-Control: max-age=0\r\n\
         sec-ch-ua: \"Chromium\";v=\"128\", \"Not;A=Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\n\
         sec-ch-ua-platform: \"Linux\"\r\nUpgrade-Insecure-Requests: 1\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 Safari/537.36\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
         Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n\
         Referer: https://www.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\
         Cookie: session=abc123; theme=dark\r\nIf-Modified-Since: Tue, 01 Oct 2024 10:00:00 GMT\r\n\r\n",
    ),
    (
        "Firefox",
        "GET /a/b.png HTTP/1.1\r\nHost: example.com\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
         Accept: image/avif,image/webp,*/*\r\nAccept-Language: en\r\nAccept-Encoding: gzip, deflate\r\nDNT: 1\r\n\
         Connection: keep-alive\r\nReferer: http://example.com/a/\r\nPriority: u=5, i\r\nPragma: no-cache\r\n\r\n",
    ),
    (
        "aws s3",
        "GET /bucket/dir/key%3D1.parquet HTTP/1.1\r\nHost: s3.eu-central-1.example.com\r\nAccept-Encoding: identity\r\n\
         x-amz-checksum-mode: ENABLED\r\nUser-Agent: aws-cli/2.15.0 Python/3.11.6 md/prompt#off md/command#s3.cp\r\n\
         X-Amz-Date: 20240901T120000Z\r\n\
         X-Amz-Content-SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20240901/eu-central-1/s3/aws4_request, \
         SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=fe5f80f77d5fa3beca038a248ff027d0\r\n\
         amz-sdk-invocation-id: 6f9e6b34-0a7e-4a46-9d0e-8f2c4ad4f8d2\r\namz-sdk-request: attempt=1\r\n\r\n",
    ),
    (
        "a traced one",
        "GET /t HTTP/1.1\r\nhost:h\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
         tracestate: a=b\r\nBaggage:\r\nX-:\t \r\n\r\n",
    ),
];

#[test]
fn the_requests_of_common_clients_are_plain() {
    for (client, text) in PLAIN {
        assert!(is_plain(text.as_bytes()), "{client}");
        assert_judged_alike(text.as_bytes());
    }
}

#[test]
fn a_part_of_a_plain_request_is_not_plain_nor_is_one_with_something_behind_it() {
    for (client, text) in PLAIN {
        let mut scanner = PlainScanner::new();
        for (at, byte) in text.bytes().enumerate() {
            assert!(!scanner.is_plain() && !scanner.is_over(), "{client}, {at} bytes");
            assert!(at == 0 || !is_plain(&text.as_bytes()[at..]), "{client}, from byte {at} on");
            scanner = scanner.advance(byte);
        }
        assert!(scanner.is_plain() && !scanner.is_over(), "{client}");
        for byte in 0..=u8::MAX {
            let behind = scanner.advance(byte);
            assert!(behind.is_over() && !behind.is_plain(), "{client}, then {byte:#x}");
        }
        assert_not_plain("a second one behind it", &format!("{text}{text}"));
    }
}

/// Every letter small, every letter capital, every second one.
fn cases(name: &str) -> [String; 4] {
    let odd = |(at, c): (usize, char)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c };
    let first = |(at, c): (usize, char)| if at == 0 { c.to_ascii_uppercase() } else { c };
    let each = |change: fn((usize, char)) -> char| name.chars().enumerate().map(change).collect::<String>();
    [name.to_owned(), name.to_uppercase(), each(odd), each(first)]
}

#[test]
fn no_header_on_which_the_message_or_the_connection_rests_is_plain_in_any_case_and_place() {
    let begun = ["http2-settings", "proxy", "proxy-connection", "proxy-authorization", "sec-websocket-key"];
    for name in UNPLAIN_NAMES.iter().chain(&UNPLAIN_BEGINNINGS).chain(&begun) {
        for name in cases(name) {
            for value in ["", "1", "0", "keep-alive", "chunked", "100-continue", "x"] {
                let line = format!("{name}: {value}\r\n");
                assert_not_plain("it behind Host", &request("/", &format!("Host: a\r\n{line}")));
                assert_not_plain("it before Host", &request("/", &format!("{line}Host: a\r\n")));
                assert_not_plain("it at the end", &request("/", &format!("Host: a\r\nX: b\r\n{line}")));
            }
        }
    }
}

#[test]
fn a_name_that_only_resembles_one_of_those_is_plain() {
    let names = UNPLAIN_NAMES.iter().map(|name| (name, false));
    for (name, begins) in names.chain(UNPLAIN_BEGINNINGS.iter().map(|name| (name, true))) {
        let shorter = &name[..name.len() - 1];
        let longer = if begins { format!("x{name}") } else { format!("{name}x") };
        let other = format!("{shorter}0");
        for near in [shorter, &longer, &other, &format!("x-{name}")] {
            for near in cases(near) {
                assert_plain(&hosted(&format!("{near}: 1")));
            }
        }
    }
    for near in
        ["Hos", "Hosts", "X-Host", "Connectio", "Connections", "Upgrade-Insecure-Requests", "T", "Prox"]
    {
        assert_plain(&hosted(&format!("{near}: 1")));
    }
}

#[test]
fn connection_is_plain_as_keep_alive_alone() {
    for value in ["keep-alive", "Keep-Alive", "KEEP-ALIVE", "", " keep-alive", "\tkeep-alive \t"] {
        let line = format!("connection:{value}");
        if value.is_empty() {
            assert_not_plain("an empty list", &hosted(&line));
        } else {
            assert_plain(&hosted(&line));
        }
    }
    for value in [
        "close",
        "keep-alive, close",
        "keep-alive,",
        ",keep-alive",
        "upgrade",
        "keep-aliv",
        "keep-alivee",
        "te",
    ] {
        assert_not_plain("another option", &hosted(&format!("Connection: {value}")));
    }
    assert_not_plain("white space within", &hosted("Connection: keep -alive"));
}

#[test]
fn host_is_one_and_a_name_with_or_without_a_port() {
    for value in [
        "a",
        "A.b-c.d_e",
        "10.0.0.1",
        "a:1",
        "a:80",
        "a:443",
        "a:5999",
        "a:9999",
        "a:59999",
        "a:60000",
        "a:64999",
        "a:6500",
        "a:65",
        "a:6",
        " a",
        "\t a:80 \t",
        "xn--bcher-kva.example",
        "1",
    ] {
        assert_plain(&request("/", &format!("Host:{value}\r\n")));
    }
    for (why, value) in [
        ("nothing", ""),
        ("white space alone", " \t"),
        ("an empty label first", ".a"),
        ("an empty label", "a..b"),
        ("an empty label last", "a."),
        ("no name", ":80"),
        ("no port", "a:"),
        ("port 0", "a:0"),
        ("a zero in front of the port", "a:080"),
        ("no number", "a:8x"),
        ("two ports", "a:80:80"),
        ("a port of six digits", "a:100000"),
        ("a port above 65535", "a:65536"),
        ("a port above 65535", "a:66000"),
        ("a port above 65535", "a:70000"),
        ("a port that is for the gate", "a:65000"),
        ("a user", "u@a"),
        ("an address in brackets", "[::1]"),
        ("an escape", "a%62"),
        ("a list", "a, b"),
        ("a space within", "a b"),
        ("a path", "a/b"),
        ("what is not ASCII", "b\u{fc}cher"),
    ] {
        assert_not_plain(why, &request("/", &format!("Host: {value}\r\n")));
    }
    assert_not_plain("no Host", &request("/", "X: a\r\n"));
    assert_not_plain("no line", &request("/", ""));
    assert_not_plain("two Hosts", &request("/", "Host: a\r\nHost: a\r\n"));
    assert_not_plain("two Hosts apart", &request("/", "hOST: a\r\nX: b\r\nHost: b\r\n"));
    assert_not_plain("a Host with nothing behind it", &request("/", "Host\r\n"));
}

#[test]
fn a_path_is_plain_if_it_has_one_reading() {
    for target in [
        "/",
        "//",
        "/a/b",
        "/a/",
        "/a//b",
        "/...",
        "/.../a",
        "/.a",
        "/..a",
        "/a.",
        "/a..",
        "/a./b",
        "/.a/..b",
        "/a.b/c..d",
        "/%20",
        "/a%20b%41",
        "/%41.",
        "/.%20",
        "/..%20",
        "/%25",
        "/%2B%2d%3d%3A%5b%5D%7e%ff%10%C3%bc",
        "/a+b~c!$&'()*,=@:_-",
        "/{a}|[b]^",
        "/?",
        "/a?",
        "/a?x=1;y=../..&z=%2e%zz%&%00?/./",
        "/a?;",
        "/?/../",
    ] {
        assert_plain(&request(target, "Host: a\r\n"));
    }
    for (why, target) in [
        ("a segment that stands still", "/."),
        ("a segment that climbs", "/.."),
        ("a segment that stands still", "/./a"),
        ("a segment that climbs", "/a/../b"),
        ("a segment that climbs", "/a/.."),
        ("a segment that climbs, before a query", "/a/..?x"),
        ("a segment that stands still, before a query", "/.?"),
        ("an escaped dot", "/%2e"),
        ("an escaped dot", "/a/.%2E/b"),
        ("an escaped slash", "/a%2fb"),
        ("an escaped slash", "/a%2Fb"),
        ("an escaped semicolon", "/a%3bb"),
        ("an escaped semicolon", "/a%3Bb"),
        ("an escaped backslash", "/a%5cb"),
        ("an escaped backslash", "/a%5Cb"),
        ("an escaped NUL", "/a%00"),
        ("an escaped line end", "/a%0d%0a"),
        ("a parameter", "/a;b"),
        ("a climbing segment's parameter", "/..;/a"),
        ("half an escape", "/a%2"),
        ("half an escape before a query", "/a%4?"),
        ("no escape", "/a%"),
        ("no escape", "/a%zz"),
        ("no escape", "/a%4g"),
        ("a fragment", "/a#b"),
        ("a backslash", "/a\\b"),
        ("a quote in the query", "/a?\""),
        ("what is not ASCII", "/\u{e4}"),
        ("a space", "/a b"),
        ("no slash in front", "a"),
        ("nothing", ""),
        ("the asterisk form", "*"),
        ("the absolute form", "http://a/"),
        ("the authority form", "a:80"),
        ("a query without a path", "?a"),
    ] {
        assert_not_plain(why, &request(target, "Host: a\r\n"));
    }
}

#[test]
fn what_the_gate_refuses_and_what_has_another_meaning_is_not_plain() {
    for (why, text) in [
        ("nothing at all", ""),
        ("an empty line in front", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/1.0, as ab speaks it", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nHost: a\r\n\r\n"),
        ("another version", "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("no version", "GET /\r\nHost: a\r\n\r\n"),
        ("the version in small letters", "GET / http/1.1\r\nHost: a\r\n\r\n"),
        ("something behind the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        ("HEAD", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("POST", "POST / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("the method in small letters", "get / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a longer method", "GETS / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a tab", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"),
        ("a fold", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
        ("a folded Host", "GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n"),
        ("a space in front of the first line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("a space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        ("a tab before the colon", "GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n"),
        ("no name", "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
        ("no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
        ("an underscore in a name", "GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 1\r\n\r\n"),
        ("an underscore in a name", "GET / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n"),
        ("a dot in a name", "GET / HTTP/1.1\r\nHost: a\r\nContent.Length: 1\r\n\r\n"),
        ("a bare LF", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
        ("a bare LF behind the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n"),
        ("a bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n"),
        ("a bare CR", "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n"),
        ("two CRs", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
        ("DEL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n"),
        ("what is not ASCII in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \u{e4}\r\n\r\n"),
        ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ] {
        assert_not_plain(why, text);
    }
}

#[test]
fn whatever_byte_is_changed_put_in_or_taken_out_what_is_plain_is_judged_alike() {
    let text =
        "GET /a.b/%41?c HTTP/1.1\r\nTen: 1\r\nHost: a.b:6080\r\nConnection: keep-alive\r\nDNT: 1\r\n\r\n";
    let mut plain = 0;
    for at in 0..=text.len() {
        let (front, back) = text.as_bytes().split_at(at);
        let rest = back.get(1..).unwrap_or_default();
        let all =
            (0..=u8::MAX).flat_map(|byte| [[front, &[byte], back].concat(), [front, &[byte], rest].concat()]);
        for changed in all.chain([[front, rest].concat()]) {
            if is_plain(&changed) {
                assert_judged_alike(&changed);
                plain += 1;
            }
        }
    }
    assert!(plain > 3000, "{plain} were plain");
}
