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

fn site(name: &str) -> Option<TestLab> {
    let single = |s: netns_lab::LabSpec| s.intermediate_with("listener", "keepalive", "single");
    lab::up(name, |s| single(s).intermediate_with("listener", "pool", "one").intermediate_also(SITE))
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
    assert_eq!((t.migrated(), t.proxied("pipelined"), t.proxied("later_request")), (0, 1, 1));
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
    assert_eq!((t.proxied("disabled"), t.proxied("later_request")), (2, 7));
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
}

#[test]
fn without_a_route_it_is_404_and_counted() {
    let Some(t) = lab::up("noroute", |s| s.intermediate_also(SITE)) else { return };
    assert_eq!(ask(&t, "a.two.example", "/1k", "").status, 200);
    assert_eq!(ask(&t, "nobody.example", "/1k", "").status, 404);
    assert_eq!(t.closed("no_route"), 1);
    assert_eq!(ask(&t, "nobody.example", "/1k/..;/%2f10k", "").status, 400);
    t.expect_requests(1, 0);
}
