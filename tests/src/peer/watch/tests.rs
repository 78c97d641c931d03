//! Every rule of the watch must be able to fail.

use super::super::wire::Options;
use super::*;

const MS: u32 = 5000;

fn ends() -> (SocketAddr, SocketAddr) {
    ("10.91.0.1:1000".parse().unwrap(), "10.90.1.100:80".parse().unwrap())
}

fn packet(segment: Segment) -> Packet {
    let (ours, theirs) = ends();
    Packet { from: theirs, to: ours, hops: 60, segment }
}

fn options(timestamps: Option<(u32, u32)>) -> Options {
    Options { timestamps, ..Options::default() }
}

/// A connection with timestamps after the handshake: ours begins at 100, theirs before the wrap.
fn connection() -> Watch {
    let (ours, theirs) = ends();
    let syn = Segment {
        seq: 100,
        flags: flag::SYN,
        window: 1000,
        options: Options { mss: Some(500), window_scale: Some(0), ..options(Some((7, 0))) },
        ..Segment::default()
    };
    let mut watch = Watch::new(ours, theirs, &syn);
    let syn_ack = Segment {
        seq: u32::MAX,
        ack: 101,
        flags: flag::SYN | flag::ACK,
        window: 2000,
        options: Options { mss: Some(500), window_scale: Some(2), ..options(Some((MS, 7))) },
        ..Segment::default()
    };
    watch.received_packet(&packet(syn_ack)).unwrap();
    watch.sent(&Segment {
        seq: 101,
        flags: flag::ACK,
        window: 1000,
        options: options(Some((8, MS))),
        payload: vec![0; 10],
        ..Segment::default()
    });
    watch
}

fn data(seq: u32, bytes: &[u8]) -> Segment {
    Segment {
        seq,
        ack: 111,
        flags: flag::ACK,
        window: 500,
        options: options(Some((MS, 8))),
        payload: bytes.to_vec(),
        ..Segment::default()
    }
}

#[track_caller]
fn refused(watch: &mut Watch, packet: &Packet, why: &str) {
    let error = watch.received_packet(packet).unwrap_err();
    assert!(error.contains(why), "{error}");
}

#[test]
fn what_is_right_passes_and_is_put_together() {
    let mut watch = connection();
    watch.received_packet(&packet(data(3, b"def"))).unwrap();
    assert_eq!((watch.next_expected(), watch.contiguous()), (0, 0));
    watch.received_packet(&packet(data(0, b"abcd"))).unwrap();
    assert_eq!((watch.next_expected(), watch.received()), (6, b"abcdef".to_vec()));
    let fin = Segment { flags: flag::ACK | flag::FIN, ..data(6, b"") };
    watch.received_packet(&packet(fin)).unwrap();
    assert!(watch.finished());
    assert_eq!((watch.next_expected(), watch.promised(), watch.acked()), (7, 111 + 2000, 111));
}

#[test]
fn strangers_are_refused() {
    let mut stranger = packet(data(0, b"a"));
    stranger.from = "10.90.101.2:80".parse().unwrap();
    refused(&mut connection(), &stranger, "not from");
    let mut stranger = packet(data(0, b"a"));
    stranger.to.set_port(1);
    refused(&mut connection(), &stranger, "not from");
}

#[test]
fn a_second_syn_is_refused() {
    let syn = Segment { flags: flag::SYN | flag::ACK, ..data(9, b"") };
    refused(&mut connection(), &packet(syn), "a SYN");
}

#[test]
fn a_syn_ack_may_be_said_again_as_it_was() {
    let again = |ack, window| {
        packet(Segment { seq: u32::MAX, ack, window, flags: flag::SYN | flag::ACK, ..data(0, b"") })
    };
    let mut watch = connection();
    watch.received_packet(&packet(data(0, b"a"))).unwrap();
    watch.received_packet(&again(101, 2000)).unwrap();
    assert_eq!((watch.acked(), watch.promised()), (111, 111 + 2000), "it changes nothing");
    refused(&mut watch, &again(101, 1999), "not as before");
    refused(&mut watch, &again(111, 2000), "not as before");
}

#[test]
fn timestamps_must_be_there_and_go_on_and_echo() {
    let with = |timestamps| packet(Segment { options: options(timestamps), ..data(0, b"a") });
    refused(&mut connection(), &with(None), "no timestamps");
    refused(&mut connection(), &with(Some((MS - 1, 8))), "timestamp before");
    refused(&mut connection(), &with(Some((MS, 9))), "was not sent");
    let (ours, theirs) = ends();
    let syn = Segment { flags: flag::SYN, ..Segment::default() };
    let mut without = Watch::new(ours, theirs, &syn);
    let syn_ack = Segment { ack: 1, flags: flag::SYN | flag::ACK, ..Segment::default() };
    without.received_packet(&packet(syn_ack)).unwrap();
    let stray = Segment { ack: 1, ..data(1, b"a") };
    refused(&mut without, &packet(stray), "nobody agreed on");
}

#[test]
fn acknowledgements_and_windows_must_not_go_back() {
    let with = |ack, window| packet(Segment { ack, window, ..data(0, b"a") });
    refused(&mut connection(), &with(112, 500), "what was not sent");
    let mut watch = connection();
    watch.received_packet(&with(111, 500)).unwrap();
    refused(&mut watch, &with(110, 500), "acknowledgement before");
    refused(&mut watch, &with(111, 498), "moved back");
    watch.received_packet(&with(111, 499)).unwrap();
    let silent = Segment { flags: flag::PSH, ..data(0, b"a") };
    refused(&mut connection(), &packet(silent), "no acknowledgement");
}

#[test]
fn data_must_be_the_same_and_fit() {
    let mut watch = connection();
    watch.received_packet(&packet(data(0, b"abc"))).unwrap();
    watch.received_packet(&packet(data(1, b"bc"))).unwrap();
    refused(&mut watch, &packet(data(1, b"bx")), "other data");
    refused(&mut watch, &packet(data(u32::MAX, b"x")), "before the first byte");
    refused(&mut connection(), &packet(data(0, &[0; 489])), "longer than");
    refused(&mut connection(), &packet(data(600, &[0; 401])), "outside the window");
    let fin = |seq| packet(Segment { flags: flag::ACK | flag::FIN, ..data(seq, b"a") });
    watch.received_packet(&fin(3)).unwrap();
    refused(&mut watch, &fin(4), "a second end");
    refused(&mut watch, &packet(data(5, b"x")), "behind the end");
}

#[test]
fn what_is_allowed_is_no_more_than_that() {
    let with = |ack, window, tsval| {
        packet(Segment { ack, window, options: options(Some((tsval, 8))), ..data(0, b"a") })
    };
    let mut watch = connection();
    watch.allow_shrinking();
    watch.received_packet(&with(111, 500, MS)).unwrap();
    watch.received_packet(&with(111, 100, MS)).unwrap();
    assert_eq!(watch.promised(), 111 + 400);
    refused(&mut watch, &with(110, 500, MS), "acknowledgement before");
    watch.allow_overtaking();
    watch.received_packet(&with(110, 500, MS - 1)).unwrap();
    assert_eq!((watch.acked(), watch.promised()), (111, 111 + 400), "an overtaken one changes nothing");
    refused(&mut watch, &with(111, 500, MS - OVERTAKEN_MS - 1), "timestamp before");
}

#[test]
fn of_two_windows_said_at_once_the_wider_one_may_overtake() {
    let with = |window, echo| {
        packet(Segment { ack: 111, window, options: options(Some((MS, echo))), ..data(0, b"") })
    };
    let mut watch = connection();
    watch.received_packet(&with(500, 8)).unwrap();
    refused(&mut watch, &with(300, 8), "moved back");
    let mut watch = connection();
    watch.allow_overtaking();
    watch.received_packet(&with(500, 8)).unwrap();
    watch.received_packet(&with(300, 8)).unwrap();
    assert_eq!(watch.promised(), 111 + 2000, "the narrower one changes nothing");
    watch.sent(&Segment {
        seq: 111,
        flags: flag::ACK,
        options: options(Some((9, MS))),
        ..Segment::default()
    });
    refused(&mut watch, &with(300, 9), "moved back");
}

#[test]
fn what_was_overtaken_by_what_follows_it_may_be_a_little_older_and_nothing_else() {
    let with = |seq, payload: &[u8], tsval| {
        packet(Segment { options: options(Some((tsval, 8))), ..data(seq, payload) })
    };
    let mut watch = connection();
    watch.received_packet(&with(0, b"a", MS)).unwrap();
    watch.received_packet(&with(3, b"", MS + 1)).unwrap();
    watch.received_packet(&with(1, b"bc", MS)).unwrap();
    refused(&mut watch, &with(3, b"d", MS), "timestamp before");
    refused(&mut watch, &with(1, b"bc", MS - OVERTAKEN_MS), "timestamp before");
    // Data overtakes data, too, but not what has come before.
    watch.received_packet(&with(6, b"g", MS + 1)).unwrap();
    watch.received_packet(&with(8, b"i", MS + 2)).unwrap();
    refused(&mut watch, &with(9, b"j", MS + 1), "timestamp before");
    refused(&mut watch, &with(6, b"g", MS + 1), "timestamp before");
    refused(&mut watch, &with(6, b"gh", MS + 1), "timestamp before");
    refused(&mut watch, &with(7, b"h", MS + 1 - OVERTAKEN_MS), "timestamp before");
    watch.received_packet(&with(7, b"h", MS + 1)).unwrap();
    refused(&mut watch, &with(7, b"h", MS + 1), "timestamp before");
}

#[test]
fn an_acknowledgement_goes_back_only_if_an_older_echo_shows_that_it_was_overtaken() {
    let mut watch = connection();
    for value in [9, 10] {
        watch.sent(&Segment {
            seq: 111,
            flags: flag::ACK,
            options: options(Some((value, MS))),
            ..Segment::default()
        });
    }
    let with = |ack, echo| packet(Segment { ack, options: options(Some((MS, echo))), ..data(0, b"") });
    watch.received_packet(&with(111, 9)).unwrap();
    watch.received_packet(&with(110, 8)).unwrap();
    refused(&mut watch, &with(110, 9), "acknowledgement before");
    refused(&mut watch, &with(110, 10), "acknowledgement before");
}

/// A server's side: the client's SYN had the number before 0, the server's 200, with a window of 300 at scale 1.
fn called() -> Watch {
    let (ours, theirs) = ends();
    let options = |timestamps| Options { mss: Some(100), window_scale: Some(1), ..options(timestamps) };
    let syn = Segment {
        seq: u32::MAX,
        flags: flag::SYN,
        window: 400,
        options: options(Some((MS, 0))),
        ..Segment::default()
    };
    let mut watch = Watch::called(ours, theirs, &syn);
    watch.sent(&Segment {
        seq: 200,
        flags: flag::SYN | flag::ACK,
        window: 300,
        options: options(Some((7, MS))),
        ..Segment::default()
    });
    watch
}

/// A segment of the client's after it.
fn fed(seq: u32, bytes: &[u8]) -> Segment {
    Segment { ack: 201, options: options(Some((MS, 7))), ..data(seq, bytes) }
}

#[test]
fn a_server_is_called_fed_and_acknowledged() {
    let mut watch = called();
    assert_eq!((watch.scales(), watch.promised(), watch.next_expected()), ((1, 1), 201 + 400, 0));
    let again = Segment { seq: u32::MAX, ack: 0, flags: flag::SYN, ..fed(0, b"") };
    watch.received_packet(&packet(again.clone())).unwrap();
    refused(&mut watch, &packet(Segment { seq: 5, ..again }), "a SYN");
    watch.received_packet(&packet(fed(0, b"GET"))).unwrap();
    assert_eq!((watch.received(), watch.acked()), (b"GET".to_vec(), 201));
    refused(&mut watch, &packet(Segment { ack: 202, ..fed(3, b"") }), "what was not sent");
    refused(&mut called(), &packet(Segment { window: 100, ..fed(0, b"") }), "moved back");
}

#[test]
fn what_was_acknowledged_may_come_again_as_it_was() {
    let old = packet(fed(0, b"GET"));
    let mut watch = called();
    watch.received_packet(&old).unwrap();
    let newer = Segment { options: options(Some((MS + 1, 7))), ..fed(3, b"more") };
    watch.received_packet(&packet(newer)).unwrap();
    refused(&mut watch, &old, "timestamp before");
    watch.sent(&Segment { seq: 201, ack: 3, flags: flag::ACK, window: 150, ..Segment::default() });
    watch.received_packet(&old).unwrap();
    refused(&mut watch, &packet(fed(0, b"PUT")), "other data");
    refused(&mut watch, &packet(fed(1, b"ETm")), "timestamp before");
}

#[test]
fn an_echo_of_the_intermediates_is_a_little_older_than_the_servers_first() {
    let with = |echo| packet(Segment { options: options(Some((MS, echo))), ..fed(0, b"a") });
    called().received_packet(&with(7u32.wrapping_sub(FROM_BEFORE_MS - 1))).unwrap();
    refused(&mut called(), &with(7u32.wrapping_sub(FROM_BEFORE_MS)), "was not sent");
    refused(&mut called(), &with(8), "was not sent");
    refused(
        &mut connection(),
        &packet(Segment { options: options(Some((MS, 6))), ..data(0, b"a") }),
        "not sent",
    );
}

#[test]
fn probes_and_long_segments_are_allowed_when_told_and_no_further() {
    let filled = || {
        let mut watch = called();
        for seq in (0..300).step_by(60) {
            watch.received_packet(&packet(fed(seq, &[0; 60]))).unwrap();
        }
        watch
    };
    // The SYN-ACK's window is not scaled: 300 bytes.
    let probe = packet(fed(300, b"a"));
    refused(&mut filled(), &probe, "outside the window, which ends at 300");
    let mut watch = filled();
    watch.allow_probes();
    watch.received_packet(&probe).unwrap();
    refused(&mut watch, &packet(fed(300, b"ab")), "outside the window");
    let long = packet(fed(0, &[0; 89]));
    refused(&mut called(), &long, "longer than");
    let mut watch = called();
    watch.allow_long();
    watch.received_packet(&long).unwrap();
    refused(&mut watch, &packet(fed(200, &[0; 101])), "outside the window");
}

#[test]
fn no_echo_must_be_allowed_and_ends_with_the_first_echo() {
    let echoing = |seq, echo| {
        let mut segment = data(seq, b"");
        segment.options.timestamps = Some((MS, echo));
        packet(segment)
    };
    refused(&mut connection(), &echoing(0, 0), "echo of a timestamp that was not sent");
    let mut watch = connection();
    watch.allow_no_echo();
    for echo in [8, 0, 0, 8] {
        watch.received_packet(&echoing(0, echo)).unwrap();
    }
    refused(&mut watch, &echoing(0, 0), "echo of a timestamp that was not sent");
}
