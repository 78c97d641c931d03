//! What the table has of one flow beside its record in the plane, which says who it is, where it comes from and where it goes.
//!
//! There are as many of these as flows, and most flows are idle: what most of them do not have stands elsewhere in the table.

use crate::handoff::LaterFlow;
use crate::targets::TargetId;
use compact_str::CompactString;
use std::sync::Arc;

/// A flow in the table.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) slot: u32,
    /// Of the handoff.
    pub(super) generation: u32,
    /// Method and path; empty for a flow taken over at start.
    pub(super) request: CompactString,
    /// Of the freeze or of the take-over, milliseconds since 1970.
    pub(super) started_ms: u64,
    /// Its later requests are read.
    pub(super) later: Option<Arc<LaterFlow>>,
    /// `None` for a flow taken over at start whose server the configuration no longer names.
    pub(super) target: Option<TargetId>,
    pub(super) committed: bool,
    /// How is in the table.
    pub(super) ended: bool,
    /// It is being taken back from its target.
    pub(super) turning: bool,
    /// The report of that has come.
    pub(super) recall_told: bool,
}

impl Entry {
    /// The flow whose record is in `slot`, with no target yet.
    pub(super) fn new(slot: u32, generation: u32, started_ms: u64) -> Self {
        Entry {
            slot,
            generation,
            request: CompactString::const_new(""),
            started_ms,
            later: None,
            target: None,
            committed: false,
            ended: false,
            turning: false,
            recall_told: false,
        }
    }

    /// A target has it, and its end has not been told.
    pub(super) fn is_at_target(&self) -> bool {
        self.committed && !self.ended
    }

    /// The same, or it is between two targets: a drain waits for it.
    pub(super) fn is_live(&self) -> bool {
        (self.committed || self.later.is_some()) && !self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_flow_s_entry_takes_56_bytes() {
        // As docs/benchmark.md adds them up.
        assert_eq!((size_of::<Entry>(), size_of::<Option<Entry>>()), (56, 56));
    }
}
