//! Faults that are planted, and what `baton doctor` says of each: it names it, and how to mend it (docs/doctor.md).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod invalid;

use baton_daemon::control::{Server, ServerSpec};
use baton_daemon::random::random;
use baton_daemon::tls::TlsFiles;
use baton_shared::control::{Hello, PROTOCOL_VERSION, Role};
use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIP};
use baton_tests::skip;
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{LabSpec, Program, Serve, command};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(15);
/// The intermediate's flow table.
const SLOTS: usize = 8;

/// What a finding must have: the host and the thing, and words of what was found and of its mending.
struct Named {
    host: &'static str,
    name: &'static str,
    found: &'static str,
    mend: &'static str,
}

const fn named(host: &'static str, name: &'static str, found: &'static str, mend: &'static str) -> Named {
    Named { host, name, found, mend }
}

impl Named {
    fn is(&self, finding: &Value) -> bool {
        let part = |key: &str| finding[key].as_str().unwrap();
        finding["status"] != "ok"
            && (part("host"), part("name")) == (self.host, self.name)
            && part("found").contains(self.found)
            && part("mend").contains(self.mend)
    }
}

/// What the doctor finds.
fn doctor(t: &TestLab, more: &[&str]) -> Vec<Value> {
    let output = t.tool(&["doctor", "--json"]).args(more).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    found["findings"].as_array().unwrap().clone()
}

/// Asks the doctor until it names them all: what daemons tell each other takes its time.
fn names(t: &TestLab, more: &[&str], faults: &[Named]) {
    let mut last = Vec::new();
    t.eventually("all are named", LIMIT * 2, |t| {
        last = doctor(t, more);
        let missing = faults.iter().filter(|fault| !last.iter().any(|finding| fault.is(finding)));
        let missing: Vec<_> = missing.map(|fault| (fault.host, fault.name)).collect();
        if !missing.is_empty() {
            println!("not named yet: {missing:?} in {last:#?}");
        }
        missing.is_empty()
    });
}

fn is_sick(finding: &Value) -> bool {
    finding["status"] == "fail"
}

/// Preloaded, `told.c` tells a process another time and another kernel's version.
fn told(scratch: &Path) -> String {
    let library = scratch.join("told.so").display().to_string();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctor/told.c");
    let words = ["-shared", "-fPIC", "-O", "-Wall", "-Werror", "-o", &library, source];
    let made = Command::new("cc").args(words).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    library
}

fn in_order(s: LabSpec) -> LabSpec {
    let pool = "[[pool]]\nname = \"web\"\ntargets = [\"target1\", \"target2\"]\nbalance = \"round_robin\"\n\
                [pool.health]\nkind = \"none\"\n";
    // Of a third target the port is wrong: its server listens at 80.
    let misplaced = "[[target]]\nname = \"misplaced\"\nserver = \"10.90.101.2:81\"\nagent = \"10.90.101.2:7400\"\n\
                     agent_name = \"target1\"\n";
    s.serve(Serve::Auto)
        .intermediate_with("listener", "pool", "web")
        .intermediate_also(pool)
        .intermediate_also(misplaced)
        .intermediate_with("plane", "flows", SLOTS)
}

fn sh(t: &TestLab, node: &str, script: &str) {
    t.lab.output(node, &["sh", "-ec", script]).unwrap();
}

#[test]
fn what_is_wrong_with_hosts_is_named_with_its_mending() {
    const TEST: &str = "doctored";
    if !skip::program(TEST, "cc") {
        return;
    }
    let Some(t) = lab::up(TEST, in_order) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let told = told(scratch.path());
    // A daemon that a busy machine lets stand is wrong for that moment.
    let mut well = Vec::new();
    t.eventually("nothing is wrong yet but what was planted", LIMIT, |t| {
        well = doctor(t, &[]);
        let sick: Vec<&Value> = well.iter().filter(|finding| is_sick(finding)).collect();
        let as_planted = sick.len() == 1 && sick[0]["name"] == "server misplaced";
        if !as_planted {
            println!("{sick:#?}");
        }
        as_planted
    });
    let own = well.iter().find(|finding| finding["name"] == "server 10.90.101.2:80").unwrap();
    assert_eq!((&own["host"], &own["status"]), (&"target1".into(), &"ok".into()), "the agent's own: {own}");

    // An old kernel and a wrong clock on one host, no server on the other, more connections than slots.
    t.lab.stop_agent("target1").unwrap();
    let variables =
        [("LD_PRELOAD", told.as_str()), ("TOLD_SECONDS_AHEAD", "3600"), ("TOLD_KERNEL", "5.15.0")];
    t.lab.start_with("target1", Program::Agent, &variables).unwrap();
    t.lab.kill("target2", Program::Server).unwrap();
    t.eventually("it is connected", LIMIT, |t| {
        t.admin(INTERMEDIATE, "/v1/targets/target1")["agent_state"] == "up"
    });
    let mut held = Vec::new();
    while t.proxied("table_full") == 0 {
        assert!(held.len() < 4 * SLOTS, "{} connections, and the table is not full", held.len());
        held.push(t.client(|| {
            let mut connection = Connection::open(VIP).unwrap();
            connection.get("/1k").unwrap();
            assert_eq!(connection.response().unwrap().status, 200);
            connection
        }));
    }
    names(
        &t,
        &[],
        &[
            named("intermediate", "target target2", "nothing listens at 10.90.102.2:80", "start the server"),
            named("intermediate", "server target2", "refused", "start the server"),
            named(
                "intermediate",
                "server misplaced",
                "10.90.101.2:81: Connection refused",
                "compare [[target]]",
            ),
            named("intermediate", "flow table", "8 of 8 slots", "raise plane.flows"),
            named("intermediate", "proxied table_full", "", "raise plane.flows"),
            named("target1", "data plane", "attached by clsact: the kernel has no TCX", "Linux 6.9"),
            named("target1", "adopt 10.90.1.100:80 for 10.90.101.2:80", "tcx", "TCX"),
            named("target1", "clock", "ahead of that of intermediate", "synchronise the clocks"),
        ],
    );
    drop(held);
    t.lab.start("target2", Program::Server).unwrap();
    t.lab.stop_agent("target1").unwrap();

    // A certificate of a year ago, whose agent runs on: by its own clock it is valid still. An agent of another protocol. And
    // the VIP is gone.
    let certs = t.lab.certs_dir();
    let mut command = Command::new(command::built("target-agent").unwrap());
    command.args(["certs", "--agent", "target1=10.90.101.2", "--days", "30", "--dir"]).arg(&certs);
    let variables = [("LD_PRELOAD", told.as_str()), ("TOLD_SECONDS_AHEAD", "-31536000")];
    let made = command.envs(variables).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    t.lab.start_with("target1", Program::Agent, &variables).unwrap();
    t.lab.stop_agent("target2").unwrap();
    let _newer = newer(&t, &certs, "target2");
    sh(&t, INTERMEDIATE, "ip addr del 10.90.1.100/24 dev eth0");
    names(
        &t,
        &[],
        &[
            named("intermediate", "agent target1", "expired", "make a new certificate"),
            named("target1", "clock", "behind that of intermediate", "synchronise the clocks"),
            named("intermediate", "agent target2", "protocol version", "the same release"),
            named("intermediate", "vip 10.90.1.100:80", "Cannot assign", "the host has 10.90.1.100"),
        ],
    );
}

/// A firewall that drops what connection tracking takes for no part of a connection, which it does of what begins in its middle;
/// why not, where the kernel has none.
fn plant_firewall(t: &TestLab, node: &str) -> Result<(), String> {
    let script = "modprobe -q nf_conntrack; echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose";
    t.lab.output(node, &["sh", "-c", script]).map_err(|e| format!("no connection tracking: {e:#}"))?;
    let planted = t.lab.inside(node, invalid::drop_invalid).unwrap();
    planted.map_err(|e| format!("no nf_tables that asks connection tracking: {e}"))
}

/// In the place of a node's agent, one of the next protocol version: it says hello, and no more.
fn newer(t: &TestLab, certs: &Path, node: &'static str) -> (tokio::runtime::Runtime, Server) {
    let tls = TlsFiles::in_dir(certs, node);
    let listen = move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let hello = Hello {
            protocol: PROTOCOL_VERSION + 1,
            role: Role::Agent,
            name: node.to_owned(),
            instance: random(),
            software: "of tomorrow".to_owned(),
        };
        let addr = "10.90.102.2:7400".parse().unwrap();
        let spec = ServerSpec { addr, tls: &tls, hello, allowed: vec![INTERMEDIATE.to_owned()] };
        let entered = runtime.enter();
        let server = Server::bind(spec, Arc::new(|_| {})).unwrap();
        drop(entered);
        (runtime, server)
    };
    t.lab.inside(node, listen).unwrap()
}

#[test]
fn what_is_wrong_with_the_way_is_named_with_its_mending() {
    const TEST: &str = "doctorway";
    let Some(t) = lab::up(TEST, |s| in_order(s).intermediate_with("plane", "flows", 1024)) else { return };
    t.eventually("both targets have had the client", LIMIT, |t| {
        assert_eq!(t.get("/1k").unwrap().status, 200);
        ["target1", "target2"].iter().all(|node| t.metric(node, "baton_handoffs_migrated_total") > 0)
    });

    // A firewall at one target's door, and at the other a rule by which the server's packets leave another way than they come.
    t.lab.stop_agent("target2").unwrap();
    let firewall = plant_firewall(&t, "target2");
    t.lab.start_agent("target2").unwrap();
    t.eventually("it is connected", LIMIT, |t| {
        t.admin(INTERMEDIATE, "/v1/targets/target2")["agent_state"] == "up"
    });
    for _ in 0..2 {
        assert_eq!(t.get("/1k").unwrap().status, 200, "what cannot be adopted is replayed");
    }
    let other = "ip tuntap add other mode tun; ip link set other up; ip route add default dev other table 77; \
                 ip rule add pref 77 from 10.90.101.2 lookup 77";
    sh(&t, "target1", &format!("sysctl -qw net.ipv4.conf.all.rp_filter=1; {other}"));
    sh(&t, "target2", "ip route del default");
    let mut faults = vec![
        named(
            "target1",
            "way to clients",
            "from 10.90.101.2 to 10.90.11.2: by other",
            "ip route replace default",
        ),
        named("target2", "way to clients", "Network is unreachable", "ip route replace default"),
        named("target1", "rp_filter", "strict, and the route to clients is not by the uplink", "rp_filter=2"),
    ];
    match &firewall {
        Ok(()) => {
            faults.push(named("target2", "connection tracking", "packets were invalid", "notrack"));
        }
        Err(why) => skip::skip(TEST, why),
    }
    names(&t, &[], &faults);
    if firewall.is_ok() {
        t.lab.inside("target2", invalid::drop_nothing).unwrap().unwrap();
    }
    sh(&t, "target1", "ip rule del pref 77; ip link del other");
    sh(&t, "target2", "ip route replace default via 10.90.102.1 dev eth0");
    t.eventually("the channels are back", LIMIT, |t| {
        let state =
            |target: &str| t.admin(INTERMEDIATE, &format!("/v1/targets/{target}"))["agent_state"].clone();
        ["target1", "target2"].into_iter().all(|target| state(target) == "up")
    });

    // A link on the way is narrower, and nobody hears of it.
    let narrow = |mtu: u32| format!("for link in target1 target2; do ip link set $link mtu {mtu}; done");
    sh(&t, "router", &format!("{}; ip rule add pref 1 ipproto icmp blackhole", narrow(1000)));
    names(&t, &["--probe", "/100k"], &[named("path", "path to target1", "small answers arrive", "MTU")]);
    sh(&t, "router", &format!("{}; ip rule del pref 1", narrow(1500)));

    // A router that drops what does not come from where its source is.
    sh(&t, "router", "sysctl -qw net.ipv4.conf.all.rp_filter=1");
    names(&t, &["--probe"], &[named("path", "path to target1", "not a byte came back", "rp_filter")]);
    sh(&t, "router", "sysctl -qw net.ipv4.conf.all.rp_filter=0");
    t.eventually("the path is well again", LIMIT * 2, |t| {
        let found = doctor(t, &["--probe"]);
        let path = found.iter().find(|finding| finding["name"] == "path to target1").unwrap();
        if path["status"] != "ok" {
            println!("not yet: {path}");
        }
        path["status"] == "ok"
    });
}
