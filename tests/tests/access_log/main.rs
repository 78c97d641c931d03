//! The access log end to end: real nginx, real curl, both halves of migrated requests, both versions of IP.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod formats;

use baton_tests::client::{Connection, get};
use baton_tests::lab::{self, TestLab, VIPS, both, whole_lines};
use baton_tests::two_pools::two_pools;
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{Impairment, LabSpec, Program};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

struct Logged {
    t: TestLab,
    path: PathBuf,
    dir: tempfile::TempDir,
}

fn up(name: &str, order: impl FnOnce(LabSpec) -> LabSpec) -> Option<Logged> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let shown = path.to_string_lossy().into_owned();
    let t = lab::up(name, |s| both(order(s.intermediate_with("access_log", "path", shown))))?;
    Some(Logged { t, path, dir })
}

fn read(path: &Path) -> Vec<Value> {
    let text = whole_lines(path);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

impl Logged {
    /// All lines, once there are this many; more would be wrong.
    fn lines(&self, count: usize) -> Vec<Value> {
        let started = Instant::now();
        while read(&self.path).len() < count && started.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(200));
        let lines = read(&self.path);
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }
}

/// client1 as it reaches a VIP from a port.
fn client1(vip: SocketAddr, port: u16) -> SocketAddr {
    let ip = if vip.is_ipv4() { plan::client_addr(1).into() } else { plan::client_addr6(1).into() };
    SocketAddr::new(ip, port)
}

/// The `host`, `vip` and `client` of a line are those of a request that curl made by the VIP's address.
fn addresses_are(line: &Value, vip: SocketAddr, port: u16) {
    assert_eq!(line["host"], vip.to_string().strip_suffix(":80").unwrap(), "{line}");
    assert_eq!(
        (&line["vip"], &line["listener"]),
        (&vip.to_string().into(), &vip.to_string().into()),
        "{line}"
    );
    assert_eq!(line["client"], client1(vip, port).to_string(), "{line}");
}

/// What curl says of each of its requests.
struct Told {
    vip: SocketAddr,
    port: u16,
    path: String,
    header: u64,
    body: u64,
}

/// Requests numbered up to `count`, of both VIPs in fours: `arguments` are curl's words beside the start of the URL.
fn curls(t: &TestLab, count: usize, before: &str, arguments: &str) -> Vec<Told> {
    let hosts = VIPS.map(|vip| vip.to_string().replace(":80", "")).join(" ");
    let curl = "curl -gsS --fail -o /dev/null -w '%{local_port} %{size_header} %{size_download} %{url_effective}\\n'";
    let script = format!(
        "hosts=({hosts}); for n in $(seq {count}); do {before} url=http://${{hosts[n / 4 % 2]}}; {curl} {arguments}; done"
    );
    let out = t.lab.output("client1", &["bash", "-c", &script]).unwrap();
    out.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [port, header, body, url] = words[..] else { panic!("{line}") };
            let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
            Told {
                vip: format!("{host}:80").parse().unwrap(),
                port: port.parse().unwrap(),
                path: format!("/{path}"),
                header: header.parse().unwrap(),
                body: body.parse().unwrap(),
            }
        })
        .collect()
}

#[test]
fn a_hundred_migrated_requests_and_some_proxied_ones_have_one_record_each_with_the_bytes_curl_got() {
    let Some(l) = up("alog", |s| s) else { return };
    let migrated = curls(&l.t, 100, "set -- 1k 10k 100k 1m; shift $((n % 4));", "\"$url/$1?n=$n\"");
    let proxied = curls(&l.t, 7, "", "--http1.0 -H 'Connection: keep-alive' \"$url/10k?p=$n\"");
    assert_eq!((migrated.len(), proxied.len()), (100, 7));
    let at = |told: &[Told], vip| told.iter().filter(|told| told.vip == vip).count();
    assert_eq!(VIPS.map(|vip| (at(&migrated, vip), at(&proxied, vip))), [(51, 3), (49, 4)]);
    let lines = l.lines(107);
    let by_path: HashMap<&str, &Value> = lines.iter().map(|l| (l["path"].as_str().unwrap(), l)).collect();
    assert_eq!(by_path.len(), 107, "each request has its own path");
    for told in &migrated {
        let line = by_path[told.path.as_str()];
        let texts = [
            ("outcome", "migrated"),
            ("method", "GET"),
            ("agent_half", "joined"),
            ("end", "finished"),
            ("closed_by", "client"),
            ("termination", "--"),
        ];
        for (key, is) in texts {
            assert_eq!(line[key], is, "{key} in {line}");
        }
        addresses_are(line, told.vip, told.port);
        assert_eq!(line["bytes"].as_u64(), Some(told.header + told.body), "{line}");
        assert!(line["target"].as_str().unwrap().starts_with("target"), "{line}");
        assert!(line["handoff_total_us"].as_u64().unwrap() > 0, "{line}");
        // Where the agent reads responses.
        assert!(line.get("status").is_none_or(|status| status == 200), "{line}");
    }
    let flows: HashSet<&str> = lines.iter().filter_map(|l| l["flow"].as_str()).collect();
    assert_eq!(flows.len(), 100);
    for told in &proxied {
        let line = by_path[told.path.as_str()];
        addresses_are(line, told.vip, told.port);
        assert_eq!((&line["outcome"], &line["reason"]), (&"proxied".into(), &"method_not_migrated".into()));
        assert_eq!((line["status"].as_u64(), line["bytes"].as_u64()), (Some(200), Some(told.body)), "{line}");
        assert_eq!(line["termination"], "--");
    }
    // Counted when they are written.
    l.t.eventually("all are counted", Duration::from_secs(10), |t| {
        t.metric(INTERMEDIATE, "baton_access_log_lines_total") >= 107
    });
    let written = l.t.metric(INTERMEDIATE, "baton_access_log_lines_total");
    assert_eq!((written, l.t.metric(INTERMEDIATE, "baton_access_log_dropped_total")), (107, 0));
}

#[test]
fn rotation_under_load_loses_no_line() {
    let Some(l) = up("alogrotate", |s| s) else { return };
    let capabilities = l.t.capabilities(INTERMEDIATE, Program::Balancer);
    assert_eq!(capabilities.len(), 1, "the thread that writes has others: {capabilities:?}");
    let (l, rotations) = (&l, Arc::new(AtomicUsize::new(0)));
    let (rotated, requests) = std::thread::scope(|scope| {
        let rotations = &rotations;
        let load = scope.spawn(move || {
            let rotations = Arc::clone(rotations);
            l.t.client(move || {
                // Many, and more until the file has been changed under them a few times.
                let enough = |n| n >= 400 && (rotations.load(Ordering::Relaxed) > 2 || n >= 10_000);
                let mut asked = 0;
                for (n, vip) in VIPS.into_iter().cycle().enumerate() {
                    if enough(n) {
                        break;
                    }
                    let response = get(vip, &format!("/1k?n={n}")).unwrap();
                    assert_eq!(response.status, 200);
                    asked = n + 1;
                }
                asked
            })
        });
        let mut rotated = Vec::new();
        while !load.is_finished() {
            let old = l.dir.path().join(format!("access.log.{}", rotated.len()));
            if std::fs::rename(&l.path, &old).is_ok() {
                l.t.lab.signal(INTERMEDIATE, Program::Balancer, libc::SIGUSR1).unwrap();
                rotated.push(old);
                rotations.store(rotated.len(), Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(60));
        }
        (rotated, load.join().unwrap())
    });
    let all = || {
        let files = rotated.iter().chain([&l.path]);
        files.flat_map(|file| read(file)).map(|line| line["path"].as_str().unwrap().to_owned()).collect()
    };
    l.t.eventually("all lines are there", Duration::from_secs(10), |_| {
        let lines: Vec<String> = all();
        lines.len() >= requests
    });
    let lines: Vec<String> = all();
    let distinct: HashSet<&String> = lines.iter().collect();
    assert_eq!((lines.len(), distinct.len()), (requests, requests));
    assert!(rotated.len() > 2, "only {} rotations", rotated.len());
    println!("{} rotations during {requests} requests", rotated.len());
}

#[test]
fn a_long_way_and_a_lossy_link_show_in_the_record() {
    let Some(l) = up("alogloss", |s| s.impair(Impairment::default())) else { return };
    l.t.lab.impair("client1", "loss=2%,delay=10ms,seed=7".parse().unwrap()).unwrap();
    // Two thousand segments, of which some forty are lost.
    std::fs::write(l.t.lab.www_dir().join("3m"), vec![7; 3_000_000]).unwrap();
    let want = l.t.sha256("3m");
    let responses = std::thread::scope(|scope| {
        let asked = VIPS.map(|vip| {
            let t = &l.t;
            scope.spawn(move || t.get_at(vip, "/3m").unwrap())
        });
        asked.map(|one| one.join().unwrap())
    });
    let lines = l.lines(2);
    for (vip, response) in VIPS.into_iter().zip(responses) {
        assert_eq!((response.status, &response.sha256), (200, &want));
        let line = of_vip(&lines, vip);
        let head = response.head.len() as u64 + 4;
        let number = |key: &str| line[key].as_u64().unwrap_or_else(|| panic!("no {key} in {line}"));
        assert_eq!(number("bytes"), head + response.body_bytes);
        assert!(number("retransmitted_bytes") > 10_000, "{line}");
        assert!(number("retransmitted_segments") > 5, "{line}");
        // Twenty milliseconds, and what a busy machine adds.
        assert!((18_000..5_000_000).contains(&number("rtt_us")), "{line}");
        assert!(number("duration_us") > 20_000, "{line}");
    }
}

/// The first of the lines for that VIP.
fn of_vip(lines: &[Value], vip: SocketAddr) -> &Value {
    lines.iter().find(|line| line["vip"] == vip.to_string()).unwrap_or_else(|| panic!("{vip}: {lines:#?}"))
}

#[test]
fn a_flow_that_outlives_the_intermediate_says_so_and_a_reset_is_the_clients() {
    let Some(l) = up("alogend", |s| s) else { return };
    let kept = l.t.client(|| {
        VIPS.map(|vip| {
            let mut reset = Connection::open(vip).unwrap();
            reset.get("/1k?reset").unwrap();
            reset.response().unwrap();
            reset.reset().unwrap();
            let mut kept = Connection::open(vip).unwrap();
            kept.get("/1k?kept").unwrap();
            kept.response().unwrap();
            kept
        })
    });
    let lines = l.lines(2);
    for vip in VIPS {
        let line = of_vip(&lines, vip);
        let told = (&line["path"], &line["termination"], &line["closed_by"]);
        assert_eq!(told, (&"/1k?reset".into(), &"CD".into(), &"client".into()), "{line}");
    }
    l.t.lab.stop_intermediate().unwrap();
    let lines = l.lines(4).split_off(2);
    for kept in kept {
        let line = of_vip(&lines, kept.socket().peer_addr().unwrap());
        let told = (&line["path"], &line["termination"], &line["agent_half"]);
        assert_eq!(told, (&"/1k?kept".into(), &"??".into(), &"stopped_before_end".into()), "{line}");
        assert_eq!(line["client"], kept.socket().local_addr().unwrap().to_string());
    }
}

#[test]
fn no_line_of_a_client_is_a_line_of_the_log_in_any_format() {
    let Some(l) = up("alogsay", |s| s) else { return };
    let forged = "x\\u0022,\\u0022status\\u0022:200";
    let agent = format!("\"{forged}\\\x7f\u{202e}é\"");
    let request = |agent: &str| {
        let mut bytes = b"GET /1k?\"%0a{} HTTP/1.1\r\nHost: lab\r\nReferer: a\tb\r\nUser-Agent: ".to_vec();
        bytes.extend_from_slice(agent.as_bytes());
        bytes.extend_from_slice(b"\r\nConnection: close\r\n\r\n");
        bytes
    };
    // The first is refused for its quote in the target and its DEL, the second is served.
    let (refused, served) = (request(&agent), request(&agent.replace('\x7f', "")));
    let served = String::from_utf8(served).unwrap().replace("?\"", "?").into_bytes();
    l.t.client(move || {
        for vip in VIPS {
            for bytes in [&refused, &served] {
                let mut connection = Connection::open(vip).unwrap();
                connection.send(bytes).unwrap();
                connection.response().unwrap();
            }
        }
    });
    let lines = l.lines(4);
    for vip in VIPS {
        let of = |outcome: &str| {
            let mut lines = lines.iter().filter(|l| l["vip"] == vip.to_string());
            lines.find(|l| l["outcome"] == outcome).unwrap_or_else(|| panic!("{lines:#?}"))
        };
        assert_eq!((&of("closed")["rule"], &of("closed")["status"]), (&"target_byte".into(), &400.into()));
        let line = of("migrated");
        assert_eq!(
            (&line["referer"], line["user_agent"].as_str()),
            (&"a\tb".into(), Some(&*agent.replace('\x7f', "")))
        );
    }
    let text = std::fs::read_to_string(&l.path).unwrap();
    assert!(text.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{text:?}");
    formats::other_formats(&l, &agent.replace('\x7f', ""));
}

#[test]
fn every_later_request_of_a_tracked_connection_has_a_line_that_says_who_got_it() {
    let Some(l) = up("alogtrack", two_pools) else { return };
    for (before, vip) in [0, TO.len()].into_iter().zip(VIPS) {
        who_got_each_is_told(&l, vip, before);
    }
    // One that is lost because nobody can say where the response before it ends: its agent was not there then, and a status other
    // than 200 or 206 is nothing that the program reads by itself.
    let connections = l.t.client(|| {
        VIPS.map(|vip| {
            let mut connection = Connection::open(vip).unwrap();
            connection.get("/1k?to=a&last").unwrap();
            connection.response().unwrap();
            connection
        })
    });
    // The response may be here before the agent's word that the request was served, without which nobody may go on.
    for connection in &connections {
        let client = connection.socket().local_addr().unwrap().to_string();
        l.t.eventually("it is known to be given away", Duration::from_secs(10), |t| {
            t.flows("intermediate")
                .iter()
                .any(|flow| flow["client"] == client.as_str() && flow["state"] == "committed")
        });
    }
    l.t.lab.kill_agent("target1").unwrap();
    let connections = l.t.client(move || {
        connections.map(|mut connection| {
            connection.get("/nothing-here?to=a&unread").unwrap();
            assert_eq!(connection.response().unwrap().status, 404);
            connection
        })
    });
    l.t.lab.start_agent("target1").unwrap();
    l.t.client(move || {
        for mut connection in connections {
            connection.get("/1k?to=b&lost").unwrap();
            let reset = connection.response().unwrap_err();
            assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
    let lines = l.lines(VIPS.len() * (TO.len() + 3)).split_off(VIPS.len() * TO.len());
    for vip in VIPS {
        let lost =
            lines.iter().find(|line| line["path"] == "/1k?to=b&lost" && line["vip"] == vip.to_string());
        let lost = lost.unwrap_or_else(|| panic!("{lines:#?}"));
        let told = (&lost["outcome"], &lost["reason"], &lost["termination"], lost["request_no"].as_u64());
        assert_eq!(told, (&"closed".into(), &"recall_refused".into(), &"RM".into(), Some(3)), "{lost}");
        assert!(
            lost["flow"].is_string() && lost["route"] == "to-b" && lost.get("status").is_none(),
            "{lost}"
        );
    }
}

/// Which pool each request of a connection is for.
const TO: [&str; 8] = ["a", "a", "b", "b", "b", "a", "b", "a"];

/// The lines of such a connection, `before` which there are as many others.
fn who_got_each_is_told(l: &Logged, vip: SocketAddr, before: usize) {
    let file = |n: usize| if n == 3 { "nothing-here" } else { "1k" };
    let status = |n: usize| if n == 3 { 404 } else { 200 };
    let (client, last) = l.t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
        let mut last = 0;
        for (n, to) in TO.iter().enumerate() {
            connection.get(&format!("/{}?to={to}&n={n}", file(n))).unwrap();
            let response = connection.response().unwrap();
            assert_eq!(response.status, status(n));
            last = response.head.len() as u64 + 4 + response.body_bytes;
        }
        (connection.socket().local_addr().unwrap(), last)
    });
    let lines = l.lines(before + TO.len()).split_off(before);
    let flows: HashSet<&str> = lines.iter().map(|l| l["flow"].as_str().unwrap()).collect();
    assert_eq!(flows.len(), 1, "one connection");
    for (n, (line, to)) in lines.iter().zip(TO).enumerate() {
        let addresses = (&line["client"], &line["vip"]);
        assert_eq!(addresses, (&client.to_string().into(), &vip.to_string().into()), "{line}");
        assert_eq!(line["path"], format!("/{}?to={to}&n={n}", file(n)), "in the order they came");
        assert_eq!(line["status"].as_u64(), Some(status(n).into()), "as the agent read it: {line}");
        assert_eq!(line["request_no"].as_u64(), Some(n as u64 + 1), "{line}");
        let target = if to == "a" { "target1" } else { "target2" };
        let told = (&line["target"], &line["pool"], &line["route"]);
        assert_eq!(told, (&target.into(), &to.into(), &format!("to-{to}").into()), "{line}");
        // A target that gives the connection back reports what it served.
        let half = if lines.get(n + 1).is_some_and(|next| next["target"] == target) {
            "with_later_request"
        } else {
            "joined"
        };
        assert_eq!((&line["agent_half"], &line["termination"]), (&half.into(), &"--".into()), "{line}");
    }
    // The last handoff brought one request.
    assert_eq!(lines.last().unwrap()["bytes"].as_u64(), Some(last));
}

#[test]
fn the_status_of_a_response_that_its_agent_read_late_is_told() {
    let Some(l) = up("aloglate", two_pools) else { return };
    // It stands still for longer than the connection lives: what it has not read by then is read before the end is told.
    let stalls = [0, 50, 200, 600];
    for (stall, vip) in stalls.into_iter().zip(VIPS.into_iter().cycle()) {
        let mut connection = l.t.client(move || {
            let mut connection = Connection::open(vip).unwrap();
            connection.get("/1k?to=a&first").unwrap();
            connection.response().unwrap();
            connection
        });
        let client = connection.socket().local_addr().unwrap().to_string();
        l.t.eventually("it is known to be given away", Duration::from_secs(10), |t| {
            t.flows(INTERMEDIATE).iter().any(|f| f["client"] == client.as_str() && f["state"] == "committed")
        });
        l.t.lab.signal("target1", Program::Agent, libc::SIGSTOP).unwrap();
        connection.get("/nothing-here?to=a&late").unwrap();
        assert_eq!(connection.response().unwrap().status, 404);
        drop(connection);
        std::thread::sleep(Duration::from_millis(stall));
        l.t.lab.signal("target1", Program::Agent, libc::SIGCONT).unwrap();
    }
    for line in l.lines(2 * stalls.len()) {
        let late = line["path"].as_str().unwrap().ends_with("late");
        assert_eq!(line["status"].as_u64(), Some(if late { 404 } else { 200 }), "{line}");
    }
}
