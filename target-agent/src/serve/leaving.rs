//! The agent stops. A handoff that reached this host and was read by nobody would be lost: its intermediate could not know that
//! it had not been run, and would reset the client. So each intermediate is told first that nothing is taken any more, and
//! whatever it had sent before it knew is still refused.

use super::engine::Engine;
use crate::flows::table::{Table, Who};
use baton_shared::control::{EndReport, FlowRef, Message, RefusedAnswer};
use baton_shared::reason::{EndReason, Refusal};
use std::sync::{Arc, PoisonError};

impl Engine {
    /// From here on nothing is taken.
    pub(crate) fn begin_leaving(&mut self) {
        self.draining = true;
        let table = Arc::clone(&self.shared.table);
        let table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions: Vec<u64> = table.sessions.keys().copied().collect();
        sessions.into_iter().for_each(|session| self.say_farewell(session));
    }

    /// Refuses the handoff of no flow, by which an intermediate knows that the agent stops, and reports its end: every report is
    /// answered, so the answer comes behind all that was sent before the refusal was read.
    pub(super) fn say_farewell(&mut self, session: u64) {
        let refused = RefusedAnswer { flow: FlowRef::NONE, reason: Refusal::Draining };
        self.send(session, Message::Refused(refused));
        self.send(session, Message::Ended(EndReport::unreported(FlowRef::NONE, EndReason::Aborted)));
        self.leaving.insert(session);
    }

    /// An intermediate has noted an end.
    pub(super) fn on_end_seen(&mut self, table: &mut Table, session: u64, who: Who) {
        if who.1 == FlowRef::NONE {
            self.leaving.remove(&session);
        } else {
            table.reports.seen(&who);
        }
    }

    /// Whether nothing is under way, and nothing on its way here.
    pub(crate) fn has_left(&self) -> bool {
        self.active.is_empty() && self.leaving.is_empty()
    }
}
