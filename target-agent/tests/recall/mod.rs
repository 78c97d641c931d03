//! Flows given back to their intermediate, by a real kernel that had a real server's socket for them.

use super::support::wire::Wire;
use super::support::{World, handoff, inside, options};
use super::{LIMIT, get, migrate};
use baton_shared::control::{
    FlowRef, Handoff, Message, MigratedAnswer, RecallRequest, RecalledAnswer, TrackedRequest,
};
use baton_shared::reason::{EndReason, Refusal};
use std::time::{Duration, Instant};

fn tracked(flow_id: u64, port: u16, path: &str) -> Handoff {
    Handoff { tracked: Some(TrackedRequest { head: false }), ..handoff(flow_id, port, &get(path), options()) }
}

/// As the intermediate asks that has seen the client acknowledge so many bytes.
fn recall(h: &Handoff, acknowledged: usize) -> Message {
    Message::Recall(RecallRequest {
        flow: h.flow,
        requests: 1,
        request_end: h.connection.rcv_nxt,
        client_ack: h.connection.snd_nxt.plus(u32::try_from(acknowledged).unwrap()),
    })
}

/// The flow is given back, and its end told besides.
fn recalled(world: &World, h: &Handoff) -> RecalledAnswer {
    let answer = match world.next() {
        Message::Recalled(answer) => answer,
        other => panic!("not recalled: {other:?}"),
    };
    match world.next() {
        Message::Ended(report) => assert_eq!((report.flow, report.reason), (h.flow, EndReason::Recalled)),
        other => panic!("no end: {other:?}"),
    }
    world.send(Message::EndSeen(h.flow));
    answer
}

fn refused(world: &World) -> Refusal {
    match world.next() {
        Message::RecallRefused(answer) => answer.reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// Whatever the server's kernel still says of the flow, the client hears none of it.
fn nothing_is_on_the_wire(wire: &Wire, h: &Handoff, m: &MigratedAnswer) {
    let got = wire.receive_up_to(h, m, 1, Duration::from_millis(300));
    assert_eq!((got.segments, got.reset, got.fin), (0, false, false), "{got:?}");
}

const WHOLE: usize = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole".len();

#[test]
fn a_flow_goes_back_in_silence_and_may_come_again() {
    let Some(world) = inside("recall::a_flow_goes_back_in_silence_and_may_come_again") else { return };
    let wire = Wire::open();
    let mut h = tracked(1, 40_100, "/kept/whole");
    for generation in 1..=20 {
        h.flow.generation = generation;
        let m = migrate(&world, &h);
        let got = wire.receive_up_to(&h, &m, WHOLE, LIMIT);
        assert!(got.bytes.ends_with(b"whole") && !got.fin, "{got:?}");
        world.send(recall(&h, WHOLE));
        let answer = recalled(&world, &h);
        let end = h.connection.snd_nxt.plus(u32::try_from(WHOLE).unwrap());
        assert_eq!((answer.flow, answer.snd_nxt), (h.flow, end));
        assert!(answer.rcv_wnd > 1000, "{answer:?}");
        nothing_is_on_the_wire(&wire, &h, &m);
        // Said again, it is answered again.
        world.send(recall(&h, WHOLE));
        assert!(matches!(world.next(), Message::Recalled(again) if again == answer));
        // It comes back to the same server from where it was.
        let request = u32::try_from(h.request.len()).unwrap();
        h.connection.snd_nxt = answer.snd_nxt;
        h.connection.vip_tsval = answer.vip_tsval;
        h.connection.client_tsval = h.connection.client_tsval.wrapping_add(1);
        h.connection.rcv_nxt = h.connection.rcv_nxt.plus(request);
        h.acknowledged = h.connection.rcv_nxt;
    }
    let metrics = world.metrics();
    assert!(metrics.contains("baton_recalls_granted_total 20\n"), "{metrics}");
}

#[test]
fn an_agent_that_is_killed_before_the_response_begins_still_gives_the_flow_back() {
    let test = "recall::an_agent_that_is_killed_before_the_response_begins_still_gives_the_flow_back";
    let Some(mut world) = inside(test) else { return };
    let wire = Wire::open();
    world.pause_server();
    let h = tracked(1, 40_400, "/kept/whole");
    let m = migrate(&world, &h);
    let until = Instant::now() + LIMIT;
    while world.admin("/v1/flows")["flows"][0]["handoff"] == "feeding" {
        assert!(Instant::now() < until, "it is not fed");
    }
    world.kill_agent();
    world.start_agent("");
    world.resume_server();
    let got = wire.receive_up_to(&h, &m, WHOLE, LIMIT);
    assert!(got.bytes.ends_with(b"whole") && !got.fin, "{got:?}");
    world.send(recall(&h, WHOLE));
    let answer = recalled(&world, &h);
    assert_eq!(answer.snd_nxt, h.connection.snd_nxt.plus(u32::try_from(WHOLE).unwrap()));
    nothing_is_on_the_wire(&wire, &h, &m);
}

#[test]
fn a_server_that_rests_in_mid_response_keeps_the_flow_until_it_is_done() {
    let test = "recall::a_server_that_rests_in_mid_response_keeps_the_flow_until_it_is_done";
    let Some(world) = inside(test) else { return };
    let wire = Wire::open();
    for (n, (path, first, last)) in
        [("/kept/pause", "first", "later"), ("/kept/chunks", "0\r\n\r\n", "0\r\n\r\n")]
            .into_iter()
            .enumerate()
    {
        let n = u16::try_from(n).unwrap();
        let h = tracked(u64::from(n), 40_200 + n, path);
        let begun = Instant::now();
        let m = migrate(&world, &h);
        let head = wire.receive_up_to(&h, &m, 30, LIMIT);
        assert!(String::from_utf8_lossy(&head.bytes).contains(first), "{head:?}");
        // The client has all that was sent, and yet it is not complete.
        world.send(recall(&h, head.bytes.len()));
        let (before, all) = (head.bytes.len(), head.bytes.len() + last.len());
        let received = std::thread::scope(|scope| {
            let rest = scope.spawn(|| wire.receive_more(&h, &m, head, all, LIMIT));
            let answer = recalled(&world, &h);
            assert!(begun.elapsed() >= Duration::from_millis(700), "{path}: {:?}", begun.elapsed());
            let _ = rest.join().unwrap();
            answer.snd_nxt.since(h.connection.snd_nxt)
        });
        assert_eq!((usize::try_from(received).unwrap(), before < all), (all, true), "{path}");
    }
}

#[test]
fn what_cannot_be_given_back_is_refused_with_its_reason() {
    let Some(world) = inside("recall::what_cannot_be_given_back_is_refused_with_its_reason") else { return };
    let wire = Wire::open();
    let stranger = Handoff { flow: FlowRef { flow_id: 77, generation: 3 }, ..tracked(77, 40_300, "/") };
    world.send(recall(&stranger, 0));
    assert_eq!(refused(&world), Refusal::FlowGone);

    // The server closes after its response.
    let h = tracked(1, 40_301, "/hello");
    let m = migrate(&world, &h);
    let got = wire.receive_up_to(&h, &m, 60, LIMIT);
    world.send(recall(&h, got.bytes.len()));
    assert!(matches!(refused(&world), Refusal::ServerClosed | Refusal::FlowGone));
    wire.receive(&h, &m, Duration::from_millis(200));

    // A length that cannot be relied on: given up once the server has been silent for long.
    let h = tracked(2, 40_302, "/kept/odd");
    let m = migrate(&world, &h);
    let got = wire.receive_up_to(&h, &m, 60, LIMIT);
    let begun = Instant::now();
    world.send(recall(&h, got.bytes.len()));
    loop {
        match world.next() {
            Message::RecallRefused(answer) => {
                assert_eq!((answer.flow, answer.reason), (h.flow, Refusal::FramingUnknown));
                break;
            }
            // The one before has ended.
            Message::Ended(report) => assert_ne!(report.flow, h.flow),
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
}
