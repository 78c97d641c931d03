use super::*;
use crate::targets::{AgentLink, NotSent, Servers, TargetSpec, Targets};
use baton_shared::control::{Message, ServerLoad};
use baton_shared::health::{Admin, AdminOrder, AgentEvent, CheckResult};
use baton_shared::route::{HeaderLines, RequestFacts};
use baton_shared::translate::Leg;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

struct Link(bool);
impl AgentLink for Link {
    fn send(&self, _: Message) -> Result<(), NotSent> {
        Ok(())
    }
    fn is_up(&self) -> bool {
        self.0
    }
}

const VIP: &str = "10.0.0.9:80";
const VIP6: &str = "[2001:db8::9]:80";
const SERVER: &str = "10.0.0.1:80";

/// Header lines of a request.
struct Lines(&'static [(&'static str, String)]);
impl HeaderLines for Lines {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.iter().any(|(found, value)| found.eq_ignore_ascii_case(name) && test(value.as_bytes()))
    }
}

fn members(all: &[(bool, &[&str])]) -> Vec<Member> {
    let spec = |(n, (_, servers)): (usize, &(bool, &[&str]))| TargetSpec {
        name: format!("target{n}"),
        servers: Servers::new(servers.iter().map(|s| s.parse().unwrap())),
        agent: format!("10.0.0.{}:7400", n + 1).parse().unwrap(),
        agent_name: format!("target{n}"),
        leg: Leg::Rewrite,
    };
    let targets = Targets::new(all.iter().enumerate().map(spec));
    for (target, (up, _)) in targets.iter().zip(all) {
        target.agent.add_link(Arc::new(Link(*up)));
    }
    targets.iter().map(|target| Member::new(target, 1)).collect()
}

fn choosing(up: &[bool], choice: Choice) -> Pool {
    let all: Vec<(bool, &[&str])> = up.iter().map(|up| (*up, &[SERVER][..])).collect();
    Pool::choosing("p", members(&all), choice)
}

fn round_robin() -> Choice {
    Choice { method: Method::RoundRobin, ..Choice::default() }
}

fn facts(vip: &str, lines: &'static Lines) -> PickFacts<'static> {
    PickFacts {
        client: "10.0.0.7:1234".parse().unwrap(),
        vip: vip.parse().unwrap(),
        request: RequestFacts::new(0, "GET", "/a?b", lines),
    }
}

static NO_LINES: Lines = Lines(&[]);

fn pick(pool: &Pool) -> Result<usize, ProxyReason> {
    pool.pick(&facts(VIP, &NO_LINES), &[]).map(TargetId::place)
}

/// Facts of a request with this `Cookie` line.
fn with_cookie(value: String) -> PickFacts<'static> {
    let lines = Box::leak(Box::new([("cookie", value)]));
    facts(VIP, Box::leak(Box::new(Lines(lines))))
}

fn fail(pool: &Pool, n: u32) {
    let target = TargetId::new(n);
    for _ in 0..3 {
        pool.report(target, Signal::Failed);
    }
    assert_eq!(pool.members()[target.place()].standing(), Standing::Ejected);
}

#[test]
fn connected_targets_take_turns_and_others_are_passed_over() {
    let pool = choosing(&[true, false, true], round_robin());
    let picked: Vec<_> = (0..4).map(|_| pick(&pool).unwrap()).collect();
    assert_eq!(picked, [0, 2, 0, 2]);
    assert_eq!(pool.pick(&facts(VIP, &NO_LINES), &[TargetId::new(0)]), Ok(TargetId::new(2)));
    assert_eq!(pool.members()[0].picks(), (2, 0));
}

#[test]
fn without_a_connected_agent_nothing_is_picked_but_for_the_proxy() {
    let pool = choosing(&[false, false], round_robin());
    assert_eq!(pick(&pool), Err(ProxyReason::NoAgent));
    let any: Vec<_> =
        (0..4).filter_map(|_| pool.pick_any(&facts(VIP, &NO_LINES), &[])).map(TargetId::place).collect();
    assert_eq!(any, [0, 1, 0, 1]);
    assert_eq!(pool.pick_any(&facts(VIP, &NO_LINES), &[TargetId::new(0), TargetId::new(1)]), None);
}

#[test]
fn a_target_with_two_addresses_is_one_server_tried_at_that_of_the_vips_family() {
    let all: [(bool, &[&str]); 3] = [
        (true, &["10.0.0.1:80", "[2001:db8::1]:80"]),
        (true, &["[2001:db8::2]:80", "10.0.0.2:80"]),
        (true, &["10.0.0.3:80"]),
    ];
    let pool = Pool::choosing("p", members(&all), round_robin());
    for (vip, own, other) in [
        (VIP, ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"], ["[2001:db8::1]:80", "[2001:db8::2]:80"]),
        (VIP6, ["[2001:db8::1]:80", "[2001:db8::2]:80", "10.0.0.3:80"], ["10.0.0.1:80", "10.0.0.2:80"]),
    ] {
        let facts = facts(vip, &NO_LINES);
        let mut tried: Vec<_> = servers(&pool, &facts, None).map(|(id, at)| (id, at.to_string())).collect();
        let others = tried.split_off(own.len());
        tried.sort();
        let tried: Vec<_> = tried.iter().map(|(_, at)| at.as_str()).collect();
        assert_eq!(tried, own, "each target once: {vip}");
        let mut others: Vec<_> = others.iter().map(|(_, at)| at.as_str()).collect();
        others.sort_unstable();
        assert_eq!(others, other, "and then where else they are: {vip}");
        // One that cannot be reached leaves one try for another target.
        let two: HashSet<_> = tries(servers(&pool, &facts, None), 1).map(|(id, _)| id).collect();
        assert_eq!(two.len(), 2, "{vip}");
    }
}

#[test]
fn a_request_goes_to_a_target_that_serves_its_family() {
    let (v4, v6) = (SERVER, "[2001:db8::1]:80");
    let all: [(bool, &[&str]); 3] = [(true, &[v4]), (true, &[v4, v6]), (false, &[v6])];
    let of = |all: &[(bool, &[&str])]| Pool::new("p", members(all)).pick(&facts(VIP6, &NO_LINES), &[]);
    for _ in 0..3 {
        assert_eq!(of(&all), Ok(TargetId::new(1)));
    }
    assert_eq!(of(&all[..1]), Err(ProxyReason::AddressFamily));
    assert_eq!(of(&all[2..]), Err(ProxyReason::NoAgent));
}

#[test]
fn a_drained_target_gets_nothing_by_any_way_until_it_is_taken_back() {
    for method in [Method::P2c, Method::RoundRobin, Method::Maglev, Method::Rendezvous, Method::LeastTime] {
        let sticky = StickySpec { cookie: "c".into(), secret: String::new(), first_proxied: false };
        let pool = choosing(&[true, true], Choice { method, sticky: Some(sticky), ..Choice::default() });
        let ordered = &pool.members()[0].target.ordered;
        ordered.give(AdminOrder::Drain);
        let own = with_cookie(format!("c={}", pool.cookie_of(TargetId::new(0)).unwrap()));
        for _ in 0..50 {
            assert_eq!(pick(&pool), Ok(1), "{method:?}");
            assert_eq!(pool.pick(&own, &[]), Ok(TargetId::new(1)), "its own clients go elsewhere too");
            assert_eq!(pool.pick_any(&own, &[]), Some(TargetId::new(1)));
        }
        assert!(!pool.takes(TargetId::new(0)));
        pool.members()[1].target.ordered.give(AdminOrder::Drain);
        assert_eq!(pick(&pool), Err(ProxyReason::NoUsableTarget), "no panic brings drained ones back");
        assert_eq!(pool.pick_any(&own, &[]), None);
        assert_eq!(ordered.give(AdminOrder::Undrain), (Admin::Draining, Admin::Ready));
        assert_eq!(pool.pick(&own, &[]), Ok(TargetId::new(0)));
    }
}

#[test]
fn an_ejected_target_is_passed_over_and_comes_back() {
    let choice = Choice {
        health: HealthSpec {
            passive: baton_shared::health::PassiveThresholds { failures: 3, strains: 3, eject_ns: 1_000 },
            ..HealthSpec::default()
        },
        slow_start: Duration::from_secs(3600),
        ..round_robin()
    };
    let pool = choosing(&[true, true], choice);
    fail(&pool, 0);
    assert_eq!((0..3).map(|_| pick(&pool).unwrap()).collect::<Vec<_>>(), [1, 1, 1]);
    std::thread::sleep(Duration::from_millis(1));
    for member in pool.members() {
        member.on_time(&pool, monotonic_ns());
    }
    assert_eq!(pool.members()[0].standing(), Standing::Suspect);
    assert!(pool.view().members[0].weight_now < 0.02, "it starts slowly: {:?}", pool.view());
    assert_eq!((0..20).filter(|_| pick(&pool) == Ok(0)).count(), 0);
    pool.report(TargetId::new(0), Signal::Served);
    assert_eq!(pool.members()[0].standing(), Standing::Up);
}

#[test]
fn with_none_healthy_all_are_used_and_it_shows() {
    let pool = choosing(&[true, true], round_robin());
    fail(&pool, 0);
    assert!(!pool.in_panic());
    fail(&pool, 1);
    assert!(pool.in_panic() && pool.view().panic);
    let mut picked: Vec<_> = (0..4).map(|_| pick(&pool).unwrap()).collect();
    picked.sort_unstable();
    assert_eq!(picked, [0, 0, 1, 1]);
    assert_eq!(pool.panic_picks(), 4);
}

#[test]
fn who_belongs_to_a_member_by_hash_is_proxied_there_if_its_agent_is_gone() {
    let pool = choosing(&[true, false], Choice { method: Method::Maglev, ..Choice::default() });
    let mut seen = [false; 2];
    for n in 0..40 {
        let client = format!("10.1.0.{n}:1234").parse().unwrap();
        let facts = PickFacts { client, ..facts(VIP, &NO_LINES) };
        let any = pool.pick_any(&facts, &[]).unwrap();
        let migrated = pool.pick(&facts, &[]);
        assert_eq!(migrated, if any.place() == 0 { Ok(any) } else { Err(ProxyReason::NoAgent) });
        seen[any.place()] = true;
    }
    assert_eq!(seen, [true, true]);
}

#[test]
fn a_stopping_agent_gets_no_handoffs_until_its_successor_is_there() {
    let pool = choosing(&[true, true], round_robin());
    let agent = &pool.members()[0].target.agent;
    agent.on_event(AgentEvent::Connected);
    agent.on_event(AgentEvent::RefusedDraining);
    assert_eq!((0..3).map(|_| pick(&pool).unwrap()).collect::<Vec<_>>(), [1, 1, 1]);
    agent.on_event(AgentEvent::Disconnected);
    agent.on_event(AgentEvent::Connected);
    assert!((0..3).any(|_| pick(&pool) == Ok(0)));
}

#[test]
fn a_cookie_brings_back_and_a_response_sets_it_only_if_need_be() {
    let sticky = StickySpec { cookie: "baton".into(), secret: "s".into(), first_proxied: true };
    let pool = choosing(&[true, true], Choice { sticky: Some(sticky), ..Choice::default() });
    assert_eq!(pick(&pool), Err(ProxyReason::StickyCookie));
    let bare = facts(VIP, &NO_LINES);
    let (name, value) = pool.cookie_to_set(&bare, TargetId::new(1)).unwrap();
    for line in
        [format!("{name}={value}"), format!("a=b; {name}=\"{value}\"; c"), format!("{name}=x;{name}={value}")]
    {
        let own = with_cookie(line);
        for _ in 0..10 {
            assert_eq!(pool.pick(&own, &[]), Ok(TargetId::new(1)));
        }
        assert_eq!(pool.cookie_to_set(&own, TargetId::new(1)), None);
        assert!(pool.cookie_to_set(&own, TargetId::new(0)).is_some());
    }
    for line in ["baton=", "baton", "batonx=1", "Baton=zzz"] {
        assert_eq!(pool.pick(&with_cookie(line.into()), &[]), Err(ProxyReason::StickyCookie), "{line}");
    }
}

#[test]
fn hashes_go_by_what_is_configured() {
    let lines = with_cookie("sid=42".into());
    let key = |text: &str, facts: &PickFacts<'_>| HashOn::parse(text).unwrap().key(facts);
    assert_eq!(key("cookie:sid", &lines), key("header:cookie", &with_cookie("42".into())));
    assert_eq!(key("cookie:other", &lines), None);
    assert_ne!(key("uri", &lines), key("source", &lines));
    let other_port = PickFacts { client: "10.0.0.7:9".parse().unwrap(), ..lines };
    assert_eq!(key("source", &other_port), key("source", &lines));
    for wrong in ["", "Source", "header:", "cookie:a b", "path", "header:x:y"] {
        assert_eq!(HashOn::parse(wrong), None, "{wrong:?}");
    }
}

#[test]
fn load_of_other_intermediates_counts_and_strain_ejects() {
    let pool = choosing(&[true, true], Choice::default());
    let server: std::net::SocketAddr = SERVER.parse().unwrap();
    let load = ServerLoad { flows: 0, all_flows: 9, ..ServerLoad::of(server) };
    pool.members()[0].target.load.on_report(load.clone(), 1);
    assert!((0..50).all(|_| pick(&pool) == Ok(1)), "nine flows against none");
    for drops in 1..=3 {
        let report = ServerLoad { listen_drops: drops, host_overflows: drops, ..load.clone() };
        pool.members()[0].target.load.on_report(report, drops);
        pool.members()[0].on_time(&pool, monotonic_ns());
        // The same report looked at again says nothing new.
        pool.members()[0].on_time(&pool, monotonic_ns());
        let strained = if drops < 3 { Standing::Suspect } else { Standing::Ejected };
        assert_eq!(pool.members()[0].standing(), strained, "{drops}");
    }
}

#[test]
fn what_grew_at_one_of_two_addresses_is_judged_once_and_what_stands_there_as_long_as_it_stands() {
    let pool = choosing(&[true, true], Choice::default());
    let member = &pool.members()[0];
    let (v4, v6) = (SERVER.parse().unwrap(), "[2001:db8::1]:80".parse().unwrap());
    let mut responses = 0;
    // The one address is told of at some seconds, the other at each.
    let mut second = |at: u64, told: Option<ServerLoad>| {
        let now = at * 1_000_000_000;
        if let Some(load) = told {
            member.target.load.on_report(load, now);
        }
        responses += 1;
        member.target.load.on_report(ServerLoad { responses, ..ServerLoad::of(v6) }, now + 50_000);
        member.on_time(&pool, monotonic_ns());
        member.standing()
    };
    let calm = ServerLoad { accept_limit: 10, ..ServerLoad::of(v4) };
    let dropped = ServerLoad { listen_drops: 5, host_overflows: 5, ..calm.clone() };
    assert_eq!(second(1, Some(calm)), Standing::Up);
    assert_eq!(second(2, Some(dropped.clone())), Standing::Suspect);
    for at in 3..8 {
        assert_eq!(second(at, None), Standing::Up, "second {at}");
    }
    assert_eq!(second(8, Some(ServerLoad { accept_queue: 10, ..dropped })), Standing::Suspect);
    assert_eq!(second(9, None), Standing::Suspect);
    assert_eq!(second(10, None), Standing::Ejected);
}

#[test]
fn a_reload_does_not_make_a_dead_server_well() {
    let all: [(bool, &[&str]); 2] = [(true, &[SERVER]), (true, &["10.0.0.2:80"])];
    let members = members(&all);
    let targets: Vec<_> = members.iter().map(|m| Arc::clone(&m.target)).collect();
    let check = crate::health::CheckSpec {
        kind: crate::health::CheckKind::Tcp,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        thresholds: baton_shared::health::CheckThresholds { rise: 1, fall: 1 },
    };
    let health = HealthSpec { check: Some(check), ..HealthSpec::default() };
    let before = Pool::choosing("p", members, Choice { health: health.clone(), ..Choice::default() });
    let (result, failure) = (CheckResult::Failed, Some("refused".to_owned()));
    before.members()[0]
        .on_check(&before, CheckOutcome { at: SystemTime::now(), took: Duration::ZERO, result, failure });
    assert_eq!(before.members()[0].standing(), Standing::Failing);
    let turned = targets.into_iter().rev().map(|target| Member::new(target, 2)).collect();
    let after = Pool::choosing("p", turned, Choice { health, ..round_robin() });
    after.inherit(&before);
    assert_eq!(after.members()[1].standing(), Standing::Failing);
    assert!((0..4).all(|_| pick(&after) == Ok(1)));
    assert_eq!(after.view().members[1].checks_failed, 1);
}
