//! A lab for one test, and what tests ask of it.

use crate::client::{self, Response};
use crate::skip;
use netns_lab::{Family, Lab, LabSpec, Program, command, plan};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Labs of one test binary stand one after the other: on two cores, several at once would only measure each other. Those
/// whose tests mostly wait stand [side by side](up_beside).
static STANDING: Standing = Standing { labs: Mutex::new(0), fewer: Condvar::new() };

/// How long a request may take to be counted after its client has the answer.
const COUNTED: Duration = Duration::from_secs(20);

/// How many labs stand side by side at most.
const SIDE_BY_SIDE: usize = 2;

/// How long what must come is waited for at least, whatever it takes by itself: a machine that does other things as well lets
/// everything here stand for seconds now and then.
const PATIENCE: Duration = Duration::from_secs(40);

/// How much of the room for labs is taken.
#[derive(Debug)]
struct Standing {
    labs: Mutex<usize>,
    fewer: Condvar,
}

impl Standing {
    fn take(&'static self, share: usize) -> Share {
        let labs = self.labs.lock().unwrap_or_else(PoisonError::into_inner);
        let room = |labs: &mut usize| *labs + share > SIDE_BY_SIDE;
        let mut labs = self.fewer.wait_while(labs, room).unwrap_or_else(PoisonError::into_inner);
        *labs += share;
        Share(share)
    }
}

/// Room for a lab, until it is dropped.
#[derive(Debug)]
struct Share(usize);

impl Drop for Share {
    fn drop(&mut self) {
        *STANDING.labs.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        STANDING.fewer.notify_all();
    }
}

/// The VIP, as std writes addresses.
pub const VIP: SocketAddr = SocketAddr::V4(plan::VIP);
/// The VIP of each version of IP in a lab with [`both`]; clients take them in turns.
pub const VIPS: [SocketAddr; 2] = [VIP, SocketAddr::V6(plan::VIP6)];

/// A lab and its share of the room for labs.
#[derive(Debug)]
pub struct TestLab {
    /// The lab.
    pub lab: Lab,
    _share: Share,
}

/// Brings a lab up for the test `name`, `None` if it must be skipped here. No other stands meanwhile.
///
/// # Panics
/// If the lab does not come up, or if skips are not allowed.
pub fn up(name: &str, order: impl FnOnce(LabSpec) -> LabSpec) -> Option<TestLab> {
    up_with(SIDE_BY_SIDE, name, order)
}

/// The same beside another one that was brought up so.
///
/// # Panics
/// If the lab does not come up, or if skips are not allowed.
pub fn up_beside(name: &str, order: impl FnOnce(LabSpec) -> LabSpec) -> Option<TestLab> {
    up_with(1, name, order)
}

fn up_with(share: usize, name: &str, order: impl FnOnce(LabSpec) -> LabSpec) -> Option<TestLab> {
    if !skip::lab_can_run(name) {
        return None;
    }
    let share = STANDING.take(share);
    let spec = LabSpec::new(format!("t{}-{name}", std::process::id()));
    // BATON_SERVE=adopt runs a whole test binary with adopted connections.
    let spec = match std::env::var("BATON_SERVE") {
        Ok(way) => spec.serve(way.parse().unwrap_or_else(|e| panic!("BATON_SERVE: {e}"))),
        Err(_) => spec,
    };
    // An agent that a busy machine lets stand for a second or two is not late: whoever tests what happens to late ones
    // orders their time himself.
    let spec = spec.intermediate_with("handoff", "deadline_ms", 5000).intermediate_with(
        "handoff",
        "freeze_ms",
        6000,
    );
    match Lab::up(&order(spec)) {
        Ok(lab) => Some(TestLab { lab, _share: share }),
        Err(e) => panic!("the lab did not come up: {e:#}"),
    }
}

#[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
impl TestLab {
    /// Runs `work` in client1's namespace.
    ///
    /// # Panics
    /// If the namespace is gone, or `work` panics.
    pub fn client<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.lab.inside("client1", work).unwrap()
    }

    /// Does the same at both VIPs at a time in client1's namespace.
    ///
    /// # Panics
    /// If the namespace is gone, or `work` panics.
    pub fn client_at_each(&self, work: impl Fn(SocketAddr) + Send + Sync + 'static) {
        self.client(move || {
            // A thread inherits its parent's network namespace.
            std::thread::scope(|scope| {
                let working = VIPS.map(|vip| {
                    scope.spawn({
                        let work = &work;
                        move || work(vip)
                    })
                });
                working.into_iter().for_each(|one| one.join().unwrap());
            });
        });
    }

    /// One GET of the VIP from client1 on a new connection.
    pub fn get(&self, path: &str) -> io::Result<Response> {
        self.get_at(VIP, path)
    }

    /// One GET of that VIP from client1 on a new connection.
    pub fn get_at(&self, vip: SocketAddr, path: &str) -> io::Result<Response> {
        let path = path.to_owned();
        self.client(move || client::get(vip, &path))
    }

    /// JSON of a node's admin endpoint.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn admin(&self, node: &str, path: &str) -> Value {
        self.lab.admin_get(node, path).unwrap()
    }

    /// Orders something of the intermediate; its answer.
    ///
    /// # Panics
    /// If it does not do it.
    pub fn order(&self, path: &str) -> Value {
        let (status, text) = self.lab.admin_post(plan::INTERMEDIATE, path).unwrap();
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// `baton` with these words, told where the daemons of the intermediate and of the first two targets are asked.
    ///
    /// # Panics
    /// If it is not built, or there are no such nodes.
    pub fn tool(&self, words: &[&str]) -> Command {
        let socket = |node: &str| self.lab.admin_socket(node).unwrap().display().to_string();
        let agents = ["target1", "target2"].map(|name| format!("{name}={}", socket(name)));
        let mut command = Command::new(command::built("baton").unwrap());
        command.args(words).stdin(Stdio::null());
        command.env("BATON_INTERMEDIATE", socket(plan::INTERMEDIATE)).env("BATON_AGENT", agents.join(","));
        command
    }

    /// How a target stands in the first pool it is in.
    ///
    /// # Panics
    /// If it is in none.
    pub fn standing(&self, target: &str) -> String {
        let view = self.admin(plan::INTERMEDIATE, &format!("/v1/targets/{target}"));
        let standing = view.pointer("/pools/0/standing").and_then(Value::as_str);
        standing.unwrap_or_else(|| panic!("{view}")).to_owned()
    }

    /// A sample of a node's `/metrics`, by its whole name with labels.
    ///
    /// # Panics
    /// If the node does not answer, or has no such sample: a test of a misspelt one could not fail.
    pub fn metric(&self, node: &str, sample: &str) -> u64 {
        let [value] = self.metrics(node, [sample]);
        value
    }

    /// Samples of one answer of a node's `/metrics`: those of two answers must not be held against each other, as things go
    /// on in between.
    ///
    /// # Panics
    /// As [`TestLab::metric`] does.
    pub fn metrics<const N: usize>(&self, node: &str, samples: [&str; N]) -> [u64; N] {
        let (status, text) = self.lab.admin_text(node, "/metrics").unwrap();
        assert_eq!(status, 200, "{text}");
        samples.map(|sample| {
            let line = text.lines().find_map(|l| l.strip_prefix(sample)?.strip_prefix(' '));
            let Some(value) = line else { panic!("{node} has no sample {sample} in:\n{text}") };
            value.trim().parse().unwrap()
        })
    }

    /// How many packets a node's data plane counted under a reason.
    pub fn packets(&self, node: &str, reason: &str) -> u64 {
        let [packets] = self.packets_of(node, [reason]);
        packets
    }

    /// The same under several reasons, of one answer.
    pub fn packets_of<const N: usize>(&self, node: &str, reasons: [&str; N]) -> [u64; N] {
        let samples = reasons.map(|reason| format!("baton_packets_total{{reason=\"{reason}\"}}"));
        self.metrics(node, samples.each_ref().map(String::as_str))
    }

    /// Waits until the intermediate has given back all that it held: of each flow that it knows as many bytes as were diverted,
    /// and no fewer packets of all flows so far, but for acknowledgements that others say as well. They may be more: what its
    /// server's window takes in part comes back in parts.
    ///
    /// # Panics
    /// If something of it is missing.
    pub fn expect_all_released(&self) {
        self.eventually("all that was held is given back", Duration::from_secs(20), |t| {
            let [diverted, released] = t.packets_of(plan::INTERMEDIATE, ["diverted", "released"]);
            let said_again = t.metric(plan::INTERMEDIATE, "baton_held_dropped_total{reason=\"said_again\"}");
            let bytes = |flow: &Value, key| flow.get(key).and_then(Value::as_u64).unwrap();
            let flows = t.flows(plan::INTERMEDIATE);
            released + said_again >= diverted
                && flows.iter().all(|flow| bytes(flow, "diverted") == bytes(flow, "released"))
        });
        assert_eq!(self.metric(plan::INTERMEDIATE, "baton_hold_dropped_total"), 0);
    }

    /// How many requests the intermediate has counted as migrated and as proxied, at one moment.
    pub fn requests(&self) -> (u64, u64) {
        let outcomes = ["migrated", "proxied"].map(|o| format!("baton_requests_total{{outcome=\"{o}\"}}"));
        self.metrics(plan::INTERMEDIATE, outcomes.each_ref().map(String::as_str)).into()
    }

    /// How many requests the intermediate migrated.
    pub fn migrated(&self) -> u64 {
        self.metric(plan::INTERMEDIATE, "baton_requests_total{outcome=\"migrated\"}")
    }

    /// Waits until the intermediate has counted this many requests as migrated and as proxied, and not more.
    ///
    /// A client can have its answer before the intermediate has counted the handoff: the answer comes from the target.
    ///
    /// # Panics
    /// If the counts are others.
    pub fn expect_requests(&self, migrated: u64, proxied: u64) {
        let (started, mut counted) = (Instant::now(), self.requests());
        while counted != (migrated, proxied) && started.elapsed() < COUNTED {
            std::thread::sleep(Duration::from_millis(20));
            counted = self.requests();
        }
        assert_eq!(counted, (migrated, proxied), "requests migrated, proxied");
    }

    /// Waits until the intermediate has counted this many requests, nearly all of them as migrated: on a bad link or a busy
    /// machine one may be proxied.
    ///
    /// # Panics
    /// If the counts are others.
    pub fn expect_mostly_migrated(&self, requests: u64) {
        let mut proxied = 0;
        self.eventually("all requests are counted", COUNTED, |t| {
            let migrated;
            (migrated, proxied) = t.requests();
            migrated + proxied == requests
        });
        assert!(proxied * 8 <= requests, "{proxied} of {requests} were proxied");
    }

    /// How many requests the intermediate proxied for a reason.
    pub fn proxied(&self, reason: &str) -> u64 {
        self.metric(plan::INTERMEDIATE, &format!("baton_proxied_total{{reason=\"{reason}\"}}"))
    }

    /// How many requests the intermediate proxied.
    pub fn all_proxied(&self) -> u64 {
        self.metric(plan::INTERMEDIATE, "baton_requests_total{outcome=\"proxied\"}")
    }

    /// How many connections the intermediate closed for a reason.
    pub fn closed(&self, reason: &str) -> u64 {
        self.metric(plan::INTERMEDIATE, &format!("baton_closed_total{{reason=\"{reason}\"}}"))
    }

    /// Waits until the intermediate has counted this many connections as closed for a reason: their clients may know before.
    ///
    /// # Panics
    /// If the count is another.
    pub fn expect_closed(&self, reason: &str, count: u64) {
        self.expect_count(&format!("closed for {reason}"), count, |t| t.closed(reason));
    }

    /// The same of requests that were proxied for a reason.
    ///
    /// # Panics
    /// If the count is another.
    pub fn expect_proxied(&self, reason: &str, count: u64) {
        self.expect_count(&format!("proxied for {reason}"), count, |t| t.proxied(reason));
    }

    fn expect_count(&self, what: &str, count: u64, counted: impl Fn(&Self) -> u64) {
        let mut last = 0;
        self.eventually(&format!("{count} are counted as {what}"), COUNTED, |t| {
            last = counted(t);
            last >= count
        });
        assert_eq!(last, count, "{what}");
    }

    /// What nginx on a target has logged, a line per request.
    pub fn access_log(&self, target: &str) -> Vec<String> {
        whole_lines(&self.lab.access_log(target)).lines().map(str::to_owned).collect()
    }

    /// The intermediate's access log, of a lab that is [`logged`], once it has so many lines; more would be wrong.
    ///
    /// # Panics
    /// If they do not come, or one is no JSON.
    pub fn lines(&self, count: usize) -> Vec<Value> {
        let path = log_of(&self.lab.node_dir(plan::INTERMEDIATE));
        let read = || whole_lines(&path);
        self.eventually("all lines of the access log", Duration::from_secs(30), |_| {
            read().lines().count() >= count
        });
        let text = read();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), count, "{text}");
        lines
    }

    /// SHA-256 of a file the targets serve.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn sha256(&self, file: &str) -> String {
        netns_lab::content::sha256_of_file(&self.lab.www_dir().join(file)).unwrap()
    }

    /// SHA-256 of what was PUT to `/upload/NAME`, on whichever target it is.
    ///
    /// # Panics
    /// If it is on none, or on two.
    pub fn uploaded(&self, name: &str) -> String {
        let places =
            self.lab.targets().into_iter().map(|(target, _)| self.lab.upload_dir(&target).join(name));
        let places: Vec<_> = places.filter(|place| place.exists()).collect();
        let [place] = &places[..] else { panic!("{name} is at {places:?}") };
        netns_lab::content::sha256_of_file(place).unwrap()
    }

    /// Waits until `done` says so.
    ///
    /// # Panics
    /// If that takes longer than `within`, and than a busy machine may make of it.
    pub fn eventually(&self, what: &str, within: Duration, mut done: impl FnMut(&Self) -> bool) {
        let (started, within) = (Instant::now(), within.max(PATIENCE));
        while !done(self) {
            assert!(started.elapsed() < within, "not within {within:?}: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// From here on each device of these nodes has [one CPU](one_cpu_for_each_device).
    ///
    /// # Panics
    /// If the kernel does not take it.
    pub fn one_cpu_for_each_device(&self, nodes: &[&str]) {
        nodes.iter().for_each(|node| one_cpu_for_each_device(&self.lab, node).unwrap());
    }

    /// The number of a node's program that runs now.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self, node: &str, program: Program) -> u32 {
        let name = self.lab.program_name(program);
        let state = self.lab.snapshot();
        let mut of = state.processes.iter().filter(|p| p.node == node && p.program == name);
        of.find(|p| p.id.is_alive()).unwrap().id.pid
    }

    /// The sets of effective and permitted capabilities that the threads of a node's program have: one if all are alike.
    ///
    /// # Panics
    /// If it does not run.
    pub fn capabilities(&self, node: &str, program: Program) -> BTreeSet<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid(node, program))).unwrap();
        let of = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let sets = status.lines().filter(|l| l.starts_with("CapEff:") || l.starts_with("CapPrm:"));
            Some(sets.map(|l| l.replace('\t', " ")).collect::<Vec<_>>().join(", "))
        };
        // A thread may end meanwhile.
        tasks.flatten().filter_map(of).collect()
    }

    /// The flows a node's daemon knows.
    pub fn flows(&self, node: &str) -> Vec<Value> {
        self.admin(node, "/v1/flows").get("flows").and_then(Value::as_array).cloned().unwrap_or_default()
    }
}

/// From here on each device that a node has now has one CPU that takes in its packets, as a network card's receive queue has one
/// for each flow. On a veth it is whichever CPU the packet was sent on, and a sender that changes its CPU, or a socket that
/// sends for its reader on one and for what it receives on another, overtakes itself.
///
/// But not the daemons' TUN, where what they write is taken in before the write returns.
///
/// # Errors
/// If the kernel does not take it.
pub fn one_cpu_for_each_device(lab: &Lab, node: &str) -> anyhow::Result<()> {
    let queues = "mount -t sysfs none /sys; for q in /sys/class/net/*/queues/rx-*/rps_cpus; \
                  do case $q in */baton*) ;; *) echo 1 > $q;; esac; done";
    lab.output(node, &["unshare", "-m", "sh", "-ec", queues]).map(drop)
}

/// A file's text without a last line that is still being written; empty if there is no such file.
#[must_use]
pub fn whole_lines(path: &Path) -> String {
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    text
}

/// The same with both versions of IP, and a VIP of each.
#[must_use]
pub fn both(spec: LabSpec) -> LabSpec {
    spec.family(Family::Dual)
}

/// The same with an agent that has longer to answer than a busy machine stands still: where all requests must migrate, none is
/// proxied for that.
#[must_use]
pub fn patient(spec: LabSpec) -> LabSpec {
    spec.intermediate_with("handoff", "deadline_ms", 4000)
}

fn log_of(node_dir: &Path) -> PathBuf {
    node_dir.join("access-lines.log")
}

/// The same with an access log of the intermediate's own.
#[must_use]
pub fn logged(spec: LabSpec) -> LabSpec {
    let path = log_of(&plan::run_dir(&spec.name).join(plan::INTERMEDIATE));
    spec.intermediate_with("access_log", "path", path.to_string_lossy().into_owned())
}
