//! Bad links: whatever the network loses, doubles, reorders, delays or corrupts between client and router, every
//! stream arrives byte for byte, no connection sticks and none is reset.
//!
//! `BATON_SEEDS=256` runs that many seeds instead of six, `BATON_SEEDS=17..18` replays seed 17. What a seed stands for is
//! in [`impairment`], and in every message.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::{self, Connection};
use baton_tests::lab::{self, TestLab, patient};
use baton_tests::sniff::{Sacks, Sniffer, sacks};
use netns_lab::{Family, Impairment, LabSpec, Plane, content, plan};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Clients, each with a box of its own, that take the seeds one by one.
const CLIENTS: [&str; 3] = ["client1", "client2", "client3"];
/// Connections a seed has: two downloads, two uploads, one kept for many requests.
const CONNECTIONS: u64 = 5;
const UPLOADS: u64 = 2;
/// How long what must come is waited for.
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes of an upload.
const UPLOAD: usize = 600_000;

/// The impairment of a seed: up to 5% loss, 3% duplication, 8% reordering, 25 ms delay with jitter; every fourth corrupts
/// up to 0.5% as well.
fn impairment(seed: u64) -> Impairment {
    let draw = Sha256::digest(seed.to_be_bytes());
    let tenths = |at: usize, most: u8| f64::from(draw[at] % (most * 10 + 1)) / 10.0;
    let delay = draw[3] % 26;
    let corrupt = if seed % 4 == 3 { tenths(5, 5) / 10.0 } else { 0.0 };
    format!(
        "loss={:.1}%,dup={:.1}%,reorder={:.1}%,corrupt={corrupt:.2}%,delay={delay}ms,jitter={}ms,seed={seed}",
        tenths(0, 5),
        tenths(1, 3),
        tenths(2, 8),
        draw[4] % (delay / 4 + 1),
    )
    .parse()
    .unwrap()
}

fn seeds() -> Range<u64> {
    let text = std::env::var("BATON_SEEDS").unwrap_or_else(|_| "6".into());
    let number =
        |text: &str| text.trim().parse::<u64>().unwrap_or_else(|e| panic!("BATON_SEEDS={text}: {e}"));
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&text),
    }
}

fn hex(bytes: &[u8]) -> String {
    content::sha256_of(bytes).unwrap().0
}

/// What is uploaded: other bytes for every seed and upload.
fn body(seed: u64, n: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(UPLOAD + 32);
    let mut block = Sha256::digest((seed * 10 + n).to_be_bytes());
    while bytes.len() < UPLOAD {
        bytes.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    bytes
}

fn expect_file(
    what: &str,
    response: std::io::Result<client::Response>,
    bytes: u64,
    hash: &str,
) -> Result<(), String> {
    let response = response.map_err(|e| format!("{what}: {e}"))?;
    if (response.status, response.body_bytes) != (200, bytes) || response.sha256 != hash {
        return Err(format!(
            "{what}: status {}, {} bytes, {}",
            response.status, response.body_bytes, response.sha256
        ));
    }
    Ok(())
}

/// Hashes of what the targets serve.
#[derive(Clone)]
struct Files {
    k10: String,
    k100: String,
    m1: String,
}

/// All connections of one seed, at once. Runs inside the client's namespace.
fn transfers(seed: u64, vip: SocketAddr, files: &Files) -> Result<(), String> {
    let download = || expect_file("download", client::get(vip, "/1m"), 1 << 20, &files.m1);
    let upload = |n: u64| {
        let body = body(seed, n);
        let put = client::upload(vip, &format!("s{seed}-{n}"), &body);
        let response = put.map_err(|e| format!("upload {n}: {e}"))?;
        if response.status == 201 { Ok(()) } else { Err(format!("upload {n}: {}", response.head)) }
    };
    let kept = || {
        let mut connection = Connection::open(vip).map_err(|e| format!("kept: {e}"))?;
        for n in 0..8 {
            let (path, bytes, hash) = match n % 4 {
                3 => ("/100k", 100 << 10, &files.k100),
                _ => ("/10k", 10 << 10, &files.k10),
            };
            connection.get(path).map_err(|e| format!("kept, request {n}: {e}"))?;
            expect_file(&format!("kept, request {n}"), connection.response(), bytes, hash)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let all = [
            scope.spawn(download),
            scope.spawn(download),
            scope.spawn(|| upload(0)),
            scope.spawn(|| upload(1)),
            scope.spawn(kept),
        ];
        let results: Vec<Result<(), String>> = all.into_iter().map(|t| t.join().unwrap()).collect();
        let wrong: Vec<String> = results.into_iter().filter_map(Result::err).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    })
}

/// One seed on one box, the transfers from one client, and what arrived at the targets.
fn run(
    t: &TestLab,
    link: &str,
    client: &str,
    seed: u64,
    vip: SocketAddr,
    files: &Files,
) -> Result<(), String> {
    t.lab.impair(link, impairment(seed)).unwrap();
    let files = files.clone();
    t.lab.inside(client, move || transfers(seed, vip, &files)).unwrap()?;
    for n in 0..UPLOADS {
        let name = format!("s{seed}-{n}");
        let places = ["target1", "target2"].map(|target| t.lab.upload_dir(target).join(&name));
        let arrived = places.iter().find(|p| p.exists()).ok_or_else(|| format!("upload {n} is nowhere"))?;
        if content::sha256_of_file(arrived).unwrap() != hex(&body(seed, n)) {
            return Err(format!("upload {n} arrived changed: {}", arrived.display()));
        }
        std::fs::remove_file(arrived).unwrap();
    }
    Ok(())
}

/// All seeds in one lab, on these links: as many seeds at once as there are links.
fn seeds_on(name: &str, family: Family, vip: SocketAddr, links: &[&str]) {
    seeds_in(name, family, Plane::Ebpf, vip, links);
}

/// The same with any data plane.
fn seeds_in(name: &str, family: Family, plane: Plane, vip: SocketAddr, links: &[&str]) {
    let order = |s: LabSpec| {
        let impair_links = links.iter().map(|link| (*link).to_owned()).collect();
        let clients = u8::try_from(links.len()).unwrap();
        let impaired = patient(s).clients(clients).family(family).plane(plane).impair(Impairment::default());
        LabSpec { impair_links, ..impaired }
    };
    let Some(t) = lab::up(name, order) else { return };
    let files = Files { k10: t.sha256("10k"), k100: t.sha256("100k"), m1: t.sha256("1m") };
    let (seeds, started) = (seeds(), Instant::now());
    let next = AtomicU64::new(seeds.start);
    let take = |link: &str, client: String| {
        let mut wrong = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return wrong;
            }
            let began = Instant::now();
            let result = run(&t, link, &client, seed, vip, &files);
            let took = began.elapsed().as_secs_f64();
            println!("{name}: seed {seed} on {link}, {took:.1} s: {} ({result:?})", impairment(seed));
            if let Err(e) = result {
                wrong.push(format!("'{}': {e}", impairment(seed)));
            }
        }
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let take = &take;
        let clients: Vec<_> =
            (1..).zip(links).map(|(i, link)| scope.spawn(move || take(link, plan::client(i)))).collect();
        clients.into_iter().flat_map(|c| c.join().unwrap()).collect()
    });
    let count = seeds.end - seeds.start;
    println!(
        "{name}: {count} seeds in {:.0} s; connections migrated: {}, requests proxied: {}",
        started.elapsed().as_secs_f64(),
        t.migrated(),
        t.all_proxied()
    );
    assert!(wrong.is_empty(), "{} of {count} seeds failed:\n{}", wrong.len(), wrong.join("\n"));
    // An upload of which a part is missing just when it would be handed off is proxied; nothing else is.
    t.eventually("all requests are counted", LIMIT, |t| {
        t.migrated() + t.all_proxied() == count * CONNECTIONS
    });
    assert_eq!(t.all_proxied(), t.proxied("connection_state"));
    // About one upload in six, on links as bad as these; the fewer the seeds, the more it is by chance.
    assert!(
        t.all_proxied() <= count * UPLOADS / 3 + 5,
        "{} of {} uploads were proxied",
        t.all_proxied(),
        count * UPLOADS
    );
}

#[test]
fn bad_links_corrupt_stick_and_reset_nothing() {
    seeds_on("bad4", Family::V4, plan::VIP.into(), &CLIENTS);
}

#[test]
fn bad_links_corrupt_stick_and_reset_nothing_over_ipv6() {
    seeds_on("bad6", Family::V6, plan::VIP6.into(), &CLIENTS);
}

#[test]
fn a_bad_link_of_the_intermediate_harms_no_more() {
    seeds_on("badi", Family::V4, plan::VIP.into(), &[plan::INTERMEDIATE]);
}

#[test]
fn a_bad_link_of_a_target_harms_no_more() {
    seeds_on("badt", Family::Dual, plan::VIP6.into(), &["target1"]);
}

#[test]
fn bad_links_harm_no_more_without_ebpf() {
    seeds_in("badu4", Family::V4, Plane::Userspace, plan::VIP.into(), &CLIENTS);
}

#[test]
fn bad_links_harm_no_more_without_ebpf_over_ipv6() {
    seeds_in("badu6", Family::V6, Plane::Userspace, plan::VIP6.into(), &CLIENTS);
}

/// What a server's kernel counted in 8 MB over four connections at a time, and what was seen on its uplink.
fn lossy_downloads(
    t: &TestLab,
    from: SocketAddr,
    it: Impairment,
    hash: &str,
) -> (BTreeMap<String, u64>, Sacks) {
    t.lab.impair("client1", it).unwrap();
    let before = t.kernel_counts("target1");
    let (capture, hash) = (Sniffer::at(&t.lab, "target1"), hash.to_owned());
    t.client(move || {
        let fetch =
            || (0..2).for_each(|_| expect_file("lossy", client::get(from, "/1m"), 1 << 20, &hash).unwrap());
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(fetch)).collect();
            all.into_iter().for_each(|one| one.join().unwrap());
        });
    });
    let after = t.kernel_counts("target1");
    let counted = after
        .into_iter()
        .map(|(name, value)| (name.clone(), value - before.get(&name).unwrap_or(&0)))
        .collect();
    // The last acknowledgements are still under way until the server's kernel has forgotten the connections.
    t.eventually("the connections are over", LIMIT, |t| {
        let list = ["ss", "-tnH", "exclude", "listening", "exclude", "time-wait", "sport", "=", ":80"];
        t.lab.output("target1", &list).unwrap().trim().is_empty()
    });
    (counted, sacks(&capture.segments(), from))
}

/// Connections of each kind at once in [`side_by_side`].
const BESIDE: usize = 8;

/// What the responses took of some downloads of 1 MB straight from the server and of as many by way of the VIP, all of them at once over the
/// same link: what disturbs the ones disturbs the others.
fn side_by_side(t: &TestLab, server: SocketAddr, vip: SocketAddr, hash: &str) -> [Vec<f64>; 2] {
    let hash = hash.to_owned();
    t.client(move || {
        let fetch = |from: SocketAddr| {
            let one = |_| {
                let mut connection = Connection::open(from).unwrap();
                connection.get("/1m").unwrap();
                // From the first byte on: until then a handoff takes its time, of which a busy machine makes much.
                connection.socket().peek(&mut [0]).unwrap();
                let started = Instant::now();
                expect_file("beside", connection.response(), 1 << 20, &hash).unwrap();
                started.elapsed().as_secs_f64()
            };
            (0..2).map(one).collect::<Vec<f64>>()
        };
        std::thread::scope(|scope| {
            // In turns, so that neither kind is the first.
            let all: Vec<_> =
                (0..BESIDE).map(|_| [server, vip].map(|from| scope.spawn(move || fetch(from)))).collect();
            let mut times = [Vec::new(), Vec::new()];
            for pair in all {
                for (times, one) in times.iter_mut().zip(pair) {
                    times.extend(one.join().unwrap());
                }
            }
            times
        })
    })
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// What a server's kernel counted, and what was seen on its uplink, once for each version of IP.
type Round = Vec<(BTreeMap<String, u64>, Sacks)>;

fn sum(rounds: &Round, name: &str) -> u64 {
    rounds.iter().map(|(counted, _)| counted[name]).sum()
}

fn show(straight: &Round, migrated: &Round) {
    for name in [
        "TcpRetransSegs",
        "TcpExtTCPSackRecovery",
        "TcpExtTCPRenoRecovery",
        "TcpExtTCPSACKDiscard",
        "TcpExtTCPSACKReneging",
        "TcpExtTCPTimeouts",
        "TcpExtTCPLossProbes",
        "TcpExtTCPSpuriousRTOs",
        "TcpExtTCPDSACKRecv",
        "TcpExtPAWSEstab",
    ] {
        let [direct, moved] = [straight, migrated]
            .map(|rounds| rounds.iter().map(|(counted, _)| counted[name]).collect::<Vec<_>>());
        println!("{name}, IPv4 and IPv6: direct {direct:?}, migrated {moved:?}");
    }
}

#[test]
fn a_lossy_download_is_repaired_by_sack_as_a_direct_one_is() {
    let order = |s: LabSpec| s.targets(1).family(Family::Dual).impair(Impairment::default());
    let Some(t) = lab::up("sack", order) else { return };
    let hash = t.sha256("1m");
    let servers = plan::target_addrs(Family::Dual, 1).into_iter().map(|ip| SocketAddr::new(ip, 80));
    let ways: Vec<_> = servers.zip(plan::vips(Family::Dual)).collect();
    // A machine that stands still makes a kernel send again what is not lost: what is so only then is not so every time.
    let mut asked = 0;
    loop {
        let (mut straight, mut migrated) = (Vec::new(), Vec::new());
        for (seed, &(server, vip)) in (asked..).zip(&ways) {
            // 20 ms there and back.
            let it: Impairment = format!("loss=1%,delay=10ms,seed={seed}").parse().unwrap();
            straight.push(lossy_downloads(&t, server, it, &hash));
            migrated.push(lossy_downloads(&t, vip, it, &hash));
        }
        asked += 16;
        t.expect_mostly_migrated(asked);
        show(&straight, &migrated);
        // Recovery is SACK's, and no block was outside the server's window: they are translated right.
        assert!(sum(&migrated, "TcpExtTCPSackRecovery") > 0);
        for name in
            ["TcpExtTCPRenoRecovery", "TcpExtTCPSACKDiscard", "TcpExtTCPSACKReneging", "TcpExtPAWSEstab"]
        {
            assert_eq!(sum(&migrated, name), 0, "{name}");
        }
        let [direct, moved] = [&straight, &migrated].map(|rounds| sum(rounds, "TcpRetransSegs"));
        assert!(direct > 50, "the link loses nothing");
        // And as seen on the wire: every block is within what was sent, and what the blocks have is not sent again. (What comes
        // in the moment in which something goes may be captured before it.)
        let mut as_told = moved < 2 * direct + 20;
        for (_, seen) in straight.iter().chain(&migrated) {
            println!("{seen:?}");
            assert!(seen.connections > 0 && seen.sent_again > 10 && seen.outside == 0, "{seen:?}");
            as_told &= seen.blocks > seen.sent_again && seen.in_vain * 4 <= seen.sent_again;
        }
        if as_told {
            break;
        }
        assert!(asked < 4 * 16, "each time as much was sent again: {moved} segments, {direct} directly");
    }
    // Where a single download's losses fall matters most for its time: the medians of so many are compared that this evens out.
    let [mut direct, mut moved] = [Vec::new(), Vec::new()];
    for round in 1..=8 {
        for &(server, vip) in &ways {
            let [d, m] = side_by_side(&t, server, vip, &hash);
            direct.extend(d);
            moved.extend(m);
        }
        let ratio = median(direct.clone()) / median(moved.clone());
        println!(
            "1% loss, 20 ms, {} of each at once: migrated at {ratio:.2} of the direct rate",
            moved.len()
        );
        if ratio >= 0.9 {
            return t.expect_mostly_migrated(asked + round * 4 * BESIDE as u64);
        }
    }
    panic!("migrated {moved:.2?} s, direct {direct:.2?} s");
}
