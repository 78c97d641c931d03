//! What one packet at a time does not show: two CPUs with packets of one flow, and super-packets.

use crate::cases::{Version, frame, record};
use crate::{Case, Hook, with_bench};
use baton_shared::addr::PortWord;
use baton_shared::reason::PacketCounter as C;
use baton_shared::record::{FLAG_TRACKED, FlowRecord, NOTE_FIN, NOTE_SYN_ACK};

#[test]
fn a_packet_with_no_news_undoes_no_note_of_another_cpu() {
    with_bench(|bench| {
        let given = record(Hook::Egress, Version::V4);
        let mut often = frame(Hook::Egress, Version::V4);
        often.payload.clear();
        // The same addresses, so that what was translated is found again.
        let given = FlowRecord {
            new_addr: given.key.local,
            new_port: given.key.local_port,
            note_ack: often.tcp.acknowledgment_number,
            note_window: often.tcp.window_size.into(),
            note_seq_end: often.tcp.sequence_number,
            note_flags: NOTE_SYN_ACK,
            ..given
        };
        let mut once = often.clone();
        once.tcp.sequence_number += 100;
        once.tcp.acknowledgment_number += 10;
        once.tcp.window_size += 1;
        once.tcp.fin = true;
        let case =
            |name: &str, frame: &crate::packet::Frame| Case::new(name, Hook::Egress, given, frame.bytes());
        let records = bench.run_beside(&case("old", &often), &case("new", &once), 300);
        assert!(records.iter().any(|record| record.packets > 1), "both ran");
        for (round, record) in records.iter().enumerate() {
            let noted = (record.note_ack, record.note_window, record.note_seq_end, record.note_flags);
            let right = (
                given.note_ack + 10,
                given.note_window + 1,
                given.note_seq_end + 101,
                NOTE_SYN_ACK | NOTE_FIN,
            );
            assert_eq!(noted, right, "round {round}");
        }
    });
}

/// The start of a response that is to be read, with so much payload.
fn response(name: &str, version: Version, payload: usize) -> Case {
    let mut response = frame(Hook::Egress, version);
    response.payload.resize(payload, b'x');
    let read_from = response.tcp.sequence_number;
    let record = FlowRecord { flags: FLAG_TRACKED, read_from, requests: 1, ..record(Hook::Egress, version) };
    Case::new(name, Hook::Egress, record, response.bytes())
}

#[test]
fn what_finds_the_ring_buffer_full_is_counted_and_what_was_read_makes_room_again() {
    with_bench(|bench| {
        let case = response("unread", Version::V6, 3000);
        for _ in 0..2 {
            let (counters, pieces) = bench.run_unread(&case, 100);
            let (whole, failed) =
                (counters[C::ResponseCopied.code() as usize], counters[C::CopyFailed.code() as usize]);
            assert_eq!((whole + failed, counters[C::Translated.code() as usize]), (100, 100));
            assert!(whole > 0 && failed > 0, "{whole} and {failed}");
            // The one that found no more room for its second piece left its first, or later ones did in what was too little for
            // a full one.
            let seconds = pieces.iter().filter(|piece| **piece == 952).count();
            assert_eq!(u64::try_from(seconds).unwrap(), whole, "{pieces:?}");
            let firsts = pieces.iter().filter(|piece| **piece == 2048).count();
            assert_eq!(firsts + seconds, pieces.len());
            assert!((0..=1).contains(&(firsts - seconds)), "{pieces:?}");
        }
    });
}

/// By two ways in no order of their own a small packet overtook the large one before it, and what the large one said was taken for
/// unseen.
#[test]
fn a_small_part_comes_behind_all_pieces_of_the_large_one_that_was_sent_before_it() {
    with_bench(|bench| {
        let (small, large) = (response("order", Version::V4, 100), response("order", Version::V4, 3000));
        bench.send_unread(&large, 1);
        bench.send_unread(&small, 2);
        bench.send_unread(&large, 1);
        assert_eq!(bench.run_unread(&small, 1).1, [2048, 952, 100, 100, 2048, 952, 100]);
    });
}

/// The start of a large response with a plain head.
#[test]
fn of_a_large_response_whose_end_the_program_sees_one_small_part_comes_and_wakes_nobody() {
    with_bench(|bench| {
        for version in [Version::V4, Version::V6] {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
            let whole = response("head", version, 3000);
            let at = whole.frame.len() - 3000;
            let mut frame = whole.frame.clone();
            frame[at..at + head.len()].copy_from_slice(head.as_bytes());
            let case = Case { frame, ..whole };
            assert_eq!(bench.run_unread(&case, 1).1, [head.len()]);
            assert!(!bench.wakes(&case, 1, 16_384));
            assert!(bench.wakes(&case, 1, 0));
        }
    });
}

/// The reader of a ring buffer that is empty, and to which it is told that it looks by itself, is not woken by small parts before
/// an amount of them has come; by a large one it is.
#[test]
fn a_resting_reader_is_woken_by_much_or_by_a_large_packet_and_a_woken_one_by_the_first() {
    with_bench(|bench| {
        let (small, large) = (response("wakeups", Version::V4, 1000), response("wakeups", Version::V4, 2049));
        assert!(bench.wakes(&small, 1, 0));
        assert!(!bench.wakes(&small, 8, 16_384));
        assert!(bench.wakes(&small, 20, 16_384));
        assert!(bench.wakes(&large, 1, 16_384));
    });
}

/// The kernel by itself would wake nobody for what comes behind something unread.
#[test]
fn nobody_is_woken_because_a_flow_closes_and_a_part_behind_that_wakes_nevertheless() {
    with_bench(|bench| {
        let mut reset = frame(Hook::Egress, Version::V4);
        reset.payload.clear();
        reset.tcp.rst = true;
        let reset = Case::new("reset", Hook::Egress, record(Hook::Egress, Version::V4), reset.bytes());
        let part = response("behind it", Version::V4, 1000);
        assert!(!bench.wakes(&reset, 1, 0), "it is read with the next tick");
        assert!(bench.wakes_behind(Some(&reset), &part, 1, 0));
        assert!(!bench.wakes_behind(Some(&reset), &part, 1, 16_384));
    });
}

/// The kernel puts a hop-by-hop header into an IPv6 super-packet over 64 kB, and takes it out of its segments.
#[test]
fn segments_of_an_ipv6_super_packet_over_64_kb_are_as_large_as_they_will_be_sent() {
    with_bench(|bench| {
        let mut large = frame(Hook::Ingress, Version::V6);
        // Router alert in the jumbo option's place: of the same length, and the program reads neither.
        large.extension(0, vec![0, 5, 2, 0, 0, 1, 0]);
        let mut bytes = large.bytes();
        // struct ipv6hdr: no payload length.
        bytes[18..20].fill(0);
        for (leg_mtu, counter) in [(40 + 20 + 50, C::Translated), (40 + 20 + 49, C::TooBig)] {
            let record = FlowRecord { leg_mtu, ..record(Hook::Ingress, Version::V6) };
            let case = Case::new(format!("a leg of {leg_mtu}"), Hook::Ingress, record, bytes.clone());
            let outcome = bench.run_segments("intermediate_ingress", &case, 50);
            assert_eq!(outcome.counters[counter.code() as usize], 1, "{leg_mtu}: {:?}", outcome.counters);
        }
    });
}

/// As when the daemon gives a slot to another flow between a program's look at the key and its look at the record.
#[test]
fn a_packet_is_never_judged_by_another_flows_record() {
    with_bench(|bench| {
        for version in [Version::V4, Version::V6] {
            for (program, hook) in [("intermediate_ingress", Hook::Ingress), ("target_egress", Hook::Egress)]
            {
                let own = record(hook, version);
                let [mut port, mut address, mut local] = [own; 3];
                port.key.remote_port = PortWord::new(9);
                address.key.remote.0[3] ^= 1;
                local.key.local.0[0] ^= 1;
                for (name, record) in [("port", port), ("address", address), ("local", local)] {
                    let bytes = frame(hook, version).bytes();
                    let case = Case::new(name, hook, record, bytes);
                    let outcome = bench.run_under(own.key, program, &case, 0);
                    assert_eq!((outcome.verdict, &outcome.frame), (-1, &case.frame), "{program}, {name}");
                    assert!(
                        outcome.counters.iter().all(|n| *n == 0),
                        "{program}, {name}: {:?}",
                        outcome.counters
                    );
                    assert_eq!(outcome.record, record, "{program}, {name}");
                }
            }
        }
    });
}
