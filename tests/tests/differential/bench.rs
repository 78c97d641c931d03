//! The loaded programs, run on one packet at a time.

use crate::host::fragment_key;
use crate::{Case, Hook, Outcome};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use baton_shared::reason::PacketCounter;
use baton_shared::record::{
    COPY_BYTES, Copied, CopiedHead, FLAG_ADOPTED, FlowKey, FlowRecord, LegSettings, Settings,
};
use baton_shared::translate::fragments::{FragmentKey, REMEMBERED_NS};
use std::error::Error;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// The TUN's number: never used, a test run does not redirect.
const TUN: u32 = 1;
/// The mark of reinjected packets.
pub(crate) const MARK: u32 = 0x0ba7;

/// The ruling in force.
pub(crate) const RULING: u32 = 7;

/// The one slot in use.
const SLOT: u32 = 2;
/// Loaded by itself, where the kernel has what it calls.
const ADOPT: &str = "target_adopt";

type RawFragment = [u32; size_of::<FragmentKey>() / 4];
type RawKey = [u32; size_of::<FlowKey>() / 4];
type RawRecord = [u64; size_of::<FlowRecord>() / 8];
type RawLegs = [u32; size_of::<LegSettings>() / 4];
type RawSettings = [u32; size_of::<Settings>() / 4];

/// Waits until the machine has been up for longer than fragments are remembered: their entries of no time are old then.
fn have_an_old_time() {
    let up = || {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        uptime.split_whitespace().next().unwrap().parse::<f64>().unwrap()
    };
    while up() <= Duration::from_nanos(REMEMBERED_NS).as_secs_f64() {
        thread::sleep(Duration::from_millis(100));
    }
}

pub(crate) struct Bench {
    object: Ebpf,
    flows: HashMap<MapData, RawKey, u32>,
    slots: Array<MapData, RawRecord>,
    legs: Array<MapData, RawLegs>,
    settings: Array<MapData, RawSettings>,
    counters: PerCpuArray<MapData, u64>,
    fragments: HashMap<MapData, RawFragment, u64>,
    copies: RingBuf<MapData>,
    counted: Vec<u64>,
}

impl Bench {
    /// Loads the programs; the error says why this machine cannot.
    pub(crate) fn open() -> Result<Self, String> {
        let cannot = |e| format!("the eBPF programs cannot be loaded here: {e}");
        Self::of(baton_loader::OBJECT, |name| name != ADOPT).map_err(cannot)
    }

    /// Loads the program that adopts, of an object with the addresses of this kernel's functions.
    pub(crate) fn adopting(object: &[u8]) -> Result<Self, String> {
        Self::of(object, |name| name == ADOPT).map_err(|e| format!("{ADOPT} cannot be loaded here: {e}"))
    }

    fn of(object: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Self, Box<dyn Error>> {
        let mut object =
            EbpfLoader::new().map_max_entries("FLOWS", 4).map_max_entries("SLOTS", 4).load(object)?;
        for (_, program) in object.programs_mut().filter(|(name, _)| wanted(name)) {
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
        let settings = map("SETTINGS")?.try_into()?;
        let flows = map("FLOWS")?.try_into()?;
        let slots = map("SLOTS")?.try_into()?;
        let legs = map("LEGS")?.try_into()?;
        let counters = map("COUNTERS")?.try_into()?;
        let fragments = map("FRAGMENTS")?.try_into()?;
        let copies = map("COPIES")?.try_into()?;
        let mut ruling: Array<MapData, u32> = map("RULING")?.try_into()?;
        ruling.set(0, RULING, 0)?;
        let counted = vec![0; PacketCounter::CAPACITY as usize];
        let mut bench = Bench { object, flows, slots, legs, settings, counters, fragments, copies, counted };
        let uplink = Settings { uplink_ifindex: TUN, ..Settings::default() };
        bench.set(&Settings { tun_ifindex: TUN, reinject_mark: MARK, ..uplink });
        Ok(bench)
    }

    /// The host's devices, from here on.
    pub(crate) fn set(&mut self, settings: &Settings) {
        let settings: RawSettings = zerocopy::transmute!(*settings);
        self.settings.set(0, settings, 0).unwrap();
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
        self.run_found(&[key], name, case, segment_bytes).0
    }

    /// As [`Bench::run_by`], an adopted flow's record under both its keys; with the packet's mark afterwards.
    pub(crate) fn run_marked(&mut self, name: &str, case: &Case) -> (Outcome, u32) {
        let adopted = (case.record.flags & FLAG_ADOPTED != 0).then(|| case.record.arrival_key());
        let keys: Vec<_> =
            std::iter::once(case.record.key).chain(adopted.filter(|key| *key != case.record.key)).collect();
        self.run_found(&keys, name, case, 0)
    }

    fn run_found(&mut self, keys: &[FlowKey], name: &str, case: &Case, segment_bytes: u32) -> (Outcome, u32) {
        let keys: Vec<RawKey> = keys.iter().map(|key| zerocopy::transmute!(*key)).collect();
        let record: RawRecord = zerocopy::transmute!(case.record);
        self.slots.set(SLOT, record, 0).unwrap();
        keys.iter().for_each(|key| self.flows.insert(key, SLOT, 0).unwrap());

        let fragment: Option<RawFragment> = fragment_key(&case.frame).map(|key| zerocopy::transmute!(key));
        if let Some((fragment, then)) = fragment.zip(case.dropped_first) {
            have_an_old_time();
            self.fragments.insert(fragment, then, 0).unwrap();
        }

        let program: &SchedClassifier = self.object.program(name).unwrap().try_into().unwrap();
        // struct __sk_buff: `mark` is the third word, `gso_size` the last.
        let mut context = [0u8; 192];
        let mark = if case.marked { MARK } else { 0 };
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        context[176..180].copy_from_slice(&segment_bytes.to_ne_bytes());
        let mut context_after = context;
        let mut frame = vec![0u8; case.frame.len() + 64];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&case.frame),
                data_out: Some(&mut frame),
                ctx_in: Some(&context),
                ctx_out: Some(&mut context_after),
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|e| panic!("{}: {} bytes: {e:?}", case.name, case.frame.len()));
        frame.truncate(result.data_size_out as usize);

        let raw: RawRecord = self.slots.get(&SLOT, 0).unwrap();
        let mut record: FlowRecord = zerocopy::transmute!(raw);
        record.last_seen_ns = u64::from(record.last_seen_ns != case.record.last_seen_ns);
        keys.iter().for_each(|key| self.flows.remove(key).unwrap());
        let remembered = fragment.is_some_and(|key| self.fragments.remove(&key).is_ok());
        assert_eq!(self.fragments.keys().count(), 0, "{}: other fragments are remembered", case.name);
        let verdict = result.return_value.cast_signed();
        let [.., a, b, c, d] = context_after[..12] else { unreachable!("twelve bytes") };
        let (copied, closes) = self.told(&case.record);
        (
            Outcome { verdict, frame, counters: self.count(), record, remembered, copied, closes },
            u32::from_ne_bytes([a, b, c, d]),
        )
    }

    /// What the program put into the ring buffer of one packet: its pieces together, and whether the flow closes.
    fn told(&mut self, record: &FlowRecord) -> (Option<(FlowKey, u32, Vec<u8>)>, bool) {
        let Some((first, mut payload)) = self.next_told(record) else { return (None, false) };
        let closes = first.closes != 0;
        while let Some((next, more)) = self.next_told(record) {
            let seq = first.seq.wrapping_add(u32::try_from(payload.len()).unwrap());
            assert_eq!(next, CopiedHead { seq, ..first });
            assert!(
                payload.len() % COPY_BYTES as usize == 0 && !payload.is_empty() && !more.is_empty(),
                "a piece before the last is full"
            );
            payload.extend(more);
        }
        assert!(closes || !payload.is_empty(), "an element for nothing");
        ((!payload.is_empty()).then_some((first.key, first.seq, payload)), closes)
    }

    fn next_told(&mut self, record: &FlowRecord) -> Option<(CopiedHead, Vec<u8>)> {
        let item = self.copies.next()?;
        let (head, payload) = Copied::read(&item).unwrap();
        assert_eq!((head.flow_id, head.generation), (record.flow_id, record.generation));
        assert!(record.belongs_under(&head.key), "under {:?}", head.key);
        Some((*head, payload.to_vec()))
    }

    /// Whether the ring buffer's reader, which has read all and has said that it is to be woken by `wake_at`, is woken while so
    /// many packets are sent. Nothing is left there.
    pub(crate) fn wakes(&mut self, case: &Case, times: u32, wake_at: u32) -> bool {
        self.wakes_behind(None, case, times, wake_at)
    }

    /// As [`Bench::wakes`], and before them one of the same flow that is `unread`.
    pub(crate) fn wakes_behind(
        &mut self,
        unread: Option<&Case>,
        case: &Case,
        times: u32,
        wake_at: u32,
    ) -> bool {
        self.set_wake(wake_at);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reader = self.copies.as_fd().try_clone_to_owned().unwrap();
        let reader = runtime.block_on(async { baton_daemon::watch(reader) }).unwrap();
        unread.into_iter().for_each(|unread| self.send_unread(unread, 1));
        self.send_unread(case, times);
        // Who is not woken never is; who is may be kept waiting by a busy machine, but not that much longer.
        let woken = async {
            let woken = tokio::time::timeout(Duration::from_millis(500), reader.readable()).await;
            woken.is_ok_and(|readable| readable.is_ok())
        };
        let woken = runtime.block_on(woken);
        let left = self.take_pieces(case).len();
        assert!(left >= times as usize, "{left} pieces of {times} packets");
        self.set_wake(0);
        woken
    }

    fn set_wake(&mut self, wake_at: u32) {
        let wake = self.object.map_mut("COPIES_WAKE").unwrap();
        Array::<_, u32>::try_from(wake).unwrap().set(0, wake_at, 0).unwrap();
    }

    /// Runs the egress program on so many packets while nobody reads the ring buffer: by how much each counter went up, and
    /// the lengths of the pieces that are found there then.
    pub(crate) fn run_unread(&mut self, case: &Case, times: u32) -> (Vec<u64>, Vec<usize>) {
        self.send_unread(case, times);
        (self.count(), self.take_pieces(case))
    }

    fn take_pieces(&mut self, case: &Case) -> Vec<usize> {
        std::iter::from_fn(|| self.next_told(&case.record)).map(|(_, piece)| piece.len()).collect()
    }

    /// Runs the egress program on so many packets; what it puts into the ring buffer stays there.
    pub(crate) fn send_unread(&mut self, case: &Case, times: u32) {
        let (key, record): (RawKey, RawRecord) =
            (zerocopy::transmute!(case.record.key), zerocopy::transmute!(case.record));
        self.slots.set(SLOT, record, 0).unwrap();
        self.flows.insert(key, SLOT, 0).unwrap();
        let program: &SchedClassifier = self.object.program("target_egress").unwrap().try_into().unwrap();
        for _ in 0..times {
            let mut frame = vec![0u8; case.frame.len() + 64];
            let options = TestRunOptions {
                data_in: Some(&case.frame),
                data_out: Some(&mut frame),
                ..TestRunOptions::default()
            };
            program.test_run(options).unwrap();
        }
        self.flows.remove(&key).unwrap();
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
                // What the other one had copied by then is booked when its turn ends.
                let turn_ends = || {
                    let begun = turns.load(Ordering::SeqCst);
                    while turns.load(Ordering::SeqCst) == begun {
                        thread::yield_now();
                    }
                };
                turn_ends();
                run(once, 1);
                turn_ends();
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
