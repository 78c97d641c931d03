use super::*;
use crate::capture::{NegotiatedOptions, WindowScales};
use crate::control::MigratedAnswer;
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const SERVER_ISN: u32 = u32::MAX - 5;

fn options(bits: u8) -> NegotiatedOptions {
    NegotiatedOptions {
        client_mss: 1460,
        sack: bits & 1 != 0,
        timestamps: bits & 2 != 0,
        window_scale: (bits & 4 != 0).then_some(WindowScales { client: 6, promised: 7 }),
        ecn: bits & 8 != 0,
    }
}

fn handoff(request: Vec<u8>, rcv_nxt: u32, options: NegotiatedOptions, client_fin: bool) -> Box<Handoff> {
    Box::new(Handoff {
        flow: FlowRef { flow_id: 7, generation: 1 },
        deadline_ms: 2000,
        server: "10.90.101.2:80".parse().unwrap(),
        connection: CapturedConnection {
            client: "10.90.10.2:40000".parse().unwrap(),
            vip: "10.90.1.100:80".parse().unwrap(),
            rcv_nxt: Seq::new(rcv_nxt),
            snd_nxt: Seq::new(1000),
            snd_wnd: 64256,
            max_window: 64256,
            rcv_wnd: 65535,
            options,
            client_tsval: 5000,
            vip_tsval: 900,
            rtt_us: 0,
            client_fin,
        },
        acknowledged: Seq::new(rcv_nxt),
        tracked: None,
        request,
    })
}

fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

/// A naive receiver: it keeps an unwrapped number and accepts only what starts where it stands and ends within
/// its window.
struct Model {
    first: u32,
    got: Vec<u8>,
    fin: bool,
    window: u32,
    options: NegotiatedOptions,
    mss: Option<u16>,
}

impl Model {
    fn new(r: &Replay, window: u32) -> Self {
        let options = r.connection().options;
        Model { first: r.first_byte().raw(), got: Vec::new(), fin: false, window, options, mss: Some(1460) }
    }

    fn syn_ack(&self) -> ServerReply {
        let ecn = if self.options.ecn { flag::ECE } else { 0 };
        ServerReply {
            seq: Seq::new(SERVER_ISN),
            ack: Seq::new(self.first),
            flags: flag::SYN | flag::ACK | ecn,
            window: u16::try_from(self.window.min(65535)).unwrap(),
            mss: self.mss,
            sack_permitted: self.options.sack,
            timestamps: self.options.timestamps.then_some((333, 5000)),
            window_scale: self.options.window_scale.map(|_| 9),
        }
    }

    fn ack(&self) -> u32 {
        let bytes = u32::try_from(self.got.len()).unwrap();
        self.first.wrapping_add(bytes).wrapping_add(u32::from(self.fin))
    }

    fn take(&mut self, r: &Replay, s: &SegmentToSend) {
        assert_eq!(s.ack.raw(), SERVER_ISN.wrapping_add(1));
        assert!(s.flags & flag::ACK != 0);
        let payload = r.payload(s);
        let space = u32::try_from(payload.len()).unwrap() + u32::from(s.flags & flag::FIN != 0);
        assert!(payload.len() <= 1460);
        if s.seq.raw() == self.ack() && space <= self.window && !self.fin {
            self.got.extend_from_slice(payload);
            self.fin = s.flags & flag::FIN != 0;
        }
    }
}

/// Runs a handoff to its end; the n-th data segment is lost if `lost(n)`. Returns the time it took, ns.
fn run(r: &mut Replay, model: &mut Model, lost: impl Fn(usize) -> bool) -> u64 {
    let mut now = 1;
    let syn = r.poll_segment(now).unwrap();
    assert_eq!(syn.flags & flag::SYN, flag::SYN);
    assert_eq!(syn.seq.raw(), model.first.wrapping_sub(1));
    assert!(r.poll_segment(now).is_none());
    assert!(r.on_reply(&model.syn_ack(), now).is_some());
    assert!(r.poll_segment(now).is_none(), "nothing before the record is in force");
    r.on_record_in_force(now);
    let mut sent = 0;
    for _ in 0..20_000 {
        while let Some(s) = r.poll_segment(now) {
            if !lost(sent) {
                model.take(r, &s);
            }
            sent += 1;
            assert!(r.on_reply(&model.syn_ack(), now).is_none(), "a second SYN-ACK changes nothing");
        }
        r.on_notes(model.ack(), model.window, false, now);
        let Some(at) = r.next_timer_ns() else { break };
        if r.sent == r.acknowledged {
            continue;
        }
        now = now.max(at);
        r.on_time(now);
    }
    assert_eq!(r.phase(), Phase::Fed);
    assert_eq!(model.got.len(), r.handoff.request.len());
    assert!(model.got == r.handoff.request);
    assert_eq!(model.fin, r.connection().client_fin);
    assert_eq!(model.ack(), r.connection().rcv_nxt.raw());
    assert!(matches!(r.answer(), Some(Answer::Migrated(_))));
    now
}

#[test]
fn a_small_request_is_fed_in_one_segment_and_answered_at_once() {
    let mut r = Replay::new(handoff(body(100), 5101, options(7), false), 0);
    let model = Model::new(&r, 65160);
    let syn = r.poll_segment(0).unwrap();
    assert_eq!(
        syn.options,
        SegmentOptions::Syn { mss: 1460, sack: true, tsval: Some(5000), window_scale: Some(6) }
    );
    assert_eq!(syn.window, 64256);
    let t = r.on_reply(&model.syn_ack(), 9000).unwrap();
    assert_eq!(t.seq_delta, 1000u32.wrapping_sub(SERVER_ISN.wrapping_add(1)));
    assert_eq!(t.tsval_delta.wrapping_add(333), 902);
    assert_eq!((t.window_shift_in, t.window_shift_out), (9, 7));
    assert_eq!(t.ack_floor.raw(), 5101);
    assert!(r.answer().is_none());
    r.on_record_in_force(9500);
    let s = r.poll_segment(10_000).unwrap();
    assert_eq!(s.flags, flag::ACK | flag::PSH);
    assert_eq!(s.window, 64256 >> 6);
    assert_eq!(s.options, SegmentOptions::Timestamps { value: 5000, echo: 333 });
    assert_eq!(r.payload(&s).len(), 100);
    assert!(r.poll_segment(10_000).is_none());
    let Some(Answer::Migrated(m)) = r.answer() else { panic!("no answer") };
    assert_eq!((m.handshake_us, m.total_us), (9, 10));
    assert_eq!(m.server_snd_nxt.raw(), SERVER_ISN.wrapping_add(1));
    r.on_notes(5101, 65160, false, 20_000);
    assert_eq!(r.phase(), Phase::Fed);
    assert_eq!(r.next_timer_ns(), None);
    let Some(Answer::Migrated(again)) = r.answer() else { panic!("no answer") };
    assert_eq!(MigratedAnswer { window_end: m.window_end, ..again }, m, "the answer stays the same");
    // But for the window: at first it is the SYN-ACK's, from the request's first byte on.
    assert_eq!((m.window_end.raw(), again.window_end.raw()), (5001 + 65160, 5101 + 65160));
}

#[test]
fn numbers_near_the_clients_are_refused_where_acknowledgements_may_come_that_were_not_translated() {
    // What the client knows as its server's next number, and the server's own.
    let offered = |apart: bool, off: u32| {
        let mut order = handoff(body(100), 5101, options(7), false);
        order.connection.snd_nxt = Seq::new(SERVER_ISN.wrapping_add(1).wrapping_add(off));
        let mut r = Replay::new(order, 0);
        if apart {
            r.keep_apart();
        }
        let model = Model::new(&r, 65160);
        while r.poll_segment(0).is_some() {}
        let taken = r.on_reply(&model.syn_ack(), 9000).is_some();
        let reset = r.poll_segment(9000).is_some_and(|segment| segment.flags & flag::RST != 0);
        assert_eq!(taken, !reset, "what is not taken is reset, before the server has the request");
        (taken, r.phase())
    };
    let refused = (false, Phase::Refused(Refusal::AdoptFailed));
    for off in [0, 1, APART, APART.wrapping_neg()] {
        assert_eq!(offered(true, off), refused, "{off}");
        assert_eq!(offered(false, off), (true, Phase::Accepted), "{off}");
    }
    for off in [APART + 1, (APART + 1).wrapping_neg(), 1 << 31] {
        assert_eq!(offered(true, off), (true, Phase::Accepted), "{off}");
    }
}

#[test]
fn a_far_clients_syn_that_is_lost_is_sent_again_as_often_as_the_first_time() {
    let mut order = handoff(body(10), 10, options(7), false);
    order.connection.rtt_us = FAR_RTT_US;
    let mut r = Replay::new(order, 0);
    for _ in 0..3 {
        let now = r.next_timer_ns().unwrap();
        let syns: Vec<_> = std::iter::from_fn(|| r.poll_segment(now)).map(|s| s.flags & flag::SYN).collect();
        assert_eq!(syns, [flag::SYN; 2], "one alone would tell the kernel a round-trip time");
        r.on_time(now);
    }
}

/// The replay of a client 20 ms away, at its SYN-ACK.
fn far(options: NegotiatedOptions) -> (Replay, Model) {
    let mut order = handoff(body(100), 5000, options, false);
    order.connection.rtt_us = 20_000;
    let mut r = Replay::new(order, 0);
    let model = Model::new(&r, 65160);
    let syns: Vec<_> = std::iter::from_fn(|| r.poll_segment(1)).collect();
    assert_eq!(syns.len(), 2, "the second makes the server's answer a retransmission");
    assert_eq!(syns[0], syns[1]);
    assert!(r.on_reply(&model.syn_ack(), 2).is_some());
    (r, model)
}

#[test]
fn the_local_handshake_does_not_tell_the_round_trip_time_of_a_client_that_is_far_away() {
    let (mut r, model) = far(options(2));
    assert!(r.wants_request());
    r.on_request(true);
    r.on_record_in_force(3);
    let s = r.poll_segment(4).unwrap();
    assert_eq!(s.options, SegmentOptions::Timestamps { value: 5000, echo: 0 });
    assert!(r.on_reply(&model.syn_ack(), 5).is_none(), "the SYN-ACK to the second SYN");
    r.on_notes(5000, 65160, false, 6);
    assert_eq!(r.phase(), Phase::Fed);
}

#[test]
fn a_server_that_keeps_no_connection_request_gets_its_timestamp_back() {
    let (mut r, _) = far(options(7));
    r.on_request(false);
    r.on_record_in_force(3);
    assert_eq!(r.poll_segment(4).unwrap().options, SegmentOptions::Timestamps { value: 5000, echo: 333 });
}

#[test]
fn a_near_clients_handshake_is_replayed_as_it_is() {
    let mut order = handoff(body(100), 5100, options(2), false);
    order.connection.rtt_us = FAR_RTT_US - 1;
    let mut r = Replay::new(order, 0);
    let model = Model::new(&r, 65160);
    r.poll_segment(1).unwrap();
    assert!(r.poll_segment(1).is_none());
    assert!(r.on_reply(&model.syn_ack(), 2).is_some());
    assert!(!r.wants_request());
    r.on_request(true);
    r.on_record_in_force(3);
    assert_eq!(r.poll_segment(4).unwrap().options, SegmentOptions::Timestamps { value: 5000, echo: 333 });
}

#[test]
fn each_combination_of_options_is_replayed_and_any_other_refused() {
    for used in 0..16u8 {
        for offered in 0..16u8 {
            let mut r = Replay::new(handoff(body(10), 10, options(used), false), 0);
            let mut model = Model::new(&r, 65160);
            model.options = options(offered);
            if used == offered {
                run(&mut r, &mut model, |_| false);
                continue;
            }
            r.poll_segment(0).unwrap();
            assert!(r.on_reply(&model.syn_ack(), 1).is_none());
            assert_eq!(r.phase(), Phase::Refused(Refusal::OptionsMismatch));
            let reset = r.poll_segment(1).unwrap();
            assert_eq!((reset.flags, reset.seq), (flag::RST, r.first_byte()));
            assert!(r.poll_segment(1).is_none());
        }
    }
}

#[test]
fn the_loss_of_any_segment_is_mended() {
    for lost in 0..8 {
        let mut r = Replay::new(handoff(body(9000), 3, options(7), true), 0);
        let mut model = Model::new(&r, 4000);
        run(&mut r, &mut model, |n| n == lost);
    }
}

#[test]
fn a_window_that_closes_is_probed_until_it_opens() {
    let mut r = Replay::new(handoff(body(5000), 5000, options(7), false), 0);
    let mut model = Model::new(&r, 1000);
    r.poll_segment(0).unwrap();
    r.on_reply(&model.syn_ack(), 0).unwrap();
    r.on_record_in_force(0);
    let s = r.poll_segment(0).unwrap();
    model.take(&r, &s);
    model.window = 0;
    r.on_notes(model.ack(), 0, false, 0);
    assert!(r.poll_segment(0).is_none());
    for _ in 0..5 {
        let at = r.next_timer_ns().unwrap();
        r.on_time(at);
        let probe = r.poll_segment(at).unwrap();
        assert_eq!(r.payload(&probe).len(), 1);
        assert!(r.poll_segment(at).is_none());
        r.on_notes(model.ack(), 0, false, at);
    }
    model.window = 64000;
    r.on_notes(model.ack(), 64000, false, 0);
    while let Some(s) = r.poll_segment(0) {
        model.take(&r, &s);
    }
    r.on_time(r.next_timer_ns().unwrap());
    while let Some(s) = r.poll_segment(0) {
        model.take(&r, &s);
    }
    r.on_notes(model.ack(), 64000, false, 0);
    assert_eq!(r.phase(), Phase::Fed);
}

#[test]
fn silence_is_asked_again_and_refused_at_the_deadline() {
    let mut r = Replay::new(handoff(body(10), 10, options(7), false), 0);
    let mut syns = 0;
    let mut now = 0;
    loop {
        while let Some(s) = r.poll_segment(now) {
            syns += usize::from(s.flags & flag::SYN != 0);
        }
        let Some(at) = r.next_timer_ns() else { break };
        now = at;
        r.on_time(now);
        if r.phase() != Phase::SynSent {
            assert_eq!(r.poll_segment(now).unwrap().flags, flag::RST);
        }
    }
    assert_eq!(now, 2000 * MS);
    assert_eq!(syns, 7, "at 0, 20, 60, 140, 300, 620, 1260 ms");
    assert_eq!(r.phase(), Phase::Refused(Refusal::ServerSilent));
}

#[test]
fn a_reset_refuses_only_if_it_answers_the_syn() {
    let mut r = Replay::new(handoff(body(10), 10, options(7), false), 0);
    let reset = ServerReply { flags: flag::RST | flag::ACK, ack: Seq::new(1), ..ServerReply::default() };
    r.on_reply(&reset, 1);
    assert_eq!(r.phase(), Phase::SynSent);
    r.on_reply(&ServerReply { ack: r.first_byte(), ..reset }, 1);
    assert_eq!(r.phase(), Phase::Refused(Refusal::ServerRefused));
}

#[test]
fn an_old_socket_is_reset_once_and_the_syn_sent_again() {
    let mut r = Replay::new(handoff(body(10), 10, options(7), false), 0);
    r.poll_segment(0).unwrap();
    let stale = ServerReply { flags: flag::ACK, ack: Seq::new(777), ..ServerReply::default() };
    r.on_reply(&stale, 1);
    let reset = r.poll_segment(1).unwrap();
    assert_eq!((reset.flags, reset.seq.raw()), (flag::RST, 777));
    assert_eq!(r.poll_segment(1).unwrap().flags & flag::SYN, flag::SYN);
    r.on_reply(&stale, 2);
    assert!(r.poll_segment(2).is_none());
}

#[test]
fn withdrawing_works_until_the_record_is_in_force() {
    for steps in 0..3 {
        let mut r = Replay::new(handoff(body(10), 10, options(7), false), 0);
        let model = Model::new(&r, 65160);
        r.poll_segment(0).unwrap();
        if steps > 0 {
            r.on_reply(&model.syn_ack(), 1).unwrap();
        }
        if steps > 1 {
            r.on_record_in_force(1);
        }
        r.withdraw(Refusal::Cancelled, 2);
        if steps < 2 {
            assert_eq!(r.phase(), Phase::Refused(Refusal::Cancelled));
            assert_eq!(r.poll_segment(2).unwrap().flags, flag::RST);
            assert!(r.on_reply(&model.syn_ack(), 3).is_none());
            assert!(r.poll_segment(3).is_none());
        } else {
            assert!(matches!(r.answer(), Some(Answer::Migrated(_))));
            assert_eq!(r.phase(), Phase::Feeding);
        }
    }
}

#[test]
fn the_servers_reset_stops_the_feeding() {
    let mut r = Replay::new(handoff(body(100_000), 10, options(7), false), 0);
    let model = Model::new(&r, 20_000);
    r.poll_segment(0).unwrap();
    r.on_reply(&model.syn_ack(), 1).unwrap();
    r.on_record_in_force(1);
    while r.poll_segment(1).is_some() {}
    assert!(r.answer().is_none(), "not all was sent yet");
    r.on_notes(10, 0, true, 2);
    assert_eq!(r.phase(), Phase::Stopped);
    assert!(r.poll_segment(2).is_none());
    assert!(matches!(r.answer(), Some(Answer::Migrated(_))));
}

fn edge() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..3, prop::sample::select(vec![0u32, 1, 1 << 31, (1 << 31) - 1, u32::MAX]))
            .prop_map(|(d, base)| base.wrapping_add(d)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_request_is_fed_whole(
        bytes in prop_oneof![1usize..4000, 1usize..=262_144],
        rcv_nxt in edge(),
        window in prop_oneof![Just(1460u32), 1500u32..10_000, Just(65_160)],
        bits in 0u8..16,
        client_fin: bool,
        mss in prop_oneof![Just(None), Just(Some(1460u16)), Just(Some(9000)), Just(Some(500))],
        loss in 0usize..40,
    ) {
        let mut r = Replay::new(handoff(body(bytes), rcv_nxt, options(bits), client_fin), 0);
        let mut model = Model::new(&r, window);
        model.mss = mss;
        // About every loss-th segment is lost, in no rhythm; 0 and 1 stand for none.
        let took = run(&mut r, &mut model, |n| loss > 1 && (n.wrapping_mul(0x9e37_79b9) >> 12) % loss == 0);
        if loss < 2 {
            prop_assert_eq!(took, 1, "no timer is needed without loss");
        }
    }

    #[test]
    fn arbitrary_replies_and_notes_never_panic(
        rcv_nxt in edge(),
        replies in prop::collection::vec((edge(), edge(), any::<u8>(), any::<u16>()), 0..20),
        bits in 0u8..16,
    ) {
        let mut r = Replay::new(handoff(body(3000), rcv_nxt, options(bits), false), 0);
        for (n, (seq, ack, flags, window)) in replies.into_iter().enumerate() {
            let now = u64::try_from(n).unwrap() * 50 * MS;
            let reply = ServerReply { seq: Seq::new(seq), ack: Seq::new(ack), flags, window, ..ServerReply::default() };
            if r.on_reply(&reply, now).is_some() {
                r.on_record_in_force(now);
            }
            for _ in 0..100 {
                if r.poll_segment(now).is_none() { break }
            }
            r.on_notes(ack, u32::from(window), flags & 1 != 0, now);
            r.on_time(now);
        }
    }
}
