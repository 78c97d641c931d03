//! What is read from a request beyond its framing: by which route it goes, and what its head becomes on the way.

use baton_shared::http::{
    Edits, Forwarded, HeadLimits, HeadStatus, HeaderChanges, Origin, RequestHead, TraceIds, TraceParent,
    canonical, parse,
};
use baton_shared::route::path::{loose, plain};
use baton_shared::route::{
    HeadLines, HeaderLines, HostRule, PathRule, PoolId, RequestFacts, Route, RouteTable, Rules, ValueRule,
};
use std::net::IpAddr;
use std::sync::LazyLock;

/// What a head may be here; beyond that are the lines that are added.
const LIMITS: HeadLimits =
    HeadLimits { head_bytes: 1 << 20, header_count: 10_000, target_bytes: 1 << 19, connect: true };
const IDS: TraceIds = TraceIds { trace: 7, parent: 9 };

/// A route of each condition.
#[expect(clippy::unwrap_used, reason = "a fuzz target's panic is its report")]
static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let value = |name: &str, value: &str| vec![ValueRule::new(name, value)];
    let path = |rule| Rules { path: Some(rule), ..Rules::default() };
    let rules = [
        Rules {
            hosts: vec![HostRule::parse("*.example.com").unwrap()],
            ..path(PathRule::prefix("/a").unwrap())
        },
        path(PathRule::exact("/x/y").unwrap()),
        path(PathRule::regex("/r[0-9]*/.").unwrap()),
        Rules { query: value("q", "a b"), ..Rules::default() },
        Rules { cookies: value("sid", "1"), ..Rules::default() },
        Rules { headers: value("x-a", "*"), methods: vec!["PUT".to_owned()], ..Rules::default() },
    ];
    let route = |(n, rules)| Route::new(&format!("r{n}"), PoolId(n), rules);
    RouteTable::new(rules.into_iter().enumerate().map(route).collect())
});

/// A path in a normal form has nothing left in it that says the same in another way.
fn is_normal(path: &[u8], loose: bool) {
    let mut segments = path.split(|b| *b == b'/');
    assert_eq!(segments.next(), Some(&b""[..]), "from the root");
    let all: Vec<_> = segments.collect();
    for (n, segment) in all.iter().enumerate() {
        assert!(!segment.is_empty() || n + 1 == all.len(), "{path:?}: an empty segment");
        assert!(*segment != b"." && *segment != b"..", "{path:?}: a dot segment");
        assert!(!loose || !segment.iter().any(|b| matches!(b, b';' | b'\\')), "{path:?}: not loose");
    }
}

/// All values of a header.
fn values(lines: &dyn HeaderLines, name: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    lines.any(name, &mut |value| {
        all.push(value.to_vec());
        false
    });
    all
}

/// A changed head passes the gate as the same request with what was to be said, once.
fn changed(bytes: &[u8], head: &RequestHead, facts: &RequestFacts<'_>, forwarded: Forwarded) {
    let lines = HeadLines::new(bytes, head);
    let client = IpAddr::from([192, 0, 2, 1]);
    let origin = Origin { client, secure: false, authority: facts.authority };
    let changes = HeaderChanges { forwarded, traceparent: true, ..HeaderChanges::default() };
    let edits: Edits = changes.edits(&lines, &origin, IDS);
    let made = canonical(bytes, head, &edits, false);
    let HeadStatus::Complete(seen) = parse(&made, &LIMITS) else {
        panic!("refused with what was added: {}", made.escape_ascii());
    };
    assert_eq!(seen.head_len, made.len());
    assert_eq!(made.get(seen.method.clone()), bytes.get(head.method.clone()));
    assert_eq!(seen.framing, head.framing);
    let after = HeadLines::new(&made, &seen);
    let now = RequestFacts::of_head(0, &seen, &made, &after);
    assert_eq!((now.path, now.query), (facts.path, facts.query));
    let said = match forwarded {
        Forwarded::Off => None,
        Forwarded::XForwarded => Some(("X-Forwarded-For", "192.0.2.1")),
        Forwarded::Forwarded => Some(("Forwarded", "for=192.0.2.1;")),
    };
    if let Some((name, element)) = said {
        let all = values(&after, name);
        let [list] = all.as_slice() else { panic!("{} lines of {name}", all.len()) };
        let last = list.windows(element.len()).rposition(|part| part == element.as_bytes());
        // What the client said of itself stands before it.
        let own = last.is_some_and(|at| list.get(..at).is_some_and(|b| b.is_empty() || b.ends_with(b", ")));
        assert!(own, "{name}: {}", list.escape_ascii());
    }
    let expected = TraceParent::of(&lines).map_or((IDS.trace, IDS.parent), |of| (of.trace, of.parent));
    assert_eq!(TraceParent::of(&after).map(|of| (of.trace, of.parent)), Some(expected));
}

/// A client's head: its path's normal forms are normal, its route is the one that the explanation names, and with a header about
/// the client and its trace it is the same request. Bytes that are no head are read as a `traceparent`.
///
/// # Panics
/// When that does not hold.
pub fn request_routing(bytes: &[u8]) {
    let HeadStatus::Complete(head) = parse(bytes, &LIMITS) else {
        if let Some(of) = TraceParent::parse(bytes) {
            let numbers = format!("-{:032x}-{:016x}-", of.trace, of.parent);
            assert_eq!(bytes.get(2..53), Some(numbers.as_bytes()));
        }
        return;
    };
    let lines = HeadLines::new(bytes, &head);
    let facts = RequestFacts::of_head(0, &head, bytes, &lines);
    if facts.path.starts_with('/') {
        is_normal(&plain(facts.path), false);
        if let Some(other) = loose(facts.path) {
            is_normal(&other, true);
        }
    }
    if let Ok(found) = TABLE.find(&facts) {
        let explained = TABLE.explain(&facts);
        let taken = explained.last().filter(|tried| tried.outcome.is_ok());
        assert_eq!(taken.map(|tried| &tried.route.name), found.map(|route| &route.name));
    }
    for forwarded in [Forwarded::Off, Forwarded::XForwarded, Forwarded::Forwarded] {
        changed(bytes, &head, &facts, forwarded);
    }
}
