//! What the programs cost the verifier, against `ebpf/object/instructions.txt`: growth is noticed when it happens, not
//! when an older kernel refuses the object.
//!
//! Needs root and BPF. Without them it says so and passes, unless `BATON_NO_SKIPS=1`.
#![expect(clippy::unwrap_used, reason = "a test: the panic is the report")]

use aya::EbpfLoader;
use aya::programs::SchedClassifier;
use std::collections::BTreeMap;

/// The golden file: its kernel, and by program the instructions after translation and those verified.
const GOLDEN: &str = include_str!("../../object/instructions.txt");
/// On any kernel: half of what the verifier's limit allows.
const MOST_VERIFIED: u64 = 500_000;
/// On the golden file's kernel: by how many percent a number may differ.
const TOLERANCE: u64 = 15;

type Counts = BTreeMap<String, (u64, u64)>;

fn golden() -> (String, Counts) {
    let (mut kernel, mut counts) = (String::new(), Counts::new());
    for line in GOLDEN.lines().filter(|l| !l.starts_with('#')) {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["kernel", version] => version.clone_into(&mut kernel),
            [program, translated, verified] => {
                counts.insert(program.to_owned(), (translated.parse().unwrap(), verified.parse().unwrap()));
            }
            _ => panic!("not a line of instructions.txt: {line}"),
        }
    }
    (kernel, counts)
}

/// What this kernel says; the verified ones are 0 before Linux 5.16. The error: BPF is out of reach here.
fn counts() -> Result<Counts, aya::EbpfError> {
    // A kernel that cannot adopt does not load the program that does.
    let adopting = baton_loader::adopt::object();
    let object = adopting.as_deref().unwrap_or(baton_loader::OBJECT);
    let mut object =
        EbpfLoader::new().map_max_entries("FLOWS", 4).map_max_entries("SLOTS", 4).load(object)?;
    let mut counts = Counts::new();
    for (name, program) in
        object.programs_mut().filter(|(name, _)| adopting.is_ok() || *name != "target_adopt")
    {
        let program: &mut SchedClassifier = program.try_into().unwrap();
        program.load().unwrap();
        let info = program.info().unwrap();
        let translated = u64::from(info.size_translated().unwrap_or(0)) / 8;
        let verified = info.verified_instruction_count().unwrap_or(0);
        counts.insert(name.to_owned(), (translated, verified.into()));
    }
    Ok(counts)
}

fn near(number: u64, golden: u64) -> bool {
    number.abs_diff(golden) * 100 <= golden * TOLERANCE
}

#[test]
fn programs_cost_what_the_golden_file_says() {
    let counts = match counts() {
        Ok(counts) => counts,
        Err(e) => {
            println!("SKIPPED: the eBPF programs cannot be loaded here: {e}");
            eprintln!("SKIPPED: the eBPF programs cannot be loaded here: {e}");
            assert!(std::env::var_os("BATON_NO_SKIPS").is_none_or(|v| v != "1"), "skipped: {e}");
            return;
        }
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let here: Vec<&str> = release.split('.').take(2).collect();
    println!("kernel {}", here.join("."));
    for (name, (translated, verified)) in &counts {
        println!("{name} {translated} {verified}");
        assert!(*verified <= MOST_VERIFIED, "{name}: {verified} verified");
    }
    let (kernel, golden) = golden();
    if kernel == here.join(".") {
        assert!(golden.keys().eq(counts.keys()), "other programs than in ebpf/object/instructions.txt");
        for ((name, (translated, verified)), golden) in counts.iter().zip(golden.values()) {
            assert!(
                near(*translated, golden.0) && near(*verified, golden.1),
                "{name}: {translated} {verified}, but ebpf/object/instructions.txt has {golden:?}: if the programs' \
                 change is worth it, write the new numbers there"
            );
        }
    }
}

/// The tolerance itself must be able to fail.
#[test]
fn what_is_near() {
    assert!(near(1149, 1000) && near(851, 1000) && !near(1151, 1000) && !near(849, 1000));
    assert!(golden().1.values().all(|(translated, verified)| *translated > 0 && *verified > 0));
}
