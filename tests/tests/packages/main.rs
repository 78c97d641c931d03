//! The packages: installed on the lab's hosts by dpkg, each over this machine's own file system, and run by a systemd of the
//! host's own, with their own units, files, paths and sandboxes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod document;
mod host;
mod monitoring;

use baton_tests::browser::browse;
use baton_tests::client::Connection;
use baton_tests::hung::Hung;
use baton_tests::lab::{self, TestLab, VIP};
use baton_tests::skip;
use document::Steps;
use host::{Host, Unit, can_boot, packages};
use netns_lab::command;
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{Balancer, LabSpec};
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

const TEST: &str = "packages";
const LIMIT: Duration = Duration::from_secs(60);
const AGENTS: [(&str, &str); 2] = [("target1", "web1"), ("target2", "web2")];

/// A file that makes the intermediate's watchdog impatient, and not so much that a machine that stands still sets it off.
const WATCHDOG: (&str, &str) =
    ("/etc/systemd/system/baton-intermediate.service.d/watchdog.conf", "[Service]\nWatchdogSec=6s\n");

/// What systemd may say at most of how much a daemon could do, of 100.
const EXPOSURE: &str = "--threshold=35";

fn order(s: LabSpec) -> LabSpec {
    LabSpec { balancer: Balancer::None, ..s.targets(2) }
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

/// The daemon runs in what its unit leaves it, and does without the rest.
fn sandboxed(host: &Host<'_>, unit: &Unit) {
    let id = host.property(unit, "MainPID");
    let status = host.read(&format!("/proc/{id}/status"));
    let has = |line: &str| status.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ") == line);
    // Filters of system calls, and nothing gained by a program that is run.
    for line in ["Seccomp: 2", "NoNewPrivs: 1"] {
        assert!(has(line), "{line}: {status}");
    }
    let into = ["nsenter", "--target", &id, "--mount", "--root"];
    for dir in ["/usr", "/etc/baton"] {
        let (written, said) = host.run(&[&into[..], &["mktemp", "-p", dir]].concat());
        assert!(!written && said.contains("Read-only file system"), "{dir}: {said}");
    }
    let log = host.log(unit);
    assert!(!log.contains("not permitted") && !log.contains("Read-only"), "{log}");
}

/// From 253 on systemd waits for the end of a reload, and sends the signal for it itself.
fn waits_for_reloads(host: &Host<'_>) -> bool {
    let said = host.says(&["systemctl", "--version"]);
    let version: u32 = said.split_whitespace().nth(1).unwrap().parse().unwrap();
    version >= 253
}

/// A change of the configuration comes by a reload, of which the daemon is told once.
fn reloads(t: &TestLab, host: &Host<'_>, unit: &Unit, config: &str, reload: &str) {
    let waits = waits_for_reloads(host);
    let (of_type, command) = (host.property(unit, "Type"), host.property(unit, "ExecReload"));
    assert_eq!(
        (of_type.as_str(), command.is_empty()),
        if waits { ("notify-reload", true) } else { ("notify", false) }
    );
    host.edit(
        config,
        &[("path = \"/var/log/baton/access.log\"", "path = \"/var/log/baton/requests.log\"".into())],
    );
    host.shell(reload);
    let asked = "curl -s --unix-socket /run/baton/intermediate.sock http://baton/v1/status";
    let count = || {
        let status: serde_json::Value = serde_json::from_str(&host.shell(asked)).unwrap();
        status["reloads"]["applied"].as_u64().unwrap()
    };
    if !waits {
        t.eventually("the reload is over", LIMIT, |_| count() > 0);
    }
    assert_eq!(count(), 1);
    host.says(&["test", "-e", "/var/log/baton/requests.log"]);
    // Before the daemon has said so, a systemd that does not wait for it may still show it as reloading.
    t.eventually("systemd knows it", LIMIT, |_| host.property(unit, "ActiveState") == "active");
}

/// A connection that stays open after an answer, so that its flow stays.
fn kept_open(t: &TestLab) -> Connection {
    t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get("/1k").unwrap();
        assert_eq!(connection.response().unwrap().status, 200);
        connection
    })
}

/// Does what `scp` is told to, from one host to another.
fn copy(from: &Host<'_>, scp: &str, to: &Host<'_>) {
    let words: Vec<_> = scp.split_whitespace().skip(1).collect();
    let (target, files) = words.split_last().unwrap();
    let (_, dir) = target.split_once(':').unwrap();
    for file in files {
        let name = file.rsplit('/').next().unwrap();
        to.write(&format!("{dir}{name}"), &from.shell(&format!("cat {file}")));
    }
}

/// The manual has the tool's commands and the daemons', and the shell knows them.
fn documented(host: &Host<'_>) {
    for page in ["baton", "baton-flows", "intermediate", "intermediate-run"] {
        let text = host.shell(&format!("gzip -dc /usr/share/man/man1/{page}.1.gz"));
        assert!(text.contains(&format!(".TH {page}")) && text.contains(".SH DESCRIPTION"), "{page}: {text}");
    }
    let complete = ". /usr/share/bash-completion/completions/baton
        COMP_WORDS=(baton und) COMP_CWORD=1; _baton baton und baton; echo \"${COMPREPLY[@]}\"";
    assert_eq!(host.says(&["bash", "-c", complete]).trim(), "undrain");
}

/// Captures the client's packets while it asks, as the document says; what tshark shows of them.
fn captured(
    front: &Host<'_>,
    agents: &[(Host<'_>, Unit)],
    steps: &Steps,
    connection: &mut Connection,
) -> String {
    for (host, _) in agents {
        // Sockets that ssh would bring near: -L HERE:THERE.
        let ssh = steps.command("ssh -nNT -L ");
        let (here, there) = ssh.split_whitespace().nth(3).unwrap().split_once(':').unwrap();
        front.says(&["ln", "-s", &host.seen(there), here]);
    }
    let (agents, capture) = (steps.command("export BATON_AGENT="), steps.command("baton capture "));
    let mut capture =
        front.begin(&format!("{agents}; exec {}", capture.replace("--seconds 10", "--seconds 2")));
    let mut stderr = BufReader::new(capture.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert!(said.contains("on 3 hosts"), "{said}");
    let ended = loop {
        connection.get("/10k").unwrap();
        assert_eq!(connection.response().unwrap().body_bytes, 10_240);
        if let Some(ended) = capture.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(ended.success());
    front.shell(&steps.command("tshark "))
}

#[test]
fn what_the_packages_install_migrates_a_request_and_shows_its_flow_by_the_documents_steps() {
    for program in ["dpkg", "cargo-deb", "systemd-analyze", "strip", "curl", "tshark", "chromium"] {
        if !skip::program(TEST, program) {
            return;
        }
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let Some(t) = lab::up(TEST, order) else { return };
    if let Err(why) = can_boot(dir.path()) {
        return skip::skip(TEST, &why);
    }
    let judges = judges_exposure();
    let steps = Steps::read();
    // Made by this script, of programs that are built already.
    assert_eq!(steps.command("./"), "./package.sh");
    let all = packages(dir.path());
    let front = Host::new(&t, INTERMEDIATE, dir.path());
    let upgrade = steps.command("apt install ./baton-intermediate");
    front.install(&all, &upgrade);
    front.says(&["baton", "--version"]);
    let install = steps.command("apt install ./baton-target-agent");
    let agents = AGENTS.map(|(node, name)| {
        let host = Host::new(&t, node, dir.path());
        host.install(&all, &install);
        (host, name)
    });

    front.shell(&steps.command("intermediate certs "));
    front.shell(&steps.command("cp "));
    for (host, name) in &agents {
        let scp = steps.command("scp ");
        assert!(scp.ends_with(&format!("{name}:/etc/baton/")), "{scp}");
        copy(&front, &scp, host);
    }
    front.shell(&steps.command("ip address add "));
    // The example is right as it is, once there are certificates.
    let (check, check_agent) = (steps.command("intermediate check"), steps.command("target-agent check"));
    assert!(front.shell(&check).starts_with("configuration OK"));
    agents[0].0.shell(&check_agent);
    let address = |j: u8| plan::target_addr(j).to_string();
    let config = "/etc/baton/intermediate.toml";
    front.edit(config, &[("192.0.2.100", plan::VIP.ip().to_string()), ("192.0.2.21", address(1))]);
    front.edit(config, &[("[admin]\nunix = \"/run/baton/intermediate.sock\"\n", steps.configuration())]);
    front.shell(&check);

    let (start_agent, start) =
        (steps.command("systemctl enable --now "), steps.command("systemctl enable --now "));
    let doctor = steps.command("intermediate doctor");
    let mut hosts = Vec::new();
    for (j, (host, name)) in (1..).zip(agents) {
        let changes =
            [("192.0.2.100", plan::VIP.ip().to_string()), ("192.0.2.21", address(j)), ("web1", name.into())];
        host.edit("/etc/baton/target-agent.toml", &changes);
        host.shell(&check_agent);
        let unit = good_unit(&host, start_agent.rsplit(' ').next().unwrap(), judges);
        host.shell(&start_agent);
        ready(&host, &unit, "/run/baton/target-agent.sock");
        sandboxed(&host, &unit);
        host.says(&["target-agent", "doctor"]);
        hosts.push((host, unit));
    }
    let unit = good_unit(&front, start.rsplit(' ').next().unwrap(), judges);
    front.shell(&start);
    ready(&front, &unit, "/run/baton/intermediate.sock");
    sandboxed(&front, &unit);
    front.shell(&doctor);

    let asked = t.lab.exec("client1", &["sh", "-c", &steps.command("curl ")]).unwrap();
    assert!(asked.status.success(), "{asked:?}");
    let (status, migrations) = (steps.command("baton status"), steps.command("baton migrations"));
    t.eventually("the request is written down as migrated", LIMIT, |_| {
        front.shell(&status).contains("requests   1 migrated")
            && front.shell(&migrations).contains("migrated")
    });
    let response = t.get("/1m").unwrap();
    assert_eq!((response.status, response.sha256), (200, t.sha256("1m")), "{}", front.log(&unit));
    // Its agent tells how it ended.
    t.eventually("the request is in the access log", LIMIT, |_| {
        front.read("/var/log/baton/access.log").contains("/1m")
    });

    // A flow: in the list, by itself, on the page, and in a capture.
    let mut connection = kept_open(&t);
    let client = connection.socket().local_addr().unwrap().to_string();
    let list = steps.command("baton flows");
    let of_client = || front.shell(&list).lines().find(|line| line.contains(&client)).map(str::to_owned);
    t.eventually("the flow is listed", LIMIT, |_| of_client().is_some());
    let id = of_client().unwrap().split_whitespace().next().unwrap().to_owned();
    let detail = steps.command("baton flows ");
    let example = detail.rsplit(' ').next().unwrap();
    let detail = front.shell(&detail.replace(example, &id));
    assert!(detail.contains(&client) && detail.contains("on the target"), "{detail}");

    // What ssh brings near, the browser has on the node itself.
    let ssh = steps.command("ssh -L ");
    let port = ssh.split_whitespace().nth(2).unwrap().split(':').next().unwrap().to_owned();
    let page = format!("http://127.0.0.1:{port}/");
    let dom = browse(&t, INTERMEDIATE, &["--virtual-time-budget=3000", "--dump-dom", &page]);
    let table = dom.split("<table id=\"flows\">").nth(1).unwrap().split("</table>").next().unwrap();
    assert!(table.contains(&id) && table.contains(&client), "{id}: {table}");

    let shown = captured(&front, &hosts, &steps, &mut connection);
    let (from, vip) = (plan::client_addr(1).to_string(), plan::VIP.ip().to_string());
    let has = |parts: &[&str]| shown.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["intermediate eth0 before the rewrite", &from, &vip, "committed: translated"]), "{shown}");
    let target = AGENTS.iter().zip(1..).find(|((_, name), _)| detail.contains(*name)).unwrap();
    let ((_, target), server) = (target.0, address(target.1));
    assert!(
        has(&["intermediate eth0 after the rewrite", &server, &format!("on its way to server {server}")]),
        "{shown}"
    );
    assert!(has(&[&format!("{target} eth0"), "arrived for"]), "{shown}");
    steps.assert_all_done();

    reloads(&t, &front, &unit, config, steps.reload());
    let metrics = |host: &Host<'_>, socket: &str| {
        host.says(&["curl", "-sf", "--unix-socket", socket, "http://baton/metrics"])
    };
    monitoring::check(&[
        metrics(&front, "/run/baton/intermediate.sock"),
        metrics(&hosts[0].0, "/run/baton/target-agent.sock"),
    ]);

    // Killed, it is started again; what connects meanwhile waits in the sockets that systemd keeps, and the flow goes on.
    let goes_on = |connection: &mut Connection| {
        assert_eq!(t.get("/1k").unwrap().status, 200);
        connection.get("/10k").unwrap();
        assert_eq!(connection.response().unwrap().body_bytes, 10_240);
    };
    front.says(&["systemctl", "kill", "--signal", "KILL", &unit.name]);
    goes_on(&mut connection);
    assert_eq!(front.property(&unit, "NRestarts"), "1");

    // Another version comes: what was written stays, and what runs is started anew.
    front.edit(config, &[("name = \"lb1\"", "name = \"lb1\"\nworkers = 2".into())]);
    front.write(WATCHDOG.0, WATCHDOG.1);
    let before = front.property(&unit, "InvocationID");
    front.install(&all, &upgrade);
    assert!(front.read(config).contains("10.90.101.2"));
    assert_ne!(front.property(&unit, "InvocationID"), before);
    goes_on(&mut connection);

    // Its program took the former's place in the same link, though a unit may not do all that root may.
    assert!(!front.log(&unit).contains("on another device"), "{}", front.log(&unit));

    // One of whose threads hangs is ended and started again.
    let before = front.property(&unit, "InvocationID");
    let hung = Hung::of(front.seen_process(&front.property(&unit, "MainPID")), Some("worker2"));
    t.eventually("the watchdog has it ended", LIMIT, |_| front.property(&unit, "Result") == "watchdog");
    // It is gone once whoever stopped its thread lets go of it.
    drop(hung);
    t.eventually("it is started again", LIMIT, |_| front.property(&unit, "InvocationID") != before);
    ready(&front, &unit, "/run/baton/intermediate.sock");
    assert_eq!(front.property(&unit, "NRestarts"), "1");
    goes_on(&mut connection);
    front.says(&["rm", WATCHDOG.0]);

    // With a socket unit the daemon need not run: who connects has it started.
    let (file, text) = steps.socket_unit();
    front.write(file, text);
    front.says(&["systemctl", "stop", &unit.name]);
    front.says(&["systemctl", "daemon-reload"]);
    front.says(&["systemctl", "enable", "--now", file.rsplit('/').next().unwrap()]);
    assert_eq!(front.property(&unit, "ActiveState"), "inactive");
    goes_on(&mut connection);
    assert_eq!(front.property(&unit, "ActiveState"), "active");
    // The first is proxied if it is there before the agents.
    t.eventually("what connects to such a socket is migrated", LIMIT, |t| {
        t.get("/1k").unwrap().status == 200 && !front.shell(&status).contains("requests   0 migrated")
    });
    documented(&front);

    // A package that is removed ends its daemon, and leaves what was written.
    front.says(&["systemctl", "disable", "--now", file.rsplit('/').next().unwrap()]);
    assert_eq!(front.property(&unit, "ActiveState"), "active");
    front.says(&["dpkg", "--no-triggers", "--remove", "baton-intermediate"]);
    assert_eq!(front.property(&unit, "ActiveState"), "inactive");
    for file in ["/usr/bin/intermediate", "/usr/lib/systemd/system-generators/baton-intermediate"] {
        assert!(!front.run(&["test", "-e", file]).0, "{file}");
    }
    assert!(front.read(config).contains("10.90.101.2"));
}

/// The system calls that a filter of a unit allows, by this machine's systemd.
fn system_calls(filter: &[&str]) -> HashSet<String> {
    let mut all = HashSet::new();
    for word in filter {
        if word.starts_with('@') {
            let set = command::run("systemd-analyze", &["syscall-filter", word]).unwrap();
            let members: Vec<_> =
                set.lines().skip(1).map(str::trim).filter(|l| !l.starts_with('#')).collect();
            all.extend(system_calls(&members));
        } else {
            all.insert((*word).to_owned());
        }
    }
    all
}

#[test]
fn a_container_may_do_what_the_unit_leaves() {
    const NAME: &str = "a container's system calls";
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let document = read("docs/install.md");
    let profile: serde_json::Value =
        serde_json::from_str(&read("shared/daemon/package/seccomp.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().unwrap();
    let names = rules.iter().flat_map(|rule| rule["names"].as_array().unwrap());
    let listed: HashSet<_> = names.map(|name| name.as_str().unwrap().to_owned()).collect();
    assert!(listed.contains("bpf"));
    for daemon in ["intermediate", "target-agent"] {
        let unit = Unit::new(daemon, read(&format!("{daemon}/package/baton-{daemon}.service")));
        let run = document.split(&format!("podman run -d --name baton-{daemon} ")).nth(1).unwrap();
        let added = run.split("--cap-add ").nth(1).unwrap().split_whitespace().next().unwrap();
        let added: Vec<_> = added.split(',').map(|name| format!("CAP_{name}")).collect();
        assert_eq!(added, unit.values("CapabilityBoundingSet"), "{daemon}");
        if skip::program(NAME, "systemd-analyze") {
            let left = system_calls(&unit.values("SystemCallFilter"));
            let more: Vec<_> = listed.difference(&left).collect();
            assert!(more.is_empty(), "{daemon}'s unit allows less: {more:?}");
        }
    }
}
