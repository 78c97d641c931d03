//! What a handoff cannot do without, each step by itself, on this machine: what the kernel takes to accept, read, capture and
//! release a connection, and what a message and its answer take on the control channel, both ends together.
//!
//! `cargo run --release -p intermediate --example floor`, as root. Nanoseconds: the tenth part of the samples that was
//! fastest, which others on the machine have disturbed least, and the median. Reading the clock is taken off.
#![allow(clippy::unwrap_used, reason = "a panic is the report of a measurement that failed")]

use baton_daemon::certs::{self, Node};
use baton_daemon::control::{ChannelEvent, Client, ClientSpec, Server, ServerEvent, ServerSpec};
use baton_daemon::tls::TlsFiles;
use baton_shared::capture::{CapturedConnection, NegotiatedOptions};
use baton_shared::control::{
    FlowRef, Handoff, Hello, Message, PROTOCOL_VERSION, RefusedAnswer, Role, TrackedRequest,
};
use baton_shared::reason::Refusal;
use baton_shared::seq::Seq;
use intermediate::handoff::{Ends, Live, prepare_listener, syn_tsval};
use intermediate::socket::Socket;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;
use time::{Duration, OffsetDateTime};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const REQUEST: &[u8] =
    b"GET /1k HTTP/1.0\r\nHost: 10.90.1.100\r\nUser-Agent: ApacheBench/2.3\r\nAccept: */*\r\n\r\n";
/// Connections that wait at once, and how often.
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 60;
/// Messages and answers.
const MESSAGES: u64 = 20_000;

#[derive(Default)]
struct Steps(Vec<(&'static str, Vec<u64>)>);

impl Steps {
    fn time<T>(&mut self, name: &'static str, step: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let value = step();
        self.note(name, begun.elapsed());
        value
    }

    fn note(&mut self, name: &'static str, took: std::time::Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, samples)) => samples.push(took),
            None => self.0.push((name, vec![took])),
        }
    }

    fn print(&mut self) {
        let clock = (0..1000).map(|_| Instant::now().elapsed().as_nanos()).min().unwrap();
        let clock = u64::try_from(clock).unwrap();
        println!("| step | ns, fastest tenth | ns, median |\n|---|---|---|");
        for (name, samples) in &mut self.0 {
            samples.sort_unstable();
            let at =
                |part: usize| samples.get(samples.len() / part).copied().unwrap_or(0).saturating_sub(clock);
            println!("| {name} | {} | {} |", at(10), at(2));
        }
    }
}

fn main() {
    let mut steps = Steps::default();
    for _ in 0..ROUNDS {
        connections(&mut steps);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for together in [1, 8] {
        runtime.block_on(channel(&mut steps, together));
    }
    steps.print();
}

/// Over loopback, everything there when it is asked for.
fn connections(steps: &mut Steps) {
    let vip: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = intermediate::front::listen(vip).unwrap();
    let vip = listener.local_addr().unwrap();
    prepare_listener(&listener.try_clone().unwrap().into()).unwrap();
    let clients: Vec<TcpStream> = (0..CONNECTIONS).map(|_| TcpStream::connect(vip).unwrap()).collect();
    for mut client in &clients {
        client.write_all(REQUEST).unwrap();
    }
    for _ in &clients {
        let (socket, client) = steps.time("accept4", || Socket::accept(&listener)).unwrap();
        let mut request = Vec::new();
        steps.time("recvfrom, the request", || socket.read_at_once(&mut request)).unwrap();
        let tsval = steps.time("getsockopt TCP_SAVED_SYN", || syn_tsval(&socket));
        let live = Live::new(socket, tsval);
        steps.time("ioctl SIOCINQ", || live.drain(&mut request, 1 << 18)).unwrap();
        let ends = Ends { client, vip };
        let captured = steps.time("capture: 3 setsockopt, 6 getsockopt, ioctl", || {
            live.capture(ends, &mut request, 1 << 18).map_err(|(_, e)| e)
        });
        let captured = captured.unwrap();
        assert!(steps.time("getsockopt, what came late", || captured.late()).is_none());
        steps.time("close in repair mode", || captured.release());
    }
}

fn hello(role: Role, name: &str) -> Hello {
    let (protocol, instance) = (PROTOCOL_VERSION, 7);
    Hello { protocol, role, name: name.into(), instance, software: "floor".into() }
}

async fn next<T>(events: &mut UnboundedReceiver<T>) -> T {
    events.recv().await.unwrap()
}

/// Handoffs and their answers over TLS on loopback, so many on their way at once; the time is for one.
async fn channel(steps: &mut Steps, together: u64) {
    let dir = std::env::temp_dir().join(format!("baton-floor-{}", std::process::id()));
    let now = OffsetDateTime::now_utc();
    let node = |role, name: &str| Node {
        role,
        name: name.into(),
        addresses: vec!["127.0.0.1".parse().unwrap()],
        not_before: now - Duration::days(1),
        not_after: now + Duration::days(1),
    };
    certs::make(&dir, &[node(Role::Agent, "target1"), node(Role::Intermediate, "front")]).unwrap();
    let files = |name: &str| {
        TlsFiles::new(dir.join("ca.pem"), dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
    };
    let (agent, front) = (files("target1"), files("front"));
    let spec = ServerSpec {
        addr: "127.0.0.1:0".parse().unwrap(),
        tls: &agent,
        hello: hello(Role::Agent, "target1"),
        allowed: vec!["front".into()],
    };
    let (tell, mut to_agent) = unbounded_channel();
    let server = Server::bind(spec, Arc::new(move |event| drop(tell.send(event)))).unwrap();
    let spec = ClientSpec {
        addr: server.local_addr(),
        expect: (Role::Agent, "target1".into()),
        tls: &front,
        hello: hello(Role::Intermediate, "front"),
    };
    let (tell, mut to_front) = unbounded_channel();
    let client = Client::spawn(spec, Arc::new(move |event| drop(tell.send(event)))).unwrap();
    assert!(matches!(next(&mut to_front).await, ChannelEvent::Up { .. }));
    let ServerEvent::Up { session, .. } = next(&mut to_agent).await else { panic!("no session") };
    let name = if together == 1 { "a handoff and its answer" } else { "the same, eight at once" };
    for n in 0..MESSAGES / together {
        let begun = Instant::now();
        for m in 0..together {
            client.send(handoff(n * together + m)).unwrap();
        }
        for _ in 0..together {
            let ServerEvent::Message { message: Message::Handoff(handoff), .. } = next(&mut to_agent).await
            else {
                continue;
            };
            let (flow, reason) = (handoff.flow, Refusal::Draining);
            server.send(session, Message::Refused(RefusedAnswer { flow, reason })).unwrap();
        }
        for _ in 0..together {
            next(&mut to_front).await;
        }
        steps.note(name, begun.elapsed() / u32::try_from(together).unwrap());
    }
    drop((client, server));
    std::fs::remove_dir_all(&dir).unwrap();
}

fn handoff(flow_id: u64) -> Message {
    Message::Handoff(Box::new(Handoff {
        flow: FlowRef { flow_id, generation: 1 },
        deadline_ms: 2000,
        server: "10.90.101.2:80".parse().unwrap(),
        connection: CapturedConnection {
            client: "10.90.2.2:40000".parse().unwrap(),
            vip: "10.90.1.100:80".parse().unwrap(),
            rcv_nxt: Seq::new(1_000_000_000),
            snd_nxt: Seq::new(2_000_000_000),
            snd_wnd: 64_256,
            max_window: 64_256,
            rcv_wnd: 65_152,
            options: NegotiatedOptions {
                client_mss: 1460,
                sack: true,
                timestamps: true,
                window_scale: None,
                ecn: false,
            },
            client_tsval: 3_000_000_000,
            vip_tsval: 2_500_000_000,
            rtt_us: 50,
            client_fin: false,
        },
        acknowledged: Seq::new(1_000_000_000),
        tracked: Some(TrackedRequest { head: false }),
        request: REQUEST.to_vec(),
    }))
}
