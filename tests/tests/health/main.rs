//! Targets come and go, and requests do not notice: checks, what requests show, agents apart from servers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod strained;

use baton_tests::lab::{self, TestLab};
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{Family, LabSpec, Program};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const POOL: &str = r#"
[[pool]]
name = "web"
targets = ["target1", "target2"]
balance = "round_robin"
"#;

const TARGETS: [&str; 2] = ["target1", "target2"];

const CHECKS: &str = r#"
[pool.health]
kind = "http"
path = "/1k"
interval_ms = 200
timeout_ms = 1000
rise = 2
fall = 3
"#;

/// A probe along the real path as the check.
const PROBES: &str = r#"
[pool.health]
kind = "migrate"
path = "/1k?check"
interval_ms = 200
timeout_ms = 5000
rise = 2
fall = 3
"#;

fn pool(s: LabSpec, more: &str) -> LabSpec {
    s.intermediate_with("listener", "pool", "web").intermediate_also(POOL).intermediate_also(more)
}

/// Requests to /1k on new connections; all must be right.
fn all_right(t: &TestLab, requests: usize) {
    let want = t.sha256("1k");
    for n in 0..requests {
        let response = t.get("/1k").unwrap_or_else(|e| panic!("request {n}: {e}"));
        assert_eq!((response.status, &response.sha256), (200, &want), "request {n}");
    }
}

/// Requests of ours that a target's server has answered: checks are no such.
fn served(t: &TestLab, target: &str) -> usize {
    t.access_log(target).iter().filter(|line| line.starts_with("10.90.11.2 ")).count()
}

fn member(target: &str, rest: &str) -> String {
    format!("pool=\"web\",target=\"{target}\",{rest}")
}

#[test]
fn a_killed_server_is_taken_out_by_its_checks_and_brought_back_without_a_failed_request() {
    let Some(t) = lab::up_beside("killednginx", |s| pool(s, CHECKS)) else { return };
    let checked = |t: &TestLab, target: &str| {
        t.admin(INTERMEDIATE, &format!("/v1/targets/{target}"))["pools"][0]["checked"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let limit = Duration::from_secs(10);
    t.eventually("both are checked", limit, |t| {
        checked(t, "target1") == "up" && checked(t, "target2") == "up"
    });
    all_right(&t, 6);
    // An answer may be here before its server has logged it.
    t.eventually("three requests each", limit, |t| TARGETS.map(|target| served(t, target)) == [3, 3]);

    // Before the checks know: what its kernel refuses is given to the other. On a busy machine they may be faster.
    let mut requests = 6;
    let retried = loop {
        t.lab.kill("target1", Program::Server).unwrap();
        all_right(&t, 4);
        requests += 4;
        let retried = t.metric(INTERMEDIATE, "baton_handoffs_retried_total{reason=\"refused\"}");
        if retried > 0 {
            break retried;
        }
        assert_ne!(t.standing("target1"), "up", "a refused handoff was given to the other target");
        assert!(requests < 6 + 5 * 4, "the checks were always faster");
        t.lab.start("target1", Program::Server).unwrap();
        t.eventually("it is back", limit, |t| t.standing("target1") == "up");
    };
    t.eventually("the checks take it out", limit, |t| t.standing("target1") == "failing");
    let labels = member("target1", "result=\"failed\"");
    assert!(t.metric(INTERMEDIATE, &format!("baton_checks_total{{{labels}}}")) >= 3);
    let labels = member("target1", "standing=\"failing\"");
    assert_eq!(t.metric(INTERMEDIATE, &format!("baton_member_standing{{{labels}}}")), 1);
    let of_others = retried + t.metric(INTERMEDIATE, "baton_refusals_total{reason=\"server_refused\"}");
    all_right(&t, 10);
    let now = t.metric(INTERMEDIATE, "baton_handoffs_retried_total{reason=\"refused\"}")
        + t.metric(INTERMEDIATE, "baton_refusals_total{reason=\"server_refused\"}");
    assert_eq!(now, of_others, "nothing is tried there any more");
    assert_eq!((t.all_proxied(), t.closed("no_target")), (0, 0));

    t.lab.start("target1", Program::Server).unwrap();
    let before = served(&t, "target1");
    t.eventually("it is back", limit, |t| t.standing("target1") == "up");
    all_right(&t, 6);
    t.eventually("half of them are its own", limit, |t| served(t, "target1") == before + 3);
    t.expect_requests(requests + 10 + 6, 0);
}

#[test]
fn without_checks_refused_requests_eject_a_server_for_a_time() {
    let more = "[pool.health]\nkind = \"none\"\neject_failures = 2\neject_ms = 2000\n";
    let Some(t) = lab::up_beside("ejected", |s| pool(s, more)) else { return };
    all_right(&t, 2);
    let refused = || t.metric(INTERMEDIATE, "baton_refusals_total{reason=\"server_refused\"}");
    let mut requests = 2;
    let ejected = loop {
        let (before, killed) = (refused(), Instant::now());
        t.lab.kill("target1", Program::Server).unwrap();
        all_right(&t, 8);
        requests += 8;
        let (tried, standing) = (refused() - before, t.standing("target1"));
        if killed.elapsed() < Duration::from_secs(2) {
            assert_eq!((tried, standing.as_str()), (2, "ejected"), "no more than the failures it takes");
            break before + 2;
        }
        // A busy machine: its time may be over already.
        assert!(requests < 2 + 5 * 9, "nothing was done in its time");
        t.lab.start("target1", Program::Server).unwrap();
        t.eventually("it is up again", Duration::from_secs(30), |t| {
            all_right(t, 1);
            requests += 1;
            t.standing("target1") == "up"
        });
    };
    // On probation one failure ejects again.
    t.eventually("its time is over", Duration::from_secs(10), |t| t.standing("target1") == "suspect");
    all_right(&t, 4);
    assert_eq!((refused(), t.standing("target1").as_str()), (ejected + 1, "ejected"));
    t.lab.start("target1", Program::Server).unwrap();
    t.eventually("its longer time is over", Duration::from_secs(20), |t| t.standing("target1") == "suspect");
    all_right(&t, 4);
    assert_eq!((refused(), t.standing("target1").as_str()), (ejected + 1, "up"));
    t.expect_requests(requests + 8, 0);
}

#[test]
fn a_server_whose_agent_is_dead_is_well_and_is_proxied_to() {
    let only = "[[pool]]\nname = \"web\"\ntargets = [\"target1\"]\n";
    let order = |s: LabSpec| {
        s.targets(1)
            .intermediate_with("listener", "pool", "web")
            .intermediate_also(only)
            .intermediate_also(CHECKS)
    };
    let Some(t) = lab::up_beside("deadagent", order) else { return };
    all_right(&t, 2);
    t.lab.kill_agent("target1").unwrap();
    t.eventually("the intermediate has noticed", Duration::from_secs(15), |t| {
        t.admin(INTERMEDIATE, "/v1/targets/target1")["agent_state"] == "gone"
    });
    let before = t.proxied("no_agent");
    all_right(&t, 5);
    assert_eq!(t.proxied("no_agent"), before + 5);
    assert_eq!(t.standing("target1"), "up", "its server answers its checks");
    t.lab.start_agent("target1").unwrap();
    t.eventually("its agent is back", Duration::from_secs(15), |t| {
        t.admin(INTERMEDIATE, "/v1/targets/target1")["agent_state"] == "up"
    });
    // The first two have been counted by now.
    let migrated = t.migrated();
    all_right(&t, 3);
    t.eventually("they migrate", Duration::from_secs(10), |t| t.migrated() == migrated + 3);
}

#[test]
fn with_no_server_healthy_all_are_tried_and_it_is_called_a_panic() {
    let Some(t) = lab::up_beside("panic", |s| pool(s, CHECKS)) else { return };
    all_right(&t, 2);
    for target in ["target1", "target2"] {
        t.lab.kill(target, Program::Server).unwrap();
    }
    let limit = Duration::from_secs(10);
    t.eventually("both are out", limit, |t| {
        t.standing("target1") == "failing" && t.standing("target2") == "failing"
    });
    assert_eq!(t.admin(INTERMEDIATE, "/v1/pools")["pools"][0]["panic"], true);
    assert_eq!(t.metric(INTERMEDIATE, "baton_pool_panic{pool=\"web\"}"), 1);
    assert_eq!(t.get("/1k").unwrap().status, 503);
    assert!(t.metric(INTERMEDIATE, "baton_pool_panic_picks_total{pool=\"web\"}") > 0, "both were tried");
    // One that is back before its checks know it serves already: that is what the panic is for.
    t.lab.start("target2", Program::Server).unwrap();
    all_right(&t, 4);
    t.eventually("one is back", limit, |t| t.standing("target2") == "up");
    t.eventually("the panic is over", limit, |t| {
        t.metric(INTERMEDIATE, "baton_pool_panic{pool=\"web\"}") == 0
    });
    all_right(&t, 4);
}

#[test]
fn load_reports_reach_the_intermediate() {
    let Some(t) = lab::up_beside("loads", |s| pool(s, "")) else { return };
    all_right(&t, 4);
    t.eventually("the responses were counted and timed", Duration::from_secs(15), |t| {
        let view = t.admin(INTERMEDIATE, "/v1/targets/target1");
        let load = &view["load"][0];
        load["listening"] == true
            && load["responses"].as_u64() >= Some(2)
            && load["accept_limit"] == 4096
            && view["pools"][0]["latency_us"].as_u64() > Some(0)
    });
}

/// One GET of the VIP from a node's own network; its status and sum, and how it went by the intermediate's record.
fn get_from(t: &TestLab, node: &str, path: &'static str) -> (u16, String, String) {
    let newest = || t.admin(INTERMEDIATE, "/v1/migrations?limit=1")["migrations"][0].clone();
    let before = newest();
    let response = t.lab.inside(node, move || baton_tests::client::get(lab::VIP, path)).unwrap();
    let response = response.unwrap_or_else(|e| panic!("{node} {path}: {e}"));
    // A migrated response may be there before the intermediate has noted it, whatever the query is, which it does not show.
    let noted = || newest()["client"] != before["client"];
    t.eventually("the request is noted", Duration::from_secs(10), |_| noted());
    (response.status, response.sha256, newest()["outcome"].as_str().unwrap().to_owned())
}

#[test]
fn a_probe_along_the_real_path_comes_from_another_targets_host() {
    let Some(t) = lab::up_beside("probepath", |s| pool(s, "")) else { return };
    let sum = t.sha256("10k");
    t.order("/v1/targets/target2/drain");
    // From another target's host a connection to the VIP migrates like any client's.
    let (status, sha256, outcome) = get_from(&t, "target2", "/10k?other");
    assert_eq!((status, &sha256, outcome.as_str()), (200, &sum, "migrated"));
    // The probed target's own host cannot be its client: the answers would not leave it. It is served all the same.
    let (status, sha256, outcome) = get_from(&t, "target1", "/10k?own");
    assert_eq!((status, &sha256, outcome.as_str()), (200, &sum, "proxied"));
    assert_eq!(t.proxied("local_client"), 1);
    t.order("/v1/targets/target2/undrain");
    let (status, sha256, outcome) = get_from(&t, "target1", "/10k?elsewhere");
    assert_eq!((status, &sha256, outcome.as_str()), (200, &sum, "migrated"), "to the other target");
}

#[test]
fn a_client_on_the_intermediates_own_host_is_proxied_by_each_of_its_addresses() {
    let Some(t) = lab::up_beside("ownclient", |s| pool(s, "")) else { return };
    let sum = t.sha256("10k");
    let (status, sha256, outcome) = get_from(&t, INTERMEDIATE, "/10k?vip");
    assert_eq!((status, &sha256, outcome.as_str()), (200, &sum, "proxied"));
    let other = netns_lab::plan::INTERMEDIATE_ADDR.to_string();
    let words = ["curl", "-sS", "--max-time", "30", "--interface", &other, "http://10.90.1.100/whoami"];
    let said = t.lab.output(INTERMEDIATE, &words).unwrap();
    assert!(said.starts_with("target: "), "{said}");
    assert_eq!(t.proxied("local_client"), 2);
}

/// Orders a probe; its answer.
fn probe(t: &TestLab, target: &str, query: &str) -> serde_json::Value {
    t.order(&format!("/v1/targets/{target}/probe?{query}"))
}

/// What servers logged of a path: which, and the line.
fn logged(t: &TestLab, path: &str) -> Vec<(&'static str, String)> {
    let asked = format!(" {path} ");
    let of = |target| {
        let lines = t.access_log(target).into_iter().filter(|line| line.contains(&asked));
        lines.map(move |line| (target, line)).collect::<Vec<_>>()
    };
    ["target1", "target2"].into_iter().flat_map(of).collect()
}

#[test]
fn a_probe_migrates_to_the_target_asked_for_from_another_host_and_the_server_sees_an_ordinary_request() {
    let second = "\n[[listener]]\nname = \"second\"\nvip = \"10.90.1.100:81\"\npool = \"web\"\n";
    let allow =
        "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"10.90.1.100:81\"\nserver = \"ADDRESS:80\"\n";
    let Some(t) = lab::up_beside("probed", |s| lab::both(pool(s, second)).agents_also(allow)) else { return };
    let address = |target: &str, vip: SocketAddr| {
        let number = if target == "target1" { 1 } else { 2 };
        plan::target_addrs(Family::Dual, number)[usize::from(vip.is_ipv6())]
    };
    let well = |answer: &serde_json::Value, target: &str, from: &str| {
        let words = ["ok", "verdict", "migrated", "target", "from", "status"].map(|key| &answer[key]);
        let want = serde_json::json!([true, "well", true, target, from, 200]);
        assert_eq!(serde_json::json!(words), want, "{answer}");
        assert_eq!(
            (&answer["reason"], answer["body_bytes"].as_u64()),
            (&serde_json::Value::Null, Some(1024))
        );
        assert!(
            answer["stages_us"]["freeze"].is_u64() && answer["first_byte_us"].as_u64() > Some(0),
            "{answer}"
        );
        assert!(answer["total_us"].as_u64() >= answer["first_byte_us"].as_u64(), "{answer}");
    };
    // Each way, again and again: the pool's turns do not matter.
    for (n, vip) in (0..6).zip(lab::VIPS.into_iter().cycle()) {
        for (target, other) in [("target1", "target2"), ("target2", "target1")] {
            let path = format!("/1k?{target}-{n}");
            // The first listener's VIP need not be named.
            let at = if n < 2 && vip == lab::VIP { String::new() } else { format!("&vip={vip}") };
            let answer = probe(&t, target, &format!("path=/1k%3F{target}-{n}{at}"));
            well(&answer, target, other);
            assert_eq!(answer["vip"], vip.to_string());
            t.eventually("it is logged", Duration::from_secs(10), |t| !logged(t, &path).is_empty());
            let lines = logged(&t, &path);
            assert_eq!(lines.len(), 1, "{lines:?}");
            let (at, line) = &lines[0];
            assert!(*at == target && line.starts_with(&format!("{} ", address(other, vip))), "{lines:?}");
            // Not a byte of the header reached the server.
            let seen = format!("GET {path} HTTP/1.1\r\nConnection: close\r\nHost: {vip}\r\n\r\n");
            assert!(line.ends_with(&format!(" {}", seen.len())), "{line}, wanted {}", seen.len());
            let flow = answer["flow_id"].as_str().unwrap().to_owned();
            let newest = t.admin(INTERMEDIATE, "/v1/migrations?limit=1")["migrations"][0].clone();
            assert_eq!(
                (newest["id"].as_str(), newest["target"].as_str()),
                (Some(flow.as_str()), Some(target))
            );
        }
    }
    t.order("/v1/targets/target1/drain");
    well(&probe(&t, "target1", "path=/1k"), "target1", "target2");
    t.order("/v1/targets/target1/undrain");
    // At the listener that is named.
    let answer = probe(&t, "target1", "path=/1k&vip=10.90.1.100:81");
    well(&answer, "target1", "target2");
    assert_eq!(answer["vip"], "10.90.1.100:81");
    for (order, vip, want, say) in [
        ("undrain", "10.90.1.100:82", 404, "there are 10.90.1.100:80, [fd90:1::100]:80, 10.90.1.100:81"),
        ("drain", "10.90.1.100:81", 409, "10.90.1.100:81 is drained"),
    ] {
        t.order(&format!("/v1/listeners/second/{order}"));
        let path = format!("/v1/targets/target1/probe?vip={vip}");
        let (status, text) = t.lab.admin_post(INTERMEDIATE, &path).unwrap();
        assert!(status == want && text.contains(say), "{status} {text}");
    }
    // Well along the way, but not what the server says.
    let missing = probe(&t, "target1", "path=/missing");
    assert_eq!(
        (&missing["ok"], &missing["migrated"], &missing["status"]),
        (&false.into(), &true.into(), &404.into())
    );
    assert_eq!(
        (&missing["verdict"], &missing["reason"]),
        (&"status".into(), &"the answer's status is 404".into())
    );

    // A client that brings such a header is a client.
    let with_header = |token: &str| {
        let token = token.to_owned();
        let ask = move || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(lab::VIP).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let head = format!(
                "GET /1k?guess HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Baton-Probe: {token}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        };
        t.lab.inside("target2", ask).unwrap()
    };
    t.order("/v1/targets/target2/drain");
    assert!(with_header("00000000000000000000000000000000").starts_with(b"HTTP/1.1 200"));
    let results =
        |result: &str| t.metric(INTERMEDIATE, &format!("baton_probes_total{{result=\"{result}\"}}"));
    t.eventually("all are counted", Duration::from_secs(10), |_| results("ok") + results("failed") >= 15);
    assert_eq!((results("ok"), results("failed")), (14, 1));
    t.expect_requests(16, 0);
}

/// How many of a member's checks had a result.
fn checks(t: &TestLab, target: &str, result: &str) -> u64 {
    let labels = member(target, &format!("result=\"{result}\""));
    t.metric(INTERMEDIATE, &format!("baton_checks_total{{{labels}}}"))
}

#[test]
fn a_probe_of_a_dead_server_or_agent_says_why_it_is_not_well_and_as_a_check_takes_only_the_server_out() {
    let Some(t) = lab::up_beside("probedead", |s| pool(s, PROBES)) else { return };
    let limit = Duration::from_secs(30);
    t.eventually("checks pass", limit, |t| {
        TARGETS.iter().all(|target| checks(t, target, "passed") >= 2 && t.standing(target) == "up")
    });
    // They really migrated, each to the target checked, from the other's host.
    for (target, other) in [("target1", "10.90.102.2 "), ("target2", "10.90.101.2 ")] {
        let passed = checks(&t, target, "passed");
        // The answer may be there before its server has logged it.
        t.eventually("each check is logged as the other host's", Duration::from_secs(10), |t| {
            let lines = logged(t, "/1k?check");
            let of_other = lines.iter().filter(|(at, line)| *at == target && line.starts_with(other));
            of_other.count() as u64 >= passed
        });
    }
    // A probe that was made before the agents were connected was proxied, and told nothing.
    assert_eq!(TARGETS.map(|target| checks(&t, target, "failed")), [0, 0]);

    // Nothing is heard of a stopped agent for longer than a probe waits, and its handoff is still under way then.
    t.lab.signal("target1", Program::Agent, libc::SIGSTOP).unwrap();
    let stopped = probe(&t, "target1", "path=/1k&timeout_ms=1000");
    t.lab.signal("target1", Program::Agent, libc::SIGCONT).unwrap();
    let words = ["ok", "verdict", "migrated"].map(|key| &stopped[key]);
    assert_eq!(serde_json::json!(words), serde_json::json!([false, "unanswered", false]), "{stopped}");

    t.lab.kill("target1", Program::Server).unwrap();
    t.eventually("its checks take it out", limit, |t| t.standing("target1") == "failing");
    t.eventually("the last one says why", limit, |t| {
        let last = &t.admin(INTERMEDIATE, "/v1/targets/target1")["pools"][0]["last_check"];
        last["result"] == "failed" && last["failure"] == "refused: server_refused"
    });
    assert_eq!((t.standing("target2").as_str(), checks(&t, "target2", "failed")), ("up", 0));
    let answer = probe(&t, "target1", "path=/1k");
    assert_eq!((&answer["ok"], &answer["migrated"]), (&false.into(), &false.into()), "{answer}");
    assert_eq!(answer["verdict"], "not_migrated", "{answer}");
    assert_eq!(answer["reason"], "refused: server_refused", "{answer}");
    assert_eq!(answer["status"], 200, "the client was served all the same, by the other: {answer}");
    t.lab.start("target1", Program::Server).unwrap();
    t.eventually("it is well again", Duration::from_secs(20), |t| {
        probe(t, "target1", "path=/1k")["ok"] == true
    });
    t.eventually("its checks bring it back", limit, |t| t.standing("target1") == "up");

    // The probed target's agent is gone: nothing migrates there. The asking one's: nobody asks.
    t.lab.kill_agent("target1").unwrap();
    t.eventually("the intermediate has noticed", Duration::from_secs(15), |t| {
        t.admin(INTERMEDIATE, "/v1/targets/target1")["agent_state"] == "gone"
    });
    let answer = probe(&t, "target1", "path=/1k");
    assert_eq!((&answer["ok"], &answer["reason"]), (&false.into(), &"no_agent".into()), "{answer}");
    let (status, text) = t.lab.admin_post(INTERMEDIATE, "/v1/targets/target2/probe").unwrap();
    assert!(
        status == 409 && text.contains("no agent of another target's host is connected"),
        "{status} {text}"
    );
    // As checks these tell nothing: both stay as they stand.
    let untold = TARGETS.map(|target| checks(&t, target, "untold"));
    let failed = TARGETS.map(|target| checks(&t, target, "failed"));
    t.eventually("more checks than it takes to fail", limit, |t| {
        TARGETS.iter().zip(untold).all(|(target, before)| checks(t, target, "untold") > before + 4)
    });
    assert_eq!(TARGETS.map(|target| checks(&t, target, "failed")), failed);
    assert_eq!(TARGETS.map(|target| t.standing(target)), ["up", "up"]);
}

#[test]
fn a_probe_over_ipv6_passes_over_hosts_that_have_the_vip_for_their_own() {
    let three = "[[pool]]\nname = \"web\"\ntargets = [\"target1\", \"target2\", \"target3\"]\n";
    let order = |s: LabSpec| {
        s.targets(3)
            .family(netns_lab::Family::V6)
            .intermediate_with("listener", "pool", "web")
            .intermediate_also(three)
    };
    let Some(t) = lab::up_beside("probe6", order) else { return };
    let own = format!("{}/128", netns_lab::plan::VIP6.ip());
    t.lab.output("target2", &["ip", "-6", "route", "add", "local", &own, "dev", "lo"]).unwrap();
    // Of two that could ask, the first in order cannot reach the VIP.
    for (target, from) in [("target1", "target3"), ("target2", "target1"), ("target3", "target1")] {
        let answer = probe(&t, target, "path=/1k");
        let words =
            [&answer["ok"], &answer["migrated"], &answer["from"], &answer["status"], &answer["reason"]];
        assert_eq!(serde_json::json!(words), serde_json::json!([true, true, from, 200, null]), "{answer}");
        assert_eq!(answer["vip"], serde_json::json!(netns_lab::plan::VIP6.to_string()), "{answer}");
    }
    t.lab.kill_agent("target3").unwrap();
    t.eventually("the intermediate has noticed", Duration::from_secs(15), |t| {
        t.admin(INTERMEDIATE, "/v1/targets/target3")["agent_state"] == "gone"
    });
    let (status, text) = t.lab.admin_post(INTERMEDIATE, "/v1/targets/target1/probe").unwrap();
    let says = "can ask: target2: the VIP is an address of the asking host";
    assert!(status == 409 && text.contains(says), "{status} {text}");
    t.expect_requests(3, 0);
}

#[test]
fn a_target_alone_cannot_be_probed_and_a_bad_order_is_refused() {
    let only = "[[pool]]\nname = \"web\"\ntargets = [\"target1\"]\n";
    let order =
        |s: LabSpec| s.targets(1).intermediate_with("listener", "pool", "web").intermediate_also(only);
    let Some(t) = lab::up_beside("probealone", order) else { return };
    let refused = |path: &str| t.lab.admin_post(INTERMEDIATE, path).unwrap();
    let (status, text) = refused("/v1/targets/target1/probe");
    assert!(
        status == 409 && text.contains("there is no target on another host that could ask"),
        "{status} {text}"
    );
    assert_eq!(refused("/v1/targets/nobody/probe").0, 404);
    assert_eq!(refused("/v1/targets/target1/probe?wait_ms=1").0, 400);
    assert_eq!(refused("/v1/targets/target1/probe?timeout_ms=0").0, 400);
    t.expect_requests(0, 0);
}
