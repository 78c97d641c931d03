//! Handoffs and flows whose client was reset because their agent fell silent or their target was lost. If the agent comes back and has the connection
//! after all, the server is told that its client is gone.

use crate::reset::Severed;
use crate::targets::TargetId;
use baton_shared::control::FlowRef;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many are remembered; older ones end by the server's own timers.
const CAPACITY: usize = 4096;

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    pub(super) flow: FlowRef,
    pub(super) target: TargetId,
    pub(super) server: SocketAddr,
    pub(super) connection: Severed,
}

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Unresolved {
    lost: Mutex<VecDeque<Lost>>,
}

impl Unresolved {
    fn lost(&self) -> MutexGuard<'_, VecDeque<Lost>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remember(&self, lost: Lost) {
        let mut all = self.lost();
        if all.len() >= CAPACITY {
            all.pop_front();
        }
        all.push_back(lost);
    }

    /// The agent's word has come at last.
    pub(super) fn take(&self, flow: FlowRef) -> Option<Lost> {
        let mut all = self.lost();
        let at = all.iter().position(|lost| lost.flow == flow)?;
        all.remove(at)
    }

    /// Those given to this target.
    pub(super) fn on(&self, target: TargetId) -> Vec<FlowRef> {
        self.lost().iter().filter(|lost| lost.target == target).map(|lost| lost.flow).collect()
    }
}

/// Flows of which a new agent said that it does not have them: their clients are to be reset.
#[derive(Debug, Default)]
pub(super) struct Disowned {
    flows: Mutex<Vec<(TargetId, FlowRef)>>,
}

impl Disowned {
    pub(super) fn add(&self, target: TargetId, flow: FlowRef) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).push((target, flow));
    }

    /// At most so many of one target's.
    pub(super) fn take(&self, target: TargetId, most: usize) -> Vec<FlowRef> {
        let mut all = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        all.retain(|(of, flow)| {
            let take = *of == target && taken.len() < most;
            if take {
                taken.push(*flow);
            }
            !take
        });
        taken
    }
}
