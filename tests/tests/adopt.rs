//! Adopted connections, end to end: the server's kernel makes the accepted socket from one packet of the agent's. And
//! everything that can be missing for it, provoked.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{self, Connection};
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::spec::Plane;
use netns_lab::{Family, LabSpec, Program, Serve, plan};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

const LINGER: Duration = Duration::from_secs(3);
const TARGETS: [&str; 2] = ["target1", "target2"];

fn adopting(name: &str, order: impl FnOnce(LabSpec) -> LabSpec) -> Option<TestLab> {
    lab::up(name, |s| order(s.serve(Serve::Adopt)))
}

/// How many connections the targets have adopted.
fn adopted(t: &TestLab, targets: &[&str]) -> u64 {
    targets.iter().map(|target| t.metric(target, "baton_handoffs_adopted_total")).sum()
}

/// How often a target's programs counted something.
fn counted(t: &TestLab, target: &str, what: &str) -> u64 {
    t.metric(target, &format!("baton_packets_total{{reason=\"{what}\"}}"))
}

fn expect_adopted(t: &TestLab, expected: u64) {
    t.eventually("all are counted", Duration::from_secs(3), |t| adopted(t, &TARGETS) == expected);
    for target in TARGETS {
        assert_eq!(counted(t, target, "translated"), 0, "{target} translated nothing");
        assert_eq!(counted(t, target, "drop_adopt_reset"), 0, "{target}");
    }
}

/// Writes a value below /proc/sys in a node's network namespace.
fn sysctl(t: &TestLab, node: &str, key: &str, value: &str) {
    let (path, value) = (format!("/proc/sys/{}", key.replace('.', "/")), value.to_owned());
    t.lab
        .inside(node, move || std::fs::write(&path, &value).unwrap_or_else(|e| panic!("{path}: {e}")))
        .unwrap();
}

/// How a target's next connection would be served, and the names of what is missing for adopting it.
fn serve(t: &TestLab, target: &str) -> (String, Vec<String>) {
    let targets = t.admin(target, "/v1/targets");
    let serve = &targets["targets"][0]["serve"];
    let missing = serve["missing"].as_array().unwrap();
    let name = |need: &Value| {
        assert!(need["mend"].as_str().unwrap().len() > 20, "{need}");
        need["name"].as_str().unwrap().to_owned()
    };
    (serve["way"].as_str().unwrap().to_owned(), missing.iter().map(name).collect())
}

fn eventually_missing(t: &TestLab, way: &str, names: &[&str]) {
    t.eventually(&format!("{way}, for want of {names:?}"), Duration::from_secs(8), |t| {
        let (is, missing) = serve(t, "target1");
        is == way && missing == names
    });
}

#[test]
fn twenty_downloads_of_100_mb_are_byte_exact_and_nothing_is_translated_on_the_targets() {
    let Some(t) = adopting("adl", |s| s) else { return };
    let want = t.sha256("100m");
    for n in 1..=20 {
        let response = t.get("/100m").unwrap_or_else(|e| panic!("download {n}: {e}"));
        assert_eq!((response.status, &response.sha256), (200, &want), "download {n}");
    }
    t.expect_requests(20, 0);
    expect_adopted(&t, 20);
    let sent: u64 = TARGETS.iter().map(|target| counted(&t, target, "adopted_sent")).sum();
    let acknowledged: u64 = TARGETS.iter().map(|target| counted(&t, target, "readdressed")).sum();
    assert!(sent > 1000 && acknowledged > 1000, "{sent} {acknowledged}");
}

#[test]
fn a_thousand_small_requests_8_at_a_time_are_adopted_and_logged_once_with_the_clients_address() {
    let Some(t) = adopting("asmall", |s| s) else { return };
    let want = t.sha256("1k");
    let ports: Vec<HashSet<u16>> = t.client(move || {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let want = want.clone();
                std::thread::spawn(move || {
                    let mut ports = HashSet::new();
                    for n in 0..125 {
                        let mut connection = Connection::open(VIP).unwrap();
                        ports.insert(connection.socket().local_addr().unwrap().port());
                        connection.get("/1k").unwrap();
                        let response = connection.response().unwrap_or_else(|e| panic!("request {n}: {e}"));
                        assert_eq!((response.status, &response.sha256), (200, &want));
                    }
                    ports
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    t.expect_requests(1000, 0);
    expect_adopted(&t, 1000);
    let ports: HashSet<u16> = ports.into_iter().flatten().collect();
    let logged = || TARGETS.iter().flat_map(|target| t.access_log(target)).collect::<Vec<_>>();
    t.eventually("nginx writes its log", Duration::from_secs(5), |_| logged().len() >= 1000);
    let lines = logged();
    assert_eq!(lines.len(), 1000, "each request ran once");
    for line in &lines {
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("10.90.11.2"), "not the client's address: {line}");
        assert!(ports.contains(&words.next().unwrap().parse().unwrap()), "not the client's port: {line}");
    }
    t.eventually("all records are freed", LINGER * 4, |t| {
        ["intermediate", "target1", "target2"].iter().all(|node| t.flows(node).is_empty())
    });
    for node in ["intermediate", "target1", "target2"] {
        assert_eq!(t.metric(node, "baton_flow_table_used"), 0, "{node}'s table");
    }
}

#[test]
fn kept_connections_uploads_and_half_closed_ones_work_over_both_ip_versions() {
    let Some(t) = adopting("afam", |s| s.family(Family::Dual)) else { return };
    for vip in [VIP, SocketAddr::V6(plan::VIP6)] {
        let hashes = t.client(move || {
            let mut connection = Connection::open(vip).unwrap();
            ["/1k", "/100k", "/10m"].map(|path| {
                connection.get(path).unwrap();
                connection.response().unwrap().sha256
            })
        });
        assert_eq!(hashes, [t.sha256("1k"), t.sha256("100k"), t.sha256("10m")], "{vip}");
        let source = t.lab.www_dir().join("10m");
        let name = if vip.is_ipv4() { "four" } else { "six" };
        let status = t.client(move || {
            let body = std::fs::read(&source).unwrap();
            let mut connection = Connection::open(vip).unwrap();
            let head =
                format!("PUT /upload/{name} HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\n\r\n", body.len());
            connection.send(head.as_bytes()).unwrap();
            connection.send(&body).unwrap();
            connection.response().unwrap().status
        });
        assert!((200..300).contains(&status), "{vip}: status {status}");
        let half = t.client(move || {
            let mut connection = Connection::open(vip).unwrap();
            connection.get("/10k").unwrap();
            connection.socket().shutdown(std::net::Shutdown::Write).unwrap();
            connection.response().unwrap().sha256
        });
        assert_eq!(half, t.sha256("10k"), "{vip}");
    }
    expect_adopted(&t, 6);
    assert_eq!(t.all_proxied(), 0);
    let arrived: Vec<_> = TARGETS
        .iter()
        .flat_map(|target| std::fs::read_dir(t.lab.upload_dir(target)).unwrap())
        .map(|entry| netns_lab::content::sha256_of_file(&entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(arrived, vec![t.sha256("10m"); 2]);
}

#[test]
fn an_agent_killed_in_mid_download_takes_nothing_with_it_and_a_new_one_takes_the_flow_over() {
    let Some(t) = adopting("akill", |s| s.targets(1)) else { return };
    let want = t.sha256("100m");
    let hash = std::thread::scope(|scope| {
        let download = scope.spawn(|| {
            t.client(|| {
                let mut connection = Connection::open(VIP).unwrap();
                connection.get("/100m").unwrap();
                assert!(connection.read_some().unwrap() > 0);
                std::thread::sleep(Duration::from_millis(1500));
                connection.response().unwrap().sha256
            })
        });
        t.eventually("the flow is there", Duration::from_secs(5), |t| t.flows("target1").len() == 1);
        assert_eq!(t.flows("target1")[0]["adopted"], true);
        t.lab.kill("target1", Program::Agent).unwrap();
        t.lab.start("target1", Program::Agent).unwrap();
        t.eventually("taken over", Duration::from_secs(5), |t| t.flows("target1").len() == 1);
        let flow = &t.flows("target1")[0];
        assert_eq!(
            (&flow["adopted"], flow["state"].as_str()),
            (&Value::Bool(true), Some("committed")),
            "{flow}"
        );
        assert_eq!(flow["vip"], VIP.to_string());
        assert_eq!(flow["server"], "10.90.101.2:80");
        download.join().unwrap()
    });
    assert_eq!(hash, want);
    t.eventually("its end is noticed and its record freed", LINGER * 4, |t| {
        ["intermediate", "target1"].iter().all(|node| t.flows(node).is_empty())
    });
    assert_eq!(t.get("/1k").unwrap().status, 200);
}

#[test]
fn a_port_used_again_meets_a_socket_in_time_wait_which_makes_room() {
    let Some(t) = adopting("aports", |s| s.targets(1).intermediate_with("listener", "keepalive", "single"))
    else {
        return;
    };
    let want = t.sha256("1k");
    t.client(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40015").unwrap());
    for n in 0..60 {
        let response = match t.client(|| client::get(VIP, "/1k")) {
            Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable => continue,
            other => other.unwrap_or_else(|e| panic!("request {n}: {e}")),
        };
        assert_eq!((response.status, &response.sha256), (200, &want), "request {n}");
    }
    assert_eq!(t.all_proxied(), 0);
    // The server closes first, so its sockets stay in TIME_WAIT for a minute.
    assert!(counted(&t, "target1", "drop_adopt_refused") > 20, "TIME_WAIT was met");
}

#[test]
fn clients_without_timestamps_sack_or_window_scaling_and_with_ecn_are_adopted() {
    let Some(t) = adopting("aopts", |s| s) else { return };
    let want = t.sha256("10m");
    for (key, off, on) in [
        ("tcp_timestamps", "0", "1"),
        ("tcp_sack", "0", "1"),
        ("tcp_window_scaling", "0", "1"),
        ("tcp_ecn", "1", "2"),
    ] {
        sysctl(&t, "client1", &format!("net.ipv4.{key}"), off);
        let response = t.get("/10m").unwrap();
        assert_eq!((response.status, &response.sha256), (200, &want), "with {key}={off}");
        sysctl(&t, "client1", &format!("net.ipv4.{key}"), on);
    }
    expect_adopted(&t, 4);
}

#[test]
fn requests_longer_than_the_first_window_are_fed_whole() {
    // nginx reads bodies of this size before it answers.
    let Some(t) = adopting("along", |s| s.targets(1).intermediate_with("limits", "prefetch_bytes", 262_144))
    else {
        return;
    };
    let source = t.lab.www_dir().join("100k");
    for n in 0..5 {
        let source = source.clone();
        let status = t.client(move || {
            let body = std::fs::read(&source).unwrap();
            let mut connection = Connection::open(VIP).unwrap();
            let head =
                format!("PUT /upload/l{n} HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\n\r\n", body.len());
            connection.send(&[head.as_bytes(), &body].concat()).unwrap();
            connection.response().unwrap().status
        });
        assert!((200..300).contains(&status), "{status}");
    }
    for entry in std::fs::read_dir(t.lab.upload_dir("target1")).unwrap() {
        let arrived = netns_lab::content::sha256_of_file(&entry.unwrap().path()).unwrap();
        assert_eq!(arrived, t.sha256("100k"));
    }
    t.eventually("all were adopted", Duration::from_secs(3), |t| adopted(t, &["target1"]) == 5);
}

#[test]
fn the_socket_knows_the_clients_round_trip_time_from_its_first_byte() {
    let Some(t) = adopting("artt", |s| s.targets(1).impair("delay=15ms".parse().unwrap())) else { return };
    let rtt = std::thread::scope(|scope| {
        scope.spawn(|| {
            t.client(|| {
                let mut connection = Connection::open(VIP).unwrap();
                connection.get("/whoami").unwrap();
                connection.response().unwrap();
                std::thread::sleep(Duration::from_millis(600));
            });
        });
        let mut found = String::new();
        t.eventually("the server's socket is there", Duration::from_secs(5), |t| {
            found = t
                .lab
                .output("target1", &["ss", "-tniH", "state", "established", "src", "10.90.1.100"])
                .unwrap();
            found.contains("minrtt:")
        });
        let min = found.split_whitespace().find_map(|word| word.strip_prefix("minrtt:")).unwrap();
        min.parse::<f64>().unwrap()
    });
    // A replayed handshake would leave some hundredths of a millisecond.
    assert!((25.0..60.0).contains(&rtt), "{rtt} ms");
}

#[test]
fn each_thing_missing_is_named_refused_by_adopt_and_healed() {
    let Some(t) = adopting("aneeds", |s| s.targets(1)) else { return };
    assert_eq!(serve(&t, "target1"), ("adopt".to_owned(), vec![]));
    let mut proxied = 0;
    let uplink_arp = "net.ipv4.conf.eth0.arp_ignore";
    for (key, off, on, name) in [
        ("net.ipv4.tcp_syncookies", "0", "1", "tcp_syncookies"),
        ("net.ipv4.tcp_timestamps", "0", "1", "tcp_timestamps"),
        ("net.ipv4.tcp_sack", "0", "1", "tcp_sack"),
        ("net.ipv4.tcp_window_scaling", "0", "1", "tcp_window_scaling"),
        ("net.netfilter.nf_conntrack_tcp_loose", "0", "1", "nf_conntrack_tcp_loose"),
    ] {
        // A kernel without connection tracking has no such setting.
        if !std::path::Path::new(&format!("/proc/sys/{}", key.replace('.', "/"))).exists() {
            println!("no {key} on this kernel");
            continue;
        }
        sysctl(&t, "target1", key, off);
        eventually_missing(&t, "none", &[name]);
        assert_eq!(t.get("/1k").unwrap().status, 200, "proxied without {name}");
        proxied += 1;
        assert_eq!(t.proxied("refused"), proxied, "{name}");
        sysctl(&t, "target1", key, on);
        eventually_missing(&t, "adopt", &[]);
    }
    // A VIP in the uplink's own network, for which this host would answer ARP.
    t.lab.output("target1", &["ip", "route", "add", "10.90.1.0/24", "dev", "eth0", "scope", "link"]).unwrap();
    eventually_missing(&t, "none", &["arp_ignore"]);
    sysctl(&t, "target1", uplink_arp, "1");
    eventually_missing(&t, "adopt", &[]);
    t.lab.output("target1", &["ip", "route", "del", "10.90.1.0/24", "dev", "eth0"]).unwrap();
    assert_eq!(t.get("/1k").unwrap().status, 200);
    assert_eq!(t.proxied("refused"), proxied);
    let refused = t.metric("target1", "baton_handoffs_refused_total{reason=\"adopt_unavailable\"}");
    assert_eq!(refused, proxied);
}

/// A server on target1, in nginx's place, that listens with MPTCP and answers everything with "ok".
fn listen_with_mptcp(t: &TestLab) {
    t.lab.kill("target1", Program::Server).unwrap();
    let listener = t.lab.inside("target1", || {
        // IPPROTO_MPTCP of linux/in.h.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(262))).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([10, 90, 101, 2], 80)).into()).unwrap();
        socket.listen(64).unwrap();
        TcpListener::from(socket)
    });
    let listener = listener.unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|n| n > 0) {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            }
        }
    });
}

#[test]
fn an_mptcp_listener_is_named_and_its_connections_are_replayed_even_before_it_is_noticed() {
    let Some(t) = lab::up("amptcp", |s| s.targets(1).serve(Serve::Auto)) else { return };
    if !std::path::Path::new("/proc/sys/net/mptcp/enabled").exists() {
        println!("no MPTCP on this kernel");
        return;
    }
    // The agent looks at the host every five seconds; a connection between two looks is the kernel's to refuse.
    let failed = |t: &TestLab| t.metric("target1", "baton_handoffs_unadopted_total{reason=\"adopt_failed\"}");
    listen_with_mptcp(&t);
    let (way, missing) = serve(&t, "target1");
    let response = t.get("/1k").unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    if way == "adopt" {
        assert_eq!(failed(&t), 1, "the kernel refused");
        assert_eq!(counted(&t, "target1", "drop_adopt_refused"), 1);
    } else {
        assert_eq!(missing, ["mptcp_listener"]);
    }
    t.expect_requests(1, 0);
    t.eventually("it is named", Duration::from_secs(8), |t| {
        serve(t, "target1").1.contains(&"mptcp_listener".to_owned())
    });
    assert_eq!(t.get("/1k").unwrap().text(), "ok");
    t.expect_requests(2, 0);
    assert_eq!(adopted(&t, &["target1"]), 0);
}

#[test]
fn the_vip_is_delivered_by_a_rule_of_the_agents_own_which_comes_back_by_itself_and_hides_it_from_nobody() {
    let Some(t) = adopting("aroute", |s| s.targets(1).family(Family::Dual)) else { return };
    for version in ["-4", "-6"] {
        let ip = |words: &str| {
            let words: Vec<_> = ["ip", version].into_iter().chain(words.split(' ')).collect();
            t.lab.output("target1", &words).unwrap()
        };
        let (vip, url) = match version {
            "-4" => ("10.90.1.100", "http://10.90.1.100/whoami"),
            _ => ("fd90:1::100", "http://[fd90:1::100]/whoami"),
        };
        let (rule, route) = (ip("rule show"), ip("route show table 66"));
        assert!(rule.contains(&format!("to {vip} iif eth0 lookup 66")), "{rule}");
        assert!(route.contains(&format!("local {vip} dev lo")) && route.contains("proto 66"), "{route}");
        assert_eq!(
            ip(&format!("route show table local {vip}")),
            "",
            "the host's own programs are not concerned"
        );
        // They reach the intermediate, as ever.
        let said = t.lab.output("target1", &["curl", "-gsS", "--max-time", "10", url]).unwrap();
        assert!(said.starts_with("target: target1"), "{said}");
        ip(&format!("rule del pref 66 to {vip} iif eth0 lookup 66"));
        t.eventually("it comes back", Duration::from_secs(8), |_| ip("rule show") == rule);
    }
    assert_eq!(t.proxied("local_client"), 2);
    for vip in t.lab.vips() {
        assert_eq!(t.client(move || client::get(vip, "/1k")).unwrap().status, 200);
    }
    t.eventually("adopted", Duration::from_secs(3), |t| adopted(t, &["target1"]) == 2);
}

#[test]
fn without_ebpf_or_without_what_the_kernel_tells_of_itself_handshakes_are_replayed_and_it_is_said_why() {
    let order = |s: LabSpec| s.targets(1).plane(Plane::Userspace).serve(Serve::Auto);
    let Some(t) = lab::up("aplane", order) else { return };
    assert_eq!(
        serve(&t, "target1"),
        ("translate".to_owned(), vec!["tcx".to_owned(), "vip_local".to_owned()])
    );
    assert_eq!(t.get("/1k").unwrap().status, 200);
    t.expect_requests(1, 0);
    // As on a kernel without BTF, or with one that has no such function in it.
    let own = std::env::current_exe().unwrap();
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("target-agent")).find(|p| p.is_file());
    let agent =
        std::env::var("BATON_BIN_DIR").map_or_else(|_| beside.unwrap(), |dir| (dir + "/target-agent").into());
    let config = std::fs::read_to_string(t.lab.config("target1", Program::Agent)).unwrap();
    let path = t.lab.config("target1", Program::Agent).with_extension("ebpf.toml");
    std::fs::write(&path, config.replace("\"userspace\"", "\"ebpf\"")).unwrap();
    let script = format!(
        "mount -t tmpfs none /sys/kernel/btf; {} doctor --config {}; true",
        agent.display(),
        path.display()
    );
    let said = t.lab.output("target1", &["unshare", "-m", "sh", "-c", &script]).unwrap();
    let line = said.lines().find(|line| line.contains("kernel_function"));
    assert!(line.is_some_and(|line| line.contains("adopt 10.90.1.100:80")), "{said}");
}

#[test]
fn auto_falls_back_to_a_replayed_handshake_and_says_so() {
    let order = |s: LabSpec| s.targets(1).serve(Serve::Auto).agents_with("serve", "local_vip", false);
    let Some(t) = lab::up("aauto", order) else { return };
    // Nobody made the VIP local.
    assert_eq!(serve(&t, "target1"), ("translate".to_owned(), vec!["vip_local".to_owned()]));
    assert_eq!(t.get("/1k").unwrap().status, 200);
    assert_eq!((adopted(&t, &["target1"]), t.migrated(), t.all_proxied()), (0, 1, 0));
    t.lab.output("target1", &["ip", "route", "add", "local", "10.90.1.100/32", "dev", "lo"]).unwrap();
    eventually_missing(&t, "adopt", &[]);
    assert_eq!(
        t.metric("target1", "baton_serve_adopts{vip=\"10.90.1.100:80\",server=\"10.90.101.2:80\"}"),
        1
    );
    assert_eq!(t.get("/1k").unwrap().status, 200);
    t.eventually("adopted", Duration::from_secs(3), |t| adopted(t, &["target1"]) == 1);
    // What no look at the host shows: a handoff between two looks, and the kernel resets instead of adopting. The
    // handshake is replayed within the same handoff, and the client notices nothing.
    sysctl(&t, "target1", "net.ipv4.tcp_syncookies", "0");
    let before = serve(&t, "target1");
    if before.1.is_empty() {
        assert_eq!(t.get("/1k").unwrap().status, 200);
        assert_eq!(t.all_proxied(), 0);
        assert_eq!(t.metric("target1", "baton_handoffs_unadopted_total{reason=\"adopt_reset\"}"), 1);
        assert_eq!(counted(&t, "target1", "drop_adopt_reset"), 1);
        assert_eq!(serve(&t, "target1").0, "translate");
        assert!(serve(&t, "target1").1.contains(&"tried".to_owned()));
    }
    t.expect_requests(if before.1.is_empty() { 3 } else { 2 }, 0);
}

#[test]
fn silence_is_noticed_and_the_handshake_replayed_within_the_same_handoff() {
    let order = |s: LabSpec| s.targets(1).serve(Serve::Auto).agents_with("serve", "local_vip", false);
    let Some(t) = lab::up("asilent", order) else { return };
    let route = |verb: &str| {
        t.lab.output("target1", &["ip", "route", verb, "local", "10.90.1.100/32", "dev", "lo"]).unwrap();
    };
    let silent = |t: &TestLab| t.metric("target1", "baton_handoffs_unadopted_total{reason=\"adopt_silent\"}");
    let mut requests = 0;
    // The agent looks at the host every five seconds: between two looks the VIP goes, and packets to it vanish.
    while silent(&t) == 0 {
        assert!(requests < 5, "the agent was always faster");
        route("add");
        eventually_missing(&t, "adopt", &[]);
        route("del");
        let response = t.get("/1k").unwrap();
        assert_eq!((response.status, response.sha256), (200, t.sha256("1k")));
        requests += 1;
    }
    t.expect_requests(requests, 0);
    assert!(serve(&t, "target1").1.contains(&"tried".to_owned()));
    assert!(counted(&t, "target1", "adopt_assigned") > 1, "the packet was sent again");
    assert_eq!(adopted(&t, &["target1"]), 0);
    t.eventually("nothing is left", LINGER * 4, |t| t.flows("target1").is_empty());
}

#[test]
fn a_server_that_does_not_listen_is_refused_and_the_client_gets_no_reset_from_the_target() {
    let Some(t) = adopting("anone", |s| s.targets(1)) else { return };
    t.lab.kill("target1", Program::Server).unwrap();
    let answer = t.get("/1k").map(|response| response.status);
    assert_eq!(answer.unwrap(), 503, "no target could take it");
    assert_eq!(t.metric("target1", "baton_handoffs_refused_total{reason=\"server_refused\"}"), 1);
}

#[test]
fn reverse_path_filters_are_no_obstacle_even_when_strict() {
    let Some(t) = adopting("arpf", |s| s.targets(1)) else { return };
    for device in ["all", "eth0"] {
        sysctl(&t, "target1", &format!("net.ipv4.conf.{device}.rp_filter"), "1");
    }
    let response = t.get("/10m").unwrap();
    assert_eq!((response.status, response.sha256), (200, t.sha256("10m")));
    t.eventually("adopted", Duration::from_secs(3), |t| adopted(t, &["target1"]) == 1);
}

#[test]
fn a_path_with_a_smaller_mtu_is_discovered_by_adopted_sockets() {
    let Some(t) = adopting("amtu", |s| s.targets(1).mtu_client(1300)) else { return };
    let response = t.get("/10m").unwrap();
    assert_eq!((response.status, response.sha256), (200, t.sha256("10m")));
    t.eventually("adopted", Duration::from_secs(3), |t| adopted(t, &["target1"]) == 1);
    assert!(counted(&t, "target1", "icmp_translated") > 0, "the error found the socket");
}

#[test]
fn requests_of_one_connection_go_to_two_targets_in_turn_adopted_each_time_or_replayed_each_time() {
    let site = r#"
[[pool]]
name = "a"
targets = ["target1"]
[[pool]]
name = "b"
targets = ["target2"]
[[route]]
name = "b"
query = { to = "b" }
pool = "b"
[[route]]
name = "a"
query = { to = "a" }
pool = "a"
"#;
    let order = |s: LabSpec| s.intermediate_with("listener", "keepalive", "tracked").intermediate_also(site);
    for way in [Serve::Adopt, Serve::Translate] {
        let Some(t) = lab::up("atracked", |s| order(s.serve(way))) else { return };
        in_turn(&t);
        if way == Serve::Adopt {
            expect_adopted(&t, 200);
        }
        assert_eq!(t.all_proxied(), 0);
    }
}

fn in_turn(t: &TestLab) {
    let want = t.sha256("100k");
    t.client(move || {
        let mut connection = Connection::open(VIP).unwrap();
        for n in 0..200 {
            let (to, server) = if n % 2 == 0 { ("a", "target1") } else { ("b", "target2") };
            connection.get(&format!("/100k?to={to}")).unwrap();
            let response = connection.response().unwrap_or_else(|e| panic!("request {n}: {e}"));
            assert_eq!((response.status, &response.sha256), (200, &want), "request {n}");
            assert_eq!(response.header("x-served-by"), Some(server), "request {n}");
        }
    });
}

#[test]
fn an_encapsulated_leg_carries_adopted_flows() {
    for leg in ["ipip", "udp"] {
        let order = |s: LabSpec| {
            s.targets(1).intermediate_with("target", "leg", leg).agents_with("allow", "leg", leg).agents_with(
                "allow",
                "leg_source",
                "10.90.1.2",
            )
        };
        let Some(t) = adopting("aleg", order) else { return };
        let response = t.get("/10m").unwrap();
        assert_eq!((response.status, response.sha256), (200, t.sha256("10m")), "{leg}");
        t.eventually("adopted", Duration::from_secs(3), |t| adopted(t, &["target1"]) == 1);
        assert!(counted(&t, "target1", "leg_stripped") > 0, "{leg}");
        assert!(counted(&t, "target1", "readdressed") > 0, "{leg}");
    }
}
