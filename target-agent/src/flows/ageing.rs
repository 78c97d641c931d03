//! When a flow has ended, and what follows: report, linger, free.

use super::slot_set::Round;
use super::table::{Flow, Table, Who};
use crate::serve::Engine;
use crate::serve::packet::Ends;
use crate::sock_diag::info::Looked;
use crate::sock_diag::many::AT_ONCE;
use baton_daemon::admin::events::{self, Kind};
use baton_daemon::hashed_key::HashedKey;
use baton_shared::control::{EndReport, Message, flow_id_text};
use baton_shared::http::Statuses;
use baton_shared::reason::{EndReason, Refusal};
use baton_shared::record::{FlowKey, FlowState, NOTE_CLOSING, NOTE_FIN};
use baton_shared::state::ending::{SocketState, judge, retransmitted};
use baton_shared::state::replay::Answer;
use serde_json::json;
use std::io;

/// How long a flow may be quiet before the kernel is asked whether its socket is still there, ns.
pub(crate) const QUIET_NS: u64 = 5_000_000_000;
/// The longest time between two such questions, ns.
const QUIET_MAX_NS: u64 = 30_000_000_000;
/// The time between the first two questions once the flow closes, ns; doubled each time.
const CLOSING_NS: u64 = 50_000_000;
/// How many questions one scan may ask about flows that close, so that handoffs need not wait for long.
const QUESTIONS: u32 = 200;
/// How many about the others, which can wait.
const QUIET_QUESTIONS: u32 = 500;
/// By how many live flows one scan comes: of idle ones each costs a few lines of memory, 50 ns, and handoffs wait meanwhile. So it
/// comes by 100 000 a second.
pub(super) const LIVE_A_SCAN: u32 = 5000;

impl Engine {
    /// One scan: who has ended, whose linger time is over. `false` if it asked as often as it may and more are due: then it goes
    /// on before the next tick of the clock (`on_tick`).
    ///
    /// Of the flows that close the program tells in the ring buffer, which was read before. Beside them each tick comes by some
    /// of all live flows: those that have been quiet, those whose way is to be asked for, and those that close without its having
    /// been told: there was no room, or the server closed before the flow was committed. In user space nothing is told.
    pub(crate) fn age(&mut self, table: &mut Table, now: u64, on_tick: bool) -> bool {
        table.memory.on_time(now);
        self.release_lingering(table, now);
        if self.ring.is_none() {
            let mut live = Round::new(self.live_from);
            let done = self.walk(table, Table::next_live, &mut live, QUESTIONS, now);
            self.live_from = live.goes_on_from();
            return done;
        }
        let mut closing = Round::new(self.closing_from);
        let done = self.walk(table, Table::next_closing, &mut closing, QUESTIONS, now);
        self.closing_from = closing.goes_on_from();
        if on_tick {
            let mut live = Round::of(self.live_from, LIVE_A_SCAN);
            self.walk(table, Table::next_live, &mut live, QUIET_QUESTIONS, now);
            self.live_from = live.goes_on_from();
        }
        done
    }

    /// Comes by some of the flows and asks about those that are due; `false` if it asked as often as it may.
    fn walk(
        &mut self,
        table: &mut Table,
        next: fn(&Table, &mut Round) -> Option<u32>,
        round: &mut Round,
        most: u32,
        now: u64,
    ) -> bool {
        let mut questions = 0;
        let mut due = Vec::with_capacity(AT_ONCE);
        while questions < most
            && let Some(slot) = next(table, round)
        {
            if !self.is_due(table, slot, now) {
                continue;
            }
            due.push(slot);
            if due.len() >= AT_ONCE {
                self.look_at(table, &due, now);
                due.clear();
            }
            questions += 1;
        }
        self.look_at(table, &due, now);
        questions < most
    }

    /// Asks the kernel about a flow's socket, and judges.
    pub(crate) fn look(&mut self, table: &mut Table, slot: u32, now: u64) {
        let Some(flow) = table.get(slot) else { return };
        let looked = self.diag.look(flow.ends.server(), flow.ends.client());
        self.on_looked(table, slot, looked, now);
    }

    /// The same of at most [`AT_ONCE`] flows.
    fn look_at(&mut self, table: &mut Table, slots: &[u32], now: u64) {
        let flows: Vec<(u32, Who, Ends)> = slots
            .iter()
            .filter_map(|slot| table.get(*slot).map(|flow| (*slot, flow.who, flow.ends)))
            .collect();
        match self.diag.look_at(flows.iter().map(|(.., ends)| (ends.server(), ends.client()))) {
            Ok(looked) => {
                for ((slot, who, _), looked) in flows.into_iter().zip(looked) {
                    // What became of those before it may have given its slot to another.
                    if table.get(slot).is_some_and(|flow| flow.who == who) {
                        self.on_looked(table, slot, looked, now);
                    }
                }
            }
            Err(e) => tracing::error!("sock_diag: {e}"),
        }
    }

    /// What the kernel told of a flow's socket is judged.
    fn on_looked(&mut self, table: &mut Table, slot: u32, looked: io::Result<Looked>, now: u64) {
        let looked = match looked {
            Ok(looked) => looked,
            Err(e) => return tracing::error!("sock_diag: {e}"),
        };
        let Some(flow) = table.get_mut(slot) else { return };
        flow.way.note(&looked, now);
        flow.remains = looked.remains;
        // In user space copies of its last response may still wait in the TUN: what they say is told with the end.
        if self.ring.is_none() && flow.closing && flow.responses.is_some() {
            self.drain_tun(table, true);
        }
        self.judge(table, slot, looked.state, now);
    }

    /// Whether the kernel is to be asked about this flow now; settles when it will be asked again.
    fn is_due(&mut self, table: &mut Table, slot: u32, now: u64) -> bool {
        let slots = self.shared.plane.slots();
        let Some(flow) = table.get_mut(slot) else { return false };
        if !flow.is_open() {
            return false;
        }
        if !flow.closing && slots.note_flags(slot) & NOTE_CLOSING != 0 {
            flow.closing = true;
            flow.ask_again_ns = CLOSING_NS;
            flow.ask_at_ns = now;
            // Told or not.
            table.note_closing(slot);
        }
        let Some(flow) = table.get_mut(slot) else { return false };
        let way_is_due = flow.way.is_due(flow.received_ns, now);
        // While a closing connection still says something, each word may have been its last.
        if flow.closing {
            let last_seen = slots.last_seen_low(slot);
            if last_seen != flow.last_seen {
                flow.last_seen = last_seen;
                flow.ask_again_ns = CLOSING_NS;
                flow.ask_at_ns = now;
                return true;
            }
        }
        if flow.ask_at_ns > now {
            return way_is_due;
        }
        if !flow.closing {
            let quiet = now.saturating_sub(slots.last_seen_ns(slot));
            if quiet < QUIET_NS {
                flow.ask_again_ns = QUIET_NS;
                flow.ask_at_ns = now.saturating_add(QUIET_NS - quiet);
                return way_is_due;
            }
        }
        flow.ask_at_ns = now.saturating_add(flow.ask_again_ns);
        flow.ask_again_ns = flow.ask_again_ns.saturating_mul(2).min(QUIET_MAX_NS);
        true
    }

    /// The kernel has told of a flow's socket.
    pub(crate) fn judge(&mut self, table: &mut Table, slot: u32, socket: SocketState, now: u64) {
        let slots = self.shared.plane.slots();
        if let Some(reason) = judge(socket, slots.note_flags(slot)) {
            self.end(table, slot, reason, now);
        } else if now.saturating_sub(slots.last_seen_ns(slot)) >= self.shared.policy.idle_ns {
            let Some(ends) = table.get(slot).map(|flow| flow.ends) else { return };
            self.kill(slot, ends);
            self.end(table, slot, EndReason::Idle, now);
        }
    }

    /// Ends the server's socket; nothing it sends meanwhile reaches the wire.
    pub(crate) fn kill(&mut self, slot: u32, ends: Ends) {
        let plane = std::sync::Arc::clone(&self.shared.plane);
        plane.slots().set_state(slot, FlowState::Fenced);
        // What the server last acknowledged is what it expects next, once it is quiet.
        if let Err(e) = self.inject_reset(ends, plane.slots().read(slot).note_ack) {
            tracing::warn!("write to the TUN: {e}");
        }
        if let Err(e) = self.diag.destroy(ends.server(), ends.client(), &[SocketState::Alive]) {
            tracing::warn!(client = %ends.client(), server = %ends.server(), "cannot end the server's socket: {e}");
        }
    }

    /// A flow has ended: report it, and let it linger.
    pub(crate) fn end(&mut self, table: &mut Table, slot: u32, reason: EndReason, now: u64) {
        // The report says what was answered.
        self.drain_copies(table);
        let Some(flow) = table.get_mut(slot) else { return };
        if flow.end.is_some() {
            return;
        }
        flow.end = Some(reason);
        let recall = flow.recall.take();
        // What the server of a flow that was given back still says is for nobody.
        let state = if flow.recalled.is_some() { FlowState::Fenced } else { FlowState::Ended };
        let (who, received_ns, server) = (flow.who, flow.received_ns, flow.server);
        let (way, closed_by) = (flow.way.report(now), flow.way.closed_by(reason));
        let statuses = flow.responses.as_ref().map_or(Statuses::NONE, |responses| responses.statuses());
        let first = match flow.answer {
            Some(Answer::Migrated(answer)) => Some(answer.server_snd_nxt.raw()),
            _ => None,
        };
        table.linger(slot, who, now.saturating_add(self.shared.policy.linger_ns));
        let slots = self.shared.plane.slots();
        slots.set_state(slot, state);
        let record = slots.read(slot);
        let report = EndReport {
            flow: who.1,
            reason,
            packets: record.packets,
            bytes: record.bytes,
            duration_ms: now.saturating_sub(received_ns) / 1_000_000,
            retransmitted_bytes: first.map_or(0, |first| {
                let fin = record.note_flags & NOTE_FIN != 0;
                retransmitted(record.bytes, first, record.note_seq_end, fin)
            }),
            closed_by,
            statuses,
            way,
        };
        self.shared.metrics.ended(reason);
        let grown = table.get_mut(slot).map_or(0, |flow| flow.sampled.grown(record.bytes));
        table.loads.on_end(server, reason, grown);
        let kind = if reason == EndReason::Recalled { Kind::Recall } else { Kind::End };
        events::publish(kind, || {
            json!({
                "flow": flow_id_text(who.1.flow_id),
                "generation": who.1.generation,
                "server": server,
                "reason": reason.name(),
                "packets": report.packets,
                "bytes": report.bytes,
                "duration_ms": report.duration_ms,
            })
        });
        if let Some(recall) = recall {
            self.refuse_recall(recall.session, who.1, Refusal::FlowGone);
        }
        self.report(table, who, report);
    }

    fn report(&self, table: &mut Table, who: Who, report: EndReport) {
        table.reports.keep(who, report);
        if let Some(session) = table.session_for(who) {
            self.send(session, Message::Ended(report));
        }
    }

    /// Takes a flow out of the map and frees its slot; its answer is remembered.
    pub(crate) fn release(&mut self, table: &mut Table, slot: u32, now: u64) {
        let Some(flow) = table.remove(slot) else { return };
        self.free(&flow.keys_left(&[]), &[slot]);
        remember(table, &flow, now);
    }

    /// The same of a flow of whose keys these lead to another slot by now. Gives the flow.
    pub(crate) fn supersede(
        &mut self,
        table: &mut Table,
        slot: u32,
        taken: &[HashedKey],
        now: u64,
    ) -> Option<Box<Flow>> {
        let flow = table.remove(slot)?;
        self.free(&flow.keys_left(taken), &[slot]);
        remember(table, &flow, now);
        Some(flow)
    }

    /// The same of all whose linger time is over: one call for all their keys.
    fn release_lingering(&mut self, table: &mut Table, now: u64) {
        let (mut keys, mut slots) = (Vec::new(), Vec::new());
        while let Some(slot) = table.pop_lingering(Some(now)) {
            let Some(flow) = table.remove(slot) else { continue };
            keys.extend(flow.keys_left(&[]));
            slots.push(slot);
            remember(table, &flow, now);
        }
        self.free(&keys, &slots);
    }

    fn free(&self, keys: &[FlowKey], slots: &[u32]) {
        self.forget_keys(keys);
        for slot in slots {
            self.shared.plane.slots().free(*slot);
        }
    }

    /// Takes keys out of the map.
    pub(crate) fn forget_keys(&self, keys: &[FlowKey]) {
        if let Err(e) = self.shared.plane.remove_all(keys) {
            tracing::error!("remove from FLOWS: {e}");
        }
    }
}

/// What a flow that gives up its slot was answered.
fn remember(table: &mut Table, flow: &Flow, now: u64) {
    if let Some(answer) = flow.answer {
        table.memory.keep(flow.who, answer, now);
    }
    if let Some(answer) = flow.recalled {
        table.memory.keep_recalled(flow.who, answer, now);
    }
}
