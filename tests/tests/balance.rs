//! Who gets a request, with real servers: by cookie, by hash, by the time of answers, while a member is fresh, and with
//! two servers behind one agent.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{Connection, Response};
use baton_tests::events;
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::LabSpec;
use netns_lab::plan::INTERMEDIATE;
use std::io::{Read, Write};
use std::time::Duration;

/// Pools by path: a cookie brings clients back in one, members are fresh for ten minutes in another, and in the third two
/// servers are on target1's host.
const SITE: &str = r#"
[[target]]
name = "second"
server = "10.90.101.2:8080"
agent = "10.90.101.2:7400"
agent_name = "target1"
[[pool]]
name = "sticky"
targets = ["target1", "target2"]
sticky = { cookie = "baton", secret = "lab" }
[[pool]]
name = "fresh"
targets = ["target1", "target2"]
balance = "round_robin"
slow_start_ms = 600000
[[pool]]
name = "host"
targets = ["target1", "second"]
balance = "round_robin"
[[route]]
name = "sticky"
path = "/1k"
pool = "sticky"
[[route]]
name = "fresh"
path = "/10k"
pool = "fresh"
[[route]]
name = "host"
path = "/whoami"
pool = "host"
"#;

const ALLOW: &str =
    "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"10.90.1.100:80\"\nserver = \"ADDRESS:8080\"\n";

fn site(spec: LabSpec) -> LabSpec {
    spec.intermediate_with("listener", "keepalive", "tracked").intermediate_also(SITE).agents_also(ALLOW)
}

fn served_by(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.head);
    response.served_by().to_owned()
}

/// One request by curl on a new connection, with its cookie jar: who served it.
fn by_jar(t: &TestLab) -> String {
    let jar = t.lab.node_dir("client1").join("jar");
    let jar = jar.to_str().unwrap();
    let url = format!("http://{VIP}/1k");
    let words = ["curl", "-sS", "--fail", "-D", "-", "-o", "/dev/null", "-b", jar, "-c", jar, &url];
    let head = t.lab.output("client1", &words).unwrap().to_ascii_lowercase();
    let line = head.lines().find_map(|line| line.strip_prefix("x-served-by: "));
    line.unwrap_or_else(|| panic!("{head}")).trim().to_owned()
}

fn other(target: &str) -> &'static str {
    if target == "target1" { "target2" } else { "target1" }
}

fn member(t: &TestLab, pool: &str, target: &str) -> serde_json::Value {
    let pools = t.admin(INTERMEDIATE, "/v1/pools");
    let pool = pools["pools"].as_array().unwrap().iter().find(|p| p["name"] == pool).unwrap();
    pool["members"].as_array().unwrap().iter().find(|m| m["target"] == target).unwrap().clone()
}

#[test]
fn a_cookie_brings_a_client_back_until_its_target_is_drained_also_in_mid_connection() {
    let Some(t) = lab::up("sticky", site) else { return };
    std::fs::create_dir_all(t.lab.node_dir("client1")).unwrap();
    // The first one brings no cookie, and is proxied so that its response sets one.
    let mine = by_jar(&t);
    t.expect_requests(0, 1);
    for _ in 0..8 {
        assert_eq!(by_jar(&t), mine);
    }
    t.expect_requests(8, 1);
    // Two clients on one connection, as behind somebody's proxy: each to its own target.
    let cookies = ["target1", "target2"]
        .map(|target| (target, member(&t, "sticky", target)["cookie"].as_str().unwrap().to_owned()));
    let ask = |connection: &mut Connection, cookie: &str| {
        let head = format!("GET /1k HTTP/1.1\r\nHost: lab\r\nCookie: a=b; baton={cookie}\r\n\r\n");
        connection.send(head.as_bytes()).unwrap();
        served_by(&connection.response().unwrap())
    };
    let mut kept = {
        let cookies = cookies.clone();
        t.client(move || {
            let mut kept = Connection::open(VIP).unwrap();
            for n in 0..10 {
                let (target, cookie) = &cookies[n % 3 % 2];
                assert_eq!(&ask(&mut kept, cookie), target, "request {n}");
            }
            kept
        })
    };
    t.expect_requests(9, 1);

    t.order(&format!("/v1/targets/{mine}/drain"));
    // Its cookie is a bad one now: the response of another target sets that one's.
    for n in 0..4 {
        assert_eq!(by_jar(&t), other(&mine), "request {n}");
    }
    t.expect_requests(12, 2);
    let of_drained = cookies.iter().find(|(target, _)| *target == mine).unwrap().1.clone();
    assert_eq!(ask(&mut kept, &of_drained), other(&mine));
    drop(kept);
    t.order(&format!("/v1/targets/{mine}/undrain"));
    assert_eq!(by_jar(&t), other(&mine), "who has a good cookie stays");
}

/// How many of `n` requests on new connections each of the two targets served.
fn shares(t: &TestLab, n: usize) -> [usize; 2] {
    let mut shares = [0; 2];
    for _ in 0..n {
        let by = served_by(&t.get("/10k").unwrap());
        shares[usize::from(by == "target2")] += 1;
    }
    shares
}

#[test]
fn a_member_that_has_come_back_gets_few_requests_at_first_and_then_its_share() {
    let Some(t) = lab::up("slowstart", site) else { return };
    let told = events::of(&t, INTERMEDIATE, "?kind=health");
    assert_eq!(shares(&t, 20), [10, 10], "from the start nobody is fresh");
    let weight = || member(&t, "fresh", "target2")["weight_now"].as_f64().unwrap();
    // Whoever looks after the members must see it both ways.
    t.order("/v1/targets/target2/drain");
    t.eventually("the drain is seen", Duration::from_secs(10), |t| {
        assert_eq!(shares(t, 1), [1, 0]);
        t.order("/v1/targets/target2/undrain");
        std::thread::sleep(Duration::from_millis(200));
        if weight() < 0.5 {
            return true;
        }
        t.order("/v1/targets/target2/drain");
        std::thread::sleep(Duration::from_millis(200));
        false
    });
    told.wait("health", |health| health["target"] == "target2" && health["to"] == "up");
    let fresh = weight();
    // A hundredth, and a tenth only after a minute.
    let [rest, few] = shares(&t, 60);
    assert!(few <= 12 && rest >= 48, "{rest} and {few}");
    t.eventually("its weight grows", Duration::from_secs(20), |_| weight() > fresh);

    // The same over a second: a reload keeps what is known of the members.
    let path = t.lab.config(INTERMEDIATE, netns_lab::Program::Balancer);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("slow_start_ms = 600000", "slow_start_ms = 1000")).unwrap();
    t.order("/v1/reload");
    t.eventually("it has all of it", Duration::from_secs(10), |_| weight() >= 1.0);
    assert_eq!(shares(&t, 20), [10, 10]);
}

#[test]
fn two_servers_on_one_host_share_its_agent_and_are_two_targets() {
    let Some(t) = lab::up("oneagent2", site) else { return };
    let dir = t.lab.node_dir("target1");
    let run = dir.display();
    let conf = format!(
        "daemon off;\nmaster_process off;\npid {run}/second.pid;\nerror_log {run}/second.log;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {run}/s1;\nproxy_temp_path {run}/s2;\nfastcgi_temp_path {run}/s3;\n\
         uwsgi_temp_path {run}/s4;\nscgi_temp_path {run}/s5;\nserver {{ listen 10.90.101.2:8080; \
         location / {{ add_header X-Served-By second; return 200 \"client: $remote_addr\\n\"; }} }}\n}}\n"
    );
    let file = dir.join("second.conf");
    std::fs::write(&file, conf).unwrap();
    let mut second = t.lab.spawn("target1", &["nginx", "-c", file.to_str().unwrap()]).unwrap();
    t.eventually("it listens", Duration::from_secs(10), |t| {
        t.lab.inside("target1", || std::net::TcpStream::connect("10.90.101.2:8080")).unwrap().is_ok()
    });
    let ask = |t: &TestLab| {
        let response = t.get("/whoami").unwrap();
        assert!(response.text().contains("client: 10.90.11.2"), "{}", response.text());
        served_by(&response)
    };
    let turns: Vec<String> = (0..6).map(|_| ask(&t)).collect();
    assert_eq!(turns.iter().filter(|by| *by == "second").count(), 3, "{turns:?}");
    t.expect_requests(6, 0);
    assert_eq!(t.metric("target1", "baton_handoffs_migrated_total"), 6, "by one agent");

    // A kept connection goes from one server of the host to the other, and back.
    let mut kept = t.client(|| Connection::open(VIP).unwrap());
    let mut next = |t: &TestLab, drained: &str, back: &str| {
        t.order(&format!("/v1/targets/{drained}/drain"));
        t.order(&format!("/v1/targets/{back}/undrain"));
        kept.get("/whoami").unwrap();
        served_by(&kept.response().unwrap())
    };
    for n in 0..4 {
        let (drained, left) = if n % 2 == 0 { ("second", "target1") } else { ("target1", "second") };
        assert_eq!(next(&t, drained, left), left, "{n}");
        assert_eq!(ask(&t), left, "{n}: on a new connection too");
        let gone = t.order(&format!("/v1/targets/{drained}/drain?wait_ms=20000"));
        assert_eq!(gone["drained"], true, "{gone}");
    }
    t.order("/v1/targets/target1/undrain");

    // One server's death is not the other's.
    second.kill().unwrap();
    second.wait().unwrap();
    for _ in 0..6 {
        assert_eq!(ask(&t), "target1");
    }
    assert_eq!((t.all_proxied(), t.closed("recall_refused")), (0, 0));
}

/// Pools of three by path: one by the URI, one by a header, one that spreads what is too much for a member; and one of
/// which a member is slow.
const RULES: &str = r#"
[[target]]
name = "slow"
server = "10.90.102.2:8080"
agent = "10.90.102.2:7400"
agent_name = "target2"
[[pool]]
name = "maglev"
targets = ["target1", "target2", "target3"]
balance = "maglev"
hash = "uri"
maglev = { table_size = 251, load_percent = 0 }
[[pool]]
name = "bounded"
targets = ["target1", "target2", "target3"]
balance = "maglev"
hash = "header:X-User"
maglev = { table_size = 251 }
[[pool]]
name = "rendezvous"
targets = ["target1", "target2", "target3"]
balance = "rendezvous"
hash = "header:X-User"
[[pool]]
name = "time"
targets = ["target1", "slow"]
balance = "least_time"
[[pool]]
name = "weights"
targets = ["target1", { target = "target2", weight = 3 }]
balance = "round_robin"
[[pool]]
name = "active"
targets = ["target1", "target2"]
balance = "p2c"
[[route]]
name = "weights"
path = "/weights"
pool = "weights"
[[route]]
name = "active"
path = "/active"
pool = "active"
[[route]]
name = "bounded"
path = "/maglev/bounded"
pool = "bounded"
[[route]]
name = "maglev"
path = "/maglev"
pool = "maglev"
[[route]]
name = "rendezvous"
path = "/rendezvous"
pool = "rendezvous"
[[route]]
name = "time"
path = "/time"
pool = "time"
"#;

/// Who answers each of forty keys, on new connections. There are no such files: what counts is who says so.
fn by_key(t: &TestLab, request: fn(usize) -> String) -> Vec<String> {
    t.client(move || {
        let ask = |key: usize| {
            let mut connection = Connection::open(VIP).unwrap();
            connection.send(request(key).as_bytes()).unwrap();
            connection.response().unwrap().served_by().to_owned()
        };
        (0..40).map(ask).collect()
    })
}

/// The same key has the same target; of a drained one its own keys alone go elsewhere, and come back to it.
fn keys_keep_their_targets(t: &TestLab, request: fn(usize) -> String) {
    let first = by_key(t, request);
    for target in ["target1", "target2", "target3"] {
        assert!(first.iter().filter(|by| *by == target).count() >= 4, "{first:?}");
    }
    assert_eq!(by_key(t, request), first);
    t.order("/v1/targets/target2/drain");
    let without = by_key(t, request);
    for (key, (before, now)) in first.iter().zip(&without).enumerate() {
        assert!(now == before || before == "target2", "key {key} went from {before} to {now}");
        assert_ne!(now, "target2", "key {key}");
    }
    t.order("/v1/targets/target2/undrain");
    assert_eq!(by_key(t, request), first);
}

/// Shares by weight, exactly; and of two the one with less under way.
fn weights_and_what_is_under_way(t: &TestLab) {
    let get = |path: &'static str| {
        t.client(move || {
            let mut connection = Connection::open(VIP).unwrap();
            connection.get(path).unwrap();
            let by = connection.response().unwrap().served_by().to_owned();
            (connection, by)
        })
    };
    let turns: Vec<String> = (0..20).map(|_| get("/weights").1).collect();
    assert_eq!(turns.iter().filter(|by| *by == "target2").count(), 15, "{turns:?}");
    assert!(turns.windows(4).all(|four| four.iter().any(|by| by == "target1")), "spread evenly: {turns:?}");
    t.eventually("all have ended", Duration::from_secs(10), |t| {
        ["target1", "target2"].iter().all(|target| member(t, "active", target)["active"] == 0)
    });
    // Eight that stay, and never one more here than there.
    let mut kept = Vec::new();
    for n in 1..=4 {
        for _ in 0..2 {
            kept.push(get("/active"));
        }
        let has = |target| kept.iter().filter(|(_, by)| by == target).count();
        assert_eq!((has("target1"), has("target2")), (n, n), "{kept:?}");
        // A client may have its answer before the intermediate has noted whose the connection is.
        t.eventually("both are noted", Duration::from_secs(10), |t| {
            ["target1", "target2"].iter().all(|target| member(t, "active", target)["active"] == n)
        });
    }
}

/// An HTTP server that thinks about each answer; until the listener is dropped with the lab.
fn serve_slowly(t: &TestLab, think: Duration) {
    let listener =
        t.lab.inside("target2", || std::net::TcpListener::bind("10.90.102.2:8080")).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut piece = [0; 4096];
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(1..) => head.extend(piece.iter().copied().take_while(|b| *b != 0)),
                        _ => return,
                    }
                    piece = [0; 4096];
                }
                std::thread::sleep(think);
                let answer =
                    "HTTP/1.1 200 OK\r\nX-Served-By: slow\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
}

#[test]
fn keys_keep_their_targets_a_hot_one_is_spread_and_the_faster_server_is_preferred() {
    let order = |s: LabSpec| s.targets(3).intermediate_also(RULES).agents_also(ALLOW);
    let Some(t) = lab::up("rules", order) else { return };
    keys_keep_their_targets(&t, |key| format!("GET /maglev/{key} HTTP/1.1\r\nHost: lab\r\n\r\n"));
    keys_keep_their_targets(&t, |key| {
        format!("GET /rendezvous/{} HTTP/1.1\r\nHost: lab\r\nX-User: {key}\r\n\r\n", key % 3)
    });
    // Those that have ended count until that is known.
    t.eventually("all have ended", Duration::from_secs(10), |t| {
        ["target1", "target2", "target3"].iter().all(|target| member(t, "bounded", target)["active"] == 0)
    });
    // Nine connections of one key, and no member has more than 125 % of a third of them.
    let kept: Vec<_> = t.client(|| {
        let ask = |_| {
            let mut connection = Connection::open(VIP).unwrap();
            let head = "GET /maglev/bounded HTTP/1.1\r\nHost: lab\r\nX-User: one\r\n\r\n";
            connection.send(head.as_bytes()).unwrap();
            let by = connection.response().unwrap().served_by().to_owned();
            (connection, by)
        };
        (0..9).map(ask).collect()
    });
    for target in ["target1", "target2", "target3"] {
        let has = kept.iter().filter(|(_, by)| by == target).count();
        assert!((1..=4).contains(&has), "{target} has {has} of {kept:?}");
    }
    drop(kept);
    weights_and_what_is_under_way(&t);

    serve_slowly(&t, Duration::from_millis(500));
    let ask = |t: &TestLab| served_by(&t.get("/time/1k").unwrap());
    let known = |t: &TestLab, target| member(t, "time", target)["latency_us"].as_u64().unwrap();
    std::fs::create_dir_all(t.lab.www_dir().join("time")).unwrap();
    std::fs::copy(t.lab.www_dir().join("1k"), t.lab.www_dir().join("time/1k")).unwrap();
    t.eventually("both are known", Duration::from_secs(20), |t| {
        ask(t);
        known(t, "target1") > 0 && known(t, "slow") >= 300_000
    });
    // A busy machine may make the other one slower for a moment: then a request says nothing.
    let (mut judged, mut slow) = (0, 0);
    for _ in 0..300 {
        let is_faster = known(&t, "target1") * 2 < known(&t, "slow");
        let by_slow = ask(&t) == "slow";
        if is_faster {
            judged += 1;
            slow += usize::from(by_slow);
        }
        if judged == 30 {
            break;
        }
    }
    assert_eq!(judged, 30, "the faster server was known to be faster");
    assert!(slow <= 3, "{slow} of 30 requests went to a server that takes half a second");
    t.eventually("all were noted", Duration::from_secs(10), |t| t.migrated() > 300);
    assert_eq!(t.all_proxied(), 0);
}
