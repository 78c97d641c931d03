//! Recalls: a flow goes back to its intermediate once its server's last response is complete, as
//! [`judge_recall`] says. The server's socket ends by a reset that nobody but its kernel sees.

use super::engine::Engine;
use crate::flows::table::{PeerId, Table};
use baton_daemon::admin::events::{self, Kind};
use baton_loader::{Slots, monotonic_ns};
use baton_shared::control::{FlowRef, Message, RecallRequest, RecalledAnswer, RefusedAnswer, flow_id_text};
use baton_shared::reason::{EndReason, Refusal};
use baton_shared::record::{FLAG_TRACKED, FlowRecord, FlowState, NOTE_FIN, NOTE_RST};
use baton_shared::seq::{Client, Seq, Server};
use baton_shared::state::ending::SocketState;
use baton_shared::state::responses::{RecallFacts, RecallVerdict, Responses, judge_recall};
use serde_json::json;

/// The time between the first two looks at a recall that waits, ns; doubled each time.
const LOOK_NS: u64 = 2_000_000;
/// The longest time between two looks, ns.
const LOOK_MAX_NS: u64 = 50_000_000;

/// A recall that waits for the end of a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Who asked.
    pub(crate) session: u64,
    request: RecallRequest,
    look_at_ns: u64,
    look_again_ns: u64,
}

impl Engine {
    /// A packet with a part of a response was copied to us.
    pub(crate) fn on_copy(&mut self, table: &mut Table, slot: u32, seq: Seq<Server>, payload: &[u8]) {
        let Some(flow) = table.get_mut(slot) else { return };
        let Some(responses) = flow.responses.as_mut() else { return };
        responses.on_copy(seq, payload);
        self.may_rest &= responses.may_wait();
        note_followed(self.shared.plane.slots(), slot, responses);
        if flow.recall.is_some() {
            self.see_to_recall(table, slot);
        }
    }

    /// The intermediate wants a flow back. Said again, it gets the answer it had.
    pub(crate) fn on_recall(
        &mut self,
        table: &mut Table,
        session: u64,
        peer: PeerId,
        request: &RecallRequest,
    ) {
        let who = (peer, request.flow);
        let slot = table.slot_of(&who);
        let recalled = match slot.and_then(|slot| table.get(slot)) {
            Some(flow) => flow.recalled,
            None => table.memory.recalled(&who),
        };
        if let Some(answer) = recalled {
            return self.send(session, Message::Recalled(answer));
        }
        let now = monotonic_ns();
        match slot.and_then(|slot| table.get_mut(slot).map(|flow| (slot, flow))) {
            Some((slot, flow)) if flow.end.is_none() => {
                flow.recall =
                    Some(Waiting { session, request: *request, look_at_ns: now, look_again_ns: LOOK_NS });
                if !self.recalls.contains(&slot) {
                    self.recalls.push(slot);
                }
                self.see_to_recall(table, slot);
            }
            _ => self.refuse_recall(session, request.flow, Refusal::FlowGone),
        }
    }

    /// Recalls that wait and are due to be looked at.
    pub(crate) fn see_to_recalls(&mut self, table: &mut Table) {
        let now = monotonic_ns();
        for slot in std::mem::take(&mut self.recalls) {
            let Some(recall) = table.get_mut(slot).and_then(|flow| flow.recall.as_mut()) else { continue };
            self.recalls.push(slot);
            if recall.look_at_ns <= now {
                recall.look_at_ns = now.saturating_add(recall.look_again_ns);
                recall.look_again_ns = recall.look_again_ns.saturating_mul(2).min(LOOK_MAX_NS);
                self.see_to_recall(table, slot);
            }
        }
        self.recalls.retain(|slot| table.get(*slot).is_some_and(|flow| flow.recall.is_some()));
    }

    /// Who asked is gone; it asks again when it is back.
    pub(crate) fn forget_recalls(&mut self, table: &mut Table, session: u64) {
        for slot in &self.recalls {
            if let Some(flow) = table.get_mut(*slot)
                && flow.recall.is_some_and(|recall| recall.session == session)
            {
                flow.recall = None;
            }
        }
        self.recalls.retain(|slot| table.get(*slot).is_some_and(|flow| flow.recall.is_some()));
    }

    pub(crate) fn refuse_recall(&self, session: u64, flow: FlowRef, reason: Refusal) {
        self.shared.metrics.recall_refused(reason);
        events::publish(
            Kind::Refusal,
            || json!({ "flow": flow_id_text(flow.flow_id), "generation": flow.generation, "recall": reason.name() }),
        );
        self.send(session, Message::RecallRefused(RefusedAnswer { flow, reason }));
    }

    /// Grants or refuses a recall if it can be told by now.
    fn see_to_recall(&mut self, table: &mut Table, slot: u32) {
        let Some(flow) = table.get(slot) else { return };
        let Some(Waiting { session, request, .. }) = flow.recall else { return };
        // A request that is still being fed has no complete response.
        if flow.is_in_hand() {
            return;
        }
        let record = self.shared.plane.slots().read(slot);
        let verdict = |record: &FlowRecord, acknowledged: bool| {
            let facts = facts(&request, record, acknowledged, monotonic_ns());
            judge_recall(table.get(slot).and_then(|flow| flow.responses.as_deref()), &facts)
        };
        // The kernel is asked only if all the rest is right.
        let acknowledged = match verdict(&record, true) {
            RecallVerdict::Wait => return,
            _ => self.is_acknowledged(flow.ends, &request, &record),
        };
        match verdict(&record, acknowledged) {
            RecallVerdict::Wait => {}
            RecallVerdict::Refuse(reason) => {
                if let Some(flow) = table.get_mut(slot) {
                    flow.recall = None;
                    if let Some(responses) = flow.responses.as_mut() {
                        responses.on_refused(reason);
                        note_followed(self.shared.plane.slots(), slot, responses);
                    }
                }
                self.refuse_recall(session, request.flow, reason);
            }
            RecallVerdict::Take => {
                self.shared.plane.slots().set_state(slot, FlowState::Fenced);
                // A packet that was past the fence has been noted by now, or will be refused below.
                let fenced = self.shared.plane.slots().read(slot);
                if verdict(&fenced, acknowledged) == RecallVerdict::Take {
                    self.give_back(table, slot, session, &request);
                } else {
                    // What was dropped meanwhile is sent again by the server's kernel.
                    self.shared.plane.slots().change_state(slot, FlowState::Fenced, FlowState::Committed);
                }
            }
        }
    }

    /// Whether the client has all that the server has sent: by its own word, or by that of the server's kernel.
    fn is_acknowledged(
        &mut self,
        ends: super::packet::Ends,
        request: &RecallRequest,
        record: &FlowRecord,
    ) -> bool {
        let sent_end = record.note_seq_end.wrapping_add(record.seq_delta);
        if request.client_ack.raw() == sent_end {
            return true;
        }
        match self.diag.unacknowledged(ends.server(), ends.client()) {
            Ok(left) => left == Some(0),
            Err(e) => {
                tracing::error!("sock_diag: {e}");
                false
            }
        }
    }

    /// The flow is fenced: the server's socket goes, and the flow with it.
    fn give_back(&mut self, table: &mut Table, slot: u32, session: u64, request: &RecallRequest) {
        let Some(flow) = table.get_mut(slot) else { return };
        let ends = flow.ends;
        flow.recall = None;
        if let Err(e) = self.inject_reset(ends, request.request_end.raw()) {
            tracing::warn!("write to the TUN: {e}");
        }
        if let Err(e) = self.diag.destroy(ends.server(), ends.client(), &[SocketState::Alive]) {
            tracing::warn!(client = %ends.client(), server = %ends.server(), "cannot end the server's socket: {e}");
        }
        let now = monotonic_ns();
        let record = self.shared.plane.slots().read(slot);
        if record.note_flags & (NOTE_FIN | NOTE_RST) != 0 {
            // The server closed in the moment of the fence, and the client sees it.
            self.refuse_recall(session, request.flow, Refusal::ServerClosed);
            return self.end(table, slot, EndReason::Finished, now);
        }
        let answer = answer(request, &record);
        if let Some(flow) = table.get_mut(slot) {
            flow.recalled = Some(answer);
        }
        self.shared.metrics.recalled();
        self.send(session, Message::Recalled(answer));
        // Told as well, and again until it is noted: an intermediate that was restarted meanwhile must not wait for
        // a server that is gone.
        self.end(table, slot, EndReason::Recalled, now);
    }
}

/// Says in a flow's record how far its responses were followed: to the program, and to a process that is to go on from there.
pub(super) fn note_followed(slots: &Slots, slot: u32, responses: &Responses) {
    if responses.is_news(slots.read_from(slot)) {
        note_start(slots, slot, responses);
    }
    if responses.is_settled() {
        slots.change_flags(slot, FLAG_TRACKED, 0);
    }
}

/// The same of a flow that nobody has followed before.
pub(super) fn note_start(slots: &Slots, slot: u32, responses: &Responses) {
    // Between the two no other process could go on.
    slots.set_requests(slot, 0);
    slots.set_read_from(slot, responses.read_from().raw());
    slots.set_requests(slot, responses.mark());
}

fn facts(request: &RecallRequest, record: &FlowRecord, acknowledged: bool, now: u64) -> RecallFacts {
    RecallFacts {
        requests: request.requests,
        request_end: request.request_end,
        server_ack: Seq::new(record.note_ack),
        sent_end: Seq::new(record.note_seq_end),
        note_flags: record.note_flags,
        acknowledged,
        silent_ns: now.saturating_sub(record.last_seen_ns),
    }
}

fn answer(request: &RecallRequest, record: &FlowRecord) -> RecalledAnswer {
    // What the client was promised reaches to the same right edge, whatever was acknowledged to it.
    let right_edge = record.note_ack.wrapping_add(record.note_window);
    let ahead = Seq::<Client>::new(right_edge);
    let behind = ahead.before(request.request_end);
    RecalledAnswer {
        flow: request.flow,
        snd_nxt: Seq::new(record.note_seq_end.wrapping_add(record.seq_delta)),
        vip_tsval: record.note_tsval,
        rcv_wnd: if behind { 0 } else { ahead.since(request.request_end) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_in_the_clients_numbers() {
        let flow = FlowRef { flow_id: 1, generation: 2 };
        let request =
            RecallRequest { flow, requests: 1, request_end: Seq::new(100), client_ack: Seq::new(0) };
        let record = FlowRecord {
            seq_delta: 10,
            note_seq_end: u32::MAX,
            note_ack: 100,
            note_window: 5000,
            note_tsval: 77,
            ..FlowRecord::default()
        };
        let expected = RecalledAnswer { flow, snd_nxt: Seq::new(9), vip_tsval: 77, rcv_wnd: 5000 };
        assert_eq!(answer(&request, &record), expected);
        let shut = FlowRecord { note_ack: 90, note_window: 3, ..record };
        assert_eq!(answer(&request, &shut).rcv_wnd, 0);
    }
}
