//! Handoffs replayed to a real kernel and a real server: what the client would see on the wire, and how the flow ends.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod load;
mod local_vip;
mod recall;
mod support;

use baton_shared::capture::NegotiatedOptions;
use baton_shared::control::{FlowRef, Handoff, Message, MigratedAnswer, ProbeOrder};
use baton_shared::reason::{EndReason, Refusal};
use baton_shared::seq::Seq;
use std::time::{Duration, Instant};
use support::wire::{Received, Wire};
use support::{SERVER, VIP, World, handoff, inside, options};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until `done` says so.
fn eventually(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < until, "not in {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

fn post(path: &str, bytes: usize) -> Vec<u8> {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n").into_bytes();
    request.extend((0..bytes).map(|i| u8::try_from(i % 251).unwrap()));
    request
}

fn migrate(world: &World, handoff: &Handoff) -> MigratedAnswer {
    world.send(Message::Handoff(Box::new(handoff.clone())));
    match world.next() {
        Message::Migrated(answer) => {
            assert_eq!(answer.flow, handoff.flow);
            answer
        }
        other => panic!("not migrated: {other:?}"),
    }
}

fn refused(world: &World, message: Message) -> Refusal {
    world.send(message);
    match world.next() {
        Message::Refused(answer) => answer.reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn ended(world: &World, handoff: &Handoff, reason: EndReason) {
    match world.next() {
        Message::Ended(report) => assert_eq!((report.flow, report.reason), (handoff.flow, reason)),
        other => panic!("no end: {other:?}"),
    }
    world.send(Message::EndSeen(handoff.flow));
}

fn body(received: &Received) -> String {
    let text = String::from_utf8_lossy(&received.bytes);
    text.split_once("\r\n\r\n").expect("a whole head").1.to_owned()
}

#[test]
fn a_request_is_answered_to_the_client_from_the_vip() {
    let Some(world) = inside("a_request_is_answered_to_the_client_from_the_vip") else { return };
    let wire = Wire::open();
    for bits in 0..8u8 {
        let used = NegotiatedOptions {
            sack: bits & 1 != 0,
            timestamps: bits & 2 != 0,
            window_scale: options().window_scale.filter(|_| bits & 4 != 0),
            ..options()
        };
        let port = 40_000 + u16::from(bits);
        let h = handoff(u64::from(bits), port, &get("/hello"), used);
        let m = migrate(&world, &h);
        let got = wire.receive(&h, &m, LIMIT);
        assert!(got.fin && !got.reset, "{got:?}");
        assert!(body(&got).starts_with(&format!("/hello 10.95.0.77:{port} 0 ")), "{}", body(&got));
        ended(&world, &h, EndReason::Finished);
    }
    let flows = world.admin("/v1/flows");
    assert!(flows["flows"].as_array().unwrap().iter().all(|f| f["state"] == "ended"), "{flows}");
    assert_eq!(world.admin("/v1/migrations")["migrations"].as_array().unwrap().len(), 8);
    // Linger time over: the table is empty.
    eventually("no flow is left", || {
        world.admin("/v1/flows")["flows"].as_array().unwrap().is_empty()
            && world.metrics().contains("baton_flow_table_used 0\n")
    });
    let metrics = world.metrics();
    assert!(metrics.contains("baton_flows_ended_total{reason=\"finished\"} 8\n"), "{metrics}");
}

#[test]
fn large_requests_and_responses_pass_whole() {
    let Some(world) = inside("large_requests_and_responses_pass_whole") else { return };
    let wire = Wire::open();
    for (n, (path, bytes)) in
        [("/echo", 1), ("/echo", 1448), ("/echo", 64_000), ("/echo", 262_144), ("/slow", 262_144)]
            .into_iter()
            .enumerate()
    {
        let n = u16::try_from(n).unwrap();
        let h = handoff(u64::from(n), 41_000 + n, &post(path, bytes), options());
        let m = migrate(&world, &h);
        let got = wire.receive(&h, &m, LIMIT);
        assert!(
            body(&got).starts_with(&format!("{path} 10.95.0.77:{} {bytes} ", 41_000 + n)),
            "{}",
            body(&got)
        );
        ended(&world, &h, EndReason::Finished);
    }
    let h = handoff(99, 42_000, &get("/big/3000000"), options());
    let m = migrate(&world, &h);
    let got = wire.receive(&h, &m, LIMIT);
    assert_eq!(body(&got).len(), 3_000_000);
    ended(&world, &h, EndReason::Finished);
}

#[test]
fn a_probe_is_made_only_of_a_vip_that_is_allowed_and_reports_whatever_comes_of_it() {
    let name = "a_probe_is_made_only_of_a_vip_that_is_allowed_and_reports_whatever_comes_of_it";
    let Some(world) = inside(name) else { return };
    let probe = |id: u64, vip: &str, path: &str| {
        let (vip, host, path, token) =
            (vip.parse().unwrap(), "h".to_owned(), path.to_owned(), "aa".to_owned());
        world.send(Message::Probe(Box::new(ProbeOrder { id, vip, host, path, token, timeout_ms: 500 })));
        let Message::Probed(report) = world.next() else { panic!("no report") };
        assert_eq!((report.id, report.status), (id, None));
        (report.local, report.error.unwrap())
    };
    // A server of this host, and reachable: it is no VIP.
    assert_eq!(
        probe(1, SERVER, "/hello"),
        (None, format!("no [[allow]] of this intermediate names {SERVER}"))
    );
    let (local, error) = probe(2, VIP, "/hello HTTP/1.1\r\nX: y");
    assert!(local.is_none() && error.contains("the path must begin"), "{error}");
    // Nobody has the VIP in this world: the report comes all the same.
    let (local, error) = probe(3, VIP, "/hello");
    assert!(local.is_none() && !error.is_empty(), "{error}");
}

#[test]
fn what_must_not_run_is_refused_and_stays_refused() {
    let Some(mut world) = inside("what_must_not_run_is_refused_and_stays_refused") else { return };
    // The second start finds the records of the first: it knows what was never seen.
    world.kill_agent();
    world.start_agent("");
    let wire = Wire::open();
    let message = |h: &Handoff| Message::Handoff(Box::new(h.clone()));
    let h = handoff(1, 40_001, &get("/hello"), options());
    // Asked before it came: refused for ever.
    assert_eq!(refused(&world, Message::Status(h.flow)), Refusal::NeverSeen);
    assert_eq!(refused(&world, message(&h)), Refusal::NeverSeen);
    let mut h = handoff(2, 40_002, &get("/hello"), options());
    h.server = "10.95.0.2:22".parse().unwrap();
    assert_eq!(refused(&world, message(&h)), Refusal::NotAllowed);
    let mut h = handoff(3, 40_003, &get("/hello"), options());
    h.connection.options.ecn = true;
    assert_ne!(
        refused_or_migrated(&world, &h),
        Some(Refusal::OptionsMismatch),
        "Linux takes an offer of ECN"
    );
    // The same handoff twice is run once; another one on a living 4-tuple is refused.
    let h = handoff(4, 40_004, &get("/hang"), options());
    let m = migrate(&world, &h);
    // The second answer tells the server's window as it is now: it has opened further, if the kernel got round to it.
    let said_again = migrate(&world, &h);
    assert_eq!(MigratedAnswer { window_end: m.window_end, ..said_again }, m);
    assert!(!said_again.window_end.before(m.window_end), "{said_again:?} {m:?}");
    let other = handoff(5, 40_004, &get("/hello"), options());
    assert_eq!(refused(&world, message(&other)), Refusal::Duplicate);
    // The client resets: the socket is gone, and the port can be used again.
    wire.reset(&h);
    let again = handoff(6, 40_004, &get("/hello"), options());
    eventually("the server's kernel has heard the reset", || {
        world.on_target("ss -Htn state established dport = :40004").trim().is_empty()
    });
    world.send(message(&again));
    ended(&world, &h, EndReason::SocketGone);
    let Message::Migrated(m) = world.next() else { panic!("not migrated") };
    assert!(body(&wire.receive(&again, &m, LIMIT)).starts_with("/hello "));
    ended(&world, &again, EndReason::Finished);
    // TIME_WAIT or not, the same port once more. With numbers of its own: what the server before sends again, when it had
    // to wait long for its acknowledgement, is not taken for this one's response, to which a FIN would come too early.
    let mut again = handoff(7, 40_004, &get("/hello"), options());
    again.connection.snd_nxt = Seq::new(0x7000_0000);
    let m = migrate(&world, &again);
    assert!(body(&wire.receive(&again, &m, LIMIT)).starts_with("/hello "));
    ended(&world, &again, EndReason::Finished);
    world.stop_server();
    let h = handoff(8, 40_008, &get("/hello"), options());
    assert_eq!(refused(&world, message(&h)), Refusal::ServerRefused);
    assert_eq!(refused(&world, message(&h)), Refusal::ServerRefused, "the same answer again");
    // An agent that stops says so, and refuses what was on its way to it until it hears that this was known.
    world.begin_stop();
    let Message::Refused(farewell) = world.next() else { panic!("it does not say that it stops") };
    assert_eq!((farewell.flow, farewell.reason), (FlowRef::NONE, Refusal::Draining));
    let Message::Ended(report) = world.next() else { panic!("nothing that is to be answered") };
    assert_eq!(report.flow, FlowRef::NONE);
    std::thread::sleep(Duration::from_millis(200));
    let h = handoff(9, 40_009, &get("/hello"), options());
    assert_eq!(refused(&world, message(&h)), Refusal::Draining);
    world.send(Message::EndSeen(FlowRef::NONE));
    world.has_stopped();
}

fn refused_or_migrated(world: &World, h: &Handoff) -> Option<Refusal> {
    world.send(Message::Handoff(Box::new(h.clone())));
    match world.next() {
        Message::Refused(answer) => Some(answer.reason),
        Message::Migrated(_) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flows_go_on_when_the_agent_is_killed() {
    let Some(mut world) = inside("flows_go_on_when_the_agent_is_killed") else { return };
    let wire = Wire::open();
    let h = handoff(1, 43_001, &post("/slow", 100), options());
    let m = migrate(&world, &h);
    world.kill_agent();
    let got = wire.receive(&h, &m, LIMIT);
    assert!(body(&got).starts_with("/slow 10.95.0.77:43001 100 "), "{}", body(&got));
    world.start_agent("");
    ended(&world, &h, EndReason::Finished);
    // A flow that lives through the restart, and its answer with it.
    let h = handoff(2, 43_002, &get("/hang"), options());
    let m = migrate(&world, &h);
    world.kill_agent();
    world.start_agent("idle_ms = 3000");
    world.send(Message::Status(h.flow));
    let mut was_idle = false;
    let again = loop {
        match world.next() {
            Message::Migrated(again) => break again,
            // What lingered is reported once more.
            Message::Ended(report) if report.flow.flow_id == 1 => {}
            // The start took as long as a flow may be idle.
            Message::Ended(report) if (report.flow, report.reason) == (h.flow, EndReason::Idle) => {
                was_idle = true;
            }
            other => panic!("no answer but {other:?}"),
        }
    };
    assert_eq!(
        (again.server_snd_nxt, again.client_snd_nxt, again.ts_delta),
        (m.server_snd_nxt, m.client_snd_nxt, m.ts_delta)
    );
    // And it is ended when nothing has passed for long, without a word on the wire.
    if !was_idle {
        ended(&world, &h, EndReason::Idle);
    }
}

#[test]
fn a_request_lost_in_feeding_is_not_said_to_be_unrun() {
    let Some(mut world) = inside("a_request_lost_in_feeding_is_not_said_to_be_unrun") else { return };
    let wire = Wire::open();
    let message = |h: &Handoff| Message::Handoff(Box::new(h.clone()));
    let is_fed = |client: &str| {
        eventually("it is fed", || {
            let flows = world.admin("/v1/flows?state=committed");
            let mut all = flows["flows"].as_array().unwrap().iter();
            all.any(|f| f["client"] == client && f["handoff"] == "feeding")
        });
    };
    // The server does not read for a while: its window closes in mid-request.
    let h = handoff(1, 45_001, &post("/slow", 262_144), options());
    world.pause_server();
    world.send(message(&h));
    is_fed(&h.connection.client.to_string());
    // Too late to withdraw: it goes on, and the answer says so.
    world.send(Message::Cancel(h.flow));
    let Message::Migrated(m) = world.next() else { panic!("withdrawn while it is fed") };
    world.resume_server();
    assert!(body(&wire.receive(&h, &m, LIMIT)).starts_with("/slow 10.95.0.77:45001 262144 "));
    ended(&world, &h, EndReason::Finished);
    // The same with an agent that dies.
    let h = handoff(2, 45_002, &post("/slow", 262_144), options());
    world.pause_server();
    world.send(message(&h));
    is_fed(&h.connection.client.to_string());
    world.kill_agent();
    world.start_agent("");
    world.send(Message::Cancel(h.flow));
    let (mut reason, mut end) = (None, None);
    while reason.is_none() || end.is_none() {
        match world.next() {
            Message::Refused(answer) => reason = Some(answer.reason),
            Message::Ended(report) if report.flow == h.flow => end = Some(report.reason),
            Message::Ended(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((reason, end), (Some(Refusal::LostInFeeding), Some(EndReason::Aborted)));
    world.resume_server();
    let got = wire.receive(&h, &m, Duration::from_millis(1200));
    assert!(got.bytes.is_empty() && !got.fin, "the server answered a request it got in part: {got:?}");
}

#[test]
fn three_hundred_handoffs_one_after_another_are_all_taken() {
    let Some(world) = inside("three_hundred_handoffs_one_after_another_are_all_taken") else { return };
    let mut times: Vec<(u32, u32)> = (0..300u16)
        .map(|n| {
            let h = handoff(u64::from(n), 44_000 + n, &get("/hello"), options());
            let m = migrate(&world, &h);
            (m.total_us, m.handshake_us)
        })
        .collect();
    times.sort_unstable();
    println!("handoff us: p50 {:?} p90 {:?} p99 {:?}", times[150], times[270], times[297]);
    assert!(
        times.iter().all(|(total, handshake)| handshake <= total),
        "a stage longer than the whole: {times:?}"
    );
}

#[test]
fn who_lost_the_records_of_the_run_before_does_not_say_never_seen() {
    let Some(mut world) = inside("who_lost_the_records_of_the_run_before_does_not_say_never_seen") else {
        return;
    };
    let ask = |world: &World, id| refused(world, Message::Cancel(handoff(id, 1, b"", options()).flow));
    assert_eq!(ask(&world, 1), Refusal::LostInFeeding, "nothing is known of a run before this one");
    world.kill_agent();
    world.start_agent("");
    assert_eq!(ask(&world, 2), Refusal::NeverSeen, "the records are there, and this one is not among them");
    let h = handoff(3, 40_003, &get("/hang"), options());
    migrate(&world, &h);
    world.kill_agent();
    std::fs::remove_dir_all(world.pins()).unwrap();
    world.start_agent("");
    assert_eq!(refused(&world, Message::Cancel(h.flow)), Refusal::LostInFeeding, "it was fed");
    assert_eq!(refused(&world, Message::Status(h.flow)), Refusal::LostInFeeding, "and stays so");
}

#[test]
fn a_full_table_gives_up_the_flow_that_ended_longest_ago_and_never_a_live_one() {
    let Some(mut world) =
        inside("a_full_table_gives_up_the_flow_that_ended_longest_ago_and_never_a_live_one")
    else {
        return;
    };
    world.kill_agent();
    world.start_agent("flows = 2\nlinger_ms = 60000");
    let wire = Wire::open();
    let request = |id: u64, path| {
        let h = handoff(id, 40_000 + u16::try_from(id).unwrap(), &get(path), options());
        let m = migrate(&world, &h);
        if path != "/hang" {
            wire.receive(&h, &m, LIMIT);
            ended(&world, &h, EndReason::Finished);
        }
        h
    };
    for id in 1..=3 {
        request(id, "/hello");
    }
    request(4, "/hang");
    let kept = |world: &World| -> Vec<u16> {
        let flows = world.admin("/v1/flows");
        let port = |f: &serde_json::Value| f["client"].as_str().unwrap().rsplit(':').next()?.parse().ok();
        let mut ports: Vec<u16> = flows["flows"].as_array().unwrap().iter().filter_map(port).collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(kept(&world), [40_003, 40_004], "the newest that ended, and the live one");
    let last = request(5, "/hang");
    assert_eq!(kept(&world), [40_004, 40_005]);
    let more = handoff(6, 40_006, &get("/hello"), options());
    assert_eq!(refused(&world, Message::Handoff(Box::new(more))), Refusal::TableFull);
    assert_eq!(kept(&world), [40_004, 40_005], "both live ones are still there");
    wire.reset(&last);
}
