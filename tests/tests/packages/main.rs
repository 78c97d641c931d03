//! The packages: installed on the lab's hosts by dpkg, each over this machine's own file system, and run with their own
//! files, paths and capabilities.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod host;
mod monitoring;

use baton_tests::lab;
use baton_tests::skip;
use host::{Host, Unit, can_be_layered, packages};
use netns_lab::command;
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{Balancer, LabSpec};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

const TEST: &str = "packages";
const LIMIT: Duration = Duration::from_secs(20);
const AGENTS: [(&str, &str); 2] = [("target1", "web1"), ("target2", "web2")];

/// What systemd may say at most of how much a daemon could do, of 100.
const EXPOSURE: &str = "--threshold=35";

fn order(s: LabSpec) -> LabSpec {
    LabSpec { balancer: Balancer::None, ..s.targets(2) }
}

/// The package of that name.
fn package(all: &[PathBuf], name: &str) -> PathBuf {
    let file = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{name}_"));
    all.iter().find(file).unwrap().clone()
}

/// Whether this machine's systemd judges a unit that it does not run: since 250.
fn judges_exposure() -> bool {
    let help = command::run("systemd-analyze", &["--help"]).unwrap();
    let judges = help.contains("--offline");
    if !judges {
        skip::skip(
            TEST,
            "how exposed the units are: systemd-analyze has no --offline, systemd is older than 250",
        );
    }
    judges
}

/// A unit that systemd understands, and if it `judges` that, one that leaves its daemon little to do harm with.
fn good_unit(host: &Host<'_>, name: &str, judges: bool) -> Unit {
    let file = format!("/usr/lib/systemd/system/{name}.service");
    let said = host.says(&["systemd-analyze", "verify", &file]);
    assert_eq!(said.trim(), "", "{file}");
    if judges {
        host.says(&["systemd-analyze", "security", "--offline=true", EXPOSURE, &file]);
    }
    host.unit(name)
}

/// Waits until a daemon says that it is ready.
fn ready(host: &Host<'_>, unit: &Unit, socket: &str) {
    let asked = ["curl", "-sf", "--unix-socket", socket, "http://baton/readyz"];
    let started = std::time::Instant::now();
    while !host.run(&asked).0 {
        assert!(started.elapsed() < LIMIT, "{} is not ready:\n{}", unit.name, host.log(unit));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_the_packages_install_migrates_a_request_and_shows_its_flow() {
    for program in ["dpkg", "cargo-deb", "systemd-analyze", "strip", "curl"] {
        if !skip::program(TEST, program) {
            return;
        }
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let Some(t) = lab::up(TEST, order) else { return };
    if let Err(why) = can_be_layered(dir.path()) {
        return skip::skip(TEST, &why);
    }
    let judges = judges_exposure();
    let all = packages(dir.path());
    let front = Host::new(&t, INTERMEDIATE, dir.path());
    front.install(&[package(&all, "baton-intermediate"), package(&all, "baton")]);
    front.says(&["baton", "--version"]);
    front.says(&["ip", "address", "add", "10.90.1.100/32", "dev", "eth0"]);

    // The example is right as it is, once there are certificates.
    let certs = ["intermediate", "certs", "--dir", "/etc/baton"];
    let nodes =
        ["--intermediate", "lb1=10.90.1.2", "--agent", "web1=10.90.101.2", "--agent", "web2=10.90.102.2"];
    front.says(&[&certs[..], &nodes].concat());
    assert!(front.says(&["intermediate", "check"]).starts_with("configuration OK"));
    let address = |j: u8| plan::target_addr(j).to_string();
    let config = "/etc/baton/intermediate.toml";
    front.edit(config, &[("192.0.2.100", plan::VIP.ip().to_string()), ("192.0.2.21", address(1))]);
    let second =
        format!("[[target]]\nname = \"web2\"\nserver = \"{0}:80\"\nagent = \"{0}:7400\"\n", address(2));
    front.edit(config, &[("[admin]", format!("{second}\n[admin]"))]);

    let mut hosts = Vec::new();
    for (j, (node, name)) in (1..).zip(AGENTS) {
        let host = Host::new(&t, node, dir.path());
        host.install(&[package(&all, "baton-target-agent")]);
        for file in ["ca.pem".to_owned(), format!("{name}.pem"), format!("{name}.key")] {
            let path = format!("/etc/baton/{file}");
            host.write(&path, &front.read(&path));
        }
        let config = "/etc/baton/target-agent.toml";
        if name == "web1" {
            host.says(&["target-agent", "check"]);
        }
        let changes =
            [("192.0.2.100", plan::VIP.ip().to_string()), ("192.0.2.21", address(j)), ("web1", name.into())];
        host.edit(config, &changes);
        let unit = good_unit(&host, "baton-target-agent", judges);
        host.start(&unit);
        ready(&host, &unit, "/run/baton/target-agent.sock");
        host.says(&["target-agent", "doctor"]);
        hosts.push((host, unit));
    }
    let unit = good_unit(&front, "baton-intermediate", judges);
    front.start(&unit);
    ready(&front, &unit, "/run/baton/intermediate.sock");
    front.says(&["intermediate", "doctor"]);

    let response = t.get("/1m").unwrap();
    assert_eq!((response.status, response.sha256), (200, t.sha256("1m")), "{}", front.log(&unit));
    let json = |words: &[&str]| -> Value {
        serde_json::from_str(&front.says(&[&["baton", "--json"], words].concat())).unwrap()
    };
    t.eventually("the request is written down as migrated", LIMIT, |_| {
        json(&["migrations", "--outcome", "migrated"])["migrations"].as_array().unwrap().len() == 1
    });
    let flows = front.says(&["baton", "flows"]);
    assert!(flows.contains("10.90.11.2:") && flows.contains("web"), "{flows}");
    // Its agent tells how it ended.
    t.eventually("the request is in the access log", LIMIT, |_| {
        front.read("/var/log/baton/access.log").contains("/1m")
    });

    let metrics = |host: &Host<'_>, socket: &str| {
        host.says(&["curl", "-sf", "--unix-socket", socket, "http://baton/metrics"])
    };
    monitoring::check(&[
        metrics(&front, "/run/baton/intermediate.sock"),
        metrics(&hosts[0].0, "/run/baton/target-agent.sock"),
    ]);

    // Another version comes: what was written stays, and what was started is not in the way.
    front.install(&[package(&all, "baton-intermediate")]);
    assert!(front.read(config).contains("10.90.101.2"));
    assert_eq!(t.get("/1k").unwrap().status, 200);
}

#[test]
fn a_container_gets_the_capabilities_that_the_unit_leaves() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for daemon in ["intermediate", "target-agent"] {
        let read =
            |file: String| std::fs::read_to_string(root.join(daemon).join("package").join(file)).unwrap();
        let unit = Unit::new(daemon, read(format!("baton-{daemon}.service")));
        let of_unit: Vec<_> = unit.values("CapabilityBoundingSet");
        let container = read("Containerfile".to_owned());
        let added = container.split("--cap-add ").nth(1).unwrap().split_whitespace().next().unwrap();
        let added: Vec<_> = added.split(',').map(|name| format!("CAP_{name}")).collect();
        assert_eq!(added, of_unit, "{daemon}");
    }
}
