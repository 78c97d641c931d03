//! What a handoff sends in the client's name, and the answer to it, whichever way its server is served.

use super::engine::Engine;
use super::packet::Ends;
use crate::flows::table::Table;
use baton_loader::monotonic_ns;
use baton_shared::reason::Refusal;
use baton_shared::state::adopt::Adopt;
use baton_shared::state::replay::{Answer, Replay, SegmentToSend};

/// Who says what is to be sent.
pub(super) trait Sender {
    fn poll_segment(&mut self, now_ns: u64) -> Option<SegmentToSend>;
    fn payload(&self, segment: &SegmentToSend) -> &[u8];
    fn withdraw(&mut self, reason: Refusal, now_ns: u64);
    fn answer(&self) -> Option<Answer>;
}

macro_rules! sender {
    ($($of:ty),*) => {$(
        impl Sender for $of {
            fn poll_segment(&mut self, now_ns: u64) -> Option<SegmentToSend> {
                <$of>::poll_segment(self, now_ns)
            }

            fn payload(&self, segment: &SegmentToSend) -> &[u8] {
                <$of>::payload(self, segment)
            }

            fn withdraw(&mut self, reason: Refusal, now_ns: u64) {
                <$of>::withdraw(self, reason, now_ns);
            }

            fn answer(&self) -> Option<Answer> {
                <$of>::answer(self)
            }
        }
    )*};
}

sender!(Replay, Adopt);

impl Engine {
    /// Sends what is to be sent by now, then the answer if it is known by now. Whether anything was sent.
    pub(super) fn send_and_answer(
        &mut self,
        table: &mut Table,
        slot: u32,
        ends: Ends,
        sender: &mut impl Sender,
    ) -> bool {
        let mut sent = false;
        while let Some(segment) = sender.poll_segment(monotonic_ns()) {
            sent = true;
            if let Err(e) = self.inject(ends, &segment, sender.payload(&segment)) {
                // Once the request is being fed it is sent again; before, the handoff is refused.
                tracing::warn!("write to the TUN: {e}");
                sender.withdraw(Refusal::Internal, monotonic_ns());
                break;
            }
        }
        // The answer goes out before the bookkeeping.
        if let Some(flow) = table.get_mut(slot)
            && flow.answer.is_none()
            && let Some(answer) = sender.answer()
        {
            flow.answer = Some(answer);
            self.answered(table, slot, answer);
        }
        sent
    }
}
