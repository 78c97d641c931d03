//! A target host of its own: two network namespaces, in one the agent and a Python server, in the other this test,
//! which plays the intermediate (a real control channel) and the client (raw packets).

pub(crate) mod wire;

use baton_daemon::certs::{Node, make};
use baton_daemon::config::TlsFiles;
use baton_daemon::control::{ChannelEvent, Client, ClientSpec};
use baton_daemon::random::random;
use baton_shared::capture::{CapturedConnection, NegotiatedOptions, WindowScales};
use baton_shared::control::{FlowRef, Handoff, Hello, Message, PROTOCOL_VERSION, Role};
use baton_shared::seq::Seq;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

pub(crate) const SERVER: &str = "10.95.0.2:8080";
pub(crate) const CONTROL: &str = "10.95.0.2:7400";
pub(crate) const VIP: &str = "10.95.7.100:80";
pub(crate) const CLIENT_IP: &str = "10.95.0.77";
const INNER: &str = "BATON_AGENT_TEST_INSIDE";

/// Answers each request with what it got: method, path, client address, body's length and checksum. `/slow` waits
/// before it reads the body; `/big/N` answers N bytes. After `/kept/...` the connection stays open: `pause` and `chunks`
/// rest in mid-response, `odd` has a length nobody can rely on.
const PYTHON_SERVER: &str = r#"
import hashlib, socketserver, sys, time
class H(socketserver.StreamRequestHandler):
    def handle(self):
        while self.one(): pass
    def one(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line: return
            head += line
        path = head.split()[1].decode()
        length = 0
        for l in head.split(b"\r\n"):
            if l.lower().startswith(b"content-length:"): length = int(l.split(b":")[1])
        if path == "/slow": time.sleep(0.7)
        body = self.rfile.read(length)
        if path.startswith("/kept/"): return self.kept(path)
        if path.startswith("/big/"): text = b"x" * int(path[5:])
        elif path == "/hang":
            time.sleep(60); return
        else: text = ("%s %s:%d %d %s" % (path, *self.client_address, len(body), hashlib.sha256(body).hexdigest())).encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
    def kept(self, path):
        start = b"HTTP/1.1 200 OK\r\n"
        if path == "/kept/pause":
            self.wfile.write(start + b"Content-Length: 10\r\n\r\nfirst")
            time.sleep(0.8)
            self.wfile.write(b"later")
        elif path == "/kept/chunks":
            self.wfile.write(start + b"Transfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n")
            time.sleep(0.8)
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/kept/odd":
            self.wfile.write(start + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbytes")
        else: self.wfile.write(start + b"Content-Length: 5\r\n\r\nwhole")
        return True
class S(socketserver.ThreadingTCPServer):
    allow_reuse_address = True; daemon_threads = True; request_queue_size = 512
S(("10.95.0.2", 8080), H).serve_forever()
"#;

/// Runs `test` inside a namespace of its own: the test program starts itself again there. False in the outer run,
/// whose work is done then. Skips loudly without root.
pub(crate) fn inside(test: &str) -> Option<World> {
    if let Ok(name) = std::env::var(INNER) {
        return Some(World::new(&name));
    }
    if !Path::new("/sys/fs/bpf").exists() || !run_ok("ip", &["netns", "list"]) || !is_root() {
        println!("SKIPPED: needs root, iproute2 and a BPF file system");
        assert_ne!(std::env::var("BATON_NO_SKIPS").as_deref(), Ok("1"), "skips are forbidden");
        return None;
    }
    // Tests of one process run side by side, each in namespaces of its own.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("batonta{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let (target, client) = (format!("{name}t"), format!("{name}c"));
    let _cleanup = Cleanup(vec![target.clone(), client.clone()]);
    for ns in [&target, &client] {
        must("ip", &["netns", "add", ns]);
    }
    must(
        "ip",
        &["-n", &client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &target],
    );
    for (ns, address) in [(&client, "10.95.0.1/24"), (&target, "10.95.0.2/24")] {
        must("ip", &["-n", ns, "addr", "add", address, "dev", "eth0"]);
        must("ip", &["-n", ns, "link", "set", "eth0", "up"]);
        must("ip", &["-n", ns, "link", "set", "lo", "up"]);
    }
    // The client's address is nobody's: its packets come from this test, and go to it by AF_PACKET.
    let link = command("ip", &["-n", &client, "-o", "link", "show", "eth0"]).output().unwrap();
    let link = String::from_utf8(link.stdout).unwrap();
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    must("ip", &["-n", &target, "neigh", "add", CLIENT_IP, "lladdr", mac, "dev", "eth0"]);
    for device in ["all", "eth0"] {
        let rule = format!("net.ipv4.conf.{device}.rp_filter=1");
        must("nsenter", &[&net(&target), "sysctl", "-qw", &rule]);
    }
    let me = std::env::current_exe().unwrap();
    // A BPF file system of its own, which goes with the mount namespace.
    let own_bpffs = "mount -t bpf bpf /sys/fs/bpf && exec \"$@\"";
    let mut inner = command("nsenter", &[&net(&client), "unshare", "-m", "sh", "-c", own_bpffs, "sh"]);
    let status = inner
        .args([me.to_str().unwrap(), "--exact", test, "--nocapture"])
        .env(INNER, &name)
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside its namespace");
    None
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
}

fn net(ns: &str) -> String {
    format!("--net=/run/netns/{ns}")
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

fn run_ok(program: &str, args: &[&str]) -> bool {
    command(program, args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn must(program: &str, args: &[&str]) {
    assert!(command(program, args).status().unwrap().success(), "{program} {args:?}");
}

struct Cleanup(Vec<String>);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for ns in &self.0 {
            let _ = command("ip", &["netns", "del", ns]).status();
        }
    }
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is inside.
pub(crate) struct World {
    name: String,
    pub(crate) dir: tempfile::TempDir,
    agent: Option<Running>,
    server: Option<Running>,
    runtime: tokio::runtime::Runtime,
    channel: Option<Client>,
    events: Option<mpsc::Receiver<ChannelEvent>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.agent = None;
    }
}

impl World {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let nodes = [
            Node::new(Role::Agent, "target1", &["10.95.0.2".parse().unwrap()], 2),
            Node::new(Role::Intermediate, "intermediate", &["10.95.0.1".parse().unwrap()], 2),
        ];
        make(dir.path(), &nodes).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut world = World {
            name: name.to_owned(),
            dir,
            agent: None,
            server: None,
            runtime,
            channel: None,
            events: None,
        };
        world.start_server();
        world.start_agent("");
        world
    }

    pub(crate) fn pins(&self) -> PathBuf {
        format!("/sys/fs/bpf/{}", self.name).into()
    }

    /// What a command prints on the target host, where it must succeed.
    pub(crate) fn on_target(&self, line: &str) -> String {
        let out = self.in_target("sh", &["-c", line]).stderr(Stdio::inherit()).output().unwrap();
        assert!(out.status.success(), "{line}");
        String::from_utf8(out.stdout).unwrap()
    }

    fn in_target(&self, program: &str, args: &[&str]) -> Command {
        let ns = net(&format!("{}t", self.name));
        let mut all = vec![ns.as_str(), program];
        all.extend(args);
        command("nsenter", &all)
    }

    pub(crate) fn start_server(&mut self) {
        let child = self.in_target("python3", &["-c", PYTHON_SERVER]).stderr(Stdio::null()).spawn().unwrap();
        self.server = Some(Running(child));
        let until = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(SERVER).is_err() {
            assert!(Instant::now() < until, "the server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// It goes on listening and does not accept.
    pub(crate) fn pause_server(&self) {
        let pid = self.server.as_ref().unwrap().0.id();
        must("kill", &["-STOP", &pid.to_string()]);
    }

    /// After [`World::pause_server`].
    pub(crate) fn resume_server(&self) {
        let pid = self.server.as_ref().unwrap().0.id();
        must("kill", &["-CONT", &pid.to_string()]);
    }

    pub(crate) fn stop_server(&mut self) {
        self.server = None;
    }

    /// Starts the agent and connects to it. `plane` are further lines of `[plane]`.
    pub(crate) fn start_agent(&mut self, plane: &str) {
        // The replayed handshake is what is mostly tried, whatever this kernel can adopt.
        self.start_agent_to_serve("way = \"translate\"", plane, &[]);
    }

    /// As [`World::start_agent`], with the lines of `[serve]` and further arguments.
    pub(crate) fn start_agent_to_serve(&mut self, serve: &str, plane: &str, arguments: &[&str]) {
        let dir = self.dir.path();
        let config = dir.join("agent.toml");
        // What the test says itself is not said twice.
        let defaults: String = [("flows", 1024), ("linger_ms", 1000)]
            .iter()
            .filter(|(key, _)| !plane.contains(key))
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect();
        let text = format!(
            "name = \"target1\"\nuplink = \"eth0\"\ncontrol = \"{CONTROL}\"\n\
             [tls]\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n\
             [[allow]]\nintermediate = \"intermediate\"\nvip = \"{VIP}\"\nserver = \"{SERVER}\"\n\
             [plane]\npin_dir = {pins:?}\n{defaults}{plane}\n\
             [serve]\n{serve}\n\
             [admin]\nunix = {socket:?}\n",
            ca = dir.join("ca.pem"),
            cert = dir.join("target1.pem"),
            key = dir.join("target1.key"),
            pins = self.pins(),
            socket = dir.join("agent.sock"),
        );
        std::fs::write(&config, text).unwrap();
        let mut agent = self.in_target(env!("CARGO_BIN_EXE_target-agent"), &["run", "--config"]);
        self.agent = Some(Running(agent.arg(&config).args(arguments).spawn().unwrap()));
        self.connect();
    }

    /// Tells the agent to stop, and waits until it has, as an intermediate does.
    pub(crate) fn stop_agent(&mut self) {
        self.begin_stop();
        loop {
            match self.next_event(Duration::from_secs(20)) {
                Some(ChannelEvent::Message(Message::Ended(report))) if report.flow == FlowRef::NONE => break,
                Some(ChannelEvent::Down { .. }) | None => panic!("the agent says nothing of its stop"),
                Some(_) => {}
            }
        }
        self.send(Message::EndSeen(FlowRef::NONE));
        self.has_stopped();
    }

    /// Tells the agent to stop.
    pub(crate) fn begin_stop(&self) {
        let Running(agent) = self.agent.as_ref().unwrap();
        must("kill", &["-TERM", &agent.id().to_string()]);
    }

    /// Waits until it has.
    pub(crate) fn has_stopped(&mut self) {
        let Running(agent) = &mut self.agent.take().unwrap();
        assert!(agent.wait().unwrap().success());
    }

    pub(crate) fn kill_agent(&mut self) {
        self.agent = None;
    }

    fn connect(&mut self) {
        let (sender, events) = mpsc::channel();
        let spec = ClientSpec {
            addr: CONTROL.parse().unwrap(),
            expect: (Role::Agent, "target1".to_owned()),
            tls: &TlsFiles::in_dir(self.dir.path(), "intermediate"),
            hello: Hello {
                protocol: PROTOCOL_VERSION,
                role: Role::Intermediate,
                name: "intermediate".to_owned(),
                instance: random(),
                software: "test".to_owned(),
            },
        };
        let _entered = self.runtime.enter();
        self.channel = Some(Client::spawn(spec, Arc::new(move |event| drop(sender.send(event)))).unwrap());
        self.events = Some(events);
        match self.next_event(Duration::from_secs(15)) {
            Some(ChannelEvent::Up { .. }) => {}
            other => panic!("no channel: {other:?}"),
        }
    }

    fn next_event(&self, limit: Duration) -> Option<ChannelEvent> {
        self.events.as_ref().unwrap().recv_timeout(limit).ok()
    }

    pub(crate) fn send(&self, message: Message) {
        self.channel.as_ref().unwrap().send(message).unwrap();
    }

    /// The next message that is no load report.
    pub(crate) fn next(&self) -> Message {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match self.next_event(until.saturating_duration_since(Instant::now())) {
                Some(ChannelEvent::Message(Message::Load(_))) => {}
                Some(ChannelEvent::Message(message)) => return message,
                other => panic!("no message but {other:?}"),
            }
        }
    }

    /// The next message, if there is one in time.
    pub(crate) fn next_of_any_kind(&self, limit: Duration) -> Option<Message> {
        match self.next_event(limit)? {
            ChannelEvent::Message(message) => Some(message),
            other => panic!("no message but {other:?}"),
        }
    }

    /// `/v1/...` of the admin endpoint.
    pub(crate) fn admin(&self, path: &str) -> serde_json::Value {
        let socket = self.dir.path().join("agent.sock");
        let url = format!("http://agent{path}");
        let out =
            command("curl", &["-sS", "--unix-socket", socket.to_str().unwrap(), &url]).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}"))
    }

    pub(crate) fn metrics(&self) -> String {
        let socket = self.dir.path().join("agent.sock");
        let args = ["-sS", "--unix-socket", socket.to_str().unwrap(), "http://agent/metrics"];
        String::from_utf8(command("curl", &args).output().unwrap().stdout).unwrap()
    }
}

/// All options on.
pub(crate) fn options() -> NegotiatedOptions {
    NegotiatedOptions {
        client_mss: 1460,
        sack: true,
        timestamps: true,
        window_scale: Some(WindowScales { client: 7, promised: 7 }),
        ecn: false,
    }
}

/// A handoff of a connection nobody ever had.
pub(crate) fn handoff(flow_id: u64, port: u16, request: &[u8], options: NegotiatedOptions) -> Handoff {
    Handoff {
        flow: FlowRef { flow_id, generation: 1 },
        deadline_ms: 2000,
        server: SERVER.parse().unwrap(),
        acknowledged: Seq::new(50),
        tracked: None,
        connection: CapturedConnection {
            client: format!("{CLIENT_IP}:{port}").parse().unwrap(),
            vip: VIP.parse().unwrap(),
            // The request wraps around.
            rcv_nxt: Seq::new(50),
            snd_nxt: Seq::new(u32::MAX - 20),
            snd_wnd: 64_000,
            max_window: 64_000,
            rcv_wnd: 65_535,
            client_tsval: if options.timestamps { 7_000_000 } else { 0 },
            vip_tsval: if options.timestamps { 4_000_000_000 } else { 0 },
            options,
            rtt_us: 0,
            client_fin: false,
        },
        request: request.to_vec(),
    }
}
