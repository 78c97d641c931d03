//! Ten thousand requests while everything around them changes: targets drained, stopped, started and undrained, a server
//! killed, the configuration reloaded a hundred times.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{LabSpec, Program};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const REQUESTS: u64 = 10_000;
const PARALLEL: u64 = 50;
const RELOADS: u32 = 100;

/// Two pools of two, told apart by path; checks notice within a second what was stopped.
const SITE: &str = r#"
[[pool]]
name = "even"
targets = ["target1", "target2"]
[pool.health]
kind = "http"
path = "/1k"
interval_ms = 200
timeout_ms = 1000
rise = 2
fall = 2
[[pool]]
name = "odd"
targets = ["target3", "target4"]
[pool.health]
kind = "tcp"
interval_ms = 200
timeout_ms = 1000
rise = 2
fall = 2
[[route]]
name = "odd"
path = "/odd"
pool = "odd"
[[route]]
name = "even"
path = "/even"
pool = "even"
"#;

fn site(s: LabSpec) -> LabSpec {
    s.targets(4).intermediate_also(SITE)
}

/// Tells the clients that all changes were lived through, or that the test has failed before.
struct Churned<'a>(&'a AtomicBool);

impl Drop for Churned<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a client saw go wrong, and when.
#[derive(Debug)]
struct Failure {
    at: Instant,
    what: String,
}

/// One request of a new connection, of `/even` or `/odd` by its number; `Err` says what was wrong.
fn ask(number: u64, want: &str) -> Result<(), String> {
    let (path, pool) = if number.is_multiple_of(2) {
        ("/even/10k", ["target1", "target2"])
    } else {
        ("/odd/10k", ["target3", "target4"])
    };
    let mut connection = Connection::open(VIP).map_err(|e| format!("connect: {e}"))?;
    connection.get(path).map_err(|e| format!("send: {e}"))?;
    let response = connection.response().map_err(|e| format!("{path}: {e}"))?;
    let by = response.served_by().to_owned();
    // A request on a wrong pool is a failure that nothing excuses.
    assert!(response.status != 200 || pool.contains(&by.as_str()), "{path} was answered by {by}");
    if (response.status, response.sha256.as_str()) != (200, want) {
        return Err(format!("{path}: status {}, {} bytes from {by}", response.status, response.body_bytes));
    }
    Ok(())
}

fn drain_and_restart(t: &TestLab, target: &str) {
    t.order(&format!("/v1/targets/{target}/drain?wait_ms=10000"));
    t.lab.stop(target, Program::Server).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    t.lab.start(target, Program::Server).unwrap();
    t.order(&format!("/v1/targets/{target}/undrain"));
}

fn standing(t: &TestLab, target: &str, wanted: &str) {
    t.eventually(&format!("{target} is {wanted}"), Duration::from_secs(20), |t| t.standing(target) == wanted);
}

#[test]
fn ten_thousand_requests_survive_stops_starts_drains_and_a_hundred_reloads() {
    let Some(t) = lab::up("churn", site) else { return };
    for pool in ["even", "odd"] {
        let dir = t.lab.www_dir().join(pool);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::copy(t.lab.www_dir().join("10k"), dir.join("10k")).unwrap();
    }
    let want = t.sha256("10k");
    let (next, churned) = (AtomicU64::new(0), AtomicBool::new(false));
    let (failures, reloads, killed) = std::thread::scope(|scope| {
        let all_churned = Churned(&churned);
        let clients: Vec<_> = (0..PARALLEL)
            .map(|_| {
                let (want, t, next, churned) = (want.clone(), &t, &next, &churned);
                scope.spawn(move || {
                    let mut failures = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        // As many as were promised, and on until the last change has been lived through.
                        if number >= REQUESTS && churned.load(Ordering::Relaxed) {
                            return failures;
                        }
                        let want = want.clone();
                        if let Err(what) = t.client(move || ask(number, &want)) {
                            failures.push(Failure { at: Instant::now(), what });
                        }
                    }
                })
            })
            .collect();
        let reloading = scope.spawn(|| {
            let path = t.lab.config(INTERMEDIATE, Program::Balancer);
            let text = std::fs::read_to_string(&path).unwrap();
            for n in 1..=RELOADS {
                // Weights and limits change back and forth.
                let weight = 1 + n % 3;
                let member =
                    format!("targets = [\"target1\", {{ target = \"target2\", weight = {weight} }}]");
                let changed = text.replace("targets = [\"target1\", \"target2\"]", &member);
                assert_ne!(changed, text);
                std::fs::write(&path, changed).unwrap();
                t.order("/v1/reload");
                std::thread::sleep(Duration::from_millis(50));
            }
            RELOADS
        });
        // In good order: nothing may fail.
        for target in ["target1", "target4", "target2", "target3"] {
            drain_and_restart(&t, target);
            standing(&t, target, "up");
        }
        // Not so: what is in flight on it is lost, nothing else.
        let killed = Instant::now();
        // nginx's workers as well: they are in their master's session.
        let session = t.pid("target2", Program::Server).to_string();
        t.lab.output("target2", &["pkill", "-KILL", "--session", &session]).unwrap();
        t.eventually("target2 is out", Duration::from_secs(20), |t| t.standing("target2") != "up");
        t.lab.start("target2", Program::Server).unwrap();
        standing(&t, "target2", "up");
        let reloads = reloading.join().unwrap();
        drop(all_churned);
        let failures: Vec<Failure> = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
        (failures, reloads, killed)
    });
    assert_eq!(reloads, RELOADS);
    assert!(next.load(Ordering::Relaxed) >= REQUESTS);
    let excused =
        |f: &&Failure| f.at >= killed && f.at < killed + Duration::from_secs(2) && f.what.contains("/even");
    let others: Vec<&Failure> = failures.iter().filter(|f| !excused(f)).collect();
    assert!(
        others.is_empty(),
        "{} failed, the server was killed {:?} ago: {others:?}",
        others.len(),
        killed.elapsed()
    );
    let lost = failures.len() as u64;
    assert!(lost <= PARALLEL, "{lost} were lost with one server, more than were in flight: {failures:?}");
}
