//! What an earlier run of the agent left in the maps: flows that can go on without it are taken over, the others
//! are ended so that nobody waits for them.

use super::table::{Flow, PeerId, Table};
use crate::load::Sampled;
use crate::serve::Engine;
use crate::serve::packet::Ends;
use baton_shared::control::{FlowRef, MigratedAnswer, RefusedAnswer};
use baton_shared::reason::{EndReason, Refusal};
use baton_shared::record::{FLAG_FED, FLAG_TRACKED, FlowRecord, FlowState, NOTE_CLOSING};
use baton_shared::seq::{Seq, before};
use baton_shared::state::ending::judge_gone;
use baton_shared::state::replay::Answer;
use baton_shared::state::responses::Responses;
use baton_shared::translate::adopt::is_adopted;

/// How many flows of each kind were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// They go on.
    pub(crate) taken_over: u32,
    /// Their request was being fed: ended.
    pub(crate) lost: u32,
    /// Their handshake was being replayed: withdrawn.
    pub(crate) withdrawn: u32,
    /// Slots without a flow.
    pub(crate) stray: u32,
}

impl Engine {
    /// Goes through the records found; the TUN must be attached, for sockets are reset through it.
    pub(crate) fn recover(&mut self, table: &mut Table, now: u64) -> Recovered {
        let mut found = Recovered::default();
        for (slot, mut record) in self.shared.plane.recovered() {
            // The kernel may have made the socket before the last run noticed.
            if FlowState::from_raw(record.state) == FlowState::Adopting {
                was_adopting(&mut record);
                self.shared.plane.slots().write(slot, &record);
            }
            let ours = matches!(self.shared.plane.lookup(&record.key), Ok(Some(s)) if s == slot);
            let local = record.key.local_addr();
            let client = record.key.remote_addr();
            let Some(ends) = Ends::new(client, local).filter(|_| ours) else {
                self.shared.plane.slots().free(slot);
                found.stray += 1;
                continue;
            };
            let other = record.rewritten_addr();
            let adopted = is_adopted(&record);
            let (vip, server) = if adopted { (local, other) } else { (other, local) };
            // Only one intermediate should use a VIP and server; it finds its flows again by their numbers.
            let peer = self.shared.policy.peer_of(vip, server).unwrap_or(PeerId(u16::MAX));
            let flow = FlowRef { flow_id: record.flow_id, generation: record.generation };
            let refused = |reason| Some(Answer::Refused(RefusedAnswer { flow, reason }));
            let mut taken = Flow::new((peer, flow), ends, vip, record.deadline_ns);
            taken.server = server;
            taken.arrival = adopted.then(|| record.arrival_key().into());
            taken.answer = Some(migrated(flow, &record));
            taken.ask_at_ns = now;
            taken.sampled = Sampled::taken_over(record.bytes);
            let state = FlowState::from_raw(record.state);
            taken.responses =
                Responses::resume(&record).filter(|_| state == FlowState::Committed).map(Box::new);
            // What was sent meanwhile was not followed, so nobody reads on; and nobody feeds on.
            let tracked = if taken.responses.is_some() { FLAG_TRACKED } else { 0 };
            let fed = if is_fed(&record) { FLAG_FED } else { 0 };
            self.shared.plane.slots().change_flags(slot, FLAG_TRACKED, tracked | fed);
            table.insert(slot, Box::new(taken));
            // The program tells of what is news alone.
            if record.note_flags & NOTE_CLOSING != 0 {
                table.note_closing(slot);
            }
            match state {
                FlowState::Committed if is_fed(&record) => found.taken_over += 1,
                FlowState::Ended => {
                    // Reported or not, it is reported again: the intermediate notes an end once.
                    found.taken_over += 1;
                    self.end(table, slot, judge_gone(record.note_flags), now);
                }
                FlowState::Replaying => {
                    found.withdrawn += 1;
                    if let Some(flow) = table.get_mut(slot) {
                        flow.answer = refused(Refusal::Cancelled);
                    }
                    self.kill(slot, ends);
                    self.release(table, slot, now);
                }
                _ => {
                    found.lost += 1;
                    if let Some(flow) = table.get_mut(slot) {
                        flow.answer = refused(Refusal::LostInFeeding);
                    }
                    self.kill(slot, ends);
                    let given_back = state == FlowState::Fenced;
                    // It lingers, so that what the kernel answers to the client's packets is translated.
                    self.end(table, slot, EndReason::Aborted, now);
                    if given_back {
                        // Perhaps to another target by now: nothing of it may leave from here.
                        self.shared.plane.slots().set_state(slot, FlowState::Fenced);
                    }
                }
            }
        }
        found
    }
}

/// A flow found in mid-adoption: if its socket has said anything, it is one like others, and if not, its request may or
/// may not have reached the server.
fn was_adopting(record: &mut FlowRecord) {
    let state = if record.packets > 0 { FlowState::Committed } else { FlowState::Fenced };
    record.state = state as u32;
    (record.seq_delta, record.ack_delta, record.tsecr_delta) = (0, 0, 0);
}

/// Whether the server has acknowledged all of the request.
fn is_fed(record: &FlowRecord) -> bool {
    record.flags & FLAG_FED != 0 || !before(record.note_ack, record.ack_floor)
}

/// The answer as it was given, but for window and times, from the record.
fn migrated(flow: FlowRef, record: &FlowRecord) -> Answer {
    Answer::Migrated(MigratedAnswer {
        flow,
        server_snd_nxt: Seq::new(record.diverted.wrapping_sub(record.seq_delta)),
        client_snd_nxt: Seq::new(record.diverted),
        ts_delta: record.tsval_delta,
        window_end: Seq::new(record.noted_window_end()),
        handshake_us: 0,
        total_us: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_whether_the_request_was_fed() {
        let record =
            |flags, note_ack, ack_floor| FlowRecord { flags, note_ack, ack_floor, ..FlowRecord::default() };
        assert!(is_fed(&record(FLAG_FED, 0, 5)));
        assert!(is_fed(&record(0, 5, 5)));
        assert!(!is_fed(&record(0, 4, 5)));
        assert!(!is_fed(&record(0, u32::MAX, 5)));
        assert!(is_fed(&record(0, 5, u32::MAX)));
    }

    #[test]
    fn the_answer_comes_back_from_the_record() {
        let flow = FlowRef { flow_id: 1, generation: 2 };
        let record = FlowRecord {
            diverted: 1000,
            seq_delta: 1000u32.wrapping_sub(u32::MAX),
            tsval_delta: 9,
            ..FlowRecord::default()
        };
        let Answer::Migrated(m) = migrated(flow, &record) else { panic!("refused") };
        assert_eq!((m.server_snd_nxt.raw(), m.client_snd_nxt.raw(), m.ts_delta), (u32::MAX, 1000, 9));
    }
}
