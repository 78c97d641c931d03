//! Frames of the control channel: a handoff and its answer, written and read.
#![allow(missing_docs, reason = "what criterion's macros make")]

use baton_shared::capture::{CapturedConnection, NegotiatedOptions, WindowScales};
use baton_shared::control::{
    FlowRef, FrameReader, Handoff, Message, MigratedAnswer, TrackedRequest, encode_into,
};
use baton_shared::seq::Seq;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

const FLOW: FlowRef = FlowRef { flow_id: 0x0123_4567_89ab_cdef, generation: 1 };

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 90, 1, last).into(), port)
}

fn handoff(request_bytes: usize) -> Message {
    let options = NegotiatedOptions {
        client_mss: 1460,
        sack: true,
        timestamps: true,
        window_scale: Some(WindowScales { client: 7, promised: 9 }),
        ecn: false,
    };
    Message::Handoff(Box::new(Handoff {
        flow: FLOW,
        deadline_ms: 2000,
        server: at(3, 80),
        connection: CapturedConnection {
            client: at(2, 40_000),
            vip: at(100, 80),
            rcv_nxt: Seq::new(0x8000_0000),
            snd_nxt: Seq::new(0xffff_0000),
            snd_wnd: 64_256,
            max_window: 64_256,
            rcv_wnd: 65_160,
            options,
            client_tsval: 0x1234_5678,
            vip_tsval: 0x2345_6789,
            rtt_us: 20_000,
            client_fin: false,
        },
        acknowledged: Seq::new(0x8000_0000),
        tracked: Some(TrackedRequest { head: false }),
        request: vec![b'x'; request_bytes],
    }))
}

fn frames(c: &mut Criterion) {
    let migrated = Message::Migrated(MigratedAnswer {
        flow: FLOW,
        server_snd_nxt: Seq::new(7),
        client_snd_nxt: Seq::new(0xffff_0000),
        ts_delta: 99,
        window_end: Seq::new(9),
        handshake_us: 20,
        total_us: 30,
    });
    let messages = [
        ("handoff, head of 200 bytes", handoff(200)),
        ("handoff, 64 kB of body with it", handoff(64 << 10)),
        ("migrated", migrated),
    ];
    for (name, message) in messages {
        let mut frame = Vec::new();
        c.bench_function(&format!("write: {name}"), |b| {
            b.iter(|| {
                frame.clear();
                encode_into(black_box(&message), &mut frame)
            });
        });
        c.bench_function(&format!("read: {name}"), |b| {
            b.iter_batched_ref(
                FrameReader::new,
                |reader| {
                    reader.push(black_box(&frame));
                    reader.next_message()
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, frames);
criterion_main!(benches);
