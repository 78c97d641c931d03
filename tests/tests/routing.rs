//! Two pools behind one VIP, with real servers: each request reaches the pool that the table says, and none another.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{Connection, Response};
use baton_tests::lab::{self, TestLab, VIP};

/// target1 for what no route takes, target2 for one domain and one path.
const SITE: &str = r#"
[[pool]]
name = "one"
targets = ["target1"]
[[pool]]
name = "two"
targets = ["target2"]
[[route]]
name = "proxied"
host = ["*.proxied.example"]
path = "/10k"
pool = "two"
mode = "proxy"
[[route]]
name = "proxied-rest"
host = ["*.proxied.example"]
pool = "one"
mode = "proxy"
[route.request_headers]
set = { X-Env = "staging" }
remove = ["X-Debug"]
[[route]]
name = "domain"
host = ["*.two.example"]
pool = "two"
[[route]]
name = "path"
path = "/10k"
pool = "two"
[[route]]
name = "changed"
path_exact = "/whoami"
pool = "one"
[route.request_headers]
set = { X-Env = "prod" }
add = { X-Test = "added" }
remove = ["X-Debug"]
forwarded = "x-forwarded"
traceparent = true
"#;

/// What the rest of a request says: each condition by itself, then two of which both must hold. In front of [`SITE`].
const CONDITIONS: &str = r#"
[[route]]
name = "method"
path_exact = "/by/method"
method = ["PUT", "DELETE"]
pool = "two"
keepalive = "tracked"
[[route]]
name = "header"
path_exact = "/by/header"
header = { X-Beta = "yes" }
pool = "two"
keepalive = "tracked"
[[route]]
name = "any-header"
path_exact = "/by/any-header"
header = { X-Beta = "*" }
pool = "two"
keepalive = "tracked"
[[route]]
name = "cookie"
path_exact = "/by/cookie"
cookie = { group = "b" }
pool = "two"
keepalive = "tracked"
[[route]]
name = "query"
path_exact = "/by/query"
query = { to = "b c" }
pool = "two"
keepalive = "tracked"
[[route]]
name = "regex"
path_regex = '/by/img/[0-9]+\.(png|jpg)'
pool = "two"
keepalive = "tracked"
[[route]]
name = "both"
path_exact = "/by/both"
method = ["GET"]
header = { X-Beta = "yes" }
query = { v = "2" }
pool = "two"
keepalive = "tracked"
[[route]]
name = "by-rest"
path = "/by"
pool = "one"
keepalive = "tracked"
[[route]]
name = "element"
host = ["element.example"]
path_exact = "/whoami"
pool = "one"
keepalive = "tracked"
[route.request_headers]
set = { X-Env = "prod" }
remove = ["X-Debug"]
forwarded = "forwarded"
traceparent = true
"#;

fn site(name: &str) -> Option<TestLab> {
    let single = |s: netns_lab::LabSpec| lab::patient(s).intermediate_with("listener", "keepalive", "single");
    let dual = |s: netns_lab::LabSpec| single(s).family(netns_lab::Family::Dual);
    lab::up(name, |s| {
        dual(s)
            .intermediate_with("listener", "pool", "one")
            .intermediate_also(CONDITIONS)
            .intermediate_also(SITE)
    })
}

fn request(host: &str, path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").into_bytes()
}

fn ask(t: &TestLab, host: &str, path: &str, more: &str) -> Response {
    let bytes = request(host, path, more);
    t.client(move || {
        let mut connection = Connection::open(VIP).unwrap();
        connection.send(&bytes).unwrap();
        connection.response().unwrap()
    })
}

#[test]
fn each_request_reaches_the_pool_that_the_table_says() {
    let Some(t) = site("routes") else { return };
    let table = [
        ("one.example", "/1k", "target1"),
        ("a.two.example", "/1k", "target2"),
        ("A.B.TWO.example:80", "/1k", "target2"),
        ("two.example", "/1k", "target1"),
        ("one.example", "/10k", "target2"),
        ("one.example", "/10k?x=1", "target2"),
        ("one.example", "/%31%30k", "target2"),
        ("one.example", "//10k", "target2"),
        ("one.example", "/100k", "target1"),
    ];
    for (host, path, target) in table {
        let response = ask(&t, host, path, "");
        assert_eq!((response.status, response.served_by()), (200, target), "{host}{path}");
        assert_eq!(response.header("connection"), Some("close"), "single");
    }
    t.expect_requests(u64::try_from(table.len()).unwrap(), 0);
    assert!(t.access_log("target1").iter().all(|line| !line.contains("10k ") && !line.contains("10k?")));
}

/// Request line, further lines, and who must answer.
const BY_CONDITION: [(&str, &str, &str); 28] = [
    ("PUT /by/method", "Content-Length: 0\r\n", "target2"),
    ("GET /by/method", "", "target1"),
    ("DELETE /by/method", "", "target2"),
    ("POST /by/method", "Content-Length: 4\r\n\r\nPUT ", "target1"),
    ("GET /by/header", "X-Beta: yes\r\n", "target2"),
    ("GET /by/header", "x-bETA:   yes \t\r\n", "target2"),
    ("GET /by/header", "X-Beta: no\r\n", "target1"),
    ("GET /by/header", "X-Beta: Yes\r\n", "target1"),
    ("GET /by/header", "X-Beta: no\r\nX-Beta: yes\r\n", "target2"),
    ("GET /by/header", "X-Beta-2: yes\r\n", "target1"),
    ("GET /by/any-header", "X-Beta: no\r\n", "target2"),
    ("GET /by/any-header", "", "target1"),
    ("GET /by/cookie", "Cookie: a=1; group=b\r\n", "target2"),
    ("GET /by/cookie", "Cookie: group=bb; xgroup=b\r\n", "target1"),
    ("GET /by/cookie", "Cookie: a=1\r\nCookie: group=b\r\n", "target2"),
    ("GET /by/query?to=b%20c", "", "target2"),
    ("GET /by/query?x=1&t%6F=b+c", "", "target2"),
    ("GET /by/query?to=b", "", "target1"),
    ("GET /by/query?xto=b+c", "", "target1"),
    ("GET /by/query", "X-Beta: ?to=b+c\r\n", "target1"),
    ("GET /by/img/12.png", "", "target2"),
    ("GET /by//img/%31%32.jpg?x", "", "target2"),
    ("GET /by/img/12.png/x", "", "target1"),
    ("GET /by/img/12xpng", "", "target1"),
    ("GET /by/both?v=2", "X-Beta: yes\r\n", "target2"),
    ("GET /by/both?v=1", "X-Beta: yes\r\n", "target1"),
    ("GET /by/both?v=2", "", "target1"),
    ("POST /by/both?v=2", "X-Beta: yes\r\nContent-Length: 0\r\n", "target1"),
];

#[test]
fn method_header_cookie_query_and_expression_decide_for_first_and_for_later_requests() {
    let Some(t) = site("conditions") else { return };
    let ask = |connection: &mut Connection, (line, more, target): (&str, &str, &str)| {
        let end = if more.contains("\r\n\r\n") { "" } else { "\r\n" };
        connection.send(format!("{line} HTTP/1.1\r\nHost: one.example\r\n{more}{end}").as_bytes()).unwrap();
        let response = connection.response().unwrap_or_else(|e| panic!("{line} {more}: {e}"));
        // There is no such file on either: what counts is who says so.
        assert_eq!(response.served_by(), target, "{line} {more}\n{}", response.head);
    };
    // Each as the first of a connection, then all behind one another, over either family.
    for case in BY_CONDITION {
        t.client(move || ask(&mut Connection::open(VIP).unwrap(), case));
    }
    t.client(move || {
        for vip in [VIP, netns_lab::plan::VIP6.into()] {
            let mut connection = Connection::open(vip).unwrap();
            BY_CONDITION.into_iter().for_each(|case| ask(&mut connection, case));
        }
    });
    assert_eq!(t.all_proxied(), 0);
}

#[test]
fn a_later_or_pipelined_request_for_another_host_never_reaches_the_first_hosts_server() {
    let Some(t) = site("other") else { return };
    // Single: two at once are proxied, each to its own server.
    let pipelined =
        [request("one.example", "/1k", ""), request("a.two.example", "/100k?secret", "")].concat();
    let served = t.client(move || {
        let mut connection = Connection::open(VIP).unwrap();
        connection.send(&pipelined).unwrap();
        [connection.response().unwrap(), connection.response().unwrap()]
    });
    let served = served.map(|response| response.served_by().to_owned());
    assert_eq!(served, ["target1", "target2"]);
    t.expect_requests(0, 2);
    t.expect_proxied("pipelined", 1);
    t.expect_proxied("later_request", 1);
    // One after the other: the first server ends the connection before it could get the second.
    let (first, rest) = t.client(move || {
        let mut connection = Connection::open(VIP).unwrap();
        connection.send(&request("one.example", "/1k", "")).unwrap();
        (connection.response().unwrap(), connection.read_some().unwrap_or(0))
    });
    assert_eq!(
        (first.header("x-served-by"), first.header("connection"), rest),
        (Some("target1"), Some("close"), 0)
    );
    // Proxied: each request by itself, on one connection, one after the other and all at once.
    let paths = ["/1k", "/10k", "/1k?2", "/10k?2"];
    for at_once in [false, true] {
        let served: Vec<String> = t.client(move || {
            let mut connection = Connection::open(VIP).unwrap();
            let all: Vec<Vec<u8>> = paths.iter().map(|path| request("a.proxied.example", path, "")).collect();
            if at_once {
                connection.send(&all.concat()).unwrap();
            }
            let answer = |bytes: &Vec<u8>| {
                if !at_once {
                    connection.send(bytes).unwrap();
                }
                connection.response().unwrap().served_by().to_owned()
            };
            all.iter().map(answer).collect()
        });
        assert_eq!(served, ["target1", "target2", "target1", "target2"], "at once: {at_once}");
    }
    let logs = |target: &str| t.access_log(target).join("\n");
    assert!(!logs("target1").contains("secret") && !logs("target1").contains("/10k"), "{}", logs("target1"));
    assert!(!logs("target2").contains("/1k "), "{}", logs("target2"));
    t.expect_proxied("disabled", 2);
    t.expect_proxied("later_request", 7);
}

#[test]
fn the_server_gets_the_changed_request_migrated_or_proxied() {
    let Some(t) = site("changes") else { return };
    let more = "X-Env: client\r\nX-Debug: 1\r\nX-Forwarded-For: 9.9.9.9\r\n";
    let whoami = ask(&t, "one.example:80", "/whoami", more).text();
    t.expect_requests(1, 0);
    for line in [
        "target: target1\n",
        "X-Env: prod\n",
        "X-Test: added\n",
        "X-Forwarded-For: 9.9.9.9, 10.90.11.2\n",
        "X-Forwarded-Proto: http\n",
        "X-Forwarded-Host: one.example:80\n",
        "Connection: close\n",
        "Traceparent: 00-",
    ] {
        assert!(whoami.contains(line), "{line:?} is not in {whoami}");
    }
    assert!(!whoami.contains("X-Debug") && !whoami.contains("client\n"), "{whoami}");
    // The absolute form becomes the origin form.
    let absolute =
        ask(&t, "one.example", "http://one.example/whoami", "Proxy-Connection: keep-alive\r\n").text();
    assert!(absolute.contains("request: GET /whoami HTTP/1.1\n"), "{absolute}");
    let proxied = ask(&t, "a.proxied.example", "/whoami", more).text();
    t.expect_requests(2, 1);
    assert!(proxied.contains("X-Env: staging\n") && !proxied.contains("X-Debug"), "{proxied}");
    assert_eq!(t.all_proxied(), 1);
    by_element(&t);
    t.expect_requests(4, 1);
}

/// `Forwarded`, `traceparent` and the rest as nginx has them, of all the requests of migrated connections.
fn by_element(t: &TestLab) {
    let line = |said: &str, name: &str| {
        let found: Vec<_> =
            said.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect();
        assert!(found.len() <= 1, "{said}");
        found.first().map(|value| (*value).to_owned())
    };
    let [mut v4, mut v6] =
        [VIP, netns_lab::plan::VIP6.into()].map(|vip| t.client(move || Connection::open(vip).unwrap()));
    let mut seen = |is_v4: bool, more: &str| {
        let connection = if is_v4 { &mut v4 } else { &mut v6 };
        let more = format!("X-Env: client\r\nX-Debug: 1\r\n{more}");
        connection.send(&request("element.example", "/whoami", &more)).unwrap();
        let said = connection.response().unwrap().text();
        assert_eq!((line(&said, "X-Env").as_deref(), line(&said, "X-Debug")), (Some("prod"), None), "{said}");
        assert_eq!(line(&said, "X-Forwarded-For"), None, "{said}");
        (line(&said, "Forwarded").unwrap(), line(&said, "Traceparent").unwrap())
    };
    let made = |value: &str| {
        let parts: Vec<&str> = value.split('-').collect();
        let hex =
            |text: &str, len| text.len() == len && text.bytes().all(|b| b"0123456789abcdef".contains(&b));
        assert!(
            parts.len() == 4
                && parts[0] == "00"
                && hex(parts[1], 32)
                && hex(parts[2], 16)
                && parts[3] == "01",
            "{value}"
        );
        assert!(parts[1].contains(|c| c != '0') && parts[2].contains(|c| c != '0'), "{value}");
        value.to_owned()
    };
    let own = "for=10.90.11.2;proto=http;host=\"element.example\"";
    let (forwarded, one) = seen(true, "");
    assert_eq!(forwarded, own);
    // What a client says of others comes before what is said of it.
    let (forwarded, two) = seen(true, "Forwarded: for=9.9.9.9\r\nForwarded: for=8.8.8.8\r\n");
    assert_eq!(forwarded, format!("for=9.9.9.9, for=8.8.8.8, {own}"));
    assert_ne!(made(&one), made(&two), "each request has its own");
    let (forwarded, _) = seen(false, "");
    let client = netns_lab::plan::client_addr6(1);
    assert_eq!(forwarded, format!("for=\"[{client}]\";proto=http;host=\"element.example\""));
    // One good one passes; anything else is replaced.
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    assert_eq!(seen(true, &format!("Traceparent: {good}\r\n")).1, good);
    for bad in
        [format!("Traceparent: {good}\r\nTraceparent: {good}\r\n"), "Traceparent: 00-0-0-00\r\n".into()]
    {
        assert_ne!(made(&seen(true, &bad).1), good);
    }
}

#[test]
fn without_a_route_it_is_404_and_counted() {
    let Some(t) = lab::up("noroute", |s| lab::patient(s).intermediate_also(SITE)) else { return };
    assert_eq!(ask(&t, "a.two.example", "/1k", "").status, 200);
    assert_eq!(ask(&t, "nobody.example", "/1k", "").status, 404);
    t.expect_closed("no_route", 1);
    assert_eq!(ask(&t, "nobody.example", "/1k/..;/%2f10k", "").status, 400);
    t.expect_requests(1, 0);
}
