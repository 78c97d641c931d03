//! Over loopback with real certificates: who is let in, what arrives, what is reported when it breaks.

use super::*;
use crate::certs::{self, Node};
use crate::random::random;
use crate::tls::{CertificateFacts, TlsFiles};
use baton_shared::capture::{CapturedConnection, NegotiatedOptions};
use baton_shared::control::{FrameReader, Handoff, PROTOCOL_VERSION, RefusedAnswer, Role};
use baton_shared::reason::Refusal;
use baton_shared::seq::Seq;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const LONG: Duration = Duration::from_secs(30);

fn hello(role: Role, name: &str) -> Hello {
    Hello { protocol: PROTOCOL_VERSION, role, name: name.into(), instance: random(), software: "test".into() }
}

/// A directory with an authority, the intermediate "front" and the agent "target1".
fn pki() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let nodes = [Node::new(Role::Intermediate, "front", &[], 30), Node::new(Role::Agent, "target1", &[], 30)];
    certs::make(dir.path(), &nodes).unwrap();
    dir
}

fn server_at(addr: SocketAddr, dir: &Path) -> (Server, UnboundedReceiver<ServerEvent>) {
    let (tx, rx) = unbounded_channel();
    let tls = TlsFiles::in_dir(dir, "target1");
    let spec =
        ServerSpec { addr, tls: &tls, hello: hello(Role::Agent, "target1"), allowed: vec!["front".into()] };
    let server = Server::bind(spec, Arc::new(move |e| drop(tx.send(e)))).unwrap();
    (server, rx)
}

fn server(dir: &Path) -> (Server, UnboundedReceiver<ServerEvent>) {
    server_at("127.0.0.1:0".parse().unwrap(), dir)
}

struct Dialled {
    client: Client,
    events: UnboundedReceiver<ChannelEvent>,
    faults: FaultCounters,
}

fn client_as(addr: SocketAddr, tls: &TlsFiles, hello: Hello, expect: &str) -> Dialled {
    let (tx, events) = unbounded_channel();
    let faults = FaultCounters::default();
    let spec = ClientSpec { addr, expect: (Role::Agent, expect.into()), tls, hello };
    let client = Client::spawn_counted(spec, Arc::new(move |e| drop(tx.send(e))), faults.clone()).unwrap();
    Dialled { client, events, faults }
}

fn client(addr: SocketAddr, dir: &Path) -> Dialled {
    client_as(addr, &TlsFiles::in_dir(dir, "front"), hello(Role::Intermediate, "front"), "target1")
}

async fn next<T>(events: &mut UnboundedReceiver<T>) -> T {
    tokio::time::timeout(LONG, events.recv()).await.expect("an event in time").expect("events go on")
}

async fn counted(faults: &FaultCounters, kind: FaultKind) {
    for _ in 0..500 {
        if faults.get(kind) > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{kind:?} was not counted, but {:?}", faults.snapshot());
}

fn handoff(flow_id: u64, bytes: usize) -> Message {
    Message::Handoff(Box::new(Handoff {
        flow: FlowRef { flow_id, generation: 1 },
        deadline_ms: 2000,
        server: "10.0.0.2:80".parse().unwrap(),
        connection: CapturedConnection {
            client: "10.0.0.9:40000".parse().unwrap(),
            vip: "10.0.0.1:80".parse().unwrap(),
            rcv_nxt: Seq::new(1),
            snd_nxt: Seq::new(2),
            snd_wnd: 65_535,
            max_window: 65_535,
            rcv_wnd: 65_535,
            options: NegotiatedOptions {
                client_mss: 1460,
                sack: true,
                timestamps: true,
                window_scale: None,
                ecn: false,
            },
            client_tsval: 3,
            vip_tsval: 4,
            rtt_us: 5,
            client_fin: false,
        },
        acknowledged: Seq::new(1),
        tracked: None,
        request: vec![b'x'; bytes],
    }))
}

fn refused(flow_id: u64) -> Message {
    Message::Refused(RefusedAnswer { flow: FlowRef { flow_id, generation: 1 }, reason: Refusal::Draining })
}

#[tokio::test]
async fn a_handoff_goes_over_and_its_answer_comes_back() {
    let dir = pki();
    let (server, mut server_events) = server(dir.path());
    let mut dialled = client(server.local_addr(), dir.path());
    let ChannelEvent::Up { peer, same_instance } = next(&mut dialled.events).await else { panic!() };
    assert_eq!((peer.name.as_str(), same_instance), ("target1", false));
    let ServerEvent::Up { session, peer } = next(&mut server_events).await else { panic!() };
    assert_eq!(peer.name, "front");
    dialled.client.send(handoff(7, 100_000)).unwrap();
    assert_eq!(
        next(&mut server_events).await,
        ServerEvent::Message { session, message: handoff(7, 100_000) }
    );
    server.send(session, refused(7)).unwrap();
    assert_eq!(next(&mut dialled.events).await, ChannelEvent::Message(refused(7)));
    assert_eq!(server.send(session + 1, refused(7)), Err(SendError::Down));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_messages_both_ways_arrive_whole_and_in_order() {
    let dir = pki();
    let (server, mut server_events) = server(dir.path());
    let mut dialled = client(server.local_addr(), dir.path());
    next(&mut dialled.events).await;
    let ServerEvent::Up { session, .. } = next(&mut server_events).await else { panic!() };
    const COUNT: u64 = 5000;
    for n in 0..COUNT {
        dialled.client.send(handoff(n, 300)).unwrap();
        server.send(session, refused(n)).unwrap();
    }
    for n in 0..COUNT {
        let ServerEvent::Message { message, .. } = next(&mut server_events).await else { panic!() };
        assert_eq!(message, handoff(n, 300));
        assert_eq!(next(&mut dialled.events).await, ChannelEvent::Message(refused(n)));
    }
}

#[tokio::test]
async fn the_channel_comes_back_after_the_agent_restarts_and_says_so() {
    let dir = pki();
    let (first, mut first_events) = server(dir.path());
    let addr = first.local_addr();
    let mut dialled = client(addr, dir.path());
    next(&mut dialled.events).await;
    next(&mut first_events).await;
    drop(first);
    assert!(matches!(next(&mut first_events).await, ServerEvent::Down { .. }));
    let ChannelEvent::Down { undelivered, .. } = next(&mut dialled.events).await else { panic!() };
    assert_eq!(undelivered, []);
    assert_eq!(dialled.client.send(handoff(1, 10)), Err(SendError::Down));
    let (_second, mut second_events) = server_at(addr, dir.path());
    let ChannelEvent::Up { same_instance, .. } = next(&mut dialled.events).await else { panic!() };
    assert!(!same_instance, "another process");
    next(&mut second_events).await;
    dialled.client.send(handoff(2, 10)).unwrap();
    assert!(matches!(next(&mut second_events).await, ServerEvent::Message { .. }));
}

#[tokio::test]
async fn handoffs_behind_a_peer_that_does_not_read_are_known_not_to_be_delivered() {
    let dir = pki();
    // A callback that blocks the agent's reader stands for a host that has stopped.
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let tls = TlsFiles::in_dir(dir.path(), "target1");
    let (bound, address) = std::sync::mpsc::channel();
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (tx, rx) = std::sync::mpsc::channel();
        runtime.block_on(async {
            let spec = ServerSpec {
                addr: "127.0.0.1:0".parse().unwrap(),
                tls: &tls,
                hello: hello(Role::Agent, "target1"),
                allowed: vec!["front".into()],
            };
            let block = move |event| {
                if matches!(event, ServerEvent::Message { .. }) {
                    let _ = gate.lock().unwrap().recv();
                    let _ = tx.send(());
                }
            };
            let server = Server::bind(spec, Arc::new(block)).unwrap();
            bound.send(server.local_addr()).unwrap();
            while rx.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    });
    let mut dialled = client(address.recv_timeout(LONG).unwrap(), dir.path());
    assert!(matches!(next(&mut dialled.events).await, ChannelEvent::Up { .. }));
    let mut sent = 0;
    let mut busy = false;
    // Until the silence is noticed; by then all buffers on the way are full.
    let down = loop {
        let refused = loop {
            match dialled.client.send(handoff(sent, 200_000)) {
                Ok(()) => sent += 1,
                Err(e) => break e,
            }
        };
        busy |= refused == SendError::Busy;
        if let Ok(event) = tokio::time::timeout(Duration::from_millis(2), dialled.events.recv()).await {
            break event.expect("events go on");
        }
    };
    assert!(busy, "the queue is bounded");
    let ChannelEvent::Down { reason, undelivered } = down else { panic!() };
    assert!(reason.contains("silent"), "{reason}");
    let undelivered: Vec<u64> = undelivered.iter().map(|f| f.flow_id).collect();
    let first = *undelivered.first().expect("some were never written");
    assert_eq!(undelivered, (first..sent).collect::<Vec<_>>(), "all behind the first that was not begun");
    assert!(first > 0, "the first was written");
    drop(go);
    stopped.join().unwrap();
}

#[tokio::test]
async fn a_wrong_role_is_refused() {
    let dir = pki();
    certs::make(dir.path(), &[Node::new(Role::Agent, "rogue", &[], 30)]).unwrap();
    let (server, _events) = server(dir.path());
    let tls = TlsFiles::in_dir(dir.path(), "rogue");
    let dialled = client_as(server.local_addr(), &tls, hello(Role::Agent, "rogue"), "target1");
    counted(&server.faults(), FaultKind::WrongRole).await;
    counted(&dialled.faults, FaultKind::ClosedEarly).await;
    assert!(!dialled.client.is_up());
}

#[tokio::test]
async fn an_intermediate_that_is_not_on_the_list_is_refused() {
    let dir = pki();
    certs::make(dir.path(), &[Node::new(Role::Intermediate, "other", &[], 30)]).unwrap();
    let (server, _events) = server(dir.path());
    let tls = TlsFiles::in_dir(dir.path(), "other");
    let _dialled = client_as(server.local_addr(), &tls, hello(Role::Intermediate, "other"), "target1");
    counted(&server.faults(), FaultKind::NotAllowed).await;
}

#[tokio::test]
async fn an_agent_of_another_name_is_refused() {
    let dir = pki();
    let (server, _events) = server(dir.path());
    let tls = TlsFiles::in_dir(dir.path(), "front");
    let dialled = client_as(server.local_addr(), &tls, hello(Role::Intermediate, "front"), "target2");
    counted(&dialled.faults, FaultKind::WrongName).await;
    let said = dialled.client.last_fault().unwrap();
    assert!(said.contains("\"target1\"") && said.contains("\"target2\""), "{said}");
}

#[tokio::test]
async fn a_hello_other_than_the_certificate_is_not_even_sent() {
    let dir = pki();
    let tls = TlsFiles::in_dir(dir.path(), "front");
    let spec = ClientSpec {
        addr: "127.0.0.1:1".parse().unwrap(),
        expect: (Role::Agent, "target1".into()),
        tls: &tls,
        hello: hello(Role::Intermediate, "someone"),
    };
    let error = Client::spawn(spec, Arc::new(|_| ())).unwrap_err();
    assert!(matches!(error, ControlError::OwnName { .. }), "{error}");
}

#[tokio::test]
async fn an_unknown_authority_is_refused_by_either_side() {
    let (dir, foreign) = (pki(), pki());
    let (server, _events) = server(dir.path());
    // The intermediate trusts neither: it refuses first.
    let dialled = client(server.local_addr(), foreign.path());
    counted(&dialled.faults, FaultKind::Untrusted).await;
    // It trusts the agent's authority, the agent not its own.
    let tls = TlsFiles::new(
        dir.path().join("ca.pem"),
        foreign.path().join("front.pem"),
        foreign.path().join("front.key"),
    );
    let dialled = client_as(server.local_addr(), &tls, hello(Role::Intermediate, "front"), "target1");
    counted(&server.faults(), FaultKind::Untrusted).await;
    counted(&dialled.faults, FaultKind::Handshake).await;
    let said = dialled.client.last_fault().unwrap();
    assert!(said.contains("its log says why"), "{said}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_its_date() {
    let dir = pki();
    let moment = OffsetDateTime::from_unix_timestamp(1_600_000_000).unwrap();
    let old = Node {
        not_before: moment - time::Duration::days(1),
        not_after: moment,
        ..Node::new(Role::Agent, "target1", &[], 1)
    };
    certs::make(dir.path(), &[old]).unwrap();
    let (server, _events) = server(dir.path());
    let dialled = client(server.local_addr(), dir.path());
    counted(&dialled.faults, FaultKind::Expired).await;
    let said = dialled.client.last_fault().unwrap();
    assert!(said.contains("expired on 2020-09-13 12:26:40 UTC"), "{said}");
    // The other way round: the agent refuses, and counts it.
    let dir = pki();
    let old = Node {
        not_before: moment - time::Duration::days(1),
        not_after: moment,
        ..Node::new(Role::Intermediate, "front", &[], 1)
    };
    certs::make(dir.path(), &[old]).unwrap();
    let (server, _events) = self::server(dir.path());
    let _dialled = client(server.local_addr(), dir.path());
    counted(&server.faults(), FaultKind::Expired).await;
}

#[tokio::test]
async fn another_protocol_version_is_refused_with_both_numbers() {
    let dir = pki();
    let (server, _events) = server(dir.path());
    let tls = TlsFiles::in_dir(dir.path(), "front");
    let newer = Hello { protocol: PROTOCOL_VERSION + 1, ..hello(Role::Intermediate, "front") };
    let _dialled = client_as(server.local_addr(), &tls, newer, "target1");
    counted(&server.faults(), FaultKind::Version).await;
}

/// What comes of a `Hello` said over a connection whose certificate proved the intermediate "front".
async fn greet(said: Hello) -> Result<Hello, Fault> {
    let proved = CertificateFacts {
        role: Role::Intermediate,
        name: "front".into(),
        not_before: OffsetDateTime::UNIX_EPOCH,
        not_after: OffsetDateTime::UNIX_EPOCH,
    };
    let (mut near, mut far) = tokio::io::duplex(4096);
    let frame = baton_shared::control::encode(&Message::Hello(said)).unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut far, &frame).await.unwrap();
    link::exchange_hello(&mut near, &mut FrameReader::new(), &hello(Role::Agent, "target1"), &proved).await
}

#[tokio::test]
async fn a_hello_must_say_what_the_certificate_proves() {
    greet(hello(Role::Intermediate, "front")).await.unwrap();
    for lie in [hello(Role::Intermediate, "other"), hello(Role::Agent, "front")] {
        let fault = greet(lie).await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::WrongName);
        assert!(fault.to_string().contains("its certificate intermediate \"front\""), "{fault}");
    }
    let newer = Hello { protocol: PROTOCOL_VERSION + 1, ..hello(Role::Intermediate, "front") };
    let said = greet(newer).await.unwrap_err().to_string();
    assert!(
        said.contains(&format!("version {} (test), this node {PROTOCOL_VERSION}", PROTOCOL_VERSION + 1)),
        "{said}"
    );
}

#[tokio::test]
async fn a_probe_says_hello_and_makes_no_session() {
    let dir = pki();
    let (server, mut events) = server(dir.path());
    let tls = TlsFiles::in_dir(dir.path(), "front");
    let spec = ClientSpec {
        addr: server.local_addr(),
        expect: (Role::Agent, "target1".into()),
        tls: &tls,
        hello: hello(Role::Intermediate, "front"),
    };
    let peer = probe(spec).await.unwrap().unwrap();
    assert_eq!(peer.name, "target1");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let dir = pki();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = TlsFiles::in_dir(dir.path(), "target1");
    let addr = taken.local_addr().unwrap();
    let spec = ServerSpec { addr, tls: &tls, hello: hello(Role::Agent, "target1"), allowed: Vec::new() };
    let said = Server::bind(spec, Arc::new(|_| ())).unwrap_err().to_string();
    assert!(said.starts_with(&format!("cannot listen for control connections on {addr}:")), "{said}");
}
