//! Rules against requests written out, and against a naive reading of them.

use super::*;
use crate::http::{HeadLimits, HeadStatus, RequestHead, parse};
use proptest::prelude::*;

fn head(request: &str) -> RequestHead {
    match parse(request.as_bytes(), &HeadLimits { connect: true, ..HeadLimits::default() }) {
        HeadStatus::Complete(head) => head,
        other => panic!("{request:?}: {other:?}"),
    }
}

/// Asks a table with one route of these rules about a whole head.
fn takes(rules: Rules, request: &str) -> bool {
    let head = head(request);
    let lines = HeadLines::new(request.as_bytes(), &head);
    let facts = RequestFacts::of_head(0, &head, request.as_bytes(), &lines);
    RouteTable::new(vec![Route::new("r", PoolId(0), rules)]).find(&facts).unwrap().is_some()
}

fn host(rule: &str) -> Rules {
    Rules { hosts: vec![HostRule::parse(rule).unwrap()], ..Rules::default() }
}

fn with_path(path: PathRule) -> Rules {
    Rules { path: Some(path), ..Rules::default() }
}

#[test]
fn hosts_match_without_case_port_and_last_dot() {
    for (rule, said, expected) in [
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
        assert_eq!(HostRule::parse(rule).unwrap().matches(host_name(said)), expected, "{rule} {said}");
    }
    assert!(takes(host("h"), "GET / HTTP/1.1\r\nhost:  H:80 \r\n\r\n"));
    assert!(takes(host("h"), "GET http://h:80/x HTTP/1.1\r\nHost: h:80\r\n\r\n"));
    assert!(takes(host("h"), "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"));
    assert!(!takes(host("h"), "GET / HTTP/1.0\r\n\r\n"), "no host is no host");
    assert!(takes(host("h"), "GET http://h/ HTTP/1.0\r\n\r\n"), "the target has it");
}

#[test]
fn hosts_that_cannot_be_are_refused_with_what_to_write() {
    for (rule, part) in [
        ("", "is empty"),
        ("a.*.com", "only as its first label"),
        ("*example.com", "only as its first label"),
        ("http://a.com", "without scheme"),
        ("a.com/x", "without scheme and path"),
        ("a.com:80", "without a port"),
        ("b\u{fc}cher.de", "punycode"),
        ("a..com", "is no host name"),
        ("a b", "is no host name"),
        ("[::zz]", "is no address"),
    ] {
        let said = HostRule::parse(rule).unwrap_err().to_string();
        assert!(said.contains(part), "{rule}: {said}");
    }
}

#[test]
fn paths_are_compared_in_their_normal_form() {
    let prefix = |rule: &str, path: &str| takes(with_path(PathRule::prefix(rule).unwrap()), &get(path));
    for rule in ["/api", "/api/"] {
        for (path, expected) in [
            ("/api", true),
            ("/api/", true),
            ("/api/v1?x=/other", true),
            ("//api///v1", true),
            ("/%61pi/v1", true),
            ("/apiary", false),
            ("/x/api", false),
            ("/API", false),
            ("/", false),
        ] {
            assert_eq!(prefix(rule, path), expected, "{rule} {path}");
        }
    }
    assert!(prefix("/", "/anything") && !takes(with_path(PathRule::prefix("/").unwrap()), OPTIONS));
    let exact = |path: &str| takes(with_path(PathRule::exact("/a/b").unwrap()), &get(path));
    assert!(exact("/a/b") && exact("/a//b") && exact("/%61/b?q") && !exact("/a/b/") && !exact("/a/b/c"));
    let regex = |path: &str| takes(with_path(PathRule::regex("/v[0-9]+(/.*)?").unwrap()), &get(path));
    assert!(regex("/v1") && regex("/v22/x") && regex("/v1/%0Ax") && regex("/v1/%ff") && regex("/%761"));
    assert!(!regex("/v1x") && !regex("/x/v1") && !regex("/v"));
}

const OPTIONS: &str = "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

#[test]
fn normal_forms_are_these() {
    for (path, plain, loose) in [
        ("/", "/", None),
        ("/a/b", "/a/b", None),
        ("/a/./b/../c", "/a/c", None),
        ("/a/b/..", "/a/", None),
        ("/a/.", "/a/", None),
        ("/../../a", "/a", None),
        ("//a//", "/a/", None),
        ("/%2e%2E/a", "/a", None),
        ("/a%20b%zz%4", "/a b%zz%4", None),
        ("/%252e%252e/a", "/%2e%2e/a", None),
        ("/.well-known/x", "/.well-known/x", None),
        ("/a%2fb", "/a%2Fb", Some("/a/b")),
        ("/a/..%2fb", "/a/..%2Fb", Some("/b")),
        ("/a/..%5cb", "/a/..\\b", Some("/b")),
        ("/a/..;x/b", "/a/..;x/b", Some("/b")),
        ("/a;v=1/b", "/a;v=1/b", Some("/a/b")),
        ("/a%3b/b", "/a;/b", Some("/a/b")),
        ("*", "*", None),
        ("", "", None),
    ] {
        assert_eq!(String::from_utf8_lossy(&path::plain(path)), plain, "{path}");
        assert_eq!(path::loose(path).as_deref(), loose.map(str::as_bytes), "{path}");
    }
}

#[test]
fn a_path_that_leads_to_two_routes_leads_to_none() {
    let route =
        |name: &str, path: &str| Route::new(name, PoolId(0), with_path(PathRule::prefix(path).unwrap()));
    let table = RouteTable::new(vec![route("admin", "/admin"), route("public", "/public")]);
    let find =
        |path: &str| table.find(&RequestFacts::new(0, "GET", path, &NoHeaders)).map(|r| r.map(|r| &*r.name));
    assert_eq!(find("/public/a%2Fb"), Ok(Some("public")), "both forms lead there");
    assert_eq!(find("/public/..%2fadmin"), Err(AmbiguousPath));
    assert_eq!(find("/public/..;/admin"), Err(AmbiguousPath));
    assert_eq!(find("/public/x;../admin"), Ok(Some("public")));
    assert_eq!(find("/admin%5cx"), Err(AmbiguousPath));
    let without_paths = RouteTable::new(vec![Route::new("all", PoolId(0), Rules::default())]);
    let odd = RequestFacts::new(0, "GET", "/public/..%2fadmin", &NoHeaders);
    assert!(without_paths.find(&odd).unwrap().is_some(), "no rule reads the path");
}

#[test]
fn path_rules_that_would_never_match_are_refused() {
    for (rule, part) in [
        (PathRule::prefix("api"), "must begin with a slash"),
        (PathRule::prefix("/a?b"), "without a query"),
        (PathRule::prefix("/a//b"), "write \"/a/b\""),
        (PathRule::exact("/a/../b"), "write \"/b\""),
        (PathRule::exact("/%61"), "write \"/a\""),
        (PathRule::regex("/a("), "unclosed group"),
        (PathRule::regex("/a)|(/b"), "unopened group"),
        (PathRule::regex("(?x)/a # "), "unclosed group"),
        (PathRule::regex("/(a{1000}){1000}"), "exceeds size limit"),
    ] {
        let said = rule.unwrap_err().to_string();
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn headers_parameters_and_cookies_match_by_name_and_value() {
    let rule = |name: &str, value: &str| vec![ValueRule::token(name, value).unwrap()];
    let request = "GET /?v=2&w&%78=a+b%21&v=3 HTTP/1.1\r\nHost: h\r\nx-beta:  1 \r\nX-Beta: 2\r\n\
                   Cookie: group=b; other=\"q\"\r\ncookie: third=\r\n\r\n";
    for (name, value, expected) in [
        ("X-BETA", "1", true),
        ("x-beta", "2", true),
        ("x-beta", "*", true),
        ("x-beta", "12", false),
        ("x-b", "*", false),
    ] {
        assert_eq!(
            takes(Rules { headers: rule(name, value), ..Rules::default() }, request),
            expected,
            "{name}={value}"
        );
    }
    for (name, value, expected) in [
        ("v", "2", true),
        ("v", "3", true),
        ("v", "1", false),
        ("w", "", true),
        ("w", "*", true),
        ("x", "a b!", true),
        ("V", "2", false),
    ] {
        let query = vec![ValueRule::new(name, value)];
        assert_eq!(takes(Rules { query, ..Rules::default() }, request), expected, "{name}={value}");
    }
    for (name, value, expected) in [
        ("group", "b", true),
        ("third", "*", true),
        ("other", "\"q\"", true),
        ("Group", "b", false),
        ("group", "", false),
    ] {
        assert_eq!(
            takes(Rules { cookies: rule(name, value), ..Rules::default() }, request),
            expected,
            "{name}={value}"
        );
    }
    let methods = |method: &str| Rules { methods: vec![method.to_owned()], ..Rules::default() };
    assert!(
        takes(methods("GET"), request) && !takes(methods("get"), request) && !takes(methods("POST"), request)
    );
}

#[test]
fn a_tls_connection_is_matched_by_name_and_protocol() {
    let alpn = |all: &[&str]| Rules { alpn: all.iter().map(|a| (*a).to_owned()).collect(), ..host("h") };
    let table = RouteTable::new(vec![Route::new("r", PoolId(0), alpn(&["h2", "http/1.1"]))]);
    let found = |host, alpn: &[&str]| {
        let facts = RequestFacts { host, alpn, ..RequestFacts::new(0, "", "", &NoHeaders) };
        table.find(&facts).unwrap().is_some()
    };
    assert!(found(Some("H"), &["x", "h2"]));
    assert!(!found(Some("h"), &["x"]) && !found(Some("h"), &[]) && !found(None, &["h2"]));
}

/// A rule's meaning, read in the most simple way.
mod naive {
    use super::*;

    pub(super) fn path(path: &str) -> String {
        let mut stack: Vec<String> = Vec::new();
        let mut parts: Vec<String> = path.split('/').skip(1).map(unescape).collect();
        let directory = parts.last().is_none_or(|last| matches!(last.as_str(), "" | "." | ".."));
        for part in parts.drain(..) {
            match part.as_str() {
                "" | "." => {}
                ".." => drop(stack.pop()),
                _ => stack.push(part),
            }
        }
        let joined = format!("/{}", stack.join("/"));
        if directory && joined != "/" { joined + "/" } else { joined }
    }

    fn unescape(part: &str) -> String {
        let mut part = part.to_owned();
        for (escape, letter) in [("%61", "a"), ("%2e", "."), ("%2f", "%2F")] {
            part = part.replace(escape, letter);
        }
        part
    }

    pub(super) fn first(routes: &[Simple], listener: usize, host: &str, path: &str) -> Option<usize> {
        let path = self::path(path);
        routes.iter().position(|r| {
            r.listener.is_none_or(|l| l == listener)
                && r.host.as_ref().is_none_or(|wanted| match wanted.strip_prefix('*') {
                    Some(domain) => host.ends_with(domain) && host.len() > domain.len(),
                    None => host == wanted,
                })
                && r.prefix.as_ref().is_none_or(|p| path == *p || path.starts_with(&format!("{p}/")))
        })
    }
}

#[derive(Clone, Debug)]
struct Simple {
    listener: Option<usize>,
    host: Option<String>,
    prefix: Option<String>,
}

fn simple() -> impl Strategy<Value = Simple> {
    let host = prop_oneof![Just("a.x"), Just("b.x"), Just("x"), Just("*.x"), Just("*.b.x")];
    let prefix = prop_oneof![Just("/a"), Just("/a/b"), Just("/b"), Just("/ab")];
    (
        proptest::option::of(0usize..3),
        proptest::option::of(host.prop_map(str::to_owned)),
        proptest::option::of(prefix.prop_map(str::to_owned)),
    )
        .prop_map(|(listener, host, prefix)| Simple { listener, host, prefix })
}

fn some_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("a"),
        Just("b"),
        Just("ab"),
        Just(""),
        Just("."),
        Just(".."),
        Just("%61"),
        Just("%2e"),
        Just("%2e."),
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| format!("/{}", parts.join("/")))
}

proptest! {
    #[test]
    fn the_table_finds_what_a_naive_reading_finds(
        routes in proptest::collection::vec(simple(), 0..6),
        listener in 0usize..3,
        host in prop_oneof![Just("a.x"), Just("b.x"), Just("x"), Just("c.b.x"), Just("ax")],
        path in some_path(),
    ) {
        let compile = |(n, s): (usize, &Simple)| Route::new(&n.to_string(), PoolId(n), Rules {
            listeners: s.listener.map(|l| vec![l]),
            hosts: s.host.iter().map(|h| HostRule::parse(h).unwrap()).collect(),
            path: s.prefix.as_ref().map(|p| PathRule::prefix(p).unwrap()),
            ..Rules::default()
        });
        let table = RouteTable::new(routes.iter().enumerate().map(compile).collect());
        let facts = RequestFacts { host: Some(host), ..RequestFacts::new(listener, "GET", &path, &NoHeaders) };
        let found = table.find(&facts).unwrap().map(|route| route.pool.0);
        prop_assert_eq!(found, naive::first(&routes, listener, host, &path));
        // What `explain` says is what `find` does, and each route before has a reason.
        let tried = table.explain(&facts);
        let taken = tried.iter().position(|t| t.outcome.is_ok());
        prop_assert_eq!(taken, found);
        prop_assert_eq!(tried.len(), found.map_or(routes.len(), |n| n + 1));
    }

    /// Who covers a route takes all that it takes: the one behind is never reached.
    #[test]
    fn what_is_covered_is_taken(
        a in simple(),
        b in simple(),
        host in prop_oneof![Just("a.x"), Just("b.x"), Just("x"), Just("c.b.x")],
        path in some_path(),
    ) {
        let rules = |s: &Simple| Rules {
            hosts: s.host.iter().map(|h| HostRule::parse(h).unwrap()).collect(),
            path: s.prefix.as_ref().map(|p| PathRule::prefix(p).unwrap()),
            ..Rules::default()
        };
        let facts = RequestFacts { host: Some(host), ..RequestFacts::new(0, "GET", &path, &NoHeaders) };
        let takes = |s: &Simple| {
            RouteTable::new(vec![Route::new("r", PoolId(0), rules(s))]).find(&facts).unwrap().is_some()
        };
        prop_assert!(rules(&a).cover(&rules(&a)));
        if rules(&a).cover(&rules(&b)) && takes(&b) {
            prop_assert!(takes(&a), "{:?} does not take what {:?} takes", a, b);
        }
    }

    #[test]
    fn a_normal_form_is_normal_and_never_climbs(path in some_path(), other in "/[a-c/.%;\\\\2eEfF]{0,20}") {
        prop_assert_eq!(String::from_utf8(path::plain(&path).into_owned()).unwrap(), naive::path(&path));
        for path in [path, other] {
            for form in [Some(path::plain(&path)), path::loose(&path)].into_iter().flatten() {
                prop_assert!(form.starts_with(b"/"));
                prop_assert!(!form.windows(2).any(|pair| pair == b"//"), "{:?}", form);
                let segments = form.split(|b| *b == b'/');
                prop_assert!(segments.skip(1).all(|s| s != b"." && s != b".."), "{:?}", form);
            }
        }
    }

    #[test]
    fn nothing_panics(
        path in "\\PC{0,30}",
        authority in "\\PC{0,20}",
        query in "\\PC{0,20}",
        pattern in "[a-z/.*+?()\\[\\]|{}0-9]{0,12}",
    ) {
        let _ = (HostRule::parse(&authority), PathRule::prefix(&path), PathRule::exact(&path));
        let mut rules = Rules {
            query: vec![ValueRule::new("a", "b")],
            path: PathRule::regex(&pattern).ok(),
            ..Rules::default()
        };
        rules.hosts.extend(HostRule::parse("*.x"));
        let facts = RequestFacts { query: &query, host: Some(host_name(&authority)), ..RequestFacts::new(0, "G", &path, &NoHeaders) };
        let _ = RouteTable::new(vec![Route::new("r", PoolId(0), rules)]).find(&facts);
    }
}

#[test]
fn options_of_a_host_alone_asks_for_what_a_star_asks_for() {
    let path = |request: &str| {
        let head = head(request);
        let lines = HeadLines::new(request.as_bytes(), &head);
        RequestFacts::of_head(0, &head, request.as_bytes(), &lines).path.to_owned()
    };
    assert_eq!(path("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"), "*");
    assert_eq!(path("OPTIONS http://h HTTP/1.1\r\nHost: h\r\n\r\n"), "*");
    assert_eq!(path("OPTIONS http://h? HTTP/1.1\r\nHost: h\r\n\r\n"), "/");
    assert_eq!(path("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n"), "/");
}

#[test]
fn a_listener_is_one_way_if_its_first_route_takes_all_or_it_has_none() {
    let of = |listener: usize, rules: Rules| {
        Route::new("r", PoolId(0), Rules { listeners: Some(vec![listener]), ..rules })
    };
    let table = RouteTable::new(vec![
        of(0, host("a")),
        of(0, Rules::default()),
        of(1, Rules::default()),
        of(1, with_path(PathRule::prefix("/a").unwrap())),
    ]);
    assert_eq!([0, 1, 2].map(|listener| table.is_one_way(listener)), [false, true, true]);
    let everywhere = RouteTable::new(vec![Route::new("r", PoolId(0), host("a"))]);
    assert!(!everywhere.is_one_way(7));
}
