//! Where the rows are played: a lab with one target, a network of peers behind its client.

use crate::GROUPS;
use crate::server::Server;
use baton_tests::lab::{self, TestLab};
use baton_tests::peer::{Device, Host, PATIENCE, Peer, SERVER, SERVER6, Start};
use netns_lab::spec::Plane;
use netns_lab::{Family, LabSpec, Program, plan};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A row: its name and what it does.
pub(crate) type Row = (&'static str, fn(&Place));

/// How many rows are played at once in a lab: they mostly wait.
const AT_ONCE: usize = 8;

/// The agent's time to answer: longer than a busy machine may stand still while an agent is stopped, and short, since rows
/// are late by it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3);

/// The groups that play the server themselves; in a lab they come last.
const PLAYED: [&str; 3] = ["closing", "urgent", "windows"];

/// The groups with a scripted server: every segment of it is the row's.
const SCRIPTED: [&str; 3] = ["answers", "feeding", "serving"];

/// A lab and what rows ask of it.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) t: Arc<TestLab>,
    pub(crate) device: Arc<Device>,
    server: Option<Arc<Server>>,
    /// Where the scripted server sits.
    seats: Option<Arc<Device>>,
    /// The rows are played over IPv6.
    v6: bool,
}

/// Plays groups in a lab of this kind with nginx on its target.
pub(crate) fn play_in(lab_name: &str, order: impl FnOnce(LabSpec) -> LabSpec, groups: &[&str]) {
    let deadline = u64::try_from(DEADLINE.as_millis()).unwrap();
    let usual = |spec: LabSpec| {
        let spec = spec.targets(1).family(Family::Dual).plane(plane());
        spec.intermediate_with("handoff", "deadline_ms", deadline)
    };
    let Some(t) = lab::up_beside(lab_name, |s| order(usual(s))) else { return };
    let device = Device::open(&t.lab).unwrap();
    let scripted = groups.iter().any(|group| SCRIPTED.contains(group));
    let seats = scripted.then(|| Device::open_server(&t.lab).unwrap());
    if scripted && plane() == Plane::Userspace {
        lead_to_the_agent(&t);
    }
    let (t, device, seats) = (Arc::new(t), Arc::new(device), seats.map(Arc::new));
    let mut place = Place { t, device, server: None, seats, v6: false };
    let mut failed = Vec::new();
    for group in groups {
        if PLAYED.contains(group) && place.server.is_none() {
            place.server = Some(Arc::new(Server::in_place_of_nginx(&place.t)));
        }
        let family = place.t.lab.spec().family;
        let versions =
            [(false, family.has_v4()), (true, family.has_v6())].into_iter().filter(|(_, has)| *has);
        let places: Vec<_> = versions.map(|(v6, _)| Place { v6, ..place.clone() }).collect();
        failed.extend(play(&places, group));
    }
    assert!(failed.is_empty(), "rows that failed (their reports are above): {failed:?}");
}

/// In this plane the agent leads to its TUN what the host itself sends; the scripted server's packets are forwarded, so the
/// same must be said of them (docs/userspace-plane.md).
fn lead_to_the_agent(t: &TestLab) {
    for server in [SERVER, SERVER6] {
        let version = if server.is_ipv4() { "-4" } else { "-6" };
        let (address, port) = (server.ip().to_string(), server.port().to_string());
        let rule = ["from", &address, "iif", "peer0", "ipproto", "tcp", "sport", &port];
        let words = [&["ip", version, "rule", "add", "pref", "89"], &rule[..], &["lookup", "16961"]].concat();
        t.lab.output("target1", &words).unwrap();
    }
}

/// The data plane in use: `BATON_PLANE=userspace` plays the rows over the one without eBPF.
fn plane() -> Plane {
    std::env::var("BATON_PLANE").map_or(Plane::Ebpf, |name| name.parse().unwrap())
}

/// Plays a group's rows in each of the places, all of them whatever becomes of one; gives back those that failed.
fn play(places: &[Place], group: &str) -> Vec<String> {
    let (_, together, alone) = GROUPS.iter().find(|(name, ..)| *name == group).unwrap();
    let (next, failed) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    let one = |place: &Place, (name, row): &Row| {
        let version = if place.v6 { "IPv6" } else { "IPv4" };
        let wanted = std::env::var("BATON_ROW").map_or(true, |only| name.contains(&only));
        let started = Instant::now();
        if wanted && catch_unwind(AssertUnwindSafe(|| row(place))).is_err() {
            failed.lock().unwrap().push(format!("{name} over {version}"));
        }
        println!("{group}::{name} over {version}: {} ms", started.elapsed().as_millis());
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                // In the order of the rows, so that what takes longest can stand first.
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(row) = together.get(n / places.len()) else { break };
                    one(&places[n % places.len()], row);
                }
            });
        }
    });
    for place in places {
        alone.iter().for_each(|row| one(place, row));
    }
    failed.into_inner().unwrap()
}

impl Place {
    /// The server, where the rows play it.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_deref().unwrap()
    }

    /// The address clients connect to.
    pub(crate) fn vip(&self) -> SocketAddr {
        if self.v6 { plan::VIP6.into() } else { plan::VIP.into() }
    }

    /// The server's own address, for comparisons with the direct way.
    pub(crate) fn direct(&self) -> SocketAddr {
        if self.v6 { (plan::target_addr6(1), 80).into() } else { (plan::target_addr(1), 80).into() }
    }

    /// Whether the server's kernel adopts connections here.
    pub(crate) fn adopts(&self) -> bool {
        self.serving()["serve"]["way"] == "adopt"
    }

    /// How the agent gives the VIP's connections to the server.
    fn serving(&self) -> Value {
        let (vip, all) = (self.vip().to_string(), self.t.admin("target1", "/v1/targets"));
        all["targets"].as_array().unwrap().iter().find(|of| of["vip"] == vip.as_str()).unwrap().clone()
    }

    /// An address nobody used before.
    pub(crate) fn host(&self) -> Host {
        self.device.host(self.v6)
    }

    /// The scripted server, as the client with this address sees it.
    pub(crate) fn seat(&self, client: IpAddr) -> Host {
        self.seats.as_ref().unwrap().seat(client)
    }

    /// The same, as the intermediate sees it when it proxies.
    pub(crate) fn intermediates_seat(&self) -> Host {
        self.seat(if self.v6 { plan::INTERMEDIATE_ADDR6.into() } else { plan::INTERMEDIATE_ADDR.into() })
    }

    /// A connection to the VIP from a new address, its handshake done.
    pub(crate) fn open(&self, start: &Start) -> Peer {
        Peer::open(self.host(), self.vip(), start)
    }

    /// What the server serves under this name.
    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.t.lab.www_dir().join(name)).unwrap()
    }

    /// How the newest request of this client went: its outcome and, if it was not migrated, why.
    fn outcome(&self, peer: &Peer) -> Option<(String, String)> {
        let all = self.t.admin(plan::INTERMEDIATE, "/v1/migrations");
        let client = peer.from().to_string();
        let of = |entry: &&Value| entry["client"] == client.as_str();
        let entry = all["migrations"].as_array().unwrap().iter().find(of)?;
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        Some((text("outcome"), text("reason")))
    }

    /// Waits until the intermediate has recorded how this client's request went.
    pub(crate) fn expect_outcome(&self, peer: &Peer, outcome: &str, reason: Option<&str>) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.outcome(peer) {
                Some((got, why)) if got == outcome && reason.is_none_or(|r| r == why) => return,
                Some(other) => peer.fail(&format!("went {other:?}, not {outcome} {reason:?}")),
                None if Instant::now() > until => peer.fail("the intermediate has no record of it"),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Waits until the intermediate has recorded that this client's connection was migrated.
    pub(crate) fn expect_migrated(&self, peer: &Peer) {
        self.expect_outcome(peer, "migrated", None);
    }

    /// Fetches a file over this connection and compares it.
    pub(crate) fn fetch(&self, peer: &mut Peer, name: &str) {
        peer.get(&format!("/{name}"));
        self.expect_file(peer, name);
    }

    /// Receives the answer to a request for this file and compares it.
    pub(crate) fn expect_file(&self, peer: &mut Peer, name: &str) {
        let (status, body) = peer.response();
        if status != 200 || body != self.file(name) {
            peer.fail(&format!("status {status}, and {} bytes that are not {name}", body.len()));
        }
    }

    /// Ends a connection in good order, the client first.
    pub(crate) fn close(&self, peer: &mut Peer) {
        peer.fin(b"");
        peer.receive_end();
        peer.wait_acknowledged();
    }

    /// Waits until an agent that adopts has noticed that the server's buffers are of a fixed size.
    pub(crate) fn expect_noticed(&self) {
        self.t.eventually("the buffer is noticed", PATIENCE, |_| {
            let serve = &self.serving()["serve"];
            serve["way"] != "adopt" || serve["window_scale"] == 4
        });
    }

    /// Stops the agent until the guard is dropped, so that a freeze lasts.
    pub(crate) fn stall(&self) -> Stall<'_> {
        self.stall_of("target1")
    }

    /// The same of this target's.
    pub(crate) fn stall_of(&self, target: &'static str) -> Stall<'_> {
        self.t.lab.signal(target, Program::Agent, libc::SIGSTOP).unwrap();
        Stall(self, target)
    }

    /// The state of this client's flow on the intermediate.
    pub(crate) fn flow_state(&self, peer: &Peer) -> Option<String> {
        let client = peer.from().to_string();
        let flows = self.t.flows(plan::INTERMEDIATE);
        let flow = flows.iter().find(|f| f["client"] == client.as_str())?;
        flow["state"].as_str().map(str::to_owned)
    }

    /// Waits until this client's flow stands so.
    pub(crate) fn expect_state(&self, peer: &Peer, state: &str) {
        let until = Instant::now() + PATIENCE;
        while self.flow_state(peer).as_deref() != Some(state) {
            if Instant::now() > until {
                peer.fail(&format!("its flow is {:?}, not {state}", self.flow_state(peer)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Place {
    /// That what was PUT to `/upload/NAME` arrived as it was sent. It is taken away, so that the name may be used again.
    pub(crate) fn expect_uploaded(&self, name: &str, sent: &[u8]) {
        let places = ["target1", "target2"].map(|target| self.t.lab.upload_dir(target).join(name));
        let place = places.iter().find(|place| place.exists()).unwrap();
        let arrived = std::fs::read(place).unwrap();
        std::fs::remove_file(place).unwrap();
        assert!(arrived == sent, "{name}: {} bytes arrived of {}", arrived.len(), sent.len());
    }

    /// Waits until this client's flow has ended on both hosts.
    pub(crate) fn expect_ended(&self, peer: &Peer) {
        let client = peer.from().to_string();
        let until = Instant::now() + PATIENCE;
        loop {
            let live = |node: &str| {
                let flows = self.t.flows(node);
                let of = flows.iter().find(|f| f["client"] == client.as_str());
                of.map(|f| f["state"].clone()).filter(|state| state != "ended")
            };
            let left = [plan::INTERMEDIATE, "target1"].map(live);
            if left.iter().all(Option::is_none) {
                return;
            }
            if Instant::now() > until {
                peer.fail(&format!("its flow has not ended: {left:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Place {
    /// Waits until the agent has seen this client's flow end, and expects this reason.
    pub(crate) fn expect_end_on_target(&self, peer: &Peer, reason: &str) {
        let client = peer.from().to_string();
        let until = Instant::now() + PATIENCE;
        let end = loop {
            let flows = self.t.flows("target1");
            let flow = flows.iter().find(|f| f["client"] == client.as_str());
            match flow.and_then(|f| f["end"].as_str()) {
                Some(end) => break end.to_owned(),
                None if Instant::now() > until => peer.fail(&format!("its flow has not ended: {flow:?}")),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        assert_eq!(end, reason);
    }
}

/// A value under /proc/sys that is put back when this is dropped.
pub(crate) struct Setting<'a> {
    place: &'a Place,
    node: &'static str,
    file: PathBuf,
    before: String,
}

impl Place {
    /// Sets a value under /proc/sys of a node until the guard is dropped.
    pub(crate) fn set_sysctl(&self, node: &'static str, name: &str, value: &str) -> Setting<'_> {
        let file = PathBuf::from("/proc/sys").join(name);
        let (path, value) = (file.clone(), value.to_owned());
        let before = self.t.lab.inside(node, move || {
            let before = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, value).unwrap();
            before
        });
        Setting { place: self, node, file, before: before.unwrap() }
    }
}

impl Drop for Setting<'_> {
    fn drop(&mut self) {
        let (file, before) = (self.file.clone(), self.before.clone());
        self.place.t.lab.inside(self.node, move || std::fs::write(file, before).unwrap()).unwrap();
    }
}

/// The agent is stopped; it goes on when this is dropped.
pub(crate) struct Stall<'a>(&'a Place, &'static str);

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        self.0.t.lab.signal(self.1, Program::Agent, libc::SIGCONT).unwrap();
    }
}
