//! What a handoff cannot do without, each step by itself, on this machine: what the kernel takes to accept, read, capture and
//! release a connection, to make the server's socket from packets, to bring a message to another process and its answer back.
//! Their sum is what no program of this design gets below. Beside it: what a message and its answer take on the real control
//! channel, both ends together, and the turn of a packet through user space, as a later request takes it.
//!
//! `cargo run --release -p intermediate --example floor`, as root: it goes into a network namespace of its own. Nanoseconds:
//! the tenth part of the samples that was fastest, which others on the machine have disturbed least, and the median. Reading
//! the clock is taken off. With the word `lab` behind it: the turn of every request in the lab ([`lab`]).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is the report of a measurement that failed"
)]

mod agent;
mod device;
mod lab;
mod map;
mod pair;
mod steps;
mod sys;
mod turn;

use baton_daemon::certs::{self, Node};
use baton_daemon::control::{ChannelEvent, Client, ClientSpec, Server, ServerEvent, ServerSpec};
use baton_daemon::tls::TlsFiles;
use baton_shared::capture::CapturedConnection;
use baton_shared::control::{
    FlowRef, Handoff, Hello, Message, PROTOCOL_VERSION, RefusedAnswer, Role, TrackedRequest,
};
use baton_shared::reason::Refusal;
use device::Device;
use intermediate::handoff::{Ends, Live, prepare_listener, syn_tsval};
use intermediate::socket::Socket;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;
use steps::{Steps, Sum, TOGETHER, Whose};
use time::{Duration, OffsetDateTime};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const REQUEST: &[u8] =
    b"GET /1k HTTP/1.0\r\nHost: 10.90.1.100\r\nUser-Agent: ApacheBench/2.3\r\nAccept: */*\r\n\r\n";
/// Connections that wait at once, and how often.
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 60;
/// Messages and answers.
const MESSAGES: u64 = 20_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--peer", address, together] => pair::peer(address, together.parse().unwrap()),
        ["--inside"] => all(),
        ["lab"] => lab::measure(),
        [] => {
            // Addresses and devices of this host's are left alone.
            let own = std::env::current_exe().unwrap();
            let inside =
                Command::new("unshare").args(["--net", "--"]).arg(own).arg("--inside").status().unwrap();
            assert!(inside.success(), "the measurement failed");
        }
        _ => panic!("it takes no word, or: lab"),
    }
}

fn all() {
    device::ip("link set lo up");
    let mut steps = Steps::new();
    let mut captured = None;
    for _ in 0..ROUNDS {
        captured = Some(connections(&mut steps));
    }
    map::measure(&mut steps);
    let device = Device::open();
    agent::measure(&mut steps, &device);
    for (together, how) in TOGETHER {
        pair::measure(&mut steps, together, how);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for together in [1, 8] {
        runtime.block_on(channel(&mut steps, together, captured.as_ref().unwrap()));
    }
    turn::measure(&mut steps, &device);
    steps.print();
}

/// Over loopback, everything there when it is asked for. Gives the last one's capture.
fn connections(steps: &mut Steps) -> CapturedConnection {
    let own = Whose::Intermediate;
    let mut last = None;
    let vip: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = intermediate::front::listen(vip).unwrap();
    let vip = listener.local_addr().unwrap();
    prepare_listener(&listener.try_clone().unwrap().into()).unwrap();
    let clients: Vec<TcpStream> = (0..CONNECTIONS).map(|_| TcpStream::connect(vip).unwrap()).collect();
    for mut client in &clients {
        client.write_all(REQUEST).unwrap();
    }
    for _ in &clients {
        let (socket, client) = steps.time(own, "accept4", || Socket::accept(&listener)).unwrap();
        let mut request = Vec::new();
        steps.time(own, "recvfrom, the request", || socket.read_at_once(&mut request)).unwrap();
        let tsval = steps.time(own, "getsockopt TCP_SAVED_SYN", || syn_tsval(&socket));
        let live = Live::new(socket, tsval);
        steps.time(own, "2 ioctl: nothing more has come", || live.drain(&mut request, 1 << 18)).unwrap();
        let ends = Ends { client, vip };
        let captured = steps.time(own, "capture: 3 setsockopt, 6 getsockopt, 2 ioctl", || {
            live.capture(ends, &mut request, 1 << 18).map_err(|(_, e)| e)
        });
        let captured = captured.unwrap();
        assert!(steps.time(own, "getsockopt: nothing came late", || captured.late()).is_none());
        last = Some(captured.connection.clone());
        steps.time(own, "close in repair mode", || captured.release());
    }
    last.unwrap()
}

fn hello(role: Role, name: &str) -> Hello {
    let (protocol, instance) = (PROTOCOL_VERSION, 7);
    Hello { protocol, role, name: name.into(), instance, software: "floor".into() }
}

async fn next<T>(events: &mut UnboundedReceiver<T>) -> T {
    events.recv().await.unwrap()
}

/// Handoffs and their answers over TLS on loopback, so many on their way at once; the time is for one.
async fn channel(steps: &mut Steps, together: u64, captured: &CapturedConnection) {
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
    let name = match together {
        1 => "a handoff and its answer: encoded, TLS, both ends in one thread",
        _ => "the same, eight at once",
    };
    for n in 0..MESSAGES / together {
        let begun = Instant::now();
        for m in 0..together {
            client.send(handoff(n * together + m, captured.clone())).unwrap();
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
        steps.note(Whose::Beside, Sum::All, name, begun.elapsed() / u32::try_from(together).unwrap());
    }
    drop((client, server));
    std::fs::remove_dir_all(&dir).unwrap();
}

fn handoff(flow_id: u64, connection: CapturedConnection) -> Message {
    Message::Handoff(Box::new(Handoff {
        flow: FlowRef { flow_id, generation: 1 },
        deadline_ms: 2000,
        server: "10.90.101.2:80".parse().unwrap(),
        acknowledged: connection.rcv_nxt,
        connection,
        tracked: Some(TrackedRequest { head: false }),
        request: REQUEST.to_vec(),
    }))
}
