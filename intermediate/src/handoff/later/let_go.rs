//! What is held goes where it belongs: to the server that has the flow, made fit for another one, or nowhere.

use super::Migrator;
use super::state::{LaterFlow, Phase, State};
use crate::hold::cut::{Fresh, fin_at};
use crate::hold::{HeldPacket, divide};
use baton_daemon::tun::Offload;
use baton_shared::seq::{Client, Seq};

impl Migrator {
    /// What lies before `end` belongs to the server that has the flow: it goes there.
    pub(super) fn pass_to(&self, flow: &LaterFlow, state: &mut State, end: Seq<Client>) {
        // First, so that what comes now passes by itself.
        self.flows.set_read_from(flow.slot, end);
        self.let_go_before(flow, state, end);
    }

    /// The same where the record says so already.
    pub(super) fn let_go_before(&self, flow: &LaterFlow, state: &mut State, end: Seq<Client>) {
        for held in state.waiting.take() {
            if !end.before(held.end()) {
                self.hold.write_back(Some(flow.slot), &held.bytes, held.offload);
            } else if held.seq.before(end) {
                match divide(&held, end, None) {
                    Some((front, rest)) => {
                        self.write_parts(flow, &front);
                        rest.into_iter().for_each(|rest| state.waiting.put(rest));
                    }
                    None => self.drop_held(flow, &held),
                }
            } else {
                state.waiting.put(held);
            }
        }
    }

    /// Packets made of what came in one.
    pub(super) fn write_parts(&self, flow: &LaterFlow, parts: &[Vec<u8>]) {
        parts.iter().for_each(|packet| self.hold.write_back(Some(flow.slot), packet, Offload::default()));
    }

    /// A target was given all before `end`: that is dropped, and the rest made fit for it.
    pub(super) fn make_fit(&self, flow: &LaterFlow, state: &mut State, end: Seq<Client>, fresh: Fresh) {
        for held in state.waiting.take() {
            let from = if held.seq.before(end) { end } else { held.seq };
            let rest = end.before(held.end()).then(|| divide(&held, from, Some(fresh))).flatten();
            let Some((front, rest)) = rest else {
                self.drop_held(flow, &held);
                continue;
            };
            drop(front);
            let kept: u32 = rest.iter().map(HeldPacket::length).fold(0, u32::wrapping_add);
            self.flows.add_released(flow.slot, held.length().wrapping_sub(kept));
            rest.into_iter().for_each(|rest| state.waiting.put(rest));
        }
    }

    /// Writes back all that is held, as it came: the flow has no slot any more.
    pub(super) fn write_all_back(&self, state: &mut State) {
        for held in state.waiting.take() {
            self.hold.write_back(None, &held.bytes, held.offload);
        }
    }

    /// No request may follow any more: what is held is dropped, and what comes.
    pub(super) fn drop_all(&self, flow: &LaterFlow, state: &mut State) {
        state.phase = Phase::Dropping;
        self.drop_of_last(state, u32::try_from(state.later.bytes().len()).unwrap_or(u32::MAX));
        for held in state.waiting.take() {
            self.forward_fin(flow, state, &held);
            self.drop_held(flow, &held);
        }
    }

    /// The client has closed behind bytes that no server gets: the server is told of the end alone, once.
    pub(super) fn forward_fin(&self, flow: &LaterFlow, state: &mut State, held: &HeldPacket) {
        if !held.fin {
            return;
        }
        let end = state.later.end();
        let Some(fin) = fin_at(&held.bytes, end.raw()) else { return };
        // It comes back without having been diverted.
        self.flows.add_released(flow.slot, 1u32.wrapping_neg());
        self.hold.write_back(Some(flow.slot), &fin, Offload::default());
    }

    pub(super) fn drop_held(&self, flow: &LaterFlow, held: &HeldPacket) {
        self.flows.add_released(flow.slot, held.length());
    }
}
