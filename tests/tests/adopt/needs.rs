//! Everything that can be missing for adopting connections, provoked: each is named, and handshakes are replayed meanwhile.

use crate::{LINGER, SOON, adopted, adopting, counted, sysctl};
use baton_tests::client;
use baton_tests::lab::{self, TestLab};
use baton_tests::skip;
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::spec::Plane;
use netns_lab::{Family, LabSpec, Program, Serve, command};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

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

fn eventually_missing(t: &TestLab, target: &str, way: &str, names: &[&str]) {
    t.eventually(&format!("{target}: {way}, for want of {names:?}"), Duration::from_secs(20), |t| {
        let (is, missing) = serve(t, target);
        is == way && missing == names
    });
}

/// Each takes something of its own host, so that agents, which look every few seconds, notice all at once.
#[test]
fn each_thing_missing_is_named_refused_by_adopt_and_healed() {
    const ARP: &str = "arp_ignore";
    // A VIP in the uplink's own network, for which this host would answer ARP.
    const IN_UPLINKS_NETWORK: [&str; 5] = ["10.90.1.0/24", "dev", "eth0", "scope", "link"];
    let route = |t: &TestLab, target: &str, order: &str| {
        t.lab.output(target, &[&["ip", "route", order], &IN_UPLINKS_NETWORK[..]].concat()).unwrap();
    };
    let needs = [
        ("net.ipv4.conf.eth0.arp_ignore", ARP),
        ("net.ipv4.tcp_syncookies", "tcp_syncookies"),
        ("net.ipv4.tcp_timestamps", "tcp_timestamps"),
        ("net.ipv4.tcp_sack", "tcp_sack"),
        ("net.ipv4.tcp_window_scaling", "tcp_window_scaling"),
        ("net.netfilter.nf_conntrack_tcp_loose", "nf_conntrack_tcp_loose"),
    ];
    // A kernel without connection tracking has no such setting.
    let here = |key: &str| {
        let of_all = key.replace("eth0", "all").replace('.', "/");
        let is = std::path::Path::new("/proc/sys").join(of_all).exists();
        if !is {
            println!("no {key} on this kernel");
        }
        is
    };
    let hosts = needs.into_iter().filter(|(key, _)| here(key)).zip(1..);
    let hosts: Vec<_> = hosts.map(|((key, name), n)| (plan::target(n), key, name)).collect();
    let Some(t) = adopting("aneeds", |s| s.targets(u8::try_from(hosts.len()).unwrap())) else { return };
    let order = |target: &str, order: &str| t.order(&format!("/v1/targets/{target}/{order}"));
    for (target, key, name) in &hosts {
        assert_eq!(serve(&t, target), ("adopt".to_owned(), vec![]));
        match *name {
            ARP => route(&t, target, "add"),
            _ => sysctl(&t, target, key, "0"),
        }
        order(target, "drain");
    }
    hosts.iter().for_each(|(target, _, name)| eventually_missing(&t, target, "none", &[name]));
    let with_settings = || hosts.iter().filter(|(_, _, name)| *name != ARP);
    for ((target, _, name), proxied) in with_settings().zip(1..) {
        order(target, "undrain");
        assert_eq!(t.get("/1k").unwrap().status, 200, "proxied without {name}");
        assert_eq!(t.proxied("refused"), proxied, "{name}");
        let refused = t.metric(target, "baton_handoffs_refused_total{reason=\"adopt_unavailable\"}");
        assert_eq!(refused, 1, "{name}");
        order(target, "drain");
    }
    hosts.iter().for_each(|(target, key, _)| sysctl(&t, target, key, "1"));
    hosts.iter().for_each(|(target, _, _)| eventually_missing(&t, target, "adopt", &[]));
    for (target, _, name) in &hosts {
        if *name == ARP {
            route(&t, target, "del");
        }
        order(target, "undrain");
        assert_eq!(t.get("/1k").unwrap().status, 200);
        order(target, "drain");
    }
    assert_eq!(t.proxied("refused"), with_settings().count() as u64);
    for (target, _, name) in with_settings() {
        t.eventually("adopted", SOON, |t| adopted(t, &[target]) == 1);
        let refused = t.metric(target, "baton_handoffs_refused_total{reason=\"adopt_unavailable\"}");
        assert_eq!(refused, 1, "{name}");
    }
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
    // IPPROTO_MPTCP of linux/in.h.
    if let Err(e) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(262))) {
        let why = format!("no multipath TCP in this kernel (CONFIG_MPTCP, net.mptcp.enabled): {e}");
        return skip::skip("an MPTCP listener", &why);
    }
    let Some(t) = lab::up_beside("amptcp", |s| s.targets(1).serve(Serve::Auto)) else { return };
    // The agent looks at the host every five seconds; a connection between two looks is the kernel's to refuse.
    let failed = |t: &TestLab| t.metric("target1", "baton_handoffs_unadopted_total{reason=\"adopt_failed\"}");
    listen_with_mptcp(&t);
    let response = t.get("/1k").unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    match failed(&t) {
        0 => assert_eq!(serve(&t, "target1").1, ["mptcp_listener"], "noticed in time"),
        refused => assert_eq!((refused, counted(&t, "target1", "drop_adopt_refused")), (1, 1)),
    }
    t.expect_requests(1, 0);
    t.eventually("it is named", Duration::from_secs(20), |t| {
        serve(t, "target1").1.contains(&"mptcp_listener".to_owned())
    });
    assert_eq!(t.get("/1k").unwrap().text(), "ok");
    t.expect_requests(2, 0);
    assert_eq!(adopted(&t, &["target1"]), 0);
}

#[test]
fn the_vip_is_delivered_by_a_rule_of_the_agents_own_which_comes_back_by_itself_and_hides_it_from_nobody() {
    // A second VIP of the same family, on the same host.
    let second = SocketAddr::from(([10, 90, 1, 101], 80));
    let allow = format!(
        "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"{second}\"\nserver = \"ADDRESS:80\"\n"
    );
    let order = |s: LabSpec| s.targets(1).family(Family::Dual).agents_also(&allow);
    let Some(t) = adopting("aroute", order) else { return };
    t.lab.output(INTERMEDIATE, &["ip", "addr", "add", "10.90.1.101/32", "dev", "eth0"]).unwrap();
    let path = t.lab.config(INTERMEDIATE, Program::Balancer);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n[[listener]]\nvip = \"{second}\"\n")).unwrap();
    t.order("/v1/reload");
    let second_rule = "to 10.90.1.101 iif eth0 lookup 66";
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
        let said = t.lab.output("target1", &["curl", "-gsS", "--max-time", "30", url]).unwrap();
        assert!(said.starts_with("target: target1"), "{said}");
        assert_eq!(rule.contains(second_rule), version == "-4", "each VIP has its rule: {rule}");
        ip(&format!("rule del pref 66 to {vip} iif eth0 lookup 66"));
        // Among those of one preference it comes last.
        let sorted = |rules: &str| {
            let mut lines: Vec<String> = rules.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        t.eventually("it comes back", Duration::from_secs(20), |_| sorted(&ip("rule show")) == sorted(&rule));
    }
    assert_eq!(t.proxied("local_client"), 2);
    for vip in t.lab.vips().into_iter().chain([second]) {
        assert_eq!(t.client(move || client::get(vip, "/1k")).unwrap().status, 200);
    }
    t.eventually("adopted", SOON, |t| adopted(t, &["target1"]) == 3);
    assert_eq!(t.all_proxied(), 2);
}

#[test]
fn without_ebpf_or_without_what_the_kernel_tells_of_itself_handshakes_are_replayed_and_it_is_said_why() {
    let order = |s: LabSpec| s.targets(1).plane(Plane::Userspace).serve(Serve::Auto);
    let Some(t) = lab::up_beside("aplane", order) else { return };
    assert_eq!(
        serve(&t, "target1"),
        ("translate".to_owned(), vec!["tcx".to_owned(), "vip_local".to_owned()])
    );
    assert_eq!(t.get("/1k").unwrap().status, 200);
    t.expect_requests(1, 0);
    // As on a kernel without BTF, or with one that has no such function in it.
    let agent = command::built("target-agent").unwrap();
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
    let Some(t) = lab::up_beside("aauto", order) else { return };
    // Nobody made the VIP local.
    assert_eq!(serve(&t, "target1"), ("translate".to_owned(), vec!["vip_local".to_owned()]));
    assert_eq!(t.get("/1k").unwrap().status, 200);
    t.expect_requests(1, 0);
    assert_eq!(adopted(&t, &["target1"]), 0);
    t.lab.output("target1", &["ip", "route", "add", "local", "10.90.1.100/32", "dev", "lo"]).unwrap();
    eventually_missing(&t, "target1", "adopt", &[]);
    assert_eq!(
        t.metric("target1", "baton_serve_adopts{vip=\"10.90.1.100:80\",server=\"10.90.101.2:80\"}"),
        1
    );
    assert_eq!(t.get("/1k").unwrap().status, 200);
    t.eventually("adopted", SOON, |t| adopted(t, &["target1"]) == 1);
    // What no look at the host shows: a handoff between two looks, and the kernel resets instead of adopting. The
    // handshake is replayed within the same handoff, and the client notices nothing.
    sysctl(&t, "target1", "net.ipv4.tcp_syncookies", "0");
    assert_eq!(t.get("/1k").unwrap().status, 200);
    let (reset, now) =
        (t.metric("target1", "baton_handoffs_unadopted_total{reason=\"adopt_reset\"}"), serve(&t, "target1"));
    assert_eq!(now.0, "translate");
    if reset == 0 {
        assert!(now.1.contains(&"tcp_syncookies".to_owned()), "a look came before: {now:?}");
    } else {
        assert_eq!((reset, counted(&t, "target1", "drop_adopt_reset")), (1, 1));
        assert!(now.1.contains(&"tried".to_owned()), "{now:?}");
    }
    t.expect_requests(3, 0);
}

#[test]
fn silence_is_noticed_and_the_handshake_replayed_within_the_same_handoff() {
    let order = |s: LabSpec| s.targets(1).serve(Serve::Auto).agents_with("serve", "local_vip", false);
    let Some(t) = lab::up_beside("asilent", order) else { return };
    let route = |verb: &str| {
        t.lab.output("target1", &["ip", "route", verb, "local", "10.90.1.100/32", "dev", "lo"]).unwrap();
    };
    let silent = |t: &TestLab| t.metric("target1", "baton_handoffs_unadopted_total{reason=\"adopt_silent\"}");
    let mut requests = 0;
    // The agent looks at the host every five seconds: between two looks the VIP goes, and packets to it vanish.
    while silent(&t) == 0 {
        assert!(requests < 5, "the agent was always faster");
        route("add");
        eventually_missing(&t, "target1", "adopt", &[]);
        route("del");
        let response = t.get("/1k").unwrap();
        assert_eq!((response.status, response.sha256), (200, t.sha256("1k")));
        requests += 1;
    }
    t.expect_requests(requests, 0);
    assert!(serve(&t, "target1").1.contains(&"tried".to_owned()));
    assert!(counted(&t, "target1", "adopt_assigned") > 1, "the packet was sent again");
    assert_eq!(adopted(&t, &["target1"]), 0);
    t.eventually("nothing is left", LINGER * 10, |t| t.flows("target1").is_empty());
}
