//! What the table has of one flow beside its record in the plane, which says where it comes from and where it goes.
//!
//! There are as many of these as flows, and most flows are idle: what most of them do not have is apart.

use super::left::Left;
use crate::handoff::LaterFlow;
use crate::targets::TargetId;
use baton_shared::control::{EndReport, FlowRef};
use compact_str::CompactString;
use std::sync::Arc;

/// A flow in the table.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) flow_id: u64,
    pub(super) generation: u32,
    pub(super) slot: u32,
    /// Method and path; empty for a flow taken over at start.
    pub(super) request: CompactString,
    /// Of the freeze or of the take-over, milliseconds since 1970.
    pub(super) started_ms: u64,
    /// Its later requests are read.
    pub(super) later: Option<Arc<LaterFlow>>,
    rare: Option<Box<Rare>>,
    /// `None` for a flow taken over at start whose server the configuration no longer names.
    pub(super) target: Option<TargetId>,
    pub(super) committed: bool,
    /// It is being taken back from its target.
    pub(super) turning: bool,
    /// The report of that has come.
    pub(super) recall_told: bool,
}

/// What most flows do not have most of their time.
#[derive(Debug, Default)]
struct Rare {
    end: Option<EndReport>,
    /// The handoff it was taken back from, until the report of that comes.
    left: Option<Left>,
}

impl Entry {
    /// A flow of `slot`, with no target yet.
    pub(super) fn new(flow: FlowRef, slot: u32, started_ms: u64) -> Self {
        Entry {
            flow_id: flow.flow_id,
            generation: flow.generation,
            slot,
            request: CompactString::const_new(""),
            started_ms,
            later: None,
            rare: None,
            target: None,
            committed: false,
            turning: false,
            recall_told: false,
        }
    }

    /// Which flow and handoff.
    pub(super) fn flow(&self) -> FlowRef {
        FlowRef { flow_id: self.flow_id, generation: self.generation }
    }

    /// How it ended, if that was told.
    pub(super) fn end(&self) -> Option<&EndReport> {
        self.rare.as_ref()?.end.as_ref()
    }

    pub(super) fn set_end(&mut self, report: EndReport) {
        self.rare.get_or_insert_default().end = Some(report);
    }

    /// The handoff it was taken back from, while the report of that is awaited.
    pub(super) fn left(&self) -> Option<&Left> {
        self.rare.as_ref()?.left.as_ref()
    }

    pub(super) fn set_left(&mut self, left: Left) {
        self.rare.get_or_insert_default().left = Some(left);
    }

    /// Its report has come, or none is awaited any more.
    pub(super) fn take_left(&mut self) -> Option<Left> {
        let left = self.rare.as_mut()?.left.take();
        self.rare.take_if(|rare| rare.end.is_none());
        left
    }

    /// A target has it, and its end has not been told.
    pub(super) fn is_at_target(&self) -> bool {
        self.committed && self.end().is_none()
    }

    /// The same, or it is between two targets: a drain waits for it.
    pub(super) fn is_live(&self) -> bool {
        (self.committed || self.later.is_some()) && self.end().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_flow_s_entry_takes_72_bytes() {
        // As docs/benchmark.md adds them up.
        assert_eq!(size_of::<Entry>(), 72);
        assert_eq!(size_of::<Option<Entry>>(), 72);
    }
}
