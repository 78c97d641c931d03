//! What a forwarded packet costs with a thousand flows in the tables, and with a million: the programs run by
//! `BPF_PROG_TEST_RUN`, each packet of another flow than the one before, in random order.
//!
//! `cargo run --release -p baton-loader --example scale [FLOWS...]`, as root. Prints JSON.
//!
//! Times are as the kernel measures them. Programs execute the same instructions whatever the number of flows; what grows
//! is the number of cache lines and page-table entries that are not at hand. So there are two figures: every packet of
//! another flow, the worst there is, and trains of sixteen packets of one flow. `floor` is a packet of no flow, which is
//! let through after the lookup. The sizes take turns, so that a machine that slows down is slow for all of them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is the report of a measurement that failed"
)]

use aya::maps::{Array, HashMap, MapData};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use baton_shared::addr::{IpWords, PortWord};
use baton_shared::record::{FLAG_TIMESTAMPS, FlowKey, FlowRecord, FlowState, NOTE_SYN_ACK, Settings};
use etherparse::PacketBuilder;
use std::net::Ipv4Addr;

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
    flows: u32,
    object: Ebpf,
    /// SplitMix64's state: which flow the next packet is of.
    random: u64,
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

/// A bare acknowledgement with timestamps, what clients mostly send during a download.
fn acknowledgement(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .tcp(from.1, to.1, 1000, 501)
        .ack(2000)
        .options(&[
            etherparse::TcpOptionElement::Noop,
            etherparse::TcpOptionElement::Noop,
            etherparse::TcpOptionElement::Timestamp(1, 2),
        ])
        .unwrap();
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
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
        let mut keys: HashMap<MapData, Key, u32> = object.take_map("FLOWS").unwrap().try_into().unwrap();
        let mut slots: Array<MapData, Record> = object.take_map("SLOTS").unwrap().try_into().unwrap();
        for n in 0..flows {
            // A flow has a record for each direction, each host its own; here they share one table.
            let sides = [(VIP, SERVER, 2 * n), (SERVER, VIP, 2 * n + 1)];
            for (local, new, slot) in sides {
                let key = key(client(n), local);
                let record = FlowRecord {
                    flow_id: u64::from(n) + 1,
                    generation: 1,
                    key,
                    state: FlowState::Committed as u32,
                    flags: FLAG_TIMESTAMPS,
                    new_addr: IpWords::from(std::net::IpAddr::from(new.0)),
                    new_port: PortWord::new(new.1),
                    seq_delta: n,
                    ack_delta: !n,
                    tsval_delta: 77,
                    note_flags: NOTE_SYN_ACK,
                    out_ifindex: 1,
                    deadline_ns: u64::MAX,
                    ..FlowRecord::default()
                };
                let (key, record): (Key, Record) = (zerocopy::transmute!(key), zerocopy::transmute!(record));
                slots.set(slot, record, 0).unwrap();
                keys.insert(key, slot, 0).unwrap();
            }
        }
        Table { flows, object, random: u64::from(flows) }
    }

    fn any(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % u64::from(self.flows)).unwrap()
    }

    /// Mean nanoseconds of one packet.
    fn time(&mut self, name: &str, packet: impl Fn(u32) -> Vec<u8>, verdict: u32, train: u32) -> f64 {
        let frames: Vec<_> = (0..PACKETS).map(|_| packet(self.any())).collect();
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

    /// From the client on the intermediate, from the server on the target, and of no flow; the same in trains.
    fn round(&mut self) -> [f64; 6] {
        // TC_ACT_REDIRECT, and TC_ACT_UNSPEC: on to whatever comes next.
        const ON: u32 = u32::MAX;
        let mut all = [0.0; 6];
        for (train, three) in [1, TRAIN].into_iter().zip(all.chunks_exact_mut(3)) {
            three[0] = self.time("intermediate_ingress", |n| acknowledgement(client(n), VIP), 7, train);
            three[1] = self.time("target_egress", |n| acknowledgement(SERVER, client(n)), ON, train);
            let nobody = (SERVER.0, 81);
            three[2] = self.time("intermediate_ingress", |n| acknowledgement(client(n), nobody), ON, train);
        }
        all
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let asked: Vec<u32> = std::env::args().skip(1).map(|n| n.parse().expect("a number of flows")).collect();
    let sizes = if asked.is_empty() { vec![1_000, 10_000, 100_000, 1_000_000] } else { asked };
    let mut tables: Vec<Table> = sizes.iter().map(|flows| Table::filled(*flows)).collect();
    let mut rounds: Vec<Vec<[f64; 6]>> = vec![Vec::new(); tables.len()];
    for _ in 0..ROUNDS {
        for (table, rounds) in tables.iter_mut().zip(&mut rounds) {
            rounds.push(table.round());
        }
    }
    let figures: Vec<[f64; 6]> = rounds
        .iter()
        .map(|rounds| std::array::from_fn(|i| median(rounds.iter().map(|r| r[i]).collect())))
        .collect();
    let rows = sizes.iter().zip(&figures).map(|(flows, f)| {
        let three = |at: usize| {
            let over = |i: usize| f[i] / figures[0][i];
            format!(
                "{{ \"intermediate_ns\": {:.0}, \"target_ns\": {:.0}, \"floor_ns\": {:.0}, \"over_first\": [{:.2}, {:.2}] }}",
                f[at],
                f[at + 1],
                f[at + 2],
                over(at),
                over(at + 1)
            )
        };
        format!("  {{ \"flows\": {flows}, \"each_another_flow\": {},\n    \"trains_of_{TRAIN}\": {} }}", three(0), three(3))
    });
    println!("[\n{}\n]", rows.collect::<Vec<_>>().join(",\n"));
}
