//! Uploads: handed off as soon as the head is there; the body goes from client to target by the kernels alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_shared::record::DRAIN_BYTES;
use baton_tests::client::{Connection, hex};
use baton_tests::lab::{self, TestLab, VIPS, both};
use netns_lab::plan::INTERMEDIATE;
use netns_lab::{Lab, LabSpec, Program};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What the daemon may have taken in before the freeze: the default of `limits.prefetch_bytes`.
const PREFETCH: u64 = 262_144;
/// What a flow's hold queue takes: the default of `limits.hold_bytes_per_flow`.
const HELD: u64 = 4_194_304;
/// What a segment carries on a link of 1500 bytes at least: over IPv6, with timestamps.
const SEGMENT: u64 = 1500 - 40 - 20 - 12;
/// Sent in blocks, each one different.
const BLOCK: usize = 1 << 16;

/// How long the daemons and nginx may take to note what has happened.
const LIMIT: Duration = Duration::from_secs(20);

/// One target, over both versions of IP; what is known of a flow is kept for as long as a test may need to look.
fn order(spec: LabSpec) -> LabSpec {
    lab::patient(both(spec.targets(1))).intermediate_with("plane", "linger_ms", 60_000)
}

/// A body of which no two blocks are equal, made as it is sent.
struct Body {
    block: Vec<u8>,
    left: u64,
    sent: u64,
}

impl Body {
    fn new(bytes: u64) -> Self {
        let mut state = 1u32;
        let random = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        Body { block: (0..BLOCK).map(random).collect(), left: bytes, sent: 0 }
    }

    /// The next block; an empty one at the end.
    fn next(&mut self) -> &[u8] {
        self.block[..8].copy_from_slice(&self.sent.to_be_bytes());
        let size = usize::try_from(self.left.min(BLOCK as u64)).unwrap();
        self.left -= size as u64;
        self.sent += size as u64;
        &self.block[..size]
    }

    fn sha256(bytes: u64) -> String {
        let (mut body, mut hash) = (Body::new(bytes), Sha256::new());
        loop {
            match body.next() {
                [] => return hex(&hash.finalize()),
                block => hash.update(block),
            }
        }
    }
}

/// Head and body in one stream; the status of the answer.
fn send(vip: SocketAddr, method: &str, path: &str, bytes: u64) -> (u16, usize) {
    let mut connection = Connection::open(vip).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: lab\r\nContent-Length: {bytes}\r\n\r\n");
    let mut body = Body::new(bytes);
    // Together, so that body bytes are there before the freeze, during it and after it.
    let mut first = head.into_bytes();
    first.extend_from_slice(body.next());
    let mut sent = first.len();
    connection.send(&first).unwrap();
    loop {
        match body.next() {
            [] => return (connection.response().unwrap().status, sent),
            block => {
                connection.send(block).unwrap();
                sent += block.len();
            }
        }
    }
}

/// Bytes the intermediate has read by read(2), in which are all packets from its TUN (proc_pid_io(5)); recv(2) on
/// sockets is not counted there.
fn read_by_intermediate(t: &TestLab) -> u64 {
    let pid = t.pid(INTERMEDIATE, Program::Balancer);
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    io.lines().find_map(|l| l.strip_prefix("rchar: ")).unwrap().trim().parse().unwrap()
}

fn number(flow: &Value, field: &str) -> u64 {
    flow.get(field).and_then(Value::as_u64).unwrap()
}

/// What the intermediate's user space has seen of clients' streams.
struct Seen {
    /// Of all flows so far, read by the daemon before the handoff.
    drained: u64,
    /// Of the last flow, held until the commit.
    held: u64,
    /// Of the last flow, queued behind it afterwards.
    queued: u64,
}

fn through_user_space(t: &TestLab) -> Seen {
    let mut flow = Value::Null;
    t.eventually("the held bytes are released", LIMIT, |t| {
        flow = t.flows(INTERMEDIATE).pop().unwrap();
        flow["state"] != "frozen" && number(&flow, "diverted") == number(&flow, "released")
    });
    let (diverted, held) = (number(&flow, "diverted"), number(&flow, "diverted_at_commit"));
    let drained = t.metric(INTERMEDIATE, "baton_prefetched_bytes_total");
    Seen { drained, held, queued: diverted - held }
}

/// A client that hears nothing sends again after a second only, as RFC 6298 has it.
fn patient_client(t: &TestLab) {
    let routes = "for v in -4 -6; do ip $v route change $(ip $v route show default) rto_min 1s; done";
    t.lab.output("client1", &["sh", "-ec", routes]).unwrap();
}

/// What disturbs an upload on a machine that has no time for the lab: the client loses its patience, the intermediate its own
/// with a server that does not read, or such a server its packets.
fn disturbances(t: &TestLab) -> [u64; 3] {
    let impatient = t.metric(INTERMEDIATE, "baton_hold_impatient_total");
    [
        t.kernel_count("client1", "TcpExtTCPTimeouts"),
        impatient,
        t.kernel_count("target1", "TcpExtTCPBacklogDrop"),
    ]
}

/// What must not happen in an undisturbed upload: segments sent again, packets dropped, accounts reconciled.
fn lost(t: &TestLab) -> [u64; 3] {
    let [dropped, reconciled] =
        t.metrics(INTERMEDIATE, ["baton_hold_dropped_total", "baton_hold_reconciled_total"]);
    [t.kernel_count("client1", "TcpRetransSegs"), dropped, reconciled]
}

/// No tail loss probes in client1's namespace: they are retransmissions after a few milliseconds of a freeze that a
/// test makes long, and the test asks about those that a lost packet causes.
fn no_tail_loss_probes(t: &TestLab) {
    t.client(|| std::fs::write("/proc/sys/net/ipv4/tcp_early_retrans", "0").unwrap());
}

/// The only body that was POSTed to be kept, which is not kept any longer.
fn kept(lab: &Lab) -> String {
    let dir = lab.upload_dir("target1").with_file_name(".body");
    let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let sum = netns_lab::content::sha256_of_file(&files[0]).unwrap();
    std::fs::remove_file(&files[0]).unwrap();
    sum
}

#[test]
fn a_gigabyte_is_posted_byte_for_byte_and_almost_none_of_it_enters_the_intermediates_user_space() {
    let Some(t) = lab::up("gigabyte", order) else { return };
    let [v4, v6] = VIPS;
    // The same bytes twice.
    let mut want = None;
    for (vip, method, path, bytes) in [
        (v6, "PUT", "/upload/put", 100_000_000),
        (v4, "POST", "/kept", 1_000_000_000),
        (v6, "POST", "/kept", 1_000_000_000),
    ] {
        let shown = format!("{method} to {vip}");
        let (before, resent) = (read_by_intermediate(&t), t.kernel_count("client1", "TcpRetransSegs"));
        let prefetched = t.metric(INTERMEDIATE, "baton_prefetched_bytes_total");
        let started = Instant::now();
        let (status, sent) = t.client(move || send(vip, method, path, bytes));
        let took = started.elapsed();
        assert!((200..300).contains(&status), "{shown}: status {status}");
        let resent = t.kernel_count("client1", "TcpRetransSegs") - resent;
        let Seen { drained, held, queued } = through_user_space(&t);
        let drained = drained - prefetched;
        let read = read_by_intermediate(&t) - before;
        println!(
            "{shown}: {took:?}, {drained} bytes drained, {held} held in the freeze, {queued} queued behind them, {read} \
             read from the device, {resent} segments resent"
        );
        assert!(drained <= PREFETCH, "{shown}: {drained} bytes were drained");
        // Nothing acknowledges what comes in a freeze: the client's window bounds it, and so does the hold queue.
        assert!(held <= HELD, "{shown}: {held} bytes were held");
        // One super-packet may be under way on each of a few CPUs when the limit is reached.
        assert!(
            queued <= u64::from(DRAIN_BYTES) + (4 << 16),
            "{shown}: {queued} bytes were queued after the freeze"
        );
        assert!(read <= held + queued + (1 << 20), "{shown}: the intermediate read {read} bytes");
        // A sender that changes its CPU overtakes itself on a veth, whoever it sends to. And one that is as fast as the daemon for
        // so long is let past the queue in the end: all that is on its way then may seem lost.
        assert!(
            resent <= 3 * (u64::from(DRAIN_BYTES) + HELD) / SEGMENT,
            "{shown}: {resent} segments were sent again"
        );
        // nginx logs what it received of the request, head and body.
        t.eventually("the log", LIMIT, |t| {
            let whole = |l: &&String| l.contains(method) && l.ends_with(&format!(" {sent}"));
            t.access_log("target1").iter().filter(whole).count() == 1 + usize::from(want.is_some())
        });
        if method == "POST" {
            let made = std::thread::spawn(move || want.unwrap_or_else(|| Body::sha256(bytes)));
            let is = kept(&t.lab);
            let made = made.join().unwrap();
            assert_eq!(is, made, "{shown}");
            want = Some(made);
        }
    }
    assert_eq!(t.uploaded("put"), Body::sha256(100_000_000));
    t.expect_requests(3, 0);
}

#[test]
fn expect_100_continue_is_answered_by_the_server_and_the_body_follows() {
    let Some(t) = lab::up("expect", order) else { return };
    let file = t.lab.www_dir().join("10m");
    for (n, vip) in (0..6).zip(VIPS.into_iter().cycle()) {
        let command = format!(
            "curl -sSv --fail --expect100-timeout 20 -H 'Expect: 100-continue' -g -T {} http://{vip}/upload/e{n} 2>&1",
            file.display()
        );
        let started = Instant::now();
        let said = t.lab.output("client1", &["bash", "-c", &command]).unwrap();
        assert!(said.contains("HTTP/1.1 100 Continue"), "{said}");
        assert!(started.elapsed() < Duration::from_secs(15), "curl waited in vain: {said}");
        assert_eq!(t.uploaded(&format!("e{n}")), t.sha256("10m"));
    }
    // The server's "100 Continue" may be there before the commit, so that the body's first bytes are held; none of it
    // is there before the freeze.
    let Seen { drained, held, queued } = through_user_space(&t);
    println!("{drained} bytes of six heads, {held} bytes held of the last body, {queued} queued");
    assert!(drained < 6 * 300, "{drained} bytes were read");
    t.expect_requests(6, 0);
}

#[test]
fn body_bytes_that_come_during_a_freeze_are_held_and_released_without_a_retransmission() {
    /// Packets, of those that a client may send without an acknowledgement.
    const ENOUGH: u64 = 8;
    let Some(t) = lab::up("frozen", order) else { return };
    no_tail_loss_probes(&t);
    patient_client(&t);
    t.one_cpu_for_each_device(&["client1", "router", "target1"]);
    let (mut all_held, mut judged, mut rounds) = (0, 0, 0);
    // Twelve rounds in which nothing but the stopped agent stands still.
    for (round, vip) in (0..40usize).zip(VIPS.into_iter().cycle()) {
        let n = round % 12;
        let (before, quiet) = (lost(&t), disturbances(&t));
        let held = t.metric(INTERMEDIATE, "baton_held_total");
        t.lab.signal("target1", Program::Agent, libc::SIGSTOP).unwrap();
        let (sha, status) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                t.client(move || {
                    let pieces = 400usize;
                    let size = 300 + 7 * n;
                    let mut connection = Connection::open(vip).unwrap();
                    let mut hash = Sha256::new();
                    let head = format!(
                        "PUT /upload/f{round} HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\n\r\n",
                        pieces * size
                    );
                    connection.send(head.as_bytes()).unwrap();
                    for piece in 0..pieces {
                        let bytes: Vec<u8> =
                            (0..size).map(|i| ((i * 31) ^ (piece * 17)).to_le_bytes()[0]).collect();
                        hash.update(&bytes);
                        connection.send(&bytes).unwrap();
                        // Some come before the end of the freeze, some in the moment of it, some after it.
                        std::thread::sleep(Duration::from_micros(500));
                    }
                    let sha = hex(&hash.finalize());
                    (sha, connection.response().unwrap().status)
                })
            });
            // Less than the second after which the client sends again what nobody acknowledges.
            let began = Instant::now();
            while t.metric(INTERMEDIATE, "baton_held_total") - held < ENOUGH
                && began.elapsed() < Duration::from_millis(500)
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(Duration::from_millis(40 + 8 * n as u64));
            t.lab.signal("target1", Program::Agent, libc::SIGCONT).unwrap();
            sender.join().unwrap()
        });
        rounds += 1;
        assert!((200..300).contains(&status), "round {round}: status {status}");
        assert_eq!(t.uploaded(&format!("f{round}")), sha, "round {round}");
        through_user_space(&t);
        let after = lost(&t);
        if disturbances(&t) == quiet {
            assert_eq!(after, before, "round {round}: segments resent, packets dropped, accounts reconciled");
            let held = t.metric(INTERMEDIATE, "baton_held_total") - held;
            all_held += held;
            judged += u64::from(held >= ENOUGH);
        }
        if judged == 12 {
            break;
        }
    }
    println!("{all_held} packets were held in {judged} of {rounds} rounds");
    assert!(judged >= 3, "{judged} of {rounds} rounds were undisturbed and had something held");
    t.expect_requests(rounds, 0);
}

#[test]
fn an_upload_at_full_speed_passes_its_freeze_without_a_retransmission() {
    let Some(t) = lab::up("fullspeed", order) else { return };
    no_tail_loss_probes(&t);
    patient_client(&t);
    // But not at the intermediate: what its daemon gives back and what comes anew are on different CPUs.
    t.one_cpu_for_each_device(&["client1", "router", "target1"]);
    // A sender that is never idle, and less than may queue behind what was held.
    let bytes = u64::from(DRAIN_BYTES) - (1 << 20);
    let (mut judged, mut through, mut rounds) = (0, 0, 0);
    for vip in VIPS.into_iter().cycle() {
        let (before, quiet) = (lost(&t), disturbances(&t));
        let started = Instant::now();
        let (status, _) = t.client(move || send(vip, "PUT", &format!("/upload/s{rounds}"), bytes));
        let took = started.elapsed();
        assert!((200..300).contains(&status), "round {rounds}: status {status}");
        let Seen { held, queued, .. } = through_user_space(&t);
        let after = lost(&t);
        let disturbed = disturbances(&t) != quiet;
        println!(
            "{vip}: {took:?}, {held} bytes held in the freeze, {queued} behind them, {} segments resent{}",
            after[0] - before[0],
            if disturbed { ", disturbed" } else { "" }
        );
        rounds += 1;
        if !disturbed {
            assert_eq!(
                after, before,
                "round {rounds}: segments resent, packets dropped, accounts reconciled"
            );
            through += held + queued;
            judged += 1;
        }
        // A machine that disturbs many rounds has judged enough with a few.
        if through > 50_000 && (judged >= 12 || judged >= 3 && rounds >= 16) {
            break;
        }
        assert!(
            rounds < 40,
            "{judged} rounds of {rounds} were undisturbed, {through} bytes came during their freezes"
        );
    }
    assert_eq!(t.uploaded("s0"), Body::sha256(bytes));
    t.expect_requests(rounds, 0);
}

#[test]
fn a_freeze_longer_than_the_clients_patience_costs_it_retransmissions_but_no_byte() {
    let Some(t) = lab::up("longfreeze", order) else { return };
    let bytes = 20_000_000;
    t.lab.signal("target1", Program::Agent, libc::SIGSTOP).unwrap();
    let sent = std::thread::scope(|scope| {
        let senders = [(VIPS[0], "/upload/long4"), (VIPS[1], "/upload/long6")].map(|(vip, path)| {
            let t = &t;
            scope.spawn(move || t.client(move || send(vip, "PUT", path, bytes)))
        });
        t.eventually("bytes of both are held", LIMIT, |t| {
            let flows = t.flows(INTERMEDIATE);
            flows.len() == 2 && flows.iter().all(|flow| number(flow, "diverted") > 0)
        });
        std::thread::sleep(Duration::from_millis(1200));
        t.lab.signal("target1", Program::Agent, libc::SIGCONT).unwrap();
        senders.map(|sender| sender.join().unwrap())
    });
    for (status, _) in sent {
        assert!((200..300).contains(&status), "status {status}");
    }
    let want = Body::sha256(bytes);
    assert_eq!([t.uploaded("long4"), t.uploaded("long6")], [want.clone(), want]);
    t.expect_requests(2, 0);
    assert!(t.metric(INTERMEDIATE, "baton_held_total") > 0);
    assert_eq!(t.metric(INTERMEDIATE, "baton_hold_dropped_total"), 0);
}
