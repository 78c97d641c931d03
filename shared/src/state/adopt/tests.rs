use super::*;
use crate::capture::{NegotiatedOptions, WindowScales};
use crate::seq::Seq;
use crate::state::replay::{SegmentOptions, flag};
use std::fmt::Write;

const MS: u64 = 1_000_000;
const CLIENT_NXT: u32 = u32::MAX - 20;

fn handoff(request: &[u8], client_fin: bool) -> Box<Handoff> {
    Box::new(Handoff {
        flow: FlowRef { flow_id: 7, generation: 1 },
        deadline_ms: 2000,
        server: "10.90.101.2:80".parse().unwrap(),
        connection: CapturedConnection {
            client: "10.90.10.2:40000".parse().unwrap(),
            vip: "10.90.1.100:80".parse().unwrap(),
            rcv_nxt: Seq::new(500),
            snd_nxt: Seq::new(CLIENT_NXT),
            snd_wnd: 64256,
            max_window: 64256,
            rcv_wnd: 65535,
            options: NegotiatedOptions {
                client_mss: 1460,
                sack: true,
                timestamps: true,
                window_scale: Some(WindowScales { client: 6, promised: 7 }),
                ecn: false,
            },
            client_tsval: 5000,
            vip_tsval: 900,
            rtt_us: 20_400,
            client_fin,
        },
        acknowledged: Seq::new(500),
        tracked: None,
        request: request.to_vec(),
    })
}

/// A machine and the record that belongs to it.
struct Bench {
    adopt: Adopt,
    record: FlowRecord,
    now: u64,
    sent: Vec<SegmentToSend>,
}

impl Bench {
    fn new(request: &[u8]) -> Self {
        Self::of(handoff(request, false))
    }

    fn of(handoff: Box<Handoff>) -> Self {
        let adopt = Adopt::new(handoff, ANY_SCALE, MS);
        let mut record = FlowRecord::default();
        adopt.fill(&mut record);
        let mut bench = Bench { adopt, record, now: MS, sent: Vec::new() };
        bench.drive();
        bench
    }

    /// What the engine does after each event.
    fn drive(&mut self) {
        loop {
            let before = self.sent.len();
            self.adopt.on_notes(&self.record, self.now);
            self.adopt.update(&mut self.record);
            while let Some(segment) = self.adopt.poll_segment(self.now) {
                self.sent.push(segment);
            }
            if self.sent.len() == before {
                return;
            }
        }
    }

    fn note(&mut self, flags: u32) -> &mut Self {
        self.record.note_flags |= flags;
        self.drive();
        self
    }

    /// The socket acknowledges so many request bytes, with this window.
    fn acknowledge(&mut self, bytes: u32, window: u32) -> &mut Self {
        let first = self.adopt.feeding.first_byte();
        self.record.packets += 1;
        (self.record.note_ack, self.record.note_window) = (first.plus(bytes).raw(), window);
        self.drive();
        self
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        self.now += ms * MS;
        if self.adopt.next_timer_ns().is_some_and(|at| at <= self.now) {
            self.adopt.on_time(self.now);
        }
        self.drive();
        self
    }

    fn probe(&mut self, socket: SocketState) -> &mut Self {
        assert!(self.adopt.wants_probe());
        self.adopt.on_probe(socket, self.now);
        self.drive();
        self
    }

    fn state(&self) -> FlowState {
        FlowState::from_raw(self.record.state)
    }
}

#[test]
fn a_socket_gets_a_scale_that_fits_its_buffer_and_never_more_than_was_promised() {
    for (promised, own, told) in [(10, 4, 4), (10, 7, 7), (7, 10, 7), (7, 7, 7), (0, 4, 0)] {
        let mut handoff = handoff(b"GET / HTTP/1.1\r\n\r\n", false);
        handoff.connection.options.window_scale = Some(WindowScales { client: 6, promised });
        let mut record = FlowRecord::default();
        Adopt::new(handoff, own, MS).fill(&mut record);
        assert_eq!((record.window_shift_in, record.window_shift_out), (told, promised));
        assert_eq!(record.flags & FLAG_OWN_SCALE != 0, told != promised, "{promised} {own}");
        assert_eq!(record.out_ifindex >> 16, 6, "the client's");
    }
    let mut handoff = handoff(b"GET / HTTP/1.1\r\n\r\n", false);
    handoff.connection.options.window_scale = None;
    let mut record = FlowRecord::default();
    Adopt::new(handoff, 4, MS).fill(&mut record);
    assert_eq!((record.window_shift_in, record.window_shift_out, record.flags & FLAG_OWN_SCALE), (0, 0, 0));
}

#[test]
fn a_small_request_is_one_packet_with_the_clients_own_numbers() {
    let mut bench = Bench::new(b"GET / HTTP/1.1\r\n\r\n");
    let [segment] = bench.sent[..] else { panic!("{:?}", bench.sent) };
    assert_eq!((segment.seq, segment.ack.raw()), (Seq::new(500 - 18), CLIENT_NXT));
    assert_eq!(segment.flags, flag::ACK | flag::PSH);
    // The echo lies a round trip of 20.4 ms back, rounded up.
    assert_eq!(segment.options, SegmentOptions::Timestamps { value: 5000, echo: 902 - 21 });
    let record = bench.record;
    assert_eq!((record.seq_delta, record.ack_delta, record.tsecr_delta), (482, CLIENT_NXT, 902));
    // 65 535 bytes were promised behind the request: no number of whole segments comes to so much.
    assert_eq!(record.out_ifindex, packed_client(1460, 6));
    assert_eq!((record.window_shift_in, record.window_shift_out), (7, 7), "as promised");
    assert_eq!(record.flags & FLAG_OWN_SCALE, 0);
    assert_eq!(bench.state(), FlowState::Adopting);
    // Nothing is said before the socket exists.
    bench.note(NOTE_ASSIGNED);
    assert_eq!((bench.adopt.phase(), bench.adopt.answer()), (Phase::Offered, None));
    bench.acknowledge(18, 65_000);
    assert_eq!(bench.adopt.phase(), Phase::Taken(Feeding::Fed));
    let Some(Answer::Migrated(answer)) = bench.adopt.answer() else { panic!() };
    assert_eq!(
        (answer.server_snd_nxt.raw(), answer.client_snd_nxt.raw(), answer.ts_delta),
        (CLIENT_NXT, CLIENT_NXT, 0)
    );
    assert_eq!(bench.state(), FlowState::Committed);
    assert_eq!((bench.record.seq_delta, bench.record.ack_delta, bench.record.tsecr_delta), (0, 0, 0));
}

#[test]
fn the_first_window_is_not_smaller_than_promised_where_a_few_bytes_of_the_mss_can_make_it_so() {
    for (client, promised, told) in [
        (1460, 64_240, 1460),
        (1460, 64_241, 1456),
        (1460, 65_160, 1456),
        (1460, 65_520, 1456),
        (1460, 65_536, 1460),
        (1440, 64_800, 1440),
        (1220, 64_660, 1220),
        (536, 65_535, 536),
    ] {
        assert_eq!(told_mss(client, promised), told, "{client} {promised}");
    }
}

#[test]
fn an_unmeasured_round_trip_counts_one_millisecond() {
    assert_eq!(echo(5, 0), 4);
    assert_eq!(echo(5, 1000), 4);
    assert_eq!(echo(5, 1001), 3);
    assert_eq!(echo(0, 1_000), u32::MAX);
}

#[test]
fn a_long_request_is_sent_up_to_32_kb_and_then_as_the_socket_allows() {
    let request = vec![b'x'; 100_000];
    let mut bench = Bench::new(&request);
    let flight = |bench: &Bench| bench.sent.last().map_or(0, |s| s.payload_to);
    // Whole packets only, while any are in flight.
    assert_eq!(flight(&bench), 28_000);
    assert!(bench.sent.iter().all(|s| s.payload_to - s.payload_from <= 14_000));
    bench.note(NOTE_ASSIGNED).acknowledge(28_000, 45_000);
    assert_eq!(flight(&bench), 70_000);
    assert!(bench.adopt.answer().is_none(), "not all was sent");
    bench.acknowledge(70_000, 65_000);
    assert_eq!(flight(&bench), 100_000);
    assert!(matches!(bench.adopt.answer(), Some(Answer::Migrated(_))));
    bench.acknowledge(100_000, 65_000);
    assert_eq!(bench.adopt.phase(), Phase::Taken(Feeding::Fed));
}

#[test]
fn a_packet_beyond_a_small_window_is_cut_to_it_and_sent_again_at_once() {
    let mut bench = Bench::new(&vec![b'x'; 20_000]);
    let before = bench.sent.len();
    bench.note(NOTE_ASSIGNED).acknowledge(0, 2_000);
    let again = &bench.sent[before..];
    assert_eq!((again[0].payload_from, again[0].payload_to), (0, 2_000), "{again:?}");
    assert_eq!(again.len(), 1);
    bench.acknowledge(2_000, 30_000);
    assert_eq!(bench.sent.last().unwrap().payload_to, 20_000);
}

#[test]
fn the_clients_fin_goes_with_the_last_byte() {
    let mut bench = Bench::of(handoff(b"GET /", true));
    let [segment] = bench.sent[..] else { panic!("{:?}", bench.sent) };
    assert_eq!(segment.flags, flag::ACK | flag::PSH | flag::FIN);
    bench.note(NOTE_ASSIGNED).acknowledge(6, 65_000);
    assert_eq!(bench.adopt.phase(), Phase::Taken(Feeding::Fed));
}

#[test]
fn a_request_without_a_byte_is_known_to_be_taken_by_asking_for_the_socket() {
    let mut bench = Bench::new(b"");
    assert_eq!(bench.sent.len(), 1);
    assert!(!bench.adopt.wants_probe(), "nothing was given to the kernel yet");
    bench.note(NOTE_ASSIGNED).probe(SocketState::Alive);
    assert!(matches!(bench.adopt.phase(), Phase::Taken(_)));
    assert!(matches!(bench.adopt.answer(), Some(Answer::Migrated(_))));
}

#[test]
fn a_listener_whose_accept_queue_is_full_for_a_moment_gets_it_when_it_is_sent_again() {
    let mut bench = Bench::new(b"GET /");
    bench.note(NOTE_ASSIGNED).wait(25);
    assert_eq!(bench.sent.len(), 2, "sent again");
    assert_eq!(bench.sent[0], bench.sent[1]);
    bench.probe(SocketState::Gone);
    assert_eq!(bench.adopt.phase(), Phase::Offered);
    bench.acknowledge(5, 65_000);
    assert_eq!(bench.adopt.phase(), Phase::Taken(Feeding::Fed));
}

#[test]
fn a_socket_in_time_wait_is_destroyed_once_between_two_attempts() {
    let mut bench = Bench::new(b"GET /");
    bench.note(NOTE_TIME_WAIT);
    assert!(bench.adopt.poll_destroy() && !bench.adopt.poll_destroy());
    bench.drive();
    assert_eq!(bench.sent.len(), 2);
    assert!(!bench.adopt.poll_destroy());
    bench.wait(25);
    assert!(bench.adopt.poll_destroy(), "it was there again");
    bench.note(NOTE_ASSIGNED).acknowledge(5, 65_000);
    assert_eq!(bench.adopt.phase(), Phase::Taken(Feeding::Fed));
}

#[test]
fn a_socket_in_time_wait_that_is_known_of_is_destroyed_before_the_first_attempt_and_another_may_yet_be_met() {
    let mut adopt = Adopt::new(handoff(b"GET /", false), ANY_SCALE, MS);
    adopt.expect_time_wait();
    assert_eq!(adopt.phase(), Phase::Offered);
    assert!(adopt.poll_destroy() && !adopt.poll_destroy());
    assert!(adopt.poll_segment(MS).is_some() && adopt.poll_segment(MS).is_none());
    let mut record = FlowRecord::default();
    adopt.fill(&mut record);
    record.note_flags |= NOTE_TIME_WAIT;
    adopt.on_notes(&record, MS);
    assert!(adopt.poll_destroy() && adopt.poll_segment(MS).is_some());
}

#[test]
fn silence_fences_the_record_before_it_is_said_that_nothing_was_adopted() {
    let mut bench = Bench::new(b"GET /");
    bench.note(NOTE_ASSIGNED);
    while bench.adopt.phase() == Phase::Offered {
        bench.wait(20);
    }
    assert_eq!((bench.adopt.phase(), bench.state()), (Phase::Fencing, FlowState::Fenced));
    assert!((400..450).contains(&(bench.now / MS)), "{}", bench.now);
    assert!(bench.adopt.answer().is_none());
    let sent = bench.sent.len();
    bench.wait(100).probe(SocketState::Gone);
    assert_eq!(bench.adopt.phase(), Phase::Unadopted(Cause::Silent));
    assert_eq!(bench.sent.len(), sent, "nothing is given to the kernel behind the fence");
    assert_eq!(bench.adopt.into_handoff().request, b"GET /");
}

#[test]
fn a_socket_found_behind_the_fence_is_taken_after_all() {
    let mut bench = Bench::new(b"GET /");
    bench.note(NOTE_ASSIGNED);
    bench.adopt.withdraw(Refusal::Cancelled, bench.now);
    bench.drive();
    assert_eq!(bench.state(), FlowState::Fenced);
    bench.wait(100).probe(SocketState::Alive);
    assert_eq!(bench.state(), FlowState::Committed);
    assert!(matches!(bench.adopt.answer(), Some(Answer::Migrated(_))), "it may run the request");
}

#[test]
fn withdrawing_is_too_late_once_there_is_a_socket() {
    let mut bench = Bench::new(&vec![b'x'; 50_000]);
    bench.note(NOTE_ASSIGNED).acknowledge(14_000, 0);
    bench.adopt.withdraw(Refusal::Cancelled, bench.now);
    assert!(matches!(bench.adopt.answer(), Some(Answer::Migrated(_))));
}

#[test]
fn a_servers_own_reset_is_the_flows_answer() {
    let mut bench = Bench::new(b"GET /");
    bench.note(NOTE_ASSIGNED | NOTE_RST).acknowledge(0, 0);
    assert_eq!(bench.adopt.phase(), Phase::Taken(Feeding::Stopped));
    assert!(matches!(bench.adopt.answer(), Some(Answer::Migrated(_))));
}

#[test]
fn a_client_with_a_tiny_mss_is_not_adopted() {
    let mut connection = handoff(b"", false).connection;
    for (mss, vip, adoptable) in [
        (535, "10.0.0.1:80", false),
        (536, "10.0.0.1:80", true),
        (1219, "[::2]:80", false),
        (1220, "[::2]:80", true),
    ] {
        (connection.options.client_mss, connection.vip) = (mss, vip.parse().unwrap());
        assert_eq!(is_adoptable(&connection), adoptable, "{mss} {vip}");
    }
}

/// Every event in every phase.
#[test]
fn the_table_is_as_written() {
    type Start = (&'static str, fn() -> Bench);
    type Event = (&'static str, fn(&mut Bench));
    let starts: [Start; 6] = [
        ("offered", || Bench::new(b"GET /")),
        ("given", || {
            let mut bench = Bench::new(b"GET /");
            bench.note(NOTE_ASSIGNED);
            bench
        }),
        ("fencing", || {
            let mut bench = Bench::new(b"GET /");
            bench.wait(400);
            bench
        }),
        ("feeding", || {
            let mut bench = Bench::new(&[b'x'; 50_000]);
            bench.note(NOTE_ASSIGNED).acknowledge(10, 100);
            bench
        }),
        ("unadopted", || {
            let mut bench = Bench::new(b"GET /");
            bench.note(NOTE_UNADOPTED);
            bench
        }),
        ("refused", || {
            let mut bench = Bench::new(b"GET /");
            bench.note(NOTE_TAKEN);
            bench
        }),
    ];
    let events: [Event; 11] = [
        ("answered", |b| {
            b.acknowledge(5, 65_000);
        }),
        ("given to the kernel", |b| {
            b.note(NOTE_ASSIGNED);
        }),
        ("time-wait", |b| {
            b.note(NOTE_TIME_WAIT);
        }),
        ("taken by another", |b| {
            b.note(NOTE_TAKEN);
        }),
        ("no listener", |b| {
            b.note(NOTE_NO_LISTENER);
        }),
        ("kernel refused", |b| {
            b.record.released = 22;
            b.note(NOTE_ASSIGN_FAILED);
        }),
        ("kernel's reset", |b| {
            b.note(NOTE_UNADOPTED);
        }),
        ("probe: alive", |b| {
            b.wait(120);
            b.adopt.on_probe(SocketState::Alive, b.now);
            b.drive();
        }),
        ("probe: gone", |b| {
            b.wait(120);
            b.adopt.on_probe(SocketState::Gone, b.now);
            b.drive();
        }),
        ("time", |b| {
            b.wait(500);
        }),
        ("withdrawn", |b| {
            b.adopt.withdraw(Refusal::Cancelled, b.now);
            b.drive();
        }),
    ];
    let mut table = String::new();
    for (from, start) in starts {
        for (name, event) in events {
            let mut bench = start();
            event(&mut bench);
            let answer = match bench.adopt.answer() {
                None => "-".to_owned(),
                Some(Answer::Migrated(_)) => "migrated".to_owned(),
                Some(Answer::Refused(r)) => r.reason.name().to_owned(),
            };
            let _ = writeln!(table, "{from:<10}{name:<21}{:<11}{answer}", bench.adopt.phase().name());
        }
    }
    let golden = include_str!("table.txt");
    assert!(table == golden, "the table is now:\n{table}");
}
