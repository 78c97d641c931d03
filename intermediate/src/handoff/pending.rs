//! The handoffs whose answer is awaited, and who awaits it.

use crate::flows::ByNumber;
use crate::targets::TargetId;
use baton_shared::control::{FlowRef, MigratedAnswer};
use baton_shared::state::handoff::HandoffEvent;
// A handoff is told one thing, as a rule: the runtime's own channels have room for 32 at once.
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a waiting handoff is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    /// The agent's answer with its numbers.
    Migrated(MigratedAnswer),
    /// Anything else.
    Event(HandoffEvent),
}

#[derive(Debug)]
struct Waiting {
    flow: FlowRef,
    target: TargetId,
    tell: UnboundedSender<Told>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    by_id: Mutex<ByNumber<Waiting>>,
}

impl Pending {
    fn by_id(&self) -> MutexGuard<'_, ByNumber<Waiting>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the handoff is given to the channel, so that no answer can miss it.
    pub(super) fn register(&self, flow: FlowRef, target: TargetId) -> UnboundedReceiver<Told> {
        let (tell, told) = unbounded();
        self.by_id().insert(flow.flow_id, Waiting { flow, target, tell });
        told
    }

    pub(super) fn forget(&self, flow: FlowRef) {
        let mut by_id = self.by_id();
        if by_id.get(&flow.flow_id).is_some_and(|waiting| waiting.flow == flow) {
            by_id.remove(&flow.flow_id);
        }
    }

    /// Whether somebody waits for it.
    pub(super) fn tell(&self, flow: FlowRef, what: Told) -> bool {
        match self.by_id().get(&flow.flow_id) {
            Some(waiting) if waiting.flow == flow => waiting.tell.unbounded_send(what).is_ok(),
            _ => false,
        }
    }

    /// Tells all that wait for the agent of these targets.
    pub(super) fn tell_all(&self, targets: &[TargetId], what: impl Fn(FlowRef) -> HandoffEvent) {
        for waiting in self.by_id().values().filter(|w| targets.contains(&w.target)) {
            let _ = waiting.tell.unbounded_send(Told::Event(what(waiting.flow)));
        }
    }

    /// Whether the agent of one of these targets is waited for.
    pub(super) fn is_awaited(&self, targets: &[TargetId]) -> bool {
        self.by_id().values().any(|waiting| targets.contains(&waiting.target))
    }

    pub(super) fn count(&self) -> usize {
        self.by_id().len()
    }
}
