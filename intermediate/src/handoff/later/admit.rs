//! A packet of a tracked flow comes: what is kept of it, and what goes on as it is.

use super::Migrator;
use super::state::{LaterFlow, Phase, State};
use crate::hold::cut::bare;
use crate::hold::{HeldPacket, divide};
use baton_daemon::tun::Offload;
use baton_shared::packet::held::{HeldFacts, is_intact};
use baton_shared::record::FlowRecord;
use baton_shared::seq::Seq;
use baton_shared::state::acceptable::{KnownClient, is_acceptable};
use baton_shared::state::heard::Heard;
use baton_shared::state::later::NotKept;

impl Migrator {
    /// Keeps a packet of a tracked flow, or lets it go.
    pub(super) fn take_in(
        &self,
        flow: &LaterFlow,
        state: &mut State,
        record: &FlowRecord,
        packet: &[u8],
        offload: Offload,
        facts: &HeldFacts<'_>,
    ) {
        // What was corrupted on its way is not read, and nothing is made of it: the kernel that receives it drops it.
        let intact = offload.is_checked() || is_intact(packet);
        if state.phase == Phase::Gone || !intact {
            if !intact {
                Self::count(&self.laters.counts.corrupt);
            }
            return self.hold.write_back(Some(flow.slot), packet, offload);
        }
        let (seq, length) = (Seq::new(facts.seq), facts.segment.held_length());
        let behind = seq.plus(length);
        let end = state.later.end();
        let options = flow.options();
        let mut heard = state.catch_up(record, options.as_ref());
        let known =
            KnownClient { acked: heard.ack.raw(), reach: record.note_window, tsval: state.in_order_tsval };
        let believed = !facts.rst && is_acceptable(facts, &known);
        if !facts.rst && end.before(behind) && !believed {
            return self.disbelieve(flow, &HeldPacket::new(packet, offload, facts));
        }
        if believed {
            state.note(&mut heard, facts, options.as_ref());
        }
        // A part of the request under way, sent again or on its way through the queue; or nothing of the stream.
        if facts.rst || length == 0 || !end.before(behind) {
            return self.hold.write_back(Some(flow.slot), packet, offload);
        }
        let held = HeldPacket::new(packet, offload, facts);
        if !seq.before(end) {
            return self.take_beyond(flow, state, held, facts.payload, heard);
        }
        // Its front is a part of the request under way, which its server may lack.
        match divide(&held, end, None) {
            Some((front, rest)) => {
                self.write_parts(flow, &front);
                for held in rest {
                    let bytes = held.bytes.clone();
                    let payload = baton_shared::packet::held::facts(&bytes).map_or(&[][..], |f| f.payload);
                    self.take_beyond(flow, state, held, payload, heard);
                }
            }
            None => self.drop_held(flow, &held),
        }
    }

    /// Its header alone goes to the server, whose kernel answers it as it answers any that it does not take.
    fn disbelieve(&self, flow: &LaterFlow, held: &HeldPacket) {
        Self::count(&self.laters.counts.disbelieved);
        self.drop_held(flow, held);
        self.show_header(flow, held);
    }

    /// The server's kernel sees a segment without what it carries, to answer where it lies outside the window.
    fn show_header(&self, flow: &LaterFlow, held: &HeldPacket) {
        if let Some(header) = bare(&held.bytes) {
            self.hold.write_back(Some(flow.slot), &header, Offload::default());
        }
    }

    /// A packet, or part of one, that lies behind the request under way.
    fn take_beyond(
        &self,
        flow: &LaterFlow,
        state: &mut State,
        held: HeldPacket,
        payload: &[u8],
        heard: Heard,
    ) {
        if state.phase == Phase::Dropping {
            self.forward_fin(flow, state, &held);
            self.drop_of_last(state, held.payload);
            return self.drop_held(flow, &held);
        }
        self.keep(flow, state, held, payload, heard);
    }

    /// Counts a connection of which bytes behind its last request are dropped, once.
    pub(super) fn drop_of_last(&self, state: &mut State, bytes: u32) {
        if state.last && bytes != 0 && !std::mem::replace(&mut state.dropped, true) {
            Self::count(&self.laters.counts.closed);
        }
    }

    /// Keeps a packet that lies behind the request under way, if it is not there already and there is room.
    fn keep(&self, flow: &LaterFlow, state: &mut State, held: HeldPacket, payload: &[u8], heard: Heard) {
        // What is there already came in a packet that is held.
        let have = state.later.end().plus(u32::try_from(state.later.bytes().len()).unwrap_or(u32::MAX));
        let known = !held.fin && !have.before(held.end());
        let room =
            (!known).then(|| self.hold.admits_later(state.waiting.bytes(), held.bytes.len())).flatten();
        let kept = room.map(|room| (state.later.on_segment(held.seq, payload, held.fin), room));
        if let Some((Ok(()), account)) = kept {
            // As a kernel does it: what came out of order may be newer than what fills the gap.
            if let Some(tsval) = held.tsval.filter(|_| !have.before(held.seq)) {
                state.in_order_tsval = tsval;
            }
            state.waiting.admit(held, account, heard);
        } else {
            // The client sends it again if it is needed.
            self.drop_held(flow, &held);
            if let Some((Err(NotKept::TooFar), _)) = kept {
                self.show_header(flow, &held);
            }
        }
    }
}
