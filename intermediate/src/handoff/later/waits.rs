//! The recalls whose answer is awaited, and who awaits it.

use crate::targets::TargetId;
use baton_shared::control::{FlowRef, RecalledAnswer};
use baton_shared::state::recall::RecallEvent;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a waiting recall is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// The agent's answer with its numbers.
    Recalled(RecalledAnswer),
    /// Anything else.
    Event(RecallEvent),
}

#[derive(Debug)]
struct Waiting {
    target: TargetId,
    tell: UnboundedSender<Told>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    by_flow: Mutex<HashMap<FlowRef, Waiting>>,
}

impl Waits {
    fn by_flow(&self) -> MutexGuard<'_, HashMap<FlowRef, Waiting>> {
        self.by_flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the question is put, so that no answer can miss it.
    pub(super) fn register(&self, flow: FlowRef, target: TargetId) -> UnboundedReceiver<Told> {
        let (tell, told) = unbounded_channel();
        self.by_flow().insert(flow, Waiting { target, tell });
        told
    }

    pub(super) fn forget(&self, flow: FlowRef) {
        self.by_flow().remove(&flow);
    }

    /// Whether somebody waits for it.
    pub(crate) fn tell(&self, flow: FlowRef, what: Told) -> bool {
        self.by_flow().get(&flow).is_some_and(|waiting| waiting.tell.send(what).is_ok())
    }

    /// Tells all that wait for the agent of these targets.
    pub(crate) fn tell_all(&self, targets: &[TargetId], event: RecallEvent) {
        for waiting in self.by_flow().values().filter(|w| targets.contains(&w.target)) {
            let _ = waiting.tell.send(Told::Event(event));
        }
    }
}
