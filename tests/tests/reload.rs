//! The configuration changes while requests run: all or nothing, and no connection notices.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{Connection, Response};
use baton_tests::lab::{self, TestLab, VIP, VIPS, both};
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{LabSpec, Program};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How long a reload by signal may take.
const LIMIT: Duration = Duration::from_secs(20);

const POOLS: &str = r#"
[[pool]]
name = "one"
targets = ["target1"]
[[pool]]
name = "two"
targets = ["target2"]
"#;
const ROUTE: &str = r#"
[[route]]
name = "moved"
path = "/10k"
pool = "two"
"#;

fn site(name: &str) -> Option<TestLab> {
    lab::up(name, |s| {
        lab::patient(both(s)).intermediate_with("listener", "pool", "one").intermediate_also(POOLS)
    })
}

/// Writes another configuration in the place of the one there is.
fn write(t: &TestLab, change: impl FnOnce(String) -> String) {
    let path = t.lab.config(INTERMEDIATE, Program::Balancer);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(text)).unwrap();
}

/// `POST /v1/reload`: status and body.
fn reload(t: &TestLab) -> (u16, Value) {
    let (status, body) = t.lab.admin_post(INTERMEDIATE, "/v1/reload").unwrap();
    (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}")))
}

fn served_by(response: &Response) -> &str {
    response.served_by()
}

/// A connection that a target has by now.
fn kept(t: &TestLab) -> Connection {
    t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get("/1k").unwrap();
        connection.response().unwrap();
        connection
    })
}

#[test]
fn a_reload_changes_routes_for_requests_to_come_and_pinned_connections_stay() {
    let Some(t) = site("reload") else { return };
    let applied =
        |said: (u16, Value)| assert_eq!((said.0, &said.1["needs_restart"]), (200, &serde_json::json!([])));
    let vip = format!("vip = \"{VIP}\"\n");
    write(&t, |text| text.replacen(&vip, &format!("{vip}keepalive = \"pinned\"\n"), 1));
    applied(reload(&t));
    assert_eq!(served_by(&t.get("/10k").unwrap()), "target1");
    let pinned = kept(&t);
    // Where requests differ nothing may be pinned.
    write(&t, |text| text + ROUTE);
    assert_eq!(reload(&t).0, 422);
    write(&t, |text| text.replacen("keepalive = \"pinned\"\n", "", 1).replacen(ROUTE, "", 1));
    applied(reload(&t));
    let tracked = kept(&t);
    write(&t, |text| text + ROUTE);
    applied(reload(&t));
    assert_eq!(served_by(&t.get("/10k").unwrap()), "target2");
    assert_eq!(served_by(&t.get("/1k").unwrap()), "target1");
    for (mut connection, target, what) in
        [(pinned, "target1", "as it began"), (tracked, "target2", "as it is now")]
    {
        connection.get("/10k").unwrap();
        let response = connection.response().unwrap();
        assert_eq!((response.status, served_by(&response)), (200, target), "{what}");
    }
}

#[test]
fn a_wrong_file_changes_nothing_and_says_where_it_is_wrong() {
    let Some(t) = site("reloadbad") else { return };
    let good = std::fs::read_to_string(t.lab.config(INTERMEDIATE, Program::Balancer)).unwrap();
    let lines = good.lines().count();
    write(&t, |text| text + ROUTE + "[[route]]\npool = \"tow\"\npath = \"/\"\n");
    let (status, said) = reload(&t);
    assert_eq!(status, 422, "{said}");
    let problem = said["problems"][0].as_str().unwrap();
    let place = format!(":{}:8: there is no pool \"tow\"; did you mean \"two\"?", lines + 6 + 1);
    assert!(problem.contains(&place), "{problem} has not {place}");
    assert_eq!(served_by(&t.get("/10k").unwrap()), "target1", "nothing was changed");
    // The same by signal; then a port that is taken; then what is right after all.
    let pid = t.pid(INTERMEDIATE, Program::Balancer);
    t.lab.exec(INTERMEDIATE, &["kill", "-HUP", &pid.to_string()]).unwrap();
    let refused =
        |n| move |t: &TestLab| t.metric(INTERMEDIATE, "baton_reloads_total{outcome=\"refused\"}") == n;
    t.eventually("the second refusal", LIMIT, refused(2));
    let log = |t: &TestLab| std::fs::read_to_string(t.lab.log(INTERMEDIATE, Program::Balancer)).unwrap();
    t.eventually("both are logged", LIMIT, |t| log(t).matches("nothing was changed").count() == 2);
    write(&t, |_| format!("{good}{ROUTE}[[listener]]\nvip = \"10.90.1.99:80\"\npool = \"one\"\n"));
    let (status, said) = reload(&t);
    assert_eq!(status, 409, "{said}");
    assert!(said["error"].as_str().unwrap().contains("cannot listen on 10.90.1.99:80"), "{said}");
    assert_eq!(served_by(&t.get("/10k").unwrap()), "target1", "nothing was changed");
    let leg =
        good.replacen("agent = \"10.90.101.2:7400\"", "agent = \"10.90.101.2:7400\"\nleg = \"ipip\"", 1);
    assert_ne!(leg, good);
    write(&t, |_| leg);
    let (status, said) = reload(&t);
    assert!(status == 409 && said["error"].as_str().unwrap().contains("without room"), "{said}");
    write(&t, |_| good.replace("linger_ms = 3000", "linger_ms = 4000") + ROUTE);
    t.lab.exec(INTERMEDIATE, &["kill", "-HUP", &pid.to_string()]).unwrap();
    t.eventually("the reload", LIMIT, |t| {
        t.metric(INTERMEDIATE, "baton_reloads_total{outcome=\"applied\"}") == 1
    });
    assert_eq!(served_by(&t.get("/10k").unwrap()), "target2");
    let warning = "[plane] changed, which takes effect after a restart";
    t.eventually("what it does not change is logged", LIMIT, |t| log(t).contains(warning));

    // Files that are included are part of it: each is read anew, and told by its name.
    let parts = t.lab.node_dir(INTERMEDIATE).join("conf.d");
    std::fs::create_dir(&parts).unwrap();
    write(&t, |_| good.replacen("\nname = ", "\ninclude = \"conf.d/*.toml\"\nname = ", 1));
    assert_eq!((reload(&t).0, served_by(&t.get("/10k").unwrap())), (200, "target1"));
    std::fs::write(parts.join("moved.toml"), ROUTE).unwrap();
    assert_eq!((reload(&t).0, served_by(&t.get("/10k").unwrap())), (200, "target2"));
    std::fs::write(parts.join("wrong.toml"), "[[route]]\npath = \"/1k\"\npool = \"tow\"\n").unwrap();
    let (status, said) = reload(&t);
    let problem = said["problems"][0].as_str().unwrap();
    assert!(status == 422 && problem.contains("conf.d/wrong.toml:3:8: there is no pool"), "{said}");
    assert_eq!(served_by(&t.get("/10k").unwrap()), "target2", "nothing was changed");
}

#[test]
fn get_changes_nothing_and_a_post_needs_the_header() {
    let Some(t) = site("reloadcsrf") else { return };
    let (status, _) = t.lab.admin_text(INTERMEDIATE, "/v1/reload").unwrap();
    assert_eq!(status, 405);
    assert_eq!(t.metric(INTERMEDIATE, "baton_reloads_total{outcome=\"applied\"}"), 0);
}

#[test]
fn listeners_and_targets_come_and_go_and_connections_go_on() {
    let others: [SocketAddr; 2] = ["10.90.1.101:80", "[fd90:1::101]:80"].map(|vip| vip.parse().unwrap());
    let [allow, allow6] =
        [(others[0], "ADDRESS:80"), (others[1], "[fd90:101::2]:80")].map(|(vip, server)| {
            format!("\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"{vip}\"\nserver = \"{server}\"\n")
        });
    let order = |s: LabSpec| {
        let s = lab::patient(both(s)).intermediate_with("listener", "pool", "one").intermediate_also(POOLS);
        s.agents_also(&allow).agents_also(&allow6)
    };
    let Some(t) = lab::up("reloadlisten", order) else { return };
    let ask = |t: &TestLab, vip: SocketAddr, path: &'static str| {
        t.client(move || {
            let mut connection = Connection::open(vip)?;
            connection.get(path)?;
            connection.response().map(|response| (connection, response))
        })
    };
    // Another address of each family: connections to both migrate, on one target too, each under its own address.
    t.lab.output(INTERMEDIATE, &["ip", "addr", "add", "10.90.1.101/32", "dev", "eth0"]).unwrap();
    t.lab.output(INTERMEDIATE, &["ip", "addr", "add", "fd90:1::101/128", "dev", "eth0", "nodad"]).unwrap();
    let listeners = others.map(|vip| format!("[[listener]]\nvip = \"{vip}\"\npool = \"one\"\n")).concat();
    write(&t, |text| text + &listeners);
    let (status, said) = reload(&t);
    let added = others.map(|vip| vip.to_string());
    assert_eq!((status, &said["listeners_added"]), (200, &serde_json::json!(added)), "{said}");
    let of_all = [VIPS, others].concat();
    let answered: Vec<_> = of_all.iter().map(|vip| ask(&t, *vip, "/100k").unwrap()).collect();
    for (_, response) in &answered {
        assert_eq!((served_by(response), &response.sha256), ("target1", &t.sha256("100k")));
    }
    t.expect_requests(4, 0);
    let mut vips: Vec<SocketAddr> =
        t.flows("target1").iter().map(|flow| flow["vip"].as_str().unwrap().parse().unwrap()).collect();
    vips.sort();
    let mut wanted = of_all;
    wanted.sort();
    assert_eq!(vips, wanted);
    drop(answered);

    let second = VIPS.map(|vip| SocketAddr::new(vip.ip(), 81));
    for vip in second {
        assert!(ask(&t, vip, "/1k").is_err());
    }
    // A port below 1024, after capabilities were dropped.
    let listeners = second.map(|vip| {
        format!("[[listener]]\nvip = \"{vip}\"\npool = \"two\"\nmode = \"proxy\"\ndefer_accept = true\n")
    });
    write(&t, |text| format!("{text}# second\n{}", listeners.concat()));
    let (status, said) = reload(&t);
    let second_named = serde_json::json!(second.map(|vip| vip.to_string()));
    assert_eq!((status, &said["listeners_added"]), (200, &second_named), "{said}");
    let of_second = second.map(|vip| {
        let (connection, response) = ask(&t, vip, "/1k").unwrap();
        assert_eq!(served_by(&response), "target2");
        connection
    });
    // Their sockets stay as they were opened, which is said.
    write(&t, |text| text.replace("defer_accept = true", "defer_accept = false"));
    let keys = second.map(|vip| format!("defer_accept of listener {vip}"));
    assert_eq!(reload(&t).1["needs_restart"], serde_json::json!(keys));

    // Gone again, and target1 with it: what is open goes on.
    let of_first = VIPS.map(|vip| {
        let (connection, response) = ask(&t, vip, "/1k").unwrap();
        assert_eq!(served_by(&response), "target1");
        connection
    });
    write(&t, |text| {
        let (before, _) = text.split_once("# second").unwrap();
        let (top, rest) = before.split_once("[[target]]\nname = \"target1\"").unwrap();
        let rest = rest.split_once("[[target]]").unwrap().1;
        format!("{top}[[target]]{rest}").replace("targets = [\"target1\"]", "targets = [\"target2\"]")
    });
    let (status, mut said) = reload(&t);
    said["listeners_removed"].as_array_mut().unwrap().sort_by_key(|vip| vip.as_str().map(str::to_owned));
    assert_eq!((status, &said["listeners_removed"]), (200, &second_named), "{said}");
    assert_eq!(said["targets_removed"], serde_json::json!(["target1"]));
    for (mut connection, mut migrated) in of_second.into_iter().zip(of_first) {
        connection.get("/1k").unwrap();
        migrated.get("/100k").unwrap();
        let (proxied, still) = (connection.response().unwrap(), migrated.response().unwrap());
        // No pool has target1 any more: the connection goes on, its next request is another's.
        assert_eq!((proxied.status, still.status, served_by(&still)), (200, 200, "target2"));
    }
    for (vip, second) in VIPS.into_iter().zip(second) {
        assert!(ask(&t, second, "/1k").is_err(), "nobody listens there any more");
        assert_eq!(served_by(&t.get_at(vip, "/1k").unwrap()), "target2");
    }
    let views = t.admin(INTERMEDIATE, "/v1/targets");
    let removed = views["targets"].as_array().unwrap().iter().filter(|v| v["removed"] == true).count();
    assert!(removed <= 1, "{views}");

    // One of the start, opened anew: by what its sockets are now.
    let (vip, other) = (format!("vip = \"{VIP}\"\n"), format!("vip = \"{}\"\n", second[0]));
    write(&t, |text| text.replacen(&vip, &other, 1));
    assert_eq!(reload(&t).1["listeners_removed"], serde_json::json!([VIP]));
    write(&t, |text| text.replacen(&other, &format!("{vip}defer_accept = true\n"), 1));
    for added in [serde_json::json!([VIP]), serde_json::json!([])] {
        let (_, said) = reload(&t);
        assert_eq!((&said["listeners_added"], &said["needs_restart"]), (&added, &serde_json::json!([])));
    }
}

/// Eight clients after each other, half of them at each VIP, until told to stop: how many were served, how many refused. A
/// connection that came to be is served, or the test fails.
fn connect_over_and_over(
    t: &TestLab,
    vips: [SocketAddr; 2],
    counts: &Arc<[AtomicUsize; 2]>,
    stop: &Arc<AtomicBool>,
) {
    std::thread::scope(|scope| {
        for (n, vip) in (0..8).zip(vips.into_iter().cycle()) {
            let (counts, stop) = (Arc::clone(counts), Arc::clone(stop));
            let work = move || {
                let [served, refused] = &*counts;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut connection) = Connection::open(vip) else {
                        refused.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(2));
                        continue;
                    };
                    // Some speak at once, some only when their listener may be gone.
                    std::thread::sleep(Duration::from_millis(n * n));
                    connection.get("/1k").unwrap();
                    let response = connection.response().unwrap_or_else(|e| panic!("client {n}: {e}"));
                    assert_eq!((response.status, served_by(&response)), (200, "target1"), "client {n}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            };
            scope.spawn(move || t.client(work));
        }
    });
}

#[test]
fn a_listener_that_goes_and_comes_again_resets_no_connection_that_was_established() {
    let Some(t) = site("reloadgone") else { return };
    let second = VIPS.map(|vip| SocketAddr::new(vip.ip(), 81));
    let good = std::fs::read_to_string(t.lab.config(INTERMEDIATE, Program::Balancer)).unwrap();
    let listeners =
        second.map(|vip| format!("[[listener]]\nvip = \"{vip}\"\npool = \"one\"\nkeepalive = \"tracked\"\n"));
    let with = format!("{good}{}{ROUTE}", listeners.concat());
    let put = |text: &str| {
        write(&t, |_| text.to_owned());
        let (status, said) = reload(&t);
        assert_eq!(status, 200, "{said}");
    };
    put(&with);
    let kept = t.client(move || {
        second.map(|vip| {
            let mut connection = Connection::open(vip).unwrap();
            connection.get("/1k").unwrap();
            connection.response().unwrap();
            connection
        })
    });
    let stop = Arc::new(AtomicBool::new(false));
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    std::thread::scope(|scope| {
        scope.spawn(|| connect_over_and_over(&t, second, &counts, &stop));
        let stop_at_last = StopAtLast(&stop);
        for round in 0..3 {
            for (text, count) in [(&with, &counts[0]), (&good, &counts[1])] {
                put(text);
                let before = count.load(Ordering::Relaxed);
                let more = |_: &TestLab| count.load(Ordering::Relaxed) > before + 16;
                t.eventually(
                    &format!("round {round}: the listener is as asked"),
                    Duration::from_secs(20),
                    more,
                );
            }
        }
        drop(stop_at_last);
    });
    println!("served, refused: {counts:?}");
    // A tracked connection of a listener that is gone: by its routes to another target, and back to the intermediate.
    for mut kept in kept {
        kept.get("/10k").unwrap();
        let moved = kept.response().unwrap();
        assert_eq!((moved.status, served_by(&moved)), (200, "target2"));
        kept.send(
            b"POST /1k HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
        .unwrap();
        let returned = kept.response().unwrap();
        assert_eq!(served_by(&returned), "target1", "{returned:?}");
    }
}

/// Ends the load, also if the test fails.
struct StopAtLast<'a>(&'a AtomicBool);

impl Drop for StopAtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
