//! Targets come and go, and requests do not notice: checks, what requests show, agents apart from servers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::lab::{self, TestLab};
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{LabSpec, Program};
use std::time::Duration;

const POOL: &str = r#"
[[pool]]
name = "web"
targets = ["target1", "target2"]
balance = "round_robin"
"#;

const CHECKS: &str = r#"
[pool.health]
kind = "http"
path = "/1k"
interval_ms = 200
timeout_ms = 1000
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
    let Some(t) = lab::up("killednginx", |s| pool(s, CHECKS)) else { return };
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
    assert_eq!((served(&t, "target1"), served(&t, "target2")), (3, 3));

    t.lab.kill("target1", Program::Server).unwrap();
    // Before the checks know: what its kernel refuses is given to the other.
    all_right(&t, 4);
    let retried = t.metric(INTERMEDIATE, "baton_handoffs_retried_total{reason=\"refused\"}");
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
    assert!(retried > 0, "a refused handoff was given to the other target");
    assert_eq!((t.all_proxied(), t.closed("no_target")), (0, 0));

    t.lab.start("target1", Program::Server).unwrap();
    let before = served(&t, "target1");
    t.eventually("it is back", limit, |t| t.standing("target1") == "up");
    all_right(&t, 6);
    assert_eq!(served(&t, "target1"), before + 3);
    t.expect_requests(26, 0);
}

#[test]
fn without_checks_refused_requests_eject_a_server_for_a_time() {
    let more = "[pool.health]\nkind = \"none\"\neject_failures = 2\neject_ms = 2000\n";
    let Some(t) = lab::up("ejected", |s| pool(s, more)) else { return };
    all_right(&t, 2);
    t.lab.kill("target1", Program::Server).unwrap();
    all_right(&t, 8);
    assert_eq!(t.standing("target1"), "ejected");
    let refused = || t.metric(INTERMEDIATE, "baton_refusals_total{reason=\"server_refused\"}");
    assert_eq!(refused(), 2, "no more than the failures it takes");
    // On probation one failure ejects again.
    t.eventually("its time is over", Duration::from_secs(5), |t| t.standing("target1") == "suspect");
    all_right(&t, 4);
    assert_eq!((refused(), t.standing("target1").as_str()), (3, "ejected"));
    t.lab.start("target1", Program::Server).unwrap();
    t.eventually("its longer time is over", Duration::from_secs(8), |t| t.standing("target1") == "suspect");
    all_right(&t, 4);
    assert_eq!((refused(), t.standing("target1").as_str()), (3, "up"));
    t.expect_requests(18, 0);
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
    let Some(t) = lab::up("deadagent", order) else { return };
    all_right(&t, 2);
    t.lab.kill_agent("target1").unwrap();
    t.eventually("the intermediate has noticed", Duration::from_secs(6), |t| {
        t.admin(INTERMEDIATE, "/v1/targets/target1")["agent_state"] == "gone"
    });
    let before = t.proxied("no_agent");
    all_right(&t, 5);
    assert_eq!(t.proxied("no_agent"), before + 5);
    assert_eq!(t.standing("target1"), "up", "its server answers its checks");
    t.lab.start_agent("target1").unwrap();
    t.eventually("its agent is back", Duration::from_secs(6), |t| {
        t.admin(INTERMEDIATE, "/v1/targets/target1")["agent_state"] == "up"
    });
    let migrated = t.migrated();
    all_right(&t, 3);
    t.eventually("they migrate", Duration::from_secs(3), |t| t.migrated() == migrated + 3);
}

#[test]
fn with_no_server_healthy_all_are_tried_and_it_is_called_a_panic() {
    let Some(t) = lab::up("panic", |s| pool(s, CHECKS)) else { return };
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
    assert_eq!(t.metric(INTERMEDIATE, "baton_pool_panic{pool=\"web\"}"), 0);
    all_right(&t, 4);
}

#[test]
fn load_reports_reach_the_intermediate() {
    let Some(t) = lab::up("loads", |s| pool(s, "")) else { return };
    all_right(&t, 4);
    t.eventually("the responses were counted", Duration::from_secs(5), |t| {
        let load = t.admin(INTERMEDIATE, "/v1/targets/target1")["load"][0].clone();
        load["listening"] == true && load["responses"].as_u64() >= Some(2) && load["accept_limit"] == 4096
    });
    let view = t.admin(INTERMEDIATE, "/v1/targets/target1");
    assert!(view["pools"][0]["latency_us"].as_u64().unwrap() > 0, "{view}");
}

/// One GET of the VIP from a node's own network; its status and sum, and how it went by the intermediate's record.
fn get_from(t: &TestLab, node: &str, path: &'static str) -> (u16, String, String) {
    let response = t.lab.inside(node, move || baton_tests::client::get(lab::VIP, path)).unwrap();
    let response = response.unwrap_or_else(|e| panic!("{node} {path}: {e}"));
    // A migrated response may be there before the intermediate has noted it.
    let newest = || t.admin(INTERMEDIATE, "/v1/migrations?limit=1")["migrations"][0].clone();
    let noted = || newest()["request"].as_str().is_some_and(|request| request.contains(path));
    t.eventually("the request is noted", Duration::from_secs(3), |_| noted());
    (response.status, response.sha256, newest()["outcome"].as_str().unwrap().to_owned())
}

#[test]
fn a_probe_along_the_real_path_comes_from_another_targets_host() {
    let Some(t) = lab::up("probepath", |s| pool(s, "")) else { return };
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
    let Some(t) = lab::up("ownclient", |s| pool(s, "")) else { return };
    let sum = t.sha256("10k");
    let (status, sha256, outcome) = get_from(&t, INTERMEDIATE, "/10k?vip");
    assert_eq!((status, &sha256, outcome.as_str()), (200, &sum, "proxied"));
    let other = netns_lab::plan::INTERMEDIATE_ADDR.to_string();
    let words = ["curl", "-sS", "--max-time", "10", "--interface", &other, "http://10.90.1.100/whoami"];
    let said = t.lab.output(INTERMEDIATE, &words).unwrap();
    assert!(said.starts_with("target: "), "{said}");
    assert_eq!(t.proxied("local_client"), 2);
}
