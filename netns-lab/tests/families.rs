//! Labs with IPv6, alone and beside IPv4.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{able, able_with_daemons, name};
use netns_lab::{Balancer, Family, Lab, LabSpec};
use serde_json::json;
use std::process::Command;

fn whoami(lab: &Lab, vip: &str) -> String {
    lab.output("client1", &["curl", "-sSf", "--max-time", "20", &format!("http://{vip}/whoami")]).unwrap()
}

#[test]
fn plain_proxies_answer_at_the_vip_of_every_family() {
    if !able("plain_proxies_answer_at_the_vip_of_every_family") {
        return;
    }
    for balancer in [Balancer::Haproxy, Balancer::Nginx] {
        let up = |family| {
            let order = LabSpec::new(name("proxies")).balancer(balancer).targets(1).family(family);
            Lab::up(&order).unwrap()
        };
        let lab = up(Family::V6);
        let shown = lab.snapshot().shown();
        assert_eq!(
            (&shown["vip"], &shown["vips"]),
            (&json!("[fd90:1::100]:80"), &json!(["[fd90:1::100]:80"]))
        );
        let said = whoami(&lab, "[fd90:1::100]");
        assert!(
            said.contains("server: fd90:101::2:80") && said.contains("X-Forwarded-For: fd90:11::2"),
            "{said}"
        );
        let addresses = lab.output("client1", &["ip", "-4", "addr", "show", "dev", "eth0"]).unwrap();
        assert_eq!(addresses, "", "no IPv4");
        drop(lab);
        let lab = up(Family::Dual);
        let shown = lab.snapshot().shown();
        assert_eq!(shown["vip"], json!("10.90.1.100:80"));
        assert_eq!(shown["vips"], json!(["10.90.1.100:80", "[fd90:1::100]:80"]));
        assert!(whoami(&lab, "[fd90:1::100]").contains("X-Forwarded-For: fd90:11::2"));
        assert!(whoami(&lab, "10.90.1.100").contains("X-Forwarded-For: 10.90.11.2"));
    }
}

#[test]
fn baton_comes_up_with_a_listener_of_each_family() {
    if !able_with_daemons("baton_comes_up_with_a_listener_of_each_family") {
        return;
    }
    let lab = Lab::up(&LabSpec::new(name("dual")).targets(1).family(Family::Dual)).unwrap();
    // The server sees the client itself, in both.
    assert!(whoami(&lab, "10.90.1.100").contains("client: 10.90.11.2:"));
    assert!(whoami(&lab, "[fd90:1::100]").contains("client: fd90:11::2:"));
}

#[test]
fn the_command_brings_up_what_it_is_told() {
    if !able("the_command_brings_up_what_it_is_told") {
        return;
    }
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_netns-lab")).args(args).output().unwrap();
    let lab = name("cmd6");
    let order = ["up", "--name", &lab, "--balancer", "none", "--targets", "1", "--ipv6"];
    let up = run(&[&order[..], &["--mtu-client", "1400", "--impair", "delay=1ms,seed=3"]].concat());
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(up.status.success(), "{said}");
    let url = "http://[fd90:101::2]/100k";
    let get = run(&[
        "exec",
        "--name",
        &lab,
        "client1",
        "--",
        "curl",
        "-sSf",
        "-w",
        "%{size_download}",
        "-o",
        "/dev/null",
        url,
    ]);
    let status = run(&["status", "--name", &lab]);
    assert!(run(&["down", "--name", &lab]).status.success());
    assert_eq!(String::from_utf8_lossy(&get.stdout), "102400");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("impair-box client1 on router runs"), "{status}");
    for (wrong, words) in [
        (&["--impair", "loss=1"][..], "loss: '1' has no % sign"),
        (&["--impair-link", "target1"], "--impair"),
        (&["--impair", "", "--impair-link", "client9"], "client9 has no link"),
        (&["--ipv6", "--dual"], "cannot be used with"),
        (&["--ipv6", "--mtu-client", "1000"], "1280 to 9000"),
    ] {
        let refused = run(&[&["up", "--name", &lab], wrong].concat());
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(words), "{wrong:?}: {said}");
    }
}
