//! What the agent tells of its server's load, against a real server and a real kernel.

use super::support::wire::Wire;
use super::support::{SERVER, World, handoff, inside, options};
use super::{LIMIT, get, migrate, refused};
use baton_shared::control::{Message, ServerLoad};
use baton_shared::reason::Refusal;
use std::time::{Duration, Instant};

/// The first report that `wanted` takes.
fn report(world: &World, what: &str, wanted: impl Fn(&ServerLoad) -> bool) -> ServerLoad {
    let until = Instant::now() + LIMIT;
    let mut last = None;
    while Instant::now() < until {
        match world.next_of_any_kind(Duration::from_millis(1500)) {
            Some(Message::Load(load)) if wanted(&load) => return *load,
            Some(Message::Load(load)) => last = Some(load),
            Some(_) | None => {}
        }
    }
    panic!("no report of {what}; the last one: {last:?}");
}

#[test]
fn reports_follow_flows_responses_and_ends() {
    let Some(world) = inside("load::reports_follow_flows_responses_and_ends") else { return };
    let wire = Wire::open();
    let first = report(&world, "an idle server", |l| l.listening);
    assert_eq!((first.server.to_string().as_str(), first.flows, first.ended), (SERVER, 0, 0));
    assert_eq!(first.accept_limit, 512);

    let hanging = handoff(1, 40_001, &get("/hang"), options());
    migrate(&world, &hanging);
    let load = report(&world, "a flow", |l| l.flows == 1);
    assert_eq!((load.all_flows, load.responses), (1, 0), "it has not answered");

    // The server waits for 0.7 s before it answers; then one that answers at once.
    let slow = handoff(2, 40_002, &get("/slow"), options());
    let begun = Instant::now();
    let answer = migrate(&world, &slow);
    assert!(wire.receive(&slow, &answer, LIMIT).fin);
    let took = begun.elapsed().as_micros();
    // Its end is told before the load that counts it, so what comes next is the answer to the next handoff.
    let load = report(&world, "the response and the end", |l| l.responses == 1 && l.ended == 1);
    assert!(load.response_us >= 700_000 && u128::from(load.response_us) <= took, "{load:?} in {took} us");
    let quick = handoff(3, 40_003, &get("/hello"), options());
    let begun = Instant::now();
    let answer = migrate(&world, &quick);
    assert!(wire.receive(&quick, &answer, LIMIT).fin);
    let took = begun.elapsed().as_micros();
    let both = report(&world, "both responses and ends", |l| l.responses == 2 && l.ended == 2);
    assert!(u128::from(both.response_us - load.response_us) <= took, "{both:?} in {took} us");
    assert_eq!((both.flows, both.resets), (1, 0));
    let shown = world.admin("/v1/targets");
    assert_eq!(shown["targets"][0]["load"]["responses"], 2, "{shown}");
    let metrics = world.metrics();
    assert!(
        metrics.contains(&format!("baton_server_response_duration_seconds_count{{server=\"{SERVER}\"}} 2\n")),
        "{metrics}"
    );
}

#[test]
fn a_server_that_does_not_accept_and_one_that_is_gone_show() {
    let Some(mut world) = inside("load::a_server_that_does_not_accept_and_one_that_is_gone_show") else {
        return;
    };
    report(&world, "an idle server", |l| l.listening && l.accept_queue == 0);
    world.pause_server();
    for n in 0..3 {
        migrate(&world, &handoff(u64::from(n), 41_000 + n, &get("/hello"), options()));
    }
    let load = report(&world, "a queue", |l| l.accept_queue == 3);
    assert_eq!((load.flows, load.refused), (3, 0));
    world.stop_server();
    let gone = report(&world, "no listener", |l| !l.listening);
    assert_eq!(gone.accept_limit, 0);
    let handed = handoff(9, 41_009, &get("/hello"), options());
    assert_eq!(refused(&world, Message::Handoff(Box::new(handed))), Refusal::ServerRefused);
    report(&world, "the refusal", |l| l.refused == 1);
    world.start_server();
    report(&world, "the new server", |l| l.listening && l.accept_limit == 512);
}
