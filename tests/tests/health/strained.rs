//! What an agent sees of its server takes it out: nobody listens, too many wait, many are reset, much is sent again.

use baton_tests::lab::{self, TestLab};
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{Impairment, LabSpec, Program};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What [`troubled`] does with connections, one after another.
const ACCEPTS_NONE: u8 = 0;
const SERVES: u8 = 1;
const RESETS: u8 = 2;

const TROUBLED: &str = "10.90.102.2:8080";

/// A server on target2's host with room for few connections that wait; what it does is in `mode`. Counts what it reset.
fn troubled(t: &TestLab, mode: &'static AtomicU8, resets: &'static AtomicUsize) {
    let listener = t.lab.inside("target2", || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&TROUBLED.parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(16).unwrap();
        TcpListener::from(socket)
    });
    let serve = move |mut stream: TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut head = [0; 4096];
        if !matches!(stream.read(&mut head), Ok(1..)) {
            return;
        }
        if mode.load(Ordering::SeqCst) == RESETS {
            resets.fetch_add(1, Ordering::SeqCst);
            Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
            return;
        }
        let head =
            "HTTP/1.1 200 OK\r\nX-Served-By: troubled\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&[b'x'; 100_000]));
    };
    std::thread::spawn(move || {
        let listener = listener.unwrap();
        loop {
            while mode.load(Ordering::SeqCst) == ACCEPTS_NONE {
                std::thread::sleep(Duration::from_millis(10));
            }
            let Ok((stream, _)) = listener.accept() else { return };
            std::thread::spawn(move || serve(stream));
        }
    });
}

#[test]
fn no_listener_a_full_accept_queue_many_resets_and_much_sent_again_each_take_a_server_out() {
    static MODE: AtomicU8 = AtomicU8::new(ACCEPTS_NONE);
    static RESET: AtomicUsize = AtomicUsize::new(0);
    let site = r#"
[[target]]
name = "troubled"
server = "10.90.102.2:8080"
agent = "10.90.102.2:7400"
agent_name = "target2"
[[pool]]
name = "web"
targets = ["target1", "troubled"]
balance = "round_robin"
[pool.health]
kind = "none"
eject_failures = 0
eject_strained = 1
eject_ms = 500
"#;
    let allow =
        "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"10.90.1.100:80\"\nserver = \"ADDRESS:8080\"\n";
    let order = |s: LabSpec| {
        s.intermediate_with("listener", "pool", "web").intermediate_also(site).agents_also(allow)
    };
    let Some(t) = lab::up("strained", |s| order(s).impair(Impairment::default())) else { return };
    let limit = Duration::from_secs(20);
    let log = |t: &TestLab| std::fs::read_to_string(t.lab.log(INTERMEDIATE, Program::Balancer)).unwrap();
    let out_for = |strain: &'static str| {
        move |t: &TestLab| log(t).lines().any(|l| l.contains("-> ejected") && l.contains(strain))
    };
    let taken = |t: &TestLab| t.standing("troubled") != "ejected";
    t.eventually("it is out, since nobody listens", limit, out_for("(no_listener)"));
    troubled(&t, &MODE, &RESET);
    t.eventually("its time is over", limit, taken);
    // Nobody takes what waits: those that fill the queue, and those that find it full.
    let waiting: Vec<TcpStream> = t
        .lab
        .inside("target2", || {
            let connect = |_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&TROUBLED.parse::<SocketAddr>().unwrap().into());
                TcpStream::from(socket)
            };
            (0..24).map(connect).collect()
        })
        .unwrap();
    t.eventually("the full queue takes it out", limit, out_for("(overflow)"));
    drop(waiting);
    MODE.store(SERVES, Ordering::SeqCst);
    let by = |t: &TestLab| t.get("/1k").map(|response| response.served_by().to_owned());
    t.eventually("it is used again", limit, |t| by(t).unwrap() == "troubled");
    // Requests that it has are lost with it; no others are.
    MODE.store(RESETS, Ordering::SeqCst);
    let (lost, begun) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while taken(&t) && begun.elapsed() < limit {
                    lost.fetch_add((0..8).filter(|_| by(&t).is_err()).count(), Ordering::SeqCst);
                }
            });
        }
    });
    t.eventually("the log says so", limit, out_for("(resets)"));
    assert_eq!(lost.load(Ordering::SeqCst), RESET.load(Ordering::SeqCst));
    MODE.store(SERVES, Ordering::SeqCst);
    t.eventually("it is used again", limit, |t| by(t).unwrap() == "troubled");
    // A bad way to its clients, of which nobody else has any.
    t.order("/v1/targets/target1/drain");
    t.lab.impair("client1", "loss=35%,seed=5".parse().unwrap()).unwrap();
    let out = |t: &TestLab| out_for("(retransmissions)")(t);
    // On such a way little gets through, and on a busy machine less.
    let (limit, begun) = (limit * 3, Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                while !out(&t) && begun.elapsed() < limit {
                    let _ = by(&t);
                }
            });
        }
        while !out(&t) && begun.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(100));
        }
        t.lab.impair("client1", Impairment::default()).unwrap();
    });
    assert!(out(&t));
    MODE.store(SERVES, Ordering::SeqCst);
    t.eventually("it is used again", limit, |t| by(t).unwrap() == "troubled");
    assert_eq!(t.all_proxied(), 0);
}
