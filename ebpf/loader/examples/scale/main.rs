//! What a forwarded packet costs with a thousand flows in the tables, and with a million: the programs run by
//! `BPF_PROG_TEST_RUN`, each packet of another flow than the one before, in random order.
//!
//! `cargo run --release -p baton-loader --example scale [FLOWS...]`, as root. Prints JSON.
//!
//! Times are as the kernel measures them. Programs execute the same instructions whatever the number of flows; what grows
//! is the number of cache lines and page-table entries that are not at hand. So there are two figures: every packet of
//! another flow, the worst there is, and trains of sixteen packets of one flow. `floor` is a packet of no flow, which is
//! let through after the lookup. The sizes take turns, so that a machine that slows down is slow for all of them. Each time programs and
//! tables are made anew: where they come to lie makes a difference of its own, a few nanoseconds in a hundred.
//!
//! `bare_ns` are programs that do nothing but touch the memory a flow is in, in the same run: its entry in the hash table, and a
//! word of its record, and the whole record. What they grow by (`growth_ns`, over the first size) no instruction of ours causes.
//!
//! `scale lab [FLOWS...]` takes what a forwarded packet costs, with all that is around the program: see `lab/mod.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is the report of a measurement that failed"
)]

mod bare;
mod lab;
mod sys;

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use bare::Bare;
use baton_shared::addr::{IpWords, PortWord};
use baton_shared::record::{
    FLAG_FED, FLAG_TIMESTAMPS, FlowKey, FlowRecord, FlowState, NOTE_CAUGHT_UP, NOTE_SYN_ACK, Settings,
};
use etherparse::PacketBuilder;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

type Key = [u32; size_of::<FlowKey>() / 4];
type Record = [u64; size_of::<FlowRecord>() / 8];

/// Packets of each size in one round, and rounds.
const PACKETS: u32 = 20_000;
const TRAIN: u32 = 16;
const ROUNDS: usize = 7;
const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 90, 1, 100), 80);
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 90, 101, 2), 80);

/// The programs with their tables filled.
struct Table {
    flows: Flows,
    object: Ebpf,
    bare: Vec<Bare>,
}

/// Of which flow the next packet is.
struct Flows {
    count: u32,
    /// SplitMix64's state.
    random: u64,
}

impl Flows {
    fn new(count: u32) -> Self {
        Flows { count, random: u64::from(count) }
    }

    fn any(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % u64::from(self.count)).unwrap()
    }
}

/// The `n`th client: 40 000 ports each of as many addresses as it takes.
fn client(n: u32) -> (Ipv4Addr, u16) {
    let port = u16::try_from(20_000 + n % 40_000).unwrap();
    (Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + n / 40_000), port)
}

fn key(from: (Ipv4Addr, u16), local: (Ipv4Addr, u16)) -> FlowKey {
    FlowKey {
        remote: std::net::IpAddr::from(from.0).into(),
        local: std::net::IpAddr::from(local.0).into(),
        remote_port: PortWord::new(from.1),
        local_port: PortWord::new(local.1),
    }
}

/// What the side with this local address knows of the `n`th flow; to be sent out of that device in the name of, or to, `new`.
fn record(n: u32, local: (Ipv4Addr, u16), new: (Ipv4Addr, u16), out_ifindex: u32) -> FlowRecord {
    FlowRecord {
        flow_id: u64::from(n) + 1,
        generation: 1,
        key: key(client(n), local),
        state: FlowState::Committed as u32,
        flags: FLAG_TIMESTAMPS | FLAG_FED,
        new_addr: IpWords::from(std::net::IpAddr::from(new.0)),
        new_port: PortWord::new(new.1),
        seq_delta: n,
        ack_delta: n,
        tsval_delta: 77,
        // Whatever the numbers, none is raised.
        note_flags: NOTE_SYN_ACK | NOTE_CAUGHT_UP,
        out_ifindex,
        deadline_ns: u64::MAX,
        ..FlowRecord::default()
    }
}

/// A bare acknowledgement with timestamps, what clients mostly send during a download.
fn acknowledgement(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    segment(from, to, 0, &[])
}

/// A segment with timestamps, later than another one by so much.
fn segment(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), later: u32, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .tcp(from.1, to.1, 1000, 501)
        .ack(later.wrapping_add(2000))
        .options(&[
            etherparse::TcpOptionElement::Noop,
            etherparse::TcpOptionElement::Noop,
            etherparse::TcpOptionElement::Timestamp(later.wrapping_add(1), 2),
        ])
        .unwrap();
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

impl Table {
    fn filled(flows: u32) -> Self {
        let mut object = EbpfLoader::new()
            .map_max_entries("FLOWS", 2 * flows)
            .map_max_entries("SLOTS", 2 * flows)
            .load(baton_loader::OBJECT)
            .unwrap();
        for name in ["intermediate_ingress", "target_egress"] {
            let program: &mut SchedClassifier = object.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        let mut settings: Array<MapData, [u32; size_of::<Settings>() / 4]> =
            object.take_map("SETTINGS").unwrap().try_into().unwrap();
        let ours = Settings { tun_ifindex: 1, uplink_ifindex: 1, reinject_mark: 7, ..Settings::default() };
        let ours: [u32; size_of::<Settings>() / 4] = zerocopy::transmute!(ours);
        settings.set(0, ours, 0).unwrap();
        let (Some(Map::HashMap(flows_map)), Some(Map::Array(slots_map))) =
            (object.map("FLOWS"), object.map("SLOTS"))
        else {
            panic!("maps of another kind");
        };
        let (flows_fd, slots_fd) = (flows_map.fd().as_fd(), slots_map.fd().as_fd());
        let bare = Bare::ALL.map(|touch| Bare::load(touch, flows_fd, slots_fd).unwrap()).into();
        let mut keys: HashMap<MapData, Key, u32> = object.take_map("FLOWS").unwrap().try_into().unwrap();
        let mut slots: Array<MapData, Record> = object.take_map("SLOTS").unwrap().try_into().unwrap();
        for n in 0..flows {
            // A flow has a record for each direction, each host its own; here they share one table. What a run makes of the packet
            // is the next run's: it must be the same flow's again, as if it had not been translated, or trains would be of two.
            // Nor does a packet bring news, which it would more often to many flows than to few.
            let notes = [(501, 501), (501, 1)];
            for ((local, slot), (note_window, note_tsval)) in
                [(VIP, 2 * n), (SERVER, 2 * n + 1)].into_iter().zip(notes)
            {
                let record = FlowRecord {
                    seq_delta: 0,
                    ack_delta: 0,
                    tsval_delta: 0,
                    note_ack: 2000,
                    note_window,
                    note_tsval,
                    note_seq_end: 1000,
                    ..record(n, local, local, 1)
                };
                let (key, record): (Key, Record) =
                    (zerocopy::transmute!(record.key), zerocopy::transmute!(record));
                slots.set(slot, record, 0).unwrap();
                keys.insert(key, slot, 0).unwrap();
            }
        }
        Table { flows: Flows::new(flows), object, bare }
    }

    /// Mean nanoseconds of one packet.
    fn time(&mut self, name: &str, packet: impl Fn(u32) -> Vec<u8>, verdict: u32, train: u32) -> f64 {
        let frames: Vec<_> = (0..PACKETS).map(|_| packet(self.flows.any())).collect();
        let program: &SchedClassifier = self.object.program(name).unwrap().try_into().unwrap();
        let mut sum = 0.0;
        for frame in &frames {
            let options = TestRunOptions { data_in: Some(frame), repeat: train, ..TestRunOptions::default() };
            let result = program.test_run(options).unwrap();
            assert_eq!(result.return_value, verdict, "{name}");
            sum += result.duration.as_secs_f64() * 1e9;
        }
        sum / f64::from(PACKETS)
    }

    /// The same of a program that does next to nothing.
    fn time_bare(&mut self, which: usize, train: u32) -> f64 {
        let packets: Vec<_> =
            (0..PACKETS).map(|_| Bare::packet(&key(client(self.flows.any()), VIP))).collect();
        let sum: f64 =
            packets.iter().map(|packet| f64::from(self.bare[which].run(packet, train).unwrap())).sum();
        sum / f64::from(PACKETS)
    }

    /// From the client on the intermediate, from the server on the target, of no flow, and the bare ones; the same in trains.
    fn round(&mut self) -> [Times; 2] {
        // TC_ACT_REDIRECT, and TC_ACT_UNSPEC: on to whatever comes next.
        const ON: u32 = u32::MAX;
        let nobody = (SERVER.0, 81);
        [1, TRAIN].map(|train| {
            [
                self.time("intermediate_ingress", |n| acknowledgement(client(n), VIP), 7, train),
                self.time("target_egress", |n| acknowledgement(SERVER, client(n)), ON, train),
                self.time("intermediate_ingress", |n| acknowledgement(client(n), nobody), ON, train),
                self.time_bare(0, train),
                self.time_bare(1, train),
                self.time_bare(2, train),
            ]
        })
    }
}

/// Nanoseconds of the intermediate's program, the target's, of a packet of no flow, of the bare programs.
type Times = [f64; 6];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut words = std::env::args().skip(1).peekable();
    let in_lab = words.next_if(|word| word == "lab").is_some();
    let asked: Vec<u32> = words.map(|n| n.parse().expect("a number of flows")).collect();
    let sizes = match (asked.is_empty(), in_lab) {
        (false, _) => asked,
        (true, true) => vec![1_000, 1_000_000],
        (true, false) => vec![1_000, 10_000, 100_000, 1_000_000],
    };
    if in_lab {
        return lab::main(&sizes);
    }
    let mut rounds: Vec<Vec<[Times; 2]>> = vec![Vec::new(); sizes.len()];
    for _ in 0..ROUNDS {
        for (flows, rounds) in sizes.iter().zip(&mut rounds) {
            rounds.push(Table::filled(*flows).round());
        }
    }
    let medians = |rounds: &Vec<[Times; 2]>, way: usize| -> Times {
        std::array::from_fn(|i| median(rounds.iter().map(|r| r[way][i]).collect()))
    };
    let rows = sizes.iter().zip(&rounds).map(|(flows, own)| {
        let [each, trains] = [0, 1].map(|way| row(&medians(own, way), &medians(&rounds[0], way)));
        format!("  {{ \"flows\": {flows},\n    \"each_another_flow\": {each},\n    \"trains_of_{TRAIN}\": {trains} }}")
    });
    println!("[\n{}\n]", rows.collect::<Vec<_>>().join(",\n"));
}

/// One way's figures with so many flows, beside those of the first size.
fn row(times: &Times, first: &Times) -> String {
    let ([i, t, floor, bare @ ..], [i1, t1, _, bare1 @ ..]) = (times, first);
    let [entry, word, record] = bare;
    let [entry_more, word_more, record_more] = [0, 1, 2].map(|n| bare[n] - bare1[n]);
    format!(
        "{{ \"intermediate_ns\": {i:.0}, \"target_ns\": {t:.0}, \"floor_ns\": {floor:.0}, \"over_first\": [{:.2}, {:.2}],\n      \
         \"bare_ns\": {{ \"entry\": {entry:.0}, \"word\": {word:.0}, \"record\": {record:.0} }},\n      \
         \"growth_ns\": {{ \"intermediate\": {:.0}, \"target\": {:.0}, \"entry\": {entry_more:.0}, \"word\": {word_more:.0}, \
         \"record\": {record_more:.0} }} }}",
        i / i1,
        t / t1,
        i - i1,
        t - t1,
    )
}
