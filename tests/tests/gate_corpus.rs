//! The corpus of malformed and ambiguous requests through the gate: each has its verdict, however it is cut, and what
//! is accepted means to another reader what it means to the gate.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_shared::http::GateRule;
use baton_tests::fuzzing::http_meaning;
use baton_tests::gate_corpus::{Case, Seen, all, judge, read_otherwise};
use baton_tests::lab::{self, TestLab, VIP, whole_lines};
use netns_lab::LabSpec;
use netns_lab::plan::INTERMEDIATE;
use socket2::{Domain, Socket, Type};
use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A request with which nothing is wrong.
const GOOD: &[u8] = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn the_corpus_is_large_and_has_every_rule() {
    let cases = all().unwrap();
    assert!(cases.len() >= 300, "only {} cases", cases.len());
    let names: HashSet<&str> = cases.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    let has = |rule: GateRule| cases.iter().any(|c| c.expected.refused == Some(rule));
    // These are refused between gate and proxy, in HTTP/2 alone, and where CONNECT is configured.
    let elsewhere = |rule: &GateRule| {
        matches!(rule, GateRule::OutOfStep | GateRule::NotForwardable | GateRule::AuthorityForm)
            || (rule.name().starts_with("http2_") && *rule != GateRule::Http2Preface)
    };
    let missing: Vec<_> = GateRule::ALL.iter().filter(|r| !elsewhere(r) && !has(**r)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
    assert!(cases.iter().filter(|c| c.expected.refused.is_none()).count() > 50);
}

/// What must be seen of a case behind a good request.
fn behind_good(case: &Case) -> Seen {
    Seen { accepted: case.expected.accepted + 1, ..case.expected }
}

#[test]
fn every_request_has_its_verdict_however_it_is_cut() {
    let mut wrong = Vec::new();
    for case in all().unwrap() {
        let mut check = |what: &str, bytes: &[u8], cuts: &[usize], expected: Seen| {
            let (seen, _) = judge(bytes, cuts);
            if seen != expected {
                wrong.push(format!("{} {what}: {seen:?}, not {expected:?}", case.name));
            }
        };
        let length = case.bytes.len();
        check("whole", &case.bytes, &[], case.expected);
        // Long ones only repeat themselves in the middle.
        for cut in (1..length).filter(|cut| *cut < 400 || *cut + 400 > length) {
            check(&format!("cut at {cut}"), &case.bytes, &[cut], case.expected);
        }
        check("byte by byte", &case.bytes, &(1..length).collect::<Vec<_>>(), case.expected);
        let both = [GOOD, &case.bytes].concat();
        check("behind a good request", &both, &[], behind_good(&case));
        check("behind one, byte by byte", &both, &(1..both.len()).collect::<Vec<_>>(), behind_good(&case));
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn behind_every_accepted_request_the_next_one_is_where_the_gate_says() {
    for case in all().unwrap().iter().filter(|c| c.expected.refused.is_none()) {
        let both = [&case.bytes, GOOD].concat();
        let (seen, extents) = judge(&both, &[]);
        assert_eq!(seen, Seen { accepted: case.expected.accepted + 1, refused: None }, "{}", case.name);
        assert_eq!(extents.last().unwrap().0, case.bytes.len(), "{}", case.name);
    }
}

#[test]
fn what_is_accepted_is_the_same_to_another_reader() {
    let mut compared = 0;
    for case in all().unwrap().iter().filter(|c| c.expected.refused.is_none()) {
        let (_, extents) = judge(&case.bytes, &[]);
        assert_eq!(read_otherwise(&case.bytes), extents, "{}", case.name);
        compared += extents.len();
    }
    println!("{compared} requests compared");
}

#[test]
fn the_other_reader_does_read_otherwise_what_is_refused() {
    // Without this the comparison above would prove nothing.
    let differs = all().unwrap().into_iter().filter(|c| c.expected.refused.is_some()).filter(|case| {
        let extents = read_otherwise(&case.bytes);
        extents.len() > case.expected.accepted
    });
    let differs: Vec<String> = differs.map(|c| c.name).collect();
    println!("{} refused requests are requests to httparse", differs.len());
    assert!(differs.len() > 100, "only {}", differs.len());
}

/// A small generator of the same numbers every time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }
}

#[test]
fn what_is_accepted_of_a_corpus_cut_up_and_mixed_means_the_same_to_another_reader() {
    let short = |c: &Case| c.bytes.len() < 400;
    let (good, bad): (Vec<Case>, Vec<Case>) =
        all().unwrap().into_iter().filter(short).partition(|c| c.expected.refused.is_none());
    let mut draw = Draw(7);
    let mut accepted = 0;
    for _ in 0..30_000 {
        let mut one = || {
            let cases = if draw.below(3) > 0 { &good } else { &bad };
            cases[draw.below(cases.len())].bytes.clone()
        };
        let (mut bytes, other) = (one(), one());
        for _ in 0..1 + draw.below(3) {
            let at = draw.below(bytes.len());
            match draw.below(5) {
                0 => drop(bytes.drain(at..(at + 1 + draw.below(4)).min(bytes.len()))),
                1 => bytes.insert(at, b"\r\n\t :;,\0x0"[draw.below(10)]),
                // A line of another request.
                2 => {
                    let lines: Vec<&[u8]> = other.split_inclusive(|b| *b == b'\n').collect();
                    let line = lines[draw.below(lines.len())].to_vec();
                    let starts: Vec<usize> =
                        (0..bytes.len()).filter(|i| *i == 0 || bytes[i - 1] == b'\n').collect();
                    let start = starts.get(draw.below(starts.len())).copied().unwrap_or(0);
                    drop(bytes.splice(start..start, line));
                }
                3 => bytes.extend_from_slice(&other),
                _ => bytes.truncate(at),
            }
        }
        http_meaning(&bytes);
        accepted += judge(&bytes, &[]).1.len();
    }
    println!("{accepted} requests compared");
    assert!(accepted > 5_000, "only {accepted}");
}

/// Whether a rule is broken within a body, so that its head has passed.
fn is_of_bodies(case: &Case) -> bool {
    case.name.starts_with("chunks/") && case.expected.refused.is_some()
}

/// What came back on one connection, and what nginx has logged of it.
struct Came {
    name: String,
    statuses: Vec<u16>,
    logged: usize,
}

impl Came {
    fn of(((case, statuses), logged): ((&Case, &Vec<u16>), &usize)) -> Came {
        Came { name: case.name.clone(), statuses: statuses.clone(), logged: *logged }
    }
}

/// How many lines of nginx's access log are each case's.
struct Log {
    path: PathBuf,
    read: u64,
    of_case: Vec<usize>,
}

impl Log {
    /// From here on, for so many cases.
    fn new(t: &TestLab, cases: usize) -> Log {
        let path = t.lab.access_log("target1");
        let read = whole_lines(&path).len() as u64;
        Log { path, read, of_case: vec![0; cases] }
    }

    /// Reads on. A line is the case's whose number is in its target; how many have none, which are `case`'s.
    fn read(&mut self, case: usize) -> usize {
        let text = whole_lines(&self.path);
        let new = &text[usize::try_from(self.read).unwrap()..];
        self.read = text.len() as u64;
        let mut unmarked = 0;
        for line in new.lines() {
            let number = number(line, "case=").filter(|n| *n < self.of_case.len());
            unmarked += usize::from(number.is_none());
            self.of_case[number.unwrap_or(case)] += 1;
        }
        unmarked
    }
}

/// The number in a line behind some word.
fn number(line: &str, behind: &str) -> Option<usize> {
    let rest = line.split_once(behind)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Sends `bytes` on a connection of their own, closes that direction, and reads to the end.
fn exchange(bytes: &[u8]) -> Vec<u8> {
    exchange_on(TcpStream::connect(VIP).unwrap(), bytes)
}

/// The same from a port of client1's.
fn exchange_from(port: u16, bytes: &[u8]) -> Vec<u8> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([0; 4], port)).into()).unwrap();
    socket.connect(&VIP.into()).unwrap();
    exchange_on(socket.into(), bytes)
}

fn exchange_on(mut socket: TcpStream, bytes: &[u8]) -> Vec<u8> {
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // Whoever refuses early may close before all is sent.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(e) = socket.read_to_end(&mut answer) {
        // Whoever was refused may be reset; but nobody waits for an end that does not come.
        assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{:?}", String::from_utf8_lossy(bytes));
    }
    answer
}

/// The final statuses in an answer; nginx's pages have nothing that looks like one.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    let all = text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
    all.filter(|status| *status >= 200).collect()
}

/// All cases through a running intermediate with nginx behind it, alone and behind a good request: what came back, and what
/// nginx logs.
fn through(t: &TestLab, behind_good: bool) -> (Vec<Vec<u16>>, Log) {
    let cases = all().unwrap();
    let mut log = Log::new(t, cases.len());
    t.client(move || {
        let mut came = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            let good = if behind_good { good(number) } else { Vec::new() };
            let bytes = tagged(case, number);
            let statuses = statuses(&exchange(&[good, bytes.clone()].concat()));
            // Lines without a number have to come before the next case. nginx writes them when it has sent the answer.
            let answered = statuses.len().saturating_sub(usize::from(behind_good));
            let mut awaited = if bytes == case.bytes { answered.min(case.expected.accepted) } else { 0 };
            let until = Instant::now() + Duration::from_secs(30);
            while awaited > 0 && Instant::now() < until {
                awaited = awaited.saturating_sub(log.read(number));
                std::thread::sleep(Duration::from_millis(1));
            }
            came.push(statuses);
        }
        (came, log)
    })
}

/// The same, compared.
fn compare_through(t: &TestLab, behind_good: bool, want: impl Fn(&Case) -> Vec<(Vec<u16>, usize)>) {
    let (statuses, mut log) = through(t, behind_good);
    let cases = all().unwrap();
    let came = || {
        // A line that comes now and has no number is one too many.
        log.read(cases.len() - 1);
        cases.iter().zip(&statuses).zip(&log.of_case).map(Came::of).collect()
    };
    compare(came, want);
}

/// Compares, and says all that is wrong. `want` gives the statuses, as far as they are ours to say (0: the server's),
/// and how many requests nginx may have seen. It may log a request seconds after it was answered: with the connection's end.
fn compare(mut came: impl FnMut() -> Vec<Came>, want: impl Fn(&Case) -> Vec<(Vec<u16>, usize)>) {
    let until = Instant::now() + Duration::from_secs(20);
    while !wrong(&came(), &want).is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    // Time for one too many.
    std::thread::sleep(Duration::from_secs(1));
    let wrong = wrong(&came(), &want);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn wrong(came: &[Came], want: impl Fn(&Case) -> Vec<(Vec<u16>, usize)>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (came, case) in came.iter().zip(all().unwrap()) {
        let fits = |(statuses, logged): &(Vec<u16>, usize)| {
            let ours = |(is, want): (&u16, &u16)| *want == 0 || is == want;
            *logged == came.logged
                && statuses.len() == came.statuses.len()
                && came.statuses.iter().zip(statuses).all(ours)
        };
        let want = want(&case);
        if !want.iter().any(fits) {
            wrong
                .push(format!("{}: {:?} and {} logged, not {want:?}", came.name, came.statuses, came.logged));
        }
    }
    wrong
}

/// What the proxy makes of a case: each accepted request is one of nginx's, the refused one is answered by us.
fn proxied(case: &Case, before: usize) -> Vec<(Vec<u16>, usize)> {
    let Seen { accepted, refused } = case.expected;
    let mut statuses = vec![0; before + accepted];
    let Some(rule) = refused else { return vec![(statuses, before + accepted)] };
    if !is_of_bodies(case) {
        statuses.push(rule.status());
        return vec![(statuses, before + accepted)];
    }
    // The request whose body broke off: refused before it was passed on, or while it was, or answered by nginx first.
    let mut refused = vec![0; before + accepted - 1];
    refused.push(rule.status());
    let seen = before + accepted;
    vec![(refused.clone(), seen - 1), (refused, seen), (statuses.clone(), seen)]
}

#[test]
fn nginx_behind_a_proxy_sees_the_requests_the_gate_saw_and_no_other() {
    let order = |s: LabSpec| s.targets(1).intermediate_with("listener", "mode", "proxy");
    let Some(t) = lab::up("gateproxy", order) else { return };
    compare_through(&t, false, |case| proxied(case, 0));
    compare_through(&t, true, |case| proxied(case, 1));
    let cases = all().unwrap();
    for rule in GateRule::ALL {
        let of_rule = cases.iter().filter(|c| c.expected.refused == Some(*rule) && !is_of_bodies(c)).count();
        let counted =
            t.metric(INTERMEDIATE, &format!("baton_gate_refused_total{{rule=\"{}\"}}", rule.name()));
        let bodies = cases.iter().filter(|c| c.expected.refused == Some(*rule) && is_of_bodies(c)).count();
        let range = 2 * of_rule as u64..=2 * (of_rule + bodies) as u64;
        assert!(range.contains(&counted), "{}: {counted}, not {range:?}", rule.name());
    }
}

#[test]
fn nginx_that_gets_connections_sees_the_requests_the_gate_saw_and_no_other() {
    let order = |s: LabSpec| s.targets(1).intermediate_with("listener", "keepalive", "single");
    let Some(t) = lab::up("gatemove", order) else { return };
    // A migrated connection closes after its first request; one that brings more at once is proxied.
    let moved_or_proxied = |case: &Case, good: usize| [vec![(vec![0], 1)], proxied(case, good)].concat();
    compare_through(&t, false, |case| match (case.expected.accepted, case.expected.refused) {
        (0, Some(rule)) => vec![(vec![rule.status()], 0)],
        (_, Some(rule)) if is_of_bodies(case) => {
            [vec![(vec![rule.status()], 0), (vec![], 1)], moved_or_proxied(case, 0)].concat()
        }
        _ => moved_or_proxied(case, 0),
    });
    let alone = t.migrated();
    assert!(alone > 50, "only {alone} were migrated");
    compare_through(&t, true, |case| moved_or_proxied(case, 1));
}

/// The case's bytes with its number in its target, so that nginx's log tells whose a line is; as they are where that would
/// make another case of it.
fn tagged(case: &Case, number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in case.bytes.split_inclusive(|b| *b == b'\n') {
        match line.windows(6).position(|w| w == b" HTTP/") {
            Some(at) if line[..at].contains(&b'/') => {
                let mark = if line[..at].contains(&b'?') { '&' } else { '?' };
                bytes.extend_from_slice(&line[..at]);
                bytes.extend_from_slice(format!("{mark}case={number}").as_bytes());
                bytes.extend_from_slice(&line[at..]);
            }
            _ => bytes.extend_from_slice(line),
        }
    }
    if judge(&bytes, &[]).0 == case.expected { bytes } else { case.bytes.clone() }
}

/// A good request with a case's number.
fn good(number: usize) -> Vec<u8> {
    format!("GET /good?case={number} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

/// The first of as many ports of client1's as there are cases: each case has its own.
const FIRST_PORT: u16 = 20_000;

#[test]
fn nginx_that_gets_tracked_connections_sees_the_requests_the_gate_saw_and_no_other() {
    // Connections are tracked if nothing else is said.
    let Some(t) = lab::up("gatetrack", |s: LabSpec| s.targets(1)) else { return };
    let before = t.access_log("target1").len();
    let cases = all().unwrap();
    let statuses: Vec<Vec<u16>> = t.client(|| {
        let one = |(number, case): (usize, Case)| {
            let port = FIRST_PORT + u16::try_from(number).unwrap();
            statuses(&exchange_from(port, &[good(number), tagged(&case, number)].concat()))
        };
        all().unwrap().into_iter().enumerate().map(one).collect()
    });
    let came = || {
        // A line is the case's whose number is in its path, or else whose port it came from.
        let mut logged = vec![0; cases.len()];
        for line in &t.access_log("target1")[before..] {
            let by_port = || number(line, "10.90.11.2 ")?.checked_sub(usize::from(FIRST_PORT));
            let whose = number(line, "case=").or_else(by_port).filter(|n| *n < logged.len());
            logged[whose.unwrap_or_else(|| panic!("a request of no case: {line}"))] += 1;
        }
        cases.iter().zip(&statuses).zip(&logged).map(Came::of).collect()
    };
    compare(came, |case| {
        let mut want = proxied(case, 1);
        // A chunked body that has not come whole with its head may break off on its way, with the connection.
        if is_of_bodies(case) && case.bytes.len() > 1000 {
            want.extend([(vec![0], 1), (vec![0], 2)]);
        }
        want
    });
}
