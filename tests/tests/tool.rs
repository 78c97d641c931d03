//! `baton`, the command-line tool, and the web page, over a lab in which something happens.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::LabSpec;
use netns_lab::plan::INTERMEDIATE;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// The tool's binary, beside the daemons'.
fn tool() -> PathBuf {
    let path = std::env::current_exe().unwrap();
    let path = path.parent().and_then(Path::parent).unwrap().join("baton");
    assert!(path.exists(), "{} is not built: cargo build -p baton-cli", path.display());
    path
}

/// The tool with the endpoints of all daemons.
fn command(t: &TestLab, args: &[&str]) -> Command {
    let socket = |node: &str| t.lab.admin_socket(node).unwrap().display().to_string();
    let agents = ["target1", "target2"].map(|name| format!("{name}={}", socket(name)));
    let mut command = Command::new(tool());
    command.args(args).env("BATON_INTERMEDIATE", socket(INTERMEDIATE)).env("BATON_AGENT", agents.join(","));
    command.stdin(Stdio::null());
    command
}

fn run(t: &TestLab, args: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = command(t, args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.success(), text)
}

/// What the tool says, which must succeed.
fn says(t: &TestLab, args: &[&str]) -> String {
    let (ok, text) = run(t, args);
    assert!(ok, "baton {args:?}: {text}");
    text
}

fn json(t: &TestLab, args: &[&str]) -> Value {
    let text = says(t, &[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("baton {args:?}: {e}: {text}"))
}

fn kept_open(t: &TestLab, path: &'static str) -> Connection {
    t.client(move || {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get(path).unwrap();
        assert_eq!(connection.response().unwrap().status, 200);
        connection
    })
}

/// Ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file's packets, a line for each: interface, addresses, comment.
fn packets(file: &Path) -> Vec<String> {
    let mut reader = PcapNgReader::new(std::fs::File::open(file).unwrap()).unwrap();
    let (mut interfaces, mut lines) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => {
                let name = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                interfaces.push(name.unwrap());
            }
            Block::EnhancedPacket(packet) => {
                let ip = etherparse::Ipv4HeaderSlice::from_slice(&packet.data).unwrap();
                let comment = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Comment(comment) => Some(comment.to_string()),
                    _ => None,
                });
                lines.push(format!(
                    "{}|{}|{}|{}",
                    interfaces[packet.interface_id as usize],
                    ip.source_addr(),
                    ip.destination_addr(),
                    comment.unwrap()
                ));
            }
            _ => {}
        }
    }
    lines
}

fn pool(s: LabSpec) -> LabSpec {
    let checks = "[pool.health]\nkind = \"none\"\n";
    let pool = "[[pool]]\nname = \"web\"\ntargets = [\"target1\", \"target2\"]\nbalance = \"round_robin\"\n";
    s.intermediate_with("listener", "pool", "web").intermediate_also(pool).intermediate_also(checks)
}

#[test]
fn the_tool_shows_a_flow_captures_it_and_drains_its_target() {
    let Some(t) = lab::up("tool", pool) else { return };
    let mut events = command(&t, &["events", "--kind", "handoff,end", "--json"]);
    let mut events = Running(events.stdout(Stdio::piped()).spawn().unwrap());
    // It is there once a request is seen by it.
    let mut told = BufReader::new(events.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    t.eventually("the tool follows events", LIMIT, |t| {
        [INTERMEDIATE, "target1", "target2"]
            .iter()
            .all(|node| t.admin(node, "/v1/status")["events"]["subscribers"] == 1)
    });

    let mut connection = kept_open(&t, "/1k");
    let mut next = |kind: &str| -> Value {
        let mut events = told.by_ref().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        events.find(|event| event["from"] == "intermediate" && event["kind"] == kind).unwrap()
    };
    assert_eq!(next("handoff")["data"]["request"], "GET /1k");
    t.eventually("the flow is there", LIMIT, |t| !t.flows(INTERMEDIATE).is_empty());
    let flows = json(&t, &["flows"]);
    let (id, target) =
        (flows["flows"][0]["id"].as_str().unwrap(), flows["flows"][0]["target"].as_str().unwrap());
    assert!(says(&t, &["flows"]).contains(id));
    let detail = says(&t, &["flows", id]);
    for part in ["on the intermediate, client to server", "on the target, server to client", "ESTAB", "slot"]
    {
        assert!(detail.contains(part), "{part} is not in\n{detail}");
    }
    let status = says(&t, &["status"]);
    assert!(status.contains("1 migrated") && status.contains("agent target1: ready"), "{status}");
    // Agents report about once a second.
    t.eventually("its server listens", LIMIT, |t| says(t, &["targets", target]).contains(": listens"));
    assert!(says(&t, &["migrations", "--stages"]).contains("handoff"));

    // Packets before and after each rewrite, with the verdict.
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("flow.pcapng");
    let mut capture = command(&t, &["capture", "--flow", id, "--seconds", "2", "-w"]);
    let mut capture = Running(capture.arg(&file).stderr(Stdio::piped()).spawn().unwrap());
    let mut stderr = BufReader::new(capture.0.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("capturing"), "{line}");
    // As long as it takes: something passes, however slow all is.
    let ended = loop {
        connection.get("/10k").unwrap();
        assert_eq!(connection.response().unwrap().body_bytes, 10_240);
        if let Some(ended) = capture.0.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(ended.success());
    let lines = packets(&file);
    let vip = VIP.ip().to_string();
    let has = |parts: &[&str]| lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    for parts in [
        &["intermediate eth0 before the rewrite", vip.as_str(), "committed: translated"][..],
        &["intermediate eth0 after the rewrite", "on its way to server"],
        &[&format!("{target} eth0 before the rewrite"), "arrived for"],
    ] {
        assert!(has(parts), "{parts:?} in no line of\n{}", lines.join("\n"));
    }
    let sent = has(&[&format!("{target} eth0 after the rewrite"), "rewritten"])
        && has(&["(reconstructed)", "made again"]);
    assert!(sent || has(&["adopted: sent by its socket"]), "{}", lines.join("\n"));

    // Draining waits for the flow, and can be taken back.
    let (done, text) = run(&t, &["drain", "target", target, "--wait", "1"]);
    assert!(!done && text.contains("1 flows"), "{text}");
    drop(connection);
    assert!(says(&t, &["wait", "target", target, "--timeout", "30"]).contains("0 flows"));
    assert!(says(&t, &["undrain", "target", target]).contains("ready"));
    assert_eq!(next("end")["data"]["flow"], id);
    assert!(says(&t, &["reload"]).contains("in force"));

    // The path, from a client's host and from an agent's.
    let url = format!("http://{VIP}/1k");
    let socket = t.lab.admin_socket(INTERMEDIATE).unwrap().display().to_string();
    let tool = tool().display().to_string();
    let output = t.lab.exec("client1", &[&tool, "--intermediate", &socket, "probe", &url]).unwrap();
    let probe = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && probe.contains("answered directly") && probe.contains("socket"),
        "{probe}"
    );
    let probe = says(&t, &["probe", &url, "--target", target]);
    assert!(probe.contains(&format!("migrated to {target}")), "{probe}");
    let elsewhere = format!("http://{}:81/1k", VIP.ip());
    let (asked, text) = run(&t, &["probe", &elsewhere, "--target", target]);
    assert!(!asked && text.contains("no listener") && text.contains(&VIP.to_string()), "{text}");
    // What a daemon refuses is told in its words.
    let name = scratch.path().join("none.pcapng").display().to_string();
    for (words, say) in [
        (&["capture", "--filter", "10.0.0.1", "--packets", "2000000", "-w", &name][..], "at most"),
        (&["events", "--kind", "colour"], "there is no kind"),
    ] {
        let (done, text) = run(&t, words);
        assert!(!done && text.contains("400") && text.contains(say), "{words:?}: {text}");
    }

    let dump = scratch.path().join("dump");
    assert!(says(&t, &["sysdump", dump.to_str().unwrap()]).contains("3 of 3"));
    for file in ["intermediate/v1-flows.json", "target1/metrics.txt", "target2/v1-reasons.json", "index.json"]
    {
        assert!(dump.join(file).exists(), "{file}");
    }
    let (reached, text) = run(&t, &["--intermediate", "/nowhere.sock", "status"]);
    assert!(!reached && text.contains("cannot reach intermediate at /nowhere.sock"), "{text}");
}
