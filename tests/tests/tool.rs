//! `baton`, the command-line tool, and the web page, over a lab in which something happens, over both versions of IP.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIP, VIPS, both};
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{LabSpec, command};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

fn run(t: &TestLab, args: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = t.tool(args).output().unwrap();
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

fn kept_open(t: &TestLab, vip: SocketAddr, path: &'static str) -> Connection {
    t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
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

/// Whom a packet is from and for.
fn addresses(packet: &[u8]) -> [IpAddr; 2] {
    match etherparse::Ipv6HeaderSlice::from_slice(packet) {
        Ok(ip) => [ip.source_addr().into(), ip.destination_addr().into()],
        Err(_) => {
            let ip = etherparse::Ipv4HeaderSlice::from_slice(packet).unwrap();
            [ip.source_addr().into(), ip.destination_addr().into()]
        }
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
                let [source, destination] = addresses(&packet.data);
                let comment = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Comment(comment) => Some(comment.to_string()),
                    _ => None,
                });
                let interface = &interfaces[packet.interface_id as usize];
                lines.push(format!("{interface}|{source}|{destination}|{}", comment.unwrap()));
            }
            _ => {}
        }
    }
    lines
}

/// What `probe` prints has the stages and what each host does to the packets.
fn whole_way(probe: &str) {
    let parts = ["  stages     ", "on the intermediate, client to server", "on the target, server to client"];
    let places: Vec<_> = parts.iter().map(|part| probe.find(part)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {probe}");
    assert_eq!(probe.matches("  rewrite    ").count(), 2, "{probe}");
}

/// Every command with `--json`: what it prints is that, whatever its exit code says.
fn everything_is_also_json(t: &TestLab, scratch: &Path, target: &str, listener: &str) {
    let path = |name: &str| scratch.join(name).display().to_string();
    let (dump, file, url) = (path("json-dump"), path("json.pcapng"), format!("http://{VIP}/1k"));
    let commands = [
        &["status"][..],
        &["flows"],
        &["migrations"],
        &["targets"],
        &["targets", target],
        &["reasons"],
        &["drain", "target", target],
        &["undrain", "target", target],
        &["drain", "listener", listener],
        &["undrain", "listener", listener],
        &["wait", "listener", listener, "--timeout", "0"],
        &["reload"],
        &["probe", &url, "--target", target],
        &["doctor"],
        &["sysdump", &dump],
        &["capture", "--filter", "10.90.11.2", "--seconds", "1", "-w", &file],
    ];
    let help = says(t, &["--help"]);
    let all = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    for name in all.map(|line| line.split_whitespace().next().unwrap()) {
        let elsewhere = ["events", "top", "completions", "man", "help"].contains(&name);
        assert!(elsewhere || commands.iter().any(|args| args[0] == name), "{name} is not tried: {help}");
    }
    for args in commands {
        let mut running = t.tool(&[args, &["--json"]].concat());
        let running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if args[0] == "capture" {
            // Some come while it looks.
            t.get("/1k").unwrap();
        }
        let output = running.wait_with_output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let told = serde_json::from_str::<Value>(&out);
        assert!(told.is_ok_and(|told| !told.is_null()), "baton {args:?} --json: {out}{err}");
    }
    let index = std::fs::read_to_string(scratch.join("json-dump/index.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&index).unwrap()["nodes"].as_array().unwrap().len(), 3);
    let mut top = t.tool(&["top", "--json", "--interval-ms", "100"]);
    let mut top = Running(top.stdout(Stdio::piped()).spawn().unwrap());
    let looks = BufReader::new(top.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let looks: Vec<Value> = looks.take(2).map(|line| serde_json::from_str(&line).unwrap()).collect();
    assert!(looks[0]["at"].as_u64() < looks[1]["at"].as_u64(), "{looks:#?}");
    assert_eq!(looks[1]["targets"].as_array().unwrap().len(), 2, "{looks:#?}");
}

/// `baton top` in a terminal, which util-linux' `script` is.
fn a_live_view_is_drawn_and_ends_with_q(t: &TestLab) {
    let shell = format!("stty rows 40 cols 140 && exec '{}' top", command::built("baton").unwrap().display());
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &shell, "/dev/null"]).env("TERM", "xterm");
    terminal.envs(t.tool(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    let terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut terminal = Running(terminal.spawn().unwrap());
    let (mut keys, mut screen) = (terminal.0.stdin.take().unwrap(), terminal.0.stdout.take().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = screen.read(&mut bytes) {
            let _ = tell.send(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
    });
    // Words, for the gaps between them are not drawn.
    let (mut drawn, until) = (String::new(), Instant::now() + LIMIT);
    while !["target1", "recent", "GET", "/1k"].iter().all(|word| drawn.contains(word)) {
        let rest = until.saturating_duration_since(Instant::now());
        drawn += &told.recv_timeout(rest).unwrap_or_else(|e| panic!("{e}: {drawn:?}"));
    }
    keys.write_all(b"q").unwrap();
    let mut ended = None;
    t.eventually("it ends", LIMIT, |_| {
        ended = terminal.0.try_wait().unwrap();
        ended.is_some()
    });
    assert!(ended.unwrap().success(), "{ended:?}");
    // The terminal is given back: the other screen is left.
    drawn.extend(told.iter());
    assert!(drawn.contains("\u{1b}[?1049l"), "{drawn:?}");
}

fn pool(s: LabSpec) -> LabSpec {
    let checks = "[pool.health]\nkind = \"none\"\n";
    let pool = "[[pool]]\nname = \"web\"\ntargets = [\"target1\", \"target2\"]\nbalance = \"round_robin\"\n";
    s.intermediate_with("listener", "pool", "web").intermediate_also(pool).intermediate_also(checks)
}

/// Completions complete in bash, and the manual has its pages.
fn completions_and_pages_can_be_used(t: &TestLab, scratch: &Path) {
    let file = scratch.join("completions");
    std::fs::write(&file, says(t, &["completions", "bash"])).unwrap();
    let complete =
        ". \"$0\"; COMP_WORDS=(baton mig) COMP_CWORD=1; _baton baton mig baton; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", complete]).arg(&file).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "migrations\n", "{output:?}");
    let pages = scratch.join("man");
    says(t, &["man", pages.to_str().unwrap()]);
    for page in ["baton", "baton-migrations", "baton-drain-target"] {
        let page = std::fs::read_to_string(pages.join(format!("{page}.1"))).unwrap();
        assert!([".TH ", ".SH NAME", ".SH SYNOPSIS"].iter().all(|part| page.contains(part)), "{page}");
    }
}

#[test]
fn the_tool_shows_a_flow_captures_it_and_drains_its_target() {
    let Some(t) = lab::up("tool", |s| lab::patient(both(pool(s)))) else { return };
    let mut events = t.tool(&["events", "--kind", "handoff,end", "--json"]);
    let mut events = Running(events.stdout(Stdio::piped()).spawn().unwrap());
    // It is there once a request is seen by it.
    let mut told = BufReader::new(events.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    t.eventually("the tool follows events", LIMIT, |t| {
        [INTERMEDIATE, "target1", "target2"]
            .iter()
            .all(|node| t.admin(node, "/v1/status")["events"]["subscribers"] == 1)
    });

    let mut connections = VIPS.map(|vip| kept_open(&t, vip, "/1k"));
    let mut next = |kind: &str| -> Value {
        let mut events = told.by_ref().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        events.find(|event| event["from"] == "intermediate" && event["kind"] == kind).unwrap()
    };
    VIPS.iter().for_each(|_| assert_eq!(next("handoff")["data"]["request"], "GET /1k"));
    t.eventually("the flows are there", LIMIT, |t| t.flows(INTERMEDIATE).len() == 2);
    let flows = json(&t, &["flows"]);
    let flows = VIPS.map(|vip| {
        let flow =
            flows["flows"].as_array().unwrap().iter().find(|flow| flow["vip"] == vip.to_string()).unwrap();
        let part = |key: &str| flow[key].as_str().unwrap().to_owned();
        (part("id"), part("target"))
    });
    for ((id, target), connection) in flows.iter().zip(&connections) {
        assert!(says(&t, &["flows"]).contains(id));
        let detail = says(&t, &["flows", id]);
        let client = connection.socket().local_addr().unwrap().to_string();
        for part in [
            "on the intermediate, client to server",
            "on the target, server to client",
            "ESTAB",
            "slot",
            &client,
            target,
        ] {
            assert!(detail.contains(part), "{part} is not in\n{detail}");
        }
    }
    let target = flows[0].1.as_str();
    t.eventually("both are counted, and the agent is ready", LIMIT, |t| {
        let status = says(t, &["status"]);
        status.contains("2 migrated") && status.contains("agent target1: ready")
    });
    // Agents report about once a second.
    t.eventually("its server listens", LIMIT, |t| says(t, &["targets", target]).contains(": listens"));
    assert!(says(&t, &["migrations", "--stages"]).contains("handoff"));

    // Packets before and after each rewrite, with the verdict.
    let scratch = tempfile::tempdir().unwrap();
    let captured = AtomicBool::new(false);
    let files = std::thread::scope(|scope| {
        // From before they begin until they have ended: something passes, however slow all is.
        scope.spawn(|| {
            while !captured.load(Ordering::SeqCst) {
                for connection in &mut connections {
                    connection.get("/10k").unwrap();
                    assert_eq!(connection.response().unwrap().body_bytes, 10_240);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let captures = flows.clone().map(|(id, _)| {
            let file = scratch.path().join(format!("{id}.pcapng"));
            let mut capture = t.tool(&["capture", "--flow", &id, "--seconds", "2", "-w"]);
            let mut capture = Running(capture.arg(&file).stderr(Stdio::piped()).spawn().unwrap());
            let mut stderr = BufReader::new(capture.0.stderr.take().unwrap());
            let mut line = String::new();
            let _ = stderr.read_line(&mut line);
            (capture, stderr, file, line)
        });
        let ended = captures.map(|(mut capture, _stderr, file, line)| (capture.0.wait(), file, line));
        // Whatever became of them: the requests must end before anything is asserted.
        captured.store(true, Ordering::SeqCst);
        ended.map(|(ended, file, line)| {
            assert!(line.contains("capturing"), "{line}");
            assert!(ended.unwrap().success());
            file
        })
    });
    for (file, (vip, (_, target))) in files.iter().zip(VIPS.iter().zip(&flows)) {
        let lines = packets(file);
        let vip = vip.ip().to_string();
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
    }

    // Draining waits for the flow, and can be taken back.
    let (done, text) = run(&t, &["drain", "target", target, "--wait", "1"]);
    let left = flows.iter().filter(|(_, on)| on == target).count();
    assert!(!done && text.contains(&format!("{left} flows")), "{text}");
    drop(connections);
    assert!(says(&t, &["wait", "target", target, "--timeout", "30"]).contains("0 flows"));
    assert!(says(&t, &["undrain", "target", target]).contains("ready"));
    // Each is called after its VIP.
    let listeners = VIPS.map(|vip| vip.to_string());
    for listener in &listeners {
        assert!(says(&t, &["drain", "listener", listener, "--wait", "30"]).contains("draining, 0 flows"));
        assert!(says(&t, &["wait", "listener", listener, "--timeout", "30"]).contains("0 flows"));
        assert!(!says(&t, &["undrain", "listener", listener]).contains("draining"));
    }
    let listener = listeners[1].as_str();
    let (over, text) = run(&t, &["wait", "node", "--timeout", "0"]);
    assert!(!over && text.contains("node: ready"), "nobody drained it: {text}");
    assert!(says(&t, &["drain", "node"]).contains("node: draining"));
    assert!(says(&t, &["wait", "node", "--timeout", "30"]).contains("0 flows, 0 connections"));
    assert!(says(&t, &["undrain", "node"]).contains("node: ready"));
    for vip in VIPS {
        t.eventually("it listens again", LIMIT, |t| t.get_at(vip, "/1k").is_ok());
    }
    let mut ended = [next("end"), next("end")].map(|end| end["data"]["flow"].as_str().unwrap().to_owned());
    ended.sort_by_key(|id| *id != flows[0].0);
    assert_eq!(ended, flows.clone().map(|(id, _)| id));
    assert!(says(&t, &["reload"]).contains("in force"));

    // The path, from a client's host and from an agent's.
    for vip in VIPS {
        let url = format!("http://{vip}/1k");
        let socket = t.lab.admin_socket(INTERMEDIATE).unwrap().display().to_string();
        let tool = command::built("baton").unwrap().display().to_string();
        let output = t.lab.exec("client1", &[&tool, "--intermediate", &socket, "probe", &url]).unwrap();
        let probe = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && probe.contains("answered directly") && probe.contains("socket"),
            "{probe}"
        );
        whole_way(&probe);
        let probe = says(&t, &["probe", &url, "--target", target]);
        assert!(probe.contains(&format!("migrated to {target}")), "{probe}");
        whole_way(&probe);
    }
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
    completions_and_pages_can_be_used(&t, scratch.path());
    everything_is_also_json(&t, scratch.path(), target, listener);
    a_live_view_is_drawn_and_ends_with_q(&t);
    let (reached, text) = run(&t, &["--intermediate", "/nowhere.sock", "status"]);
    assert!(!reached && text.contains("cannot reach intermediate at /nowhere.sock"), "{text}");
}
