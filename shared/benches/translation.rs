//! One segment through the judgement of each hook: what the eBPF programs and the plane in user space do per packet,
//! without loads and stores.
#![allow(missing_docs, reason = "what criterion's macros make")]

use baton_shared::addr::{IpWords, PortWord};
use baton_shared::record::{FLAG_TIMESTAMPS, FlowKey, FlowRecord, FlowState};
use baton_shared::translate::{Patch, judge_egress, judge_ingress};
use baton_shared::wire::{ACK, HeaderChecksum, OptionPlaces, OptionValues, Segment};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::net::Ipv4Addr;

fn record() -> FlowRecord {
    let address = |last: u8| IpWords::from_v4_word(u32::from(Ipv4Addr::new(10, 90, 1, last)).to_be());
    FlowRecord {
        key: FlowKey {
            remote: address(2),
            local: address(100),
            remote_port: PortWord::new(40_000),
            local_port: PortWord::new(80),
        },
        new_addr: address(3),
        new_port: PortWord::new(80),
        state: FlowState::Committed as u32,
        flags: FLAG_TIMESTAMPS,
        seq_delta: 7,
        ack_delta: 0x8000_0000,
        tsval_delta: 12_345,
        tsecr_delta: 54_321,
        window_shift_in: 7,
        window_shift_out: 9,
        ..FlowRecord::default()
    }
}

fn segment(blocks: u32) -> Segment {
    let places =
        OptionPlaces { timestamps: 2, sack: if blocks > 0 { 13 } else { 0 }, sack_blocks: blocks, next: 0 };
    Segment {
        seq: 1000,
        ack: 2000,
        payload: 1448,
        window: 501,
        flags: ACK,
        ttl: 64,
        header_checksum: HeaderChecksum(0x1234),
        may_fragment: 0,
        reserved: 0,
        packet: 1500,
        options: OptionValues { places, tsval: 1, tsecr: 2, sack_edges: [3, 4, 5, 6, 7, 8, 0, 0] },
    }
}

fn translation(c: &mut Criterion) {
    let (record, mut patch) = (record(), Patch::default());
    for (name, blocks) in [("timestamps", 0), ("three SACK blocks", 3)] {
        let segment = segment(blocks);
        c.bench_function(&format!("intermediate's ingress, {name}"), |b| {
            b.iter(|| judge_ingress(black_box(&record), black_box(&segment), false, 1, &mut patch));
        });
        c.bench_function(&format!("target's egress, {name}"), |b| {
            b.iter(|| judge_egress(black_box(&record), black_box(&segment), &mut patch));
        });
    }
}

criterion_group!(benches, translation);
criterion_main!(benches);
