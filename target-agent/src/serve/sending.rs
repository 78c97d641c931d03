//! What a handoff sends in the client's name, and the answer to it, whichever way its server is served.

use super::engine::Engine;
use super::packet::Ends;
use crate::flows::table::Table;
use baton_shared::state::replay::{Answer, SegmentToSend};

impl Engine {
    /// Sends a segment; false if that failed. Then the handoff is withdrawn: once the request is being fed it is sent again,
    /// before, the handoff is refused.
    pub(super) fn sends(&mut self, ends: Ends, segment: &SegmentToSend, payload: &[u8]) -> bool {
        match self.inject(ends, segment, payload) {
            Ok(()) => true,
            Err(e) => {
                tracing::warn!("write to the TUN: {e}");
                false
            }
        }
    }

    /// Gives the answer if it is known by now and was not given yet: before any bookkeeping.
    pub(super) fn answer_once(&mut self, table: &mut Table, slot: u32, answer: Option<Answer>, now: u64) {
        if let Some(answer) = answer
            && let Some(flow) = table.get_mut(slot)
            && flow.answer.is_none()
        {
            flow.answer = Some(answer);
            self.answered(table, slot, answer, now);
        }
    }
}
