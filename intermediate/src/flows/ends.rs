//! Ends of flows: what an agent's report is, and who is told.

use super::Flows;
use super::left::Left;
use crate::handoff::flow_id_text;
use baton_daemon::admin::events::{self, Kind};
use baton_shared::control::{EndReport, FlowRef};
use baton_shared::reason::EndReason;
use baton_shared::record::FlowState;
use baton_shared::state::report::{KnownFlow, Word, judge_report};
use serde_json::json;
use std::time::Instant;

impl Flows {
    /// A target's agent reports a flow's end. Whether the flow was known; to be answered `EndSeen` either way.
    pub fn on_end(&self, report: EndReport) -> bool {
        let (word, left) = self.take_end(report);
        if matches!(word, Word::Recalled | Word::Ended) {
            self.access_log().ended(&report);
            self.tell_end(&report, left);
        }
        word != Word::Unknown
    }

    /// Ends a flow whose agent will not report its end.
    pub fn end_unreported(&self, flow: FlowRef, reason: EndReason) {
        let report = EndReport::unreported(flow, reason);
        if self.take_end(report).0 == Word::Ended {
            self.access_log().unreported(flow.flow_id, reason);
            self.tell_end(&report, None);
        }
    }

    /// To those who follow `/v1/events`; `left` if the flow is somewhere else by now.
    pub(super) fn tell_end(&self, report: &EndReport, left: Option<Left>) {
        let kind = if report.reason == EndReason::Recalled { Kind::Recall } else { Kind::End };
        events::publish(kind, || {
            let name = |target| self.targets.get(target).map(|target| target.spec.name.clone());
            let (client, target) = match left {
                Some(left) => (Some(left.client), left.target.and_then(name)),
                None => {
                    let view = self.get(report.flow.flow_id);
                    (view.as_ref().map(|view| view.client), view.and_then(|view| view.target))
                }
            };
            json!({
                "flow": flow_id_text(report.flow.flow_id),
                "generation": report.flow.generation,
                "client": client,
                "target": target,
                "reason": report.reason.name(),
                "packets": report.packets,
                "bytes": report.bytes,
                "duration_ms": report.duration_ms,
            })
        });
    }

    /// What the report is; with what the flow has left, if it is that of a recall and the flow has gone on since.
    fn take_end(&self, report: EndReport) -> (Word, Option<Left>) {
        let mut table = self.table();
        let Some(entry) = table.get(report.flow.flow_id) else {
            // Back with the front, perhaps.
            let left = table.left.take(&report);
            return (if left.is_some() { Word::Recalled } else { Word::Unknown }, left);
        };
        let known = KnownFlow {
            flow: table.flow(entry),
            ended: entry.ended,
            turning: entry.turning,
            recall_told: entry.recall_told,
            left: table.leaving.get(&report.flow.flow_id).map(|left| left.flow),
        };
        let word = judge_report(&report, &known);
        match word {
            Word::Unknown | Word::Again => {}
            Word::Recalled if known.flow == report.flow => {
                if let Some(entry) = table.get_mut(report.flow.flow_id) {
                    entry.recall_told = true;
                }
            }
            Word::Recalled => return (word, table.leaving.remove(&report.flow.flow_id)),
            Word::Ended => {
                let (slot, target, committed) = (entry.slot, entry.target, entry.committed);
                table.set_end(report);
                // Before the commit the report only waits: the commit sees it.
                if committed {
                    self.plane.slots().change_state(slot, FlowState::Committed, FlowState::Ended);
                    self.count_ended(target);
                    table.lingering.push_back((Instant::now() + self.linger, report.flow.flow_id));
                }
            }
        }
        (word, None)
    }
}
