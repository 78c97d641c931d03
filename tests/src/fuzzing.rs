//! What the fuzzers do with bytes, and what must hold whatever the bytes are. Each function panics when it does not.
//!
//! `tests/fuzz` calls them from libFuzzer; `tests/tests/corpora.rs` replays the committed corpora through them, so that
//! what was once found stays found without a fuzzer.

mod daemons;
mod front;
mod meaning;
mod responses;
mod routing;

pub use daemons::{daemon_packets, outer_packets, too_big_answers};
pub use front::{client_hello, http2_heads};
pub use meaning::http_meaning;
pub use responses::{probe_responses, responses};
pub use routing::request_routing;

use baton_shared::addr::{IpWords, PortWord};
use baton_shared::control::{FrameReader, encode};
use baton_shared::http::{HeadLimits, RequestStream, Step};
use baton_shared::record::{FLAG_TRACKED, FlowKey, FlowRecord};
use baton_shared::translate::fragments::FragmentKey;
use baton_shared::translate::{Action, Direction};
use baton_shared::wire::{OptionPlaces, OptionValues};
use baton_userspace::{Flows, Handled, carry};
use std::cell::Cell;
use std::net::IpAddr;

/// A fuzz target: its corpus's folder, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 13] = [
    ("http_requests", http_requests),
    ("control_frames", control_frames),
    ("tcp_options", tcp_options),
    ("packets", packets),
    ("daemon_packets", daemon_packets),
    ("outer_packets", outer_packets),
    ("too_big_answers", too_big_answers),
    ("client_hello", client_hello),
    ("http2_heads", http2_heads),
    ("http_meaning", http_meaning),
    ("request_routing", request_routing),
    ("responses", responses),
    ("probe_responses", probe_responses),
];

/// How a connection's bytes were judged: the lengths of the heads that passed, the bytes passed on, the refusal's status.
#[derive(Debug, PartialEq, Eq)]
struct Judged {
    heads: Vec<usize>,
    passed: usize,
    refused: Option<u16>,
}

fn judge(bytes: &[u8], piece: usize) -> Judged {
    let mut stream = RequestStream::new(HeadLimits::default());
    let mut judged = Judged { heads: Vec::new(), passed: 0, refused: None };
    let (mut from, mut arrived) = (0, 0);
    while arrived < bytes.len() {
        arrived = bytes.len().min(arrived + piece);
        loop {
            let in_hand = bytes.get(from..arrived).unwrap_or_default();
            let taken = match stream.step(in_hand) {
                Step::NeedMore => break,
                Step::Wait => return judged,
                Step::Refuse(verdict) => {
                    assert!((400..600).contains(&verdict.status), "refused with {}", verdict.status);
                    judged.refused = Some(verdict.status);
                    return judged;
                }
                Step::Skip(n) => n,
                Step::Pass(n) => {
                    judged.passed += n;
                    n
                }
                Step::Head(head) => {
                    judged.heads.push(head.head_len);
                    head.head_len
                }
            };
            assert!((1..=in_hand.len()).contains(&taken), "took {taken} of {}", in_hand.len());
            from += taken;
        }
    }
    judged
}

/// A client's bytes at the gate: no panic, no step beyond the bytes in hand, and the same verdict however they are cut.
///
/// # Panics
/// When that does not hold.
pub fn http_requests(bytes: &[u8]) {
    let whole = judge(bytes, usize::MAX / 2);
    for piece in [1, 2, 7] {
        let cut = judge(bytes, piece);
        assert_eq!((&cut.heads, cut.refused), (&whole.heads, whole.refused), "in pieces of {piece}");
    }
}

/// A peer's bytes on the control channel: no panic, the same messages however they are cut, and a message that was
/// understood survives being said again.
///
/// # Panics
/// When that does not hold.
#[expect(clippy::expect_used, reason = "a fuzz target's panic is its report")]
pub fn control_frames(bytes: &[u8]) {
    let read = |piece: usize| {
        let mut reader = FrameReader::new();
        let mut messages = Vec::new();
        for part in bytes.chunks(piece) {
            reader.push(part);
            loop {
                match reader.next_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(_) => return messages,
                }
            }
        }
        messages
    };
    let whole = read(usize::MAX);
    assert_eq!(whole, read(1), "byte by byte");
    for message in whole {
        let mut reader = FrameReader::new();
        reader.push(&encode(&message).expect("what was decoded can be encoded"));
        assert_eq!(reader.next_message(), Ok(Some(message)));
    }
}

/// TCP options as the programs read them: no panic, and what is found lies within them.
///
/// # Panics
/// When that does not hold.
#[expect(clippy::expect_used, reason = "a fuzz target's panic is its report")]
pub fn tcp_options(bytes: &[u8]) {
    let mut buffer = [0; 64];
    let length = bytes.len().min(40);
    buffer.get_mut(..length).expect("at most 40").copy_from_slice(bytes.get(..length).expect("at most all"));
    let length = u32::try_from(length).expect("at most 40");
    let mut places = OptionPlaces::default();
    places.find(&buffer, length);
    assert!(places.timestamps == 0 || places.timestamps + 8 <= length, "{places:?}");
    assert!(places.sack == 0 || places.sack + places.sack_blocks * 8 <= length, "{places:?}");
    assert!(places.sack_blocks <= 4, "{places:?}");
    OptionValues { places, ..OptionValues::default() }.load(&buffer);
}

/// The ruling in force.
const RULING: u32 = 3;

/// A table that has every flow, and remembers which was asked for.
struct EveryFlow {
    state: u32,
    asked: Cell<Option<FlowKey>>,
}

/// What the server's address becomes on the target, and the VIP on the intermediate.
fn other_end(key: &FlowKey) -> (IpWords, PortWord) {
    let address: IpAddr =
        if key.local.is_v4() { [10, 9, 8, 7].into() } else { [0xfd00, 0, 0, 1, 2, 3, 4, 5].into() };
    (address.into(), PortWord::new(8765))
}

impl Flows for EveryFlow {
    fn find(&self, key: &FlowKey) -> Option<(u32, FlowRecord)> {
        self.asked.set(Some(*key));
        let (new_addr, new_port) = other_end(key);
        let record = FlowRecord {
            key: *key,
            state: self.state,
            deadline_ns: u64::MAX,
            new_addr,
            new_port,
            window_shift_in: 9,
            window_shift_out: 2,
            seq_delta: 0x8000_0001,
            ack_delta: 0xffff_0000,
            tsval_delta: 5,
            tsecr_delta: 7,
            flags: FLAG_TRACKED,
            note_flags: RULING,
            ..FlowRecord::default()
        };
        Some((0, record))
    }

    fn book(&self, _slot: u32, _handled: &Handled<'_>) {}

    fn ruling(&self) -> u32 {
        RULING
    }

    fn copy(&self, _: &[u8]) {}

    fn dropped_first(&self, _: &FragmentKey) -> Option<u64> {
        Some(0)
    }

    fn remember_first(&self, _: &FragmentKey, _: Option<u64>) {}

    fn count(&self, _code: u32) {}
}

/// Packets on the wire, of flows that are all known; the first byte says where and in which state. No panic; what is
/// not translated is not changed; what is translated is found as the other end's packet afterwards.
///
/// # Panics
/// When that does not hold.
pub fn packets(bytes: &[u8]) {
    let Some((how, packet)) = bytes.split_first() else { return };
    let direction = if how & 1 == 0 { Direction::FromClient } else { Direction::ToClient };
    let marked = how & 2 != 0;
    let flows = EveryFlow { state: u32::from(how >> 2 & 7), asked: Cell::new(None) };
    let mut changed = packet.to_vec();
    let action = carry(&flows, direction, &mut changed, marked, 0);
    if action != Action::Translate {
        assert_eq!(changed, packet, "{action:?}");
        return;
    }
    let found = flows.asked.take();
    carry(&flows, direction, &mut changed.clone(), marked, 0);
    let expected = found.map(|key| {
        let (local, local_port) = other_end(&key);
        FlowKey { local, local_port, ..key }
    });
    assert_eq!(flows.asked.take(), expected);
}
