//! The same packets through `shared`, carried out on the host with etherparse and every checksum computed from
//! nothing, through the userspace plane, and through the loaded eBPF programs by `BPF_PROG_TEST_RUN`: whole packets,
//! verdict, the whole counter vector and the flow's record must agree. What differs is written as a pcap (packet
//! given, expected, got).
//!
//! The programs need root and BPF. Without them it says so and passes, unless `BATON_NO_SKIPS=1`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test: the panic is the report")]

mod arrivals;
mod bench;
mod beside;
mod cases;
mod closing;
mod errors;
mod host;
mod legs;
mod packet;
mod random;
mod reinject;
mod userspace;

use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, FlowRecord};
use bench::Bench;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Ingress,
    Egress,
}

/// One packet at one hook, with the one record in the map.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) hook: Hook,
    pub(crate) record: FlowRecord,
    pub(crate) marked: bool,
    /// When the first fragment of the frame's packet was dropped, if that is remembered: 0 or [`host::NOW`].
    pub(crate) dropped_first: Option<u64>,
    pub(crate) frame: Vec<u8>,
}

impl Case {
    /// Of a packet that was not held before, in front of which nothing was dropped.
    pub(crate) fn new(name: impl Into<String>, hook: Hook, record: FlowRecord, frame: Vec<u8>) -> Self {
        Case { name: name.into(), hook, record, marked: false, dropped_first: None, frame }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What the program returns.
    pub(crate) verdict: i32,
    pub(crate) frame: Vec<u8>,
    /// By how much each counter went up.
    pub(crate) counters: Vec<u64>,
    /// The record afterwards, `last_seen_ns` 1 if it was set.
    pub(crate) record: FlowRecord,
    /// Whether it is known afterwards that the first fragment of the frame's packet was dropped.
    pub(crate) remembered: bool,
    /// What of its payload the agent gets to read, and its first byte's number.
    pub(crate) copied: Option<(FlowKey, u32, Vec<u8>)>,
    /// Whether the agent is told that it must look at the flow.
    pub(crate) closes: bool,
}

/// Compares, and writes the packets down before it panics.
fn compare(case: &Case, expected: &Outcome, got: &Outcome) {
    if expected == got {
        return;
    }
    let path = std::env::temp_dir().join(format!("baton-differential-{}.pcap", std::process::id()));
    packet::write_pcap(&path, &[&case.frame, &expected.frame, &got.frame]);
    panic!(
        "{}: shared and the plane differ\n{:?}, marked {}, {:?}\nverdict {} against {}\nframes {}\ncounters {}\n\
         remembered {} against {}, copies {}, closes {} against {}\nexpected record {:?}\ngot record      {:?}\n\
         given, expected and got are in {}",
        case.name,
        case.hook,
        case.marked,
        case.record,
        expected.verdict,
        got.verdict,
        if expected.frame == got.frame { "agree" } else { "differ" },
        if expected.counters == got.counters { "agree" } else { "differ" },
        expected.remembered,
        got.remembered,
        if expected.copied == got.copied { "agree" } else { "differ" },
        expected.closes,
        got.closes,
        expected.record,
        got.record,
        path.display()
    );
}

fn with_bench(test: impl FnOnce(&mut Bench)) {
    match Bench::open() {
        Ok(mut bench) => test(&mut bench),
        Err(reason) => {
            println!("SKIPPED: {reason}");
            eprintln!("SKIPPED: {reason}");
            assert!(std::env::var_os("BATON_NO_SKIPS").is_none_or(|v| v != "1"), "skipped: {reason}");
        }
    }
}

#[test]
fn the_table_of_cases() {
    with_bench(|bench| {
        for case in cases::table() {
            let expected = host::run(&case);
            cases::check_expectation(&case, &expected);
            compare(&case, &expected, &bench.run(&case));
        }
    });
}

/// How many random packets, and from which seed.
fn asked_for() -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    (number("BATON_RANDOM_PACKETS").unwrap_or(20_000), number("BATON_SEED").unwrap_or(0x0ba7_0000_5eed))
}

#[test]
fn the_table_of_cases_in_user_space() {
    for case in cases::table() {
        let expected = host::run(&case);
        cases::check_expectation(&case, &expected);
        compare(&case, &expected, &userspace::run(&case));
    }
}

#[test]
fn random_packets_in_user_space() {
    let (packets, seed) = asked_for();
    let mut random = random::Random::new(seed);
    for n in 0..packets {
        let case = random.case(n);
        compare(&case, &host::run(&case), &userspace::run(&case));
    }
}

#[test]
fn random_packets() {
    let (packets, seed) = asked_for();
    with_bench(|bench| {
        let mut random = random::Random::new(seed);
        let (mut translated, mut plain, mut heads, mut closing) = (0, 0, 0, 0);
        for n in 0..packets {
            let case = random.case(n);
            let expected = host::run(&case);
            translated += u64::from(expected.frame != case.frame);
            plain += expected.counters[PacketCounter::LaterPlain.code() as usize];
            heads +=
                u64::from(case.hook == Hook::Egress && expected.record.read_from != case.record.read_from);
            closing += u64::from(expected.closes);
            compare(&case, &expected, &bench.run(&case));
        }
        println!("{packets} random packets, {translated} of them rewritten, no difference");
        assert!(translated * 5 > packets, "the generator made only {translated} translated packets");
        assert!(plain * 1000 > packets, "and {plain} plain requests");
        assert!(heads * 1000 > packets, "and {heads} heads of responses");
        assert!(closing * 100 > packets, "and {closing} by which a flow closes");
    });
}

/// The comparison itself must be able to fail.
#[test]
fn a_difference_is_found() {
    let case = cases::table().remove(0);
    let right = host::run(&case);
    let mut outcomes = vec![right.clone(); 6];
    outcomes[0].verdict ^= 1;
    outcomes[1].frame[40] ^= 1;
    outcomes[2].counters[5] += 1;
    outcomes[3].record.packets += 1;
    outcomes[4].remembered = true;
    outcomes[5].closes = true;
    compare(&case, &right, &right);
    for wrong in outcomes {
        let (case, right) = (case.clone(), right.clone());
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let found = std::panic::catch_unwind(move || compare(&case, &right, &wrong)).is_err();
        std::panic::set_hook(hook);
        assert!(found);
    }
}
