//! Draining: nothing new, nothing cut, and back again; over both versions of IP.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIPS, both};
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{Family, LabSpec, Program};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const POOL: &str = "[[pool]]\nname = \"web\"\ntargets = [\"target1\", \"target2\"]\n";

fn pool(s: LabSpec) -> LabSpec {
    both(s).intermediate_with("listener", "pool", "web").intermediate_also(POOL)
}

fn view(t: &TestLab, target: &str) -> Value {
    t.admin(INTERMEDIATE, &format!("/v1/targets/{target}"))
}

/// A download that stands still because its client does not read, and the target it is on.
fn held_download(t: &TestLab, vip: SocketAddr) -> (Connection, Value) {
    let connection = t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
        connection.get("/10m").unwrap();
        connection
    });
    let client = connection.socket().local_addr().unwrap().to_string();
    let mut on = None;
    t.eventually("it is migrated", Duration::from_secs(10), |t| {
        let flows = t.flows(INTERMEDIATE);
        let own = flows.iter().find(|flow| flow["client"] == *client && flow["state"] == "committed");
        on = own.map(|flow| flow["target"].clone());
        on.is_some()
    });
    (connection, on.unwrap())
}

/// One of each VIP, all on target1.
fn held_downloads(t: &TestLab) -> [Connection; 2] {
    let mut elsewhere = Vec::new();
    let held = VIPS.map(|vip| {
        loop {
            let (connection, on) = held_download(t, vip);
            if on == "target1" {
                break connection;
            }
            // Left for a while: the next one goes where fewer are.
            elsewhere.push(connection);
        }
    });
    drop(elsewhere);
    t.eventually("those on another target have gone", Duration::from_secs(10), |t| flows(t) == [1, 1]);
    held
}

/// How many flows each listener has.
fn flows(t: &TestLab) -> Vec<u64> {
    let view = t.admin(INTERMEDIATE, "/v1/listeners");
    view["listeners"].as_array().unwrap().iter().map(|listener| listener["flows"].as_u64().unwrap()).collect()
}

#[test]
fn draining_under_load_cuts_nothing_and_sends_nothing_more_there_until_undrained() {
    let Some(t) = lab::up("drain", pool) else { return };
    let held = held_downloads(&t);
    let sum = t.sha256("10k");
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..4)
            .map(|_| {
                let (stop, sum, t) = (Arc::clone(&stop), sum.clone(), &t);
                scope.spawn(move || {
                    for (done, vip) in VIPS.into_iter().cycle().enumerate() {
                        // Each makes its part of the load, however slow the machine is.
                        if stop.load(Ordering::Relaxed) && done > 20 {
                            break;
                        }
                        let response = t.get_at(vip, "/10k").unwrap();
                        assert_eq!(
                            (response.status, &response.sha256),
                            (200, &sum),
                            "request {done} at {vip}"
                        );
                    }
                })
            })
            .collect();
        t.eventually("the load has begun", Duration::from_secs(20), |t| t.access_log("target1").len() > 20);
        let answer = t.order("/v1/targets/target1/drain");
        assert_eq!((&answer["admin"], &answer["drained"]), (&"draining".into(), &false.into()), "{answer}");
        assert!(answer["flows"].as_u64().unwrap() >= 2, "the downloads are left: {answer}");
        // What was on its way at that moment is served.
        t.eventually("only the downloads are left", Duration::from_secs(20), |t| {
            let now = view(t, "target1");
            now["flows"] == 2 && now["in_hand"] == 0
        });
        let served = t.access_log("target1").len();
        std::thread::sleep(Duration::from_millis(1000));
        assert_eq!(t.access_log("target1").len(), served, "requests to a drained target");
        assert_eq!(t.standing("target1"), "draining");

        // The waiting order is answered when the last flow has ended.
        let waiting = scope.spawn(|| t.order("/v1/targets/target1/drain?wait_ms=30000"));
        for mut held in held {
            std::thread::sleep(Duration::from_millis(300));
            assert!(!waiting.is_finished(), "a download goes on");
            let (whole, held) = t.client(move || (held.response().unwrap(), held));
            assert_eq!(whole.sha256, t.sha256("10m"), "the download was not cut");
            drop(held);
        }
        let answer = waiting.join().unwrap();
        assert_eq!((&answer["drained"], &answer["flows"]), (&true.into(), &0.into()), "{answer}");

        let answer = t.order("/v1/targets/target1/undrain");
        assert_eq!(answer["admin"], "ready");
        t.eventually("it is used again", Duration::from_secs(20), |t| {
            t.access_log("target1").len() > served + 10
        });
        stop.store(true, Ordering::Relaxed);
        load.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!((t.all_proxied(), t.closed("no_target")), (0, 0));
}

/// The name of the target that answers one more request on a connection.
fn ask(connection: &mut Connection, sum: &str) -> String {
    connection.get("/10k").unwrap();
    let response = connection.response().unwrap();
    assert_eq!((response.status, response.sha256.as_str()), (200, sum), "{}", response.head);
    response.served_by().to_owned()
}

/// The same with a HEAD.
fn ask_head(connection: &mut Connection) {
    connection.send(b"HEAD /10k HTTP/1.1\r\nHost: lab\r\n\r\n").unwrap();
    let head = connection.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Length: 10240"), "{head}");
}

/// Kept connections and whom each is on.
type Kept = (Connection, String);

/// One of each version of IP in turn.
fn interleaved(mut four: impl Iterator<Item = Kept>, mut six: impl Iterator<Item = Kept>) -> Vec<Kept> {
    let mut all = Vec::new();
    while let (Some(one), Some(other)) = (four.next(), six.next()) {
        all.extend([one, other]);
    }
    all
}

/// The first of each version of IP.
fn of_each(kept: &mut [Kept]) -> impl Iterator<Item = &mut Connection> {
    kept[..VIPS.len()].iter_mut().map(|(connection, _)| connection)
}

#[test]
fn a_drain_ends_while_clients_keep_their_connections_whose_next_requests_go_elsewhere() {
    // More listeners, on which connections are given away with all that comes.
    let plain = VIPS.map(|vip| SocketAddr::new(vip.ip(), 8080));
    let tracked = |s: LabSpec| {
        let s = pool(s).intermediate_with("listener", "keepalive", "tracked");
        plain.into_iter().enumerate().fold(s, |s, (n, vip)| {
            let servers =
                [1, 2].map(|number| SocketAddr::new(plan::target_addrs(Family::Dual, number)[n], 80));
            let allow = servers.map(|server| {
                format!(
                    "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"{vip}\"\nserver = \"{server}\"\n"
                )
            });
            // Its clients speak first, however long they are kept from it.
            s.agents_also(&allow.concat()).intermediate_also(&format!(
                "[[listener]]\nvip = \"{vip}\"\nprotocol = \"tcp\"\npool = \"web\"\nsilence_ms = 20000\n"
            ))
        })
    };
    let Some(t) = lab::up("drainkept", tracked) else { return };
    let sum = t.sha256("10k");
    let first = sum.clone();
    // Of each VIP some on each target, and one that nobody reads.
    let (mut kept, pinned) = t.client(move || {
        let [four, six] = VIPS.map(|vip| {
            let mut kept = Vec::new();
            while ["target1", "target2"].iter().any(|target| kept.iter().all(|(_, on)| on != target)) {
                let mut connection = Connection::open(vip).unwrap();
                let on = ask(&mut connection, &first);
                kept.push((connection, on));
            }
            kept.into_iter()
        });
        let mut elsewhere = Vec::new();
        let pinned = plain.map(|vip| {
            loop {
                let mut pinned = Connection::open(vip).unwrap();
                if ask(&mut pinned, &first) == "target1" {
                    break pinned;
                }
                elsewhere.push(pinned);
            }
        });
        (interleaved(four, six), pinned)
    });
    let on_first = kept.iter().filter(|(_, on)| on == "target1").count();
    t.eventually("the others have ended", Duration::from_secs(20), |t| {
        view(t, "target1")["flows"].as_u64() == Some(on_first as u64 + 2)
    });
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| t.order("/v1/targets/target1/drain?wait_ms=60000"));
        t.eventually("it drains", Duration::from_secs(10), |t| view(t, "target1")["admin"] == "draining");
        // One request each; what was on the other stays there.
        for (connection, on) in &mut kept {
            *on = ask(connection, &sum);
            assert_eq!(on, "target2");
        }
        for (left, mut pinned) in [2, 1].into_iter().zip(pinned) {
            t.eventually("only those that are pinned are left", Duration::from_secs(20), |t| {
                let now = view(t, "target1");
                (now["flows"].as_u64(), now["pinned"].as_u64(), now["in_hand"].as_u64())
                    == (Some(left), Some(left), Some(0))
            });
            assert!(!waiting.is_finished(), "they are waited for");
            assert_eq!(ask(&mut pinned, &sum), "target1", "nothing is cut");
        }
        let answer = waiting.join().unwrap();
        assert_eq!(
            (&answer["drained"], &answer["flows"], &answer["pinned"]),
            (&true.into(), &0.into(), &0.into())
        );
    });
    // Open all the time, and in order.
    for (connection, _) in &mut kept {
        assert_eq!(ask(connection, &sum), "target2");
    }
    // Nobody else takes them: they stay, and are served.
    assert_eq!(t.order("/v1/targets/target2/drain")["drained"], false);
    for (connection, _) in &mut kept {
        assert_eq!(ask(connection, &sum), "target2");
    }
    t.order("/v1/targets/target1/undrain");
    // Where a request is to go is judged again when its connection has left its target: that may be long after.
    for others in ["drain", "undrain"] {
        t.order("/v1/targets/target2/undrain");
        for connection in of_each(&mut kept) {
            connection.get("/10m").unwrap();
            assert_eq!(connection.socket().peek(&mut [0]).unwrap(), 1, "its download has begun");
        }
        t.order("/v1/targets/target2/drain");
        of_each(&mut kept).for_each(|connection| connection.get("/10k").unwrap());
        t.eventually("their next requests are to go to the other target", Duration::from_secs(20), |t| {
            let flows = t.admin(INTERMEDIATE, "/v1/flows?target=target2");
            flows["flows"].as_array().unwrap().iter().filter(|flow| flow["leaving"] == true).count() == 2
        });
        let drained = t.order("/v1/targets/target1/drain?wait_ms=10000");
        assert_eq!(drained["drained"], true, "nothing is on its way there: {drained}");
        // Nobody else takes them, or the one that has them does.
        t.order(&format!("/v1/targets/target2/{others}"));
        for connection in of_each(&mut kept) {
            assert_eq!(connection.response().unwrap().sha256, t.sha256("10m"));
            let next = connection.response().unwrap();
            assert_eq!((next.status, &next.sha256, next.served_by()), (200, &sum, "target2"));
        }
        t.order("/v1/targets/target1/undrain");
    }
    t.order("/v1/targets/target2/drain");
    // Those that are on their way to a target are waited for there before they have arrived.
    t.lab.signal("target1", Program::Agent, libc::SIGSTOP).unwrap();
    of_each(&mut kept).for_each(|connection| connection.get("/10k").unwrap());
    t.eventually("they are on their way", Duration::from_secs(10), |t| view(t, "target1")["in_hand"] == 2);
    let answer = t.order("/v1/targets/target1/drain");
    let at_listeners = flows(&t);
    t.lab.signal("target1", Program::Agent, libc::SIGCONT).unwrap();
    // And by a drain of their listeners and of the node.
    let at = |vip: SocketAddr| {
        kept.iter().filter(|(one, _)| one.socket().peer_addr().unwrap() == vip).count() as u64
    };
    assert_eq!(at_listeners, [at(VIPS[0]), at(VIPS[1]), 0, 0]);
    assert_eq!((&answer["drained"], &answer["flows"]), (&false.into(), &0.into()), "{answer}");
    for connection in of_each(&mut kept) {
        let arrived = connection.response().unwrap();
        assert_eq!((arrived.status, &arrived.sha256, arrived.served_by()), (200, &sum, "target1"));
    }
    t.order("/v1/targets/target1/undrain");
    for (connection, _) in &mut kept {
        assert_eq!(ask(connection, &sum), "target1");
    }
    assert_eq!(t.order("/v1/targets/target2/drain?wait_ms=20000")["drained"], true);
    assert_eq!((t.all_proxied(), t.closed("recall_refused")), (0, 0));

    // A new agent goes on to follow the server's responses where the one before stopped, but not past one that was sent
    // meanwhile and whose end the program does not see: that connection cannot be given back, and stays.
    let bound = || t.metric(INTERMEDIATE, "baton_later_requests_total{outcome=\"bound\"}");
    let refused = || t.metric("target1", "baton_recalls_refused_total{reason=\"not_tracked\"}");
    let (idle, asked) = kept.split_at_mut(2);
    t.lab.kill_agent("target1").unwrap();
    for connection in of_each(asked) {
        connection.get("/nothing-here").unwrap();
        assert_eq!(connection.response().unwrap().status, 404);
    }
    t.lab.start_agent("target1").unwrap();
    t.order("/v1/targets/target2/undrain");
    let up = |t: &TestLab| {
        t.eventually("both agents are connected", Duration::from_secs(30), |t| {
            let connected = t.metric("target1", "baton_intermediates_connected") > 0;
            connected && ["target1", "target2"].iter().all(|target| view(t, target)["agent_state"] == "up")
        });
    };
    up(&t);
    for connection in of_each(idle) {
        ask_head(connection);
        assert_eq!(ask(connection, &sum), "target1");
    }
    t.order("/v1/targets/target1/drain");
    for connection in of_each(idle) {
        assert_eq!(ask(connection, &sum), "target2");
    }
    assert_eq!((bound(), refused()), (0, 0));
    for _ in 0..3 {
        for connection in of_each(asked) {
            // The agent would have to know of a HEAD if it followed the responses.
            ask_head(connection);
            assert_eq!(ask(connection, &sum), "target1");
        }
    }
    assert_eq!((bound(), refused()), (2, 2), "it is asked once for each");
    // A new intermediate does not know of that, and asks as well.
    t.lab.kill_intermediate().unwrap();
    t.lab.start_intermediate().unwrap();
    up(&t);
    of_each(asked).for_each(ask_head);
    t.order("/v1/targets/target1/drain");
    for _ in 0..3 {
        for connection in of_each(asked) {
            assert_eq!(ask(connection, &sum), "target1");
        }
    }
    assert_eq!((bound(), refused()), (2, 4));
    assert_eq!((t.all_proxied(), t.closed("recall_refused")), (0, 0));
}

#[test]
fn a_target_that_is_drained_alone_leaves_nothing_to_go_to_and_unknown_ones_are_told() {
    let Some(t) = lab::up("drainall", pool) else { return };
    for target in ["target1", "target2"] {
        t.order(&format!("/v1/targets/{target}/drain"));
    }
    for vip in VIPS {
        assert_eq!(t.get_at(vip, "/1k").unwrap().status, 503);
    }
    t.expect_proxied("no_usable_target", 2);
    t.order("/v1/targets/target2/undrain");
    for vip in VIPS {
        assert_eq!(t.get_at(vip, "/1k").unwrap().status, 200);
    }
    for (path, status) in [
        ("/v1/targets/target9/drain", 404),
        ("/v1/targets/target1/explode", 404),
        ("/v1/targets/target1/drain?wait=1", 400),
    ] {
        let (is, text) = t.lab.admin_post(INTERMEDIATE, path).unwrap();
        assert_eq!(is, status, "{path}: {text}");
    }
}

#[test]
fn a_drained_listener_and_a_drained_node_take_no_connections_and_come_back() {
    let Some(t) = lab::up("drainnode", |s| pool(s).intermediate_with("listener", "keepalive", "tracked"))
    else {
        return;
    };
    let held = held_downloads(&t);
    // Kept by their clients; the others are left alone.
    let kept = t.client(|| VIPS.map(|vip| Connection::open(vip).unwrap()));
    let sum = t.sha256("10k");
    let kept = kept.map(|mut kept| {
        ask(&mut kept, &sum);
        kept
    });
    for (n, mut kept) in kept.into_iter().enumerate() {
        let (vip, other) = (VIPS[n], VIPS[1 - n]);
        t.eventually("both are given away", Duration::from_secs(10), |t| flows(t)[n] == 2);
        let answer = t.order(&format!("/v1/listeners/{vip}/drain"));
        assert_eq!((&answer["state"], &answer["flows"]), (&"draining".into(), &2.into()), "{answer}");
        // One more response, which says that it is the last.
        kept.get("/10k").unwrap();
        let last = kept.response().unwrap();
        assert_eq!((last.status, &last.sha256, last.header("connection")), (200, &sum, Some("close")));
        assert_eq!(kept.read_some().unwrap(), 0, "the server closes");
        drop(kept);
        t.eventually("only the download is left", Duration::from_secs(20), |t| flows(t)[n] == 1);
        t.eventually("connections are refused", Duration::from_secs(15), |t| {
            t.get_at(vip, "/1k").is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        assert_eq!(t.lab.admin_text(INTERMEDIATE, "/readyz").unwrap().0, 200, "the node itself is ready");
        assert_eq!(t.get_at(other, "/1k").unwrap().status, 200, "the other listener is");
        t.order(&format!("/v1/listeners/{vip}/undrain"));
        t.eventually("it listens again", Duration::from_secs(15), |t| t.get_at(vip, "/1k").is_ok());
    }
    let before = t.migrated();
    for vip in VIPS.into_iter().cycle().take(4) {
        assert_eq!(t.get_at(vip, "/1k").unwrap().sha256, t.sha256("1k"));
    }
    // The one before may be counted late.
    t.eventually("they migrate as before", Duration::from_secs(10), |t| t.migrated() >= before + 4);
    assert_eq!(t.all_proxied(), 0);

    // Not ready at once, closed later: whoever sends connections here has time to learn of it.
    let mut in_time = false;
    for _ in 0..5 {
        let ordered = Instant::now();
        let answer = t.order("/v1/node/drain?after_ms=1500");
        assert_eq!((&answer["state"], &answer["drained"]), (&"draining".into(), &false.into()), "{answer}");
        let (status, text) = t.lab.admin_text(INTERMEDIATE, "/readyz").unwrap();
        assert_eq!((status, text.contains("\"draining\":true")), (503, true), "{text}");
        let served = |vip| t.get_at(vip, "/1k").is_ok_and(|response| response.status == 200);
        in_time = VIPS.map(served) == [true; 2];
        assert!(in_time || ordered.elapsed() > Duration::from_millis(1500), "closed at once");
        for vip in VIPS {
            t.eventually("it closes", Duration::from_secs(15), |t| t.get_at(vip, "/1k").is_err());
        }
        if in_time {
            break;
        }
        // A busy machine kept the clients until the time was over.
        t.order("/v1/node/undrain");
    }
    assert!(in_time, "no client was served before the time was over");
    // The others' ends may be known a little later.
    t.eventually("the downloads are left", Duration::from_secs(20), |t| {
        let node = t.admin(INTERMEDIATE, "/v1/node");
        assert_eq!(node["drained"], false, "{node}");
        node["flows"] == 2
    });
    for mut held in held {
        let (whole, held) = t.client(move || (held.response().unwrap(), held));
        assert_eq!(whole.sha256, t.sha256("10m"), "the download went on all the time");
        drop(held);
    }
    assert_eq!(t.order("/v1/node/drain?wait_ms=20000")["drained"], true);
    assert_eq!(t.order("/v1/node/undrain")["state"], "ready");
    for vip in VIPS {
        t.eventually("it is back", Duration::from_secs(15), |t| t.get_at(vip, "/1k").is_ok());
    }
    assert_eq!(t.lab.admin_text(INTERMEDIATE, "/readyz").unwrap().0, 200);
}
