//! The data plane without eBPF, end to end: the same labs with `plane.kind = "userspace"` in every daemon.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client;
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{Family, Plane, Program, Serve};
use std::net::SocketAddr;
use std::time::Duration;

/// What policy routing and the settings it needs look like on a node.
fn routing(t: &TestLab, node: &str) -> String {
    let look = "ip rule; ip -6 rule; cd /proc/sys/net; \
                cat ipv4/tcp_early_demux ipv4/conf/eth0/forwarding ipv4/conf/eth0/rp_filter ipv6/conf/all/forwarding";
    t.lab.output(node, &["bash", "-c", look]).unwrap()
}

#[test]
fn downloads_uploads_and_a_hundred_small_requests_are_migrated_and_byte_exact() {
    let Some(t) = lab::up("us-work", |s| lab::patient(s).plane(Plane::Userspace)) else { return };
    assert_eq!(t.admin(INTERMEDIATE, "/readyz")["data_plane"], "userspace");
    for _ in 0..4 {
        assert_eq!(t.get("/10m").unwrap().sha256, t.sha256("10m"));
    }
    let want = t.sha256("1k");
    t.client(move || {
        let work = |_| {
            let want = want.clone();
            std::thread::spawn(move || {
                for n in 0..25 {
                    let response = client::get(VIP, "/1k").unwrap_or_else(|e| panic!("request {n}: {e}"));
                    assert_eq!((response.status, &response.sha256), (200, &want));
                }
            })
        };
        let workers: Vec<_> = (0..4).map(work).collect();
        workers.into_iter().for_each(|w| w.join().unwrap());
    });
    put(&t, VIP, "a");
    t.expect_requests(105, 0);
    // The servers saw the client, and the clients' packets of migrated flows were carried by the daemon.
    assert!(t.access_log("target1").iter().all(|line| line.starts_with("10.90.11.2 ")));
    assert!(t.packets(INTERMEDIATE, "translated") > 1000);
    t.expect_all_released();
    t.eventually("all records are freed", Duration::from_secs(30), |t| {
        [INTERMEDIATE, "target1", "target2"].iter().all(|node| t.flows(node).is_empty())
    });
}

/// Uploads 10 MB, head and body together.
fn put(t: &TestLab, to: SocketAddr, name: &'static str) {
    let source = t.lab.www_dir().join("10m");
    let put = t.client(move || client::upload(to, name, &std::fs::read(&source).unwrap()));
    assert_eq!((put.unwrap().status, t.uploaded(name)), (201, t.sha256("10m")), "{to}");
}

#[test]
fn both_versions_of_ip_are_carried() {
    let Some(t) = lab::up("us-dual", |s| lab::patient(s).plane(Plane::Userspace).family(Family::Dual)) else {
        return;
    };
    for vip in plan::vips(Family::Dual) {
        let response = t.client(move || client::get(vip, "/10m")).unwrap();
        assert_eq!((response.status, response.sha256), (200, t.sha256("10m")), "{vip}");
        put(&t, vip, if vip.is_ipv4() { "over4" } else { "over6" });
    }
    t.expect_requests(4, 0);
}

/// A server's packets that are of no migrated connection come back from the agent with the host's own address as source.
#[test]
fn a_reload_takes_no_listener_that_the_plane_does_not_know_and_all_else() {
    let order = |s: netns_lab::LabSpec| {
        lab::patient(s).plane(Plane::Userspace).family(Family::Dual).targets(1).serve(Serve::Translate)
    };
    let Some(t) = lab::up("us-reload", order) else { return };
    let path = t.lab.config(INTERMEDIATE, Program::Balancer);
    let text = std::fs::read_to_string(&path).unwrap();
    let reload = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let (status, answer) = t.lab.admin_post(INTERMEDIATE, "/v1/reload").unwrap();
        (status, serde_json::from_str::<serde_json::Value>(&answer).unwrap())
    };
    let get = |vip| t.client(move || client::get(vip, "/1k")).map(|response| response.status);
    let [four, six] = plan::vips(Family::Dual)[..] else { panic!("two") };
    let changed = text.replacen("[[target]]", "[limits]\nheader_count = 7\n[[target]]", 1);
    let added = format!("{changed}\n[[listener]]\nvip = \"10.90.1.100:81\"\n");
    let (status, said) = reload(&added);
    let why = "10.90.1.100:81 cannot be added without a restart: the plane in user space";
    assert!(status == 409 && said["error"].as_str().unwrap().contains(why), "{status} {said}");
    let limit = |t: &TestLab| t.admin(INTERMEDIATE, "/v1/config")["limits"]["header_count"].clone();
    assert_ne!(limit(&t), 7, "nothing was changed");
    assert!(get(SocketAddr::new(VIP.ip(), 81)).is_err());
    assert_eq!((get(four).unwrap(), reload(&changed).0, limit(&t)), (200, 200, 7.into()));
    // One that it knows may go and come again.
    let without = changed.replacen(&format!("[[listener]]\nvip = \"{six}\"\n"), "", 1);
    assert_ne!(without, changed);
    assert_eq!((reload(&without).0, get(six).is_err()), (200, true));
    assert_eq!((reload(&changed).0, get(six).unwrap(), get(four).unwrap()), (200, 200, 200));
    t.expect_requests(3, 0);
}

#[test]
fn connections_past_the_vip_and_proxied_ones_go_their_ordinary_way() {
    let order = |s: netns_lab::LabSpec| {
        s.targets(1)
            .plane(Plane::Userspace)
            .family(Family::Dual)
            .intermediate_with("listener", "mode", "proxy")
    };
    let Some(t) = lab::up("us-past", order) else { return };
    let servers = plan::target_addrs(Family::Dual, 1).into_iter().map(|ip| SocketAddr::new(ip, 80));
    let within = Duration::from_secs(20);
    for to in servers.chain(plan::vips(Family::Dual)) {
        let started = std::time::Instant::now();
        let response = t.client(move || client::get(to, "/1m")).unwrap();
        assert_eq!((response.status, response.sha256), (200, t.sha256("1m")), "{to}");
        assert!(started.elapsed() < within, "{to} took {:?}", started.elapsed());
    }
    t.expect_requests(0, 2);
}

#[test]
fn each_host_has_the_plane_it_wants() {
    for (name, carried) in [("us-mixed1", true), ("us-mixed2", false)] {
        let order = |s: netns_lab::LabSpec| match carried {
            true => lab::patient(s).intermediate_with("plane", "kind", "userspace"),
            false => lab::patient(s).agents_with("plane", "kind", "userspace"),
        };
        let Some(t) = lab::up(name, order) else { return };
        assert_eq!(t.get("/10m").unwrap().sha256, t.sha256("10m"));
        put(&t, VIP, "a");
        t.expect_requests(2, 0);
        assert_eq!(t.admin(INTERMEDIATE, "/readyz")["data_plane"] == "userspace", carried);
    }
}

#[test]
fn an_ipv4_path_with_a_smaller_mtu_is_found() {
    let Some(t) = lab::up("us-mtu", |s| lab::patient(s.targets(1)).plane(Plane::Userspace).mtu_client(1280))
    else {
        return;
    };
    let response = t.get("/1m").unwrap();
    assert_eq!((response.status, response.sha256), (200, t.sha256("1m")));
    assert!(t.packets(INTERMEDIATE, "icmp_translated") > 0);
}

#[test]
fn daemons_that_stall_in_mid_download_lose_nothing() {
    let Some(t) = lab::up("us-stall", |s| netns_lab::LabSpec {
        rate_target: "200mbit".parse().ok(),
        ..s.targets(1).plane(Plane::Userspace)
    }) else {
        return;
    };
    let response = std::thread::scope(|scope| {
        let asked = scope.spawn(|| t.get("/100m"));
        t.eventually("the migration", Duration::from_secs(20), |t| t.migrated() == 1);
        for (node, program) in [("target1", Program::Agent), (INTERMEDIATE, Program::Balancer)] {
            std::thread::sleep(Duration::from_millis(300));
            t.lab.signal(node, program, libc::SIGSTOP).unwrap();
            std::thread::sleep(Duration::from_millis(500));
            t.lab.signal(node, program, libc::SIGCONT).unwrap();
        }
        asked.join().unwrap()
    });
    assert_eq!(response.unwrap().sha256, t.sha256("100m"));
}

#[test]
fn what_was_changed_on_the_hosts_is_put_back_and_a_killed_daemon_does_not_stop_the_next() {
    // Where connections are adopted, the VIP has a rule of its own.
    let Some(t) = lab::up("us-back", |s| s.targets(1).serve(Serve::Translate)) else { return };
    let nodes = [INTERMEDIATE, "target1"];
    let before = nodes.map(|node| routing(&t, node));
    drop(t);
    let Some(t) = lab::up("us-back", |s| s.targets(1).plane(Plane::Userspace)) else { return };
    let with = nodes.map(|node| routing(&t, node));
    assert!(with[0].contains("iif eth0 ipproto tcp") && with[1].contains("sport 80"), "{with:?}");
    t.lab.kill_intermediate().unwrap();
    t.lab.kill_agent("target1").unwrap();
    // Rules without a TUN lead nowhere: the hosts do their other work.
    let direct = SocketAddr::new(plan::target_addr(1).into(), 80);
    assert_eq!(t.client(move || client::get(direct, "/1k")).unwrap().sha256, t.sha256("1k"));
    t.lab.start_agent("target1").unwrap();
    t.lab.start_intermediate().unwrap();
    t.eventually("migrations again", Duration::from_secs(30), |t| {
        t.get("/1k").is_ok_and(|r| r.sha256 == t.sha256("1k")) && t.migrated() > 0
    });
    t.lab.stop_intermediate().unwrap();
    t.lab.stop_agent("target1").unwrap();
    let rules =
        |text: &str| text.lines().filter(|l| l.contains("lookup")).map(str::to_owned).collect::<Vec<_>>();
    for (node, before) in nodes.iter().zip(&before) {
        assert_eq!(rules(&routing(&t, node)), rules(before), "{node}");
    }
    // The killed daemons could not put their settings back; these begin with what they find.
    drop(t);
    let Some(t) = lab::up("us-back", |s| s.targets(1).plane(Plane::Userspace)) else { return };
    t.lab.stop_intermediate().unwrap();
    t.lab.stop_agent("target1").unwrap();
    assert_eq!(nodes.map(|node| routing(&t, node)), before);
}
