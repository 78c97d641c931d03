//! The userspace plane's packet function over a table of one flow.

use crate::bench::RULING;
use crate::host::{NOW, fragment_key};
use crate::{Case, Hook, Outcome};
use baton_shared::packet::reply;
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, FlowRecord};
use baton_shared::translate::fragments::FragmentKey;
use baton_shared::translate::{Action, Direction};
use baton_userspace::{Flows, Handled, carry};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

const SLOT: u32 = 2;

struct OneFlow {
    given: FlowRecord,
    record: RefCell<FlowRecord>,
    counters: RefCell<Vec<u64>>,
    fragments: RefCell<HashMap<FragmentKey, u64>>,
    copied: RefCell<Option<(FlowKey, u32, Vec<u8>)>>,
    copy: Cell<u32>,
    closes: Cell<bool>,
}

impl Flows for OneFlow {
    fn find(&self, key: &FlowKey) -> Option<(u32, FlowRecord)> {
        (*key == self.given.key).then_some((SLOT, self.given))
    }

    fn book(&self, slot: u32, handled: &Handled<'_>) {
        assert_eq!((slot, *handled.record), (SLOT, self.given));
        let (mut record, account) = (self.record.borrow_mut(), handled.account);
        assert_eq!(handled.now_ns, NOW);
        record.last_seen_ns = 1;
        // Here nobody is told: the agent walks all flows.
        self.closes.set(account.closes != 0);
        self.copy.set(account.copy);
        record.diverted = record.diverted.wrapping_add(account.diverted);
        record.released = record.released.wrapping_add(account.released);
        if account.plain != 0 {
            record.read_from = account.read_from;
            record.requests = account.requests;
        }
        if account.state != 0 {
            record.state = account.state;
        }
        if account.noted != 0 {
            record.note_ack = account.note_ack;
            record.note_window = account.note_window;
            record.note_tsval = account.note_tsval;
            record.note_seq_end = account.note_seq_end;
            record.note_flags |= account.note_flags;
        }
        if let Some(payload) = handled.translated {
            record.packets = record.packets.wrapping_add(1);
            record.bytes = record.bytes.wrapping_add(payload.into());
        }
    }

    fn ruling(&self) -> u32 {
        RULING
    }

    fn copy(&self, packet: &[u8]) {
        let (key, reply, payload) = reply::read(packet).unwrap();
        // Here it goes through the TUN.
        let copied = (key, reply.seq.raw(), payload.to_vec());
        assert!(self.copied.replace(Some(copied)).is_none());
    }

    fn dropped_first(&self, key: &FragmentKey) -> Option<u64> {
        self.fragments.borrow().get(key).copied()
    }

    fn remember_first(&self, key: &FragmentKey, dropped_ns: Option<u64>) {
        let mut fragments = self.fragments.borrow_mut();
        match dropped_ns {
            Some(then) => fragments.insert(*key, then),
            None => fragments.remove(key),
        };
    }

    fn count(&self, code: u32) {
        self.counters.borrow_mut()[code as usize] += 1;
    }
}

pub(crate) fn run(case: &Case) -> Outcome {
    let fragment = fragment_key(&case.frame);
    let flows = OneFlow {
        given: case.record,
        record: RefCell::new(FlowRecord { last_seen_ns: 0, ..case.record }),
        counters: RefCell::new(vec![0; PacketCounter::CAPACITY as usize]),
        fragments: RefCell::new(fragment.zip(case.dropped_first).into_iter().collect()),
        copied: RefCell::default(),
        copy: Cell::default(),
        closes: Cell::default(),
    };
    let mut frame = case.frame.clone();
    // A TUN knows the version by the packet's first bits; the program by the Ethernet header.
    let (ethernet, packet) = frame.split_at_mut(14);
    let kind = match packet.first().map(|first| first >> 4) {
        Some(4) => [8, 0],
        Some(6) => [0x86, 0xdd],
        _ => [0, 0],
    };
    let action = if ethernet[12..] == kind {
        let direction = match case.hook {
            Hook::Ingress => Direction::FromClient,
            Hook::Egress => Direction::ToClient,
        };
        carry(&flows, direction, packet, case.marked, NOW)
    } else {
        Action::Pass
    };
    // As the program would have said it.
    let verdict = match (action, case.hook) {
        (Action::Pass, _) | (Action::Translate, Hook::Egress) => -1,
        (Action::Drop, _) => 2,
        (Action::Divert, _) | (Action::Translate, Hook::Ingress) => 7,
    };
    let fragments = flows.fragments.into_inner();
    assert!(fragments.keys().all(|key| Some(*key) == fragment), "{fragments:?}, but {fragment:?}");
    let remembered = !fragments.is_empty();
    let (counters, record) = (flows.counters.into_inner(), flows.record.into_inner());
    // Here the agent has the whole packet, whatever it needs of it.
    let needed = flows.copy.get() as usize;
    let copied = flows.copied.into_inner().map(|(key, seq, payload)| (key, seq, payload[..needed].to_vec()));
    let closes = flows.closes.get();
    Outcome { verdict, frame, counters, record, remembered, copied, closes }
}
