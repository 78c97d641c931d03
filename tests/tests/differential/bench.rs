//! The loaded programs, run on one packet at a time.

use crate::{Case, Hook, Outcome};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, FlowRecord, LegSettings, Settings};
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

/// The TUN's number: never used, a test run does not redirect.
const TUN: u32 = 1;
/// The mark of reinjected packets.
pub(crate) const MARK: u32 = 0x0ba7;

/// The one slot in use.
const SLOT: u32 = 2;

type RawKey = [u32; size_of::<FlowKey>() / 4];
type RawRecord = [u64; size_of::<FlowRecord>() / 8];
type RawLegs = [u32; size_of::<LegSettings>() / 4];
type RawSettings = [u32; size_of::<Settings>() / 4];

pub(crate) struct Bench {
    object: Ebpf,
    flows: HashMap<MapData, RawKey, u32>,
    slots: Array<MapData, RawRecord>,
    legs: Array<MapData, RawLegs>,
    counters: PerCpuArray<MapData, u64>,
    counted: Vec<u64>,
}

impl Bench {
    /// Loads the programs; the error says why this machine cannot.
    pub(crate) fn open() -> Result<Self, String> {
        Self::try_open().map_err(|e| format!("the eBPF programs cannot be loaded here: {e}"))
    }

    fn try_open() -> Result<Self, Box<dyn Error>> {
        let mut object = EbpfLoader::new()
            .map_max_entries("FLOWS", 4)
            .map_max_entries("SLOTS", 4)
            .load(baton_loader::OBJECT)?;
        // `target_adopt` is loaded with the addresses of this kernel's functions, and has no case here.
        for (_, program) in object.programs_mut().filter(|(name, _)| *name != "target_adopt") {
            let program: &mut SchedClassifier = program.try_into()?;
            // Refused by the verifier is a failure, not a machine without BPF.
            program.load().map_err(|e| match &e {
                aya::programs::ProgramError::LoadError { verifier_log, .. }
                    if verifier_log.to_string().contains("processed") =>
                {
                    panic!("{e}: {verifier_log}")
                }
                _ => e,
            })?;
        }
        let mut map = |name: &str| object.take_map(name).ok_or_else(|| format!("no map {name}"));
        let mut settings: Array<MapData, RawSettings> = map("SETTINGS")?.try_into()?;
        let flows = map("FLOWS")?.try_into()?;
        let slots = map("SLOTS")?.try_into()?;
        let legs = map("LEGS")?.try_into()?;
        let counters = map("COUNTERS")?.try_into()?;
        let ours =
            Settings { tun_ifindex: TUN, uplink_ifindex: TUN, reinject_mark: MARK, ..Settings::default() };
        let ours: RawSettings = zerocopy::transmute!(ours);
        settings.set(0, ours, 0)?;
        let counted = vec![0; PacketCounter::CAPACITY as usize];
        Ok(Bench { object, flows, slots, legs, counters, counted })
    }

    /// Addresses of outer headers, from here on.
    pub(crate) fn set_legs(&mut self, legs: &LegSettings) {
        let legs: RawLegs = zerocopy::transmute!(*legs);
        self.legs.set(0, legs, 0).unwrap();
    }

    pub(crate) fn run(&mut self, case: &Case) -> Outcome {
        let name = match case.hook {
            Hook::Ingress => "intermediate_ingress",
            Hook::Egress => "target_egress",
        };
        self.run_by(name, case)
    }

    /// Runs the program of this name, whatever the case's hook.
    pub(crate) fn run_by(&mut self, name: &str, case: &Case) -> Outcome {
        self.run_segments(name, case, 0)
    }

    /// As [`Bench::run_by`], the frame a super-packet of segments with so many bytes of payload.
    pub(crate) fn run_segments(&mut self, name: &str, case: &Case, segment_bytes: u32) -> Outcome {
        self.run_under(case.record.key, name, case, segment_bytes)
    }

    /// As [`Bench::run_segments`], the record being where this key leads.
    pub(crate) fn run_under(&mut self, key: FlowKey, name: &str, case: &Case, segment_bytes: u32) -> Outcome {
        let key: RawKey = zerocopy::transmute!(key);
        let record: RawRecord = zerocopy::transmute!(case.record);
        self.slots.set(SLOT, record, 0).unwrap();
        self.flows.insert(key, SLOT, 0).unwrap();

        let program: &SchedClassifier = self.object.program(name).unwrap().try_into().unwrap();
        // struct __sk_buff: `mark` is the third word, `gso_size` the last.
        let mut context = [0u8; 192];
        let mark = if case.marked { MARK } else { 0 };
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        context[176..180].copy_from_slice(&segment_bytes.to_ne_bytes());
        let mut frame = vec![0u8; case.frame.len() + 64];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&case.frame),
                data_out: Some(&mut frame),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|e| panic!("{}: {} bytes: {e:?}", case.name, case.frame.len()));
        frame.truncate(result.data_size_out as usize);

        let raw: RawRecord = self.slots.get(&SLOT, 0).unwrap();
        let mut record: FlowRecord = zerocopy::transmute!(raw);
        record.last_seen_ns = u64::from(record.last_seen_ns != case.record.last_seen_ns);
        self.flows.remove(&key).unwrap();
        Outcome { verdict: result.return_value.cast_signed(), frame, counters: self.count(), record }
    }

    /// Runs the egress program on one packet over and over, on another CPU, and meanwhile, `rounds` times, on another one
    /// here: the records after each.
    pub(crate) fn run_beside(&mut self, often: &Case, once: &Case, rounds: u32) -> Vec<FlowRecord> {
        assert_eq!(often.record, once.record);
        let key: RawKey = zerocopy::transmute!(once.record.key);
        self.flows.insert(key, SLOT, 0).unwrap();
        let program: &SchedClassifier = self.object.program("target_egress").unwrap().try_into().unwrap();
        let run = |case: &Case, repeat: u32| {
            let mut frame = vec![0u8; case.frame.len() + 64];
            let options = TestRunOptions {
                data_in: Some(&case.frame),
                data_out: Some(&mut frame),
                repeat,
                ..TestRunOptions::default()
            };
            program.test_run(options).unwrap();
        };
        let (turns, done) = (AtomicU32::new(0), AtomicBool::new(false));
        let mut records = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    run(often, 20);
                    turns.fetch_add(1, Ordering::SeqCst);
                }
            });
            for _ in 0..rounds {
                let record: RawRecord = zerocopy::transmute!(once.record);
                self.slots.set(SLOT, record, 0).unwrap();
                // What the other one copied before is booked.
                let passed = |turns: &AtomicU32| {
                    let begun = turns.load(Ordering::SeqCst);
                    while turns.load(Ordering::SeqCst).wrapping_sub(begun) < 2 {
                        thread::yield_now();
                    }
                };
                passed(&turns);
                run(once, 1);
                passed(&turns);
                let raw: RawRecord = self.slots.get(&SLOT, 0).unwrap();
                records.push(zerocopy::transmute!(raw));
            }
            done.store(true, Ordering::SeqCst);
        });
        self.flows.remove(&key).unwrap();
        self.count();
        records
    }

    /// By how much each counter went up since the last call.
    fn count(&mut self) -> Vec<u64> {
        let now: Vec<u64> =
            (0..PacketCounter::CAPACITY).map(|i| self.counters.get(&i, 0).unwrap().iter().sum()).collect();
        let change = now.iter().zip(&self.counted).map(|(a, b)| a - b).collect();
        self.counted = now;
        change
    }
}
