//! Ten thousand requests while everything around them changes: targets drained, stopped, started and undrained, an agent
//! stopped and started, a server killed, and a hundred reloads that change weights, pools and routes. Half of the clients
//! keep their connections, so that these go from pool to pool.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{LabSpec, Program};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const REQUESTS: u64 = 10_000;
const PARALLEL: u64 = 50;
const RELOADS: u64 = 100;
/// What the clients that keep their connections ask on each.
const REQUESTS_KEPT: u64 = 25;

const TARGETS: [&str; 4] = ["target1", "target2", "target3", "target4"];
const KINDS: [&str; 4] = ["even", "odd", "turn", "swap"];
/// The members of the pool `swap`, by turns.
const SWAP: [&[&str]; 3] = [&["target1", "target2"], &["target3", "target4"], &["target2", "target3"]];

/// The pools and routes of the `n`th configuration. Two pools whose weights change, one whose members do; a route that
/// leads to one pool and then to another, and one in front of all others that is there or not.
fn site(n: u64) -> String {
    let pool = |name: &str, members: &[String], kind: &str| {
        format!(
            "[[pool]]\nname = \"{name}\"\ntargets = [{}]\n[pool.health]\n{kind}\ninterval_ms = 200\ntimeout_ms = 1000\n\
             rise = 2\nfall = 2\n",
            members.join(", ")
        )
    };
    let route = |path: &str, pool: &str| {
        format!("[[route]]\nname = \"{path}\"\npath = \"/{path}\"\npool = \"{pool}\"\n")
    };
    let weighted = |target: &str, weight: u64| format!("{{ target = \"{target}\", weight = {weight} }}");
    let even = [weighted("target1", 1 + n % 3), weighted("target2", 1 + n % 2)];
    let odd = [weighted("target3", 1), weighted("target4", 1 + n % 3)];
    let swap: Vec<String> = SWAP[index(n, 3)].iter().map(|target| weighted(target, 1)).collect();
    let front = "[[route]]\nname = \"front\"\npath = \"/odd/front\"\npool = \"even\"\n";
    [
        pool("even", &even, "kind = \"http\"\npath = \"/1k\""),
        pool("odd", &odd, "kind = \"tcp\""),
        pool("swap", &swap, "kind = \"tcp\""),
        if n.is_multiple_of(2) { String::new() } else { front.to_owned() },
        route("odd", "odd"),
        route("turn", if n.is_multiple_of(2) { "even" } else { "odd" }),
        route("swap", "swap"),
        route("even", "even"),
    ]
    .concat()
}

fn index(n: u64, of: u64) -> usize {
    usize::try_from(n % of).unwrap()
}

/// Who may answer what is asked under the `n`th configuration.
fn members(kind: &str, n: u64) -> &'static [&'static str] {
    match (kind, n % 2) {
        ("even", _) | ("turn", 0) => &TARGETS[..2],
        ("odd", _) | ("turn", _) => &TARGETS[2..],
        _ => SWAP[index(n, 3)],
    }
}

/// What the clients share.
#[derive(Debug)]
struct Shared {
    want: String,
    next: AtomicU64,
    churned: AtomicBool,
    /// Twice the number of the configuration in force; one more while it is being replaced.
    configuration: AtomicU64,
}

/// Tells the clients that all changes were lived through, or that the test has failed before.
struct Churned<'a>(&'a AtomicBool);

impl Drop for Churned<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a client saw go wrong.
#[derive(Debug)]
struct Failure {
    path: String,
    begun: Instant,
    at: Instant,
    /// Who had the connection when the request was made on it: who answered the one before, and when that was asked.
    connection_of: Option<(String, Instant)>,
    what: String,
}

/// One request; who answered, and whether the connection goes on. `Err` says what was wrong.
fn ask(
    shared: &Shared,
    before: u64,
    connection: &mut Connection,
    kind: &str,
    path: &str,
) -> Result<(String, bool), String> {
    connection.get(path).map_err(|e| format!("send: {e}"))?;
    let response = connection.response().map_err(|e| e.to_string())?;
    let after = shared.configuration.load(Ordering::SeqCst);
    if (response.status, &response.sha256) != (200, &shared.want) {
        return Err(format!("status {}, {} bytes", response.status, response.body_bytes));
    }
    // A request on a wrong pool is a failure that nothing excuses. One that a reload met was under either.
    let by = response.served_by();
    let mut under = before / 2..=after.div_ceil(2);
    assert!(
        under.any(|n| members(kind, n).contains(&by)),
        "{path} was answered by {by}: configurations {before} and {after}"
    );
    let closes = response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok((by.to_owned(), !closes))
}

/// A client until all is over: `kept` requests on each connection.
fn client(shared: &Shared, kept: u64) -> Vec<Failure> {
    let mut failures = Vec::new();
    loop {
        let mut connection: Option<Connection> = None;
        let mut connection_of: Option<(String, Instant)> = None;
        for _ in 0..kept {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            // As many as were promised, and on until the last change has been lived through.
            if number >= REQUESTS && shared.churned.load(Ordering::Relaxed) {
                return failures;
            }
            let kind = KINDS[index(number, 4)];
            let path = format!("/{kind}/10k?n={number}");
            let begun = Instant::now();
            let before = shared.configuration.load(Ordering::SeqCst);
            let asked = match connection.take().map_or_else(|| Connection::open(VIP), Ok) {
                Ok(mut open) => ask(shared, before, &mut open, kind, &path).map(|answer| (open, answer)),
                Err(e) => Err(format!("connect: {e}")),
            };
            match asked {
                Ok((open, (by, true))) => {
                    connection = Some(open);
                    connection_of = Some((by, begun));
                }
                Ok(_) => break,
                Err(what) => {
                    failures.push(Failure { path, begun, at: Instant::now(), connection_of, what });
                    break;
                }
            }
        }
    }
}

/// Drains a target and waits until nothing is left there, lets `change` be done to it, and takes it back.
fn drained(t: &TestLab, target: &str, change: impl FnOnce()) {
    let said = t.order(&format!("/v1/targets/{target}/drain?wait_ms=30000"));
    assert_eq!(said["drained"], true, "{said}");
    change();
    t.order(&format!("/v1/targets/{target}/undrain"));
    standing(t, target, "up");
}

fn standing(t: &TestLab, target: &str, wanted: &str) {
    t.eventually(&format!("{target} is {wanted}"), Duration::from_secs(20), |t| t.standing(target) == wanted);
}

/// Kills a target's server, nginx's workers as well: they are in their master's session. Gives when that began and when
/// none of them was left.
fn kill_server(t: &TestLab, target: &str) -> (Instant, Instant) {
    let session = t.pid(target, Program::Server).to_string();
    let began = Instant::now();
    t.lab.output(target, &["pkill", "-KILL", "--session", &session]).unwrap();
    t.eventually("nobody listens", Duration::from_secs(10), |t| {
        t.lab.output(target, &["ss", "-Hltn", "sport", "=", ":80"]).unwrap().trim().is_empty()
    });
    (began, Instant::now())
}

/// All the reloads, while the rest goes on.
fn reload_all(t: &TestLab, shared: &Shared) {
    let path = t.lab.config(INTERMEDIATE, Program::Balancer);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(&site(0)), "{text}");
    for n in 1..=RELOADS {
        std::fs::write(&path, text.replace(&site(0), &site(n))).unwrap();
        shared.configuration.fetch_add(1, Ordering::SeqCst);
        t.order("/v1/reload");
        shared.configuration.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(40));
    }
}

/// The target that each request was given to, by its path, as the access log has it.
fn given_to(log: &std::path::Path) -> HashMap<String, String> {
    let text = lab::whole_lines(log);
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of = |line: Value| Some((line["path"].as_str()?.to_owned(), line["target"].as_str()?.to_owned()));
    lines.filter_map(of).collect()
}

#[test]
fn ten_thousand_requests_survive_stops_starts_drains_and_a_hundred_reloads() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let shown = log.to_string_lossy().into_owned();
    let order = |s: LabSpec| {
        let s = s.intermediate_with("listener", "keepalive", "tracked");
        s.targets(4).intermediate_with("access_log", "path", shown).intermediate_also(&site(0))
    };
    let Some(t) = lab::up("churn", order) else { return };
    for kind in KINDS {
        let dir = t.lab.www_dir().join(kind);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::copy(t.lab.www_dir().join("10k"), dir.join("10k")).unwrap();
    }
    let shared = Arc::new(Shared {
        want: t.sha256("10k"),
        next: AtomicU64::new(0),
        churned: AtomicBool::new(false),
        configuration: AtomicU64::new(0),
    });
    let (failures, (killed, gone)) = std::thread::scope(|scope| {
        let all_churned = Churned(&shared.churned);
        let clients: Vec<_> = (0..PARALLEL)
            .map(|n| {
                let (t, shared) = (&t, Arc::clone(&shared));
                let kept = if n.is_multiple_of(2) { 1 } else { REQUESTS_KEPT };
                scope.spawn(move || t.client(move || client(&shared, kept)))
            })
            .collect();
        let reloading = scope.spawn(|| reload_all(&t, &shared));
        // In good order: nothing may fail.
        for target in ["target1", "target4", "target2"] {
            drained(&t, target, || {
                t.lab.stop(target, Program::Server).unwrap();
                t.lab.start(target, Program::Server).unwrap();
            });
        }
        drained(&t, "target3", || {
            t.lab.stop_agent("target3").unwrap();
            t.lab.start_agent("target3").unwrap();
        });
        // Not so: what is in flight on it is lost, nothing else.
        let killed = kill_server(&t, "target2");
        t.eventually("target2 is out", Duration::from_secs(20), |t| t.standing("target2") != "up");
        t.lab.start("target2", Program::Server).unwrap();
        standing(&t, "target2", "up");
        reloading.join().unwrap();
        drop(all_churned);
        let failures: Vec<Failure> = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
        (failures, killed)
    });
    assert!(shared.next.load(Ordering::Relaxed) >= REQUESTS);
    assert_eq!(t.metric(INTERMEDIATE, "baton_reloads_total{outcome=\"applied\"}"), RELOADS);
    let moved = t.metric(INTERMEDIATE, "baton_later_requests_total{outcome=\"moved\"}");
    assert!(moved > REQUESTS / 8, "only {moved} requests went to another target on their connection");

    let (given, lost) = (given_to(&log), failures.len() as u64);
    // The killed server had it: the request itself, or its connection, which ended before the request could be read. (What it had
    // answered its kernel still delivers behind its death, and sends it again if need be.)
    let excused = |f: &&Failure| {
        let had_it = given.get(&f.path).is_some_and(|target| target == "target2") && f.begun < gone;
        let had_connection = f.connection_of.as_ref().is_some_and(|(by, at)| by == "target2" && *at < gone);
        f.at >= killed && (had_it || had_connection)
    };
    let others: Vec<_> = failures.iter().filter(|f| !excused(f)).collect();
    for f in &others {
        let (target, after) = (given.get(&f.path), f.at.checked_duration_since(killed));
        println!("{}: {}, given to {target:?}, {after:?} after the kill: {f:?}", f.path, f.what);
    }
    assert!(others.is_empty(), "{} failed, with nothing to excuse them", others.len());
    assert!(lost <= PARALLEL, "{lost} were lost with one server, more than were in flight: {failures:?}");
    // As the servers saw it: what has one pool always reached no other, and no request ran twice.
    let mut seen = HashMap::new();
    for (target, line) in
        TARGETS.iter().flat_map(|target| t.access_log(target).into_iter().map(move |l| (*target, l)))
    {
        let Some(path) = line.split(' ').find(|word| word.contains("/10k?n=")) else { continue };
        let kind = path.split('/').nth(1).unwrap();
        assert!((0..6).any(|n| members(kind, n).contains(&target)), "{target} got {line}");
        if let Some(other) = seen.insert(path.to_owned(), target) {
            panic!("{path} ran on {other} and on {target}");
        }
    }
}
