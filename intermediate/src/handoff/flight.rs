//! A connection between its freeze and the word who answers it: what is to be undone or done if it goes one way or
//! the other, and how long its stages take.

use super::Migrator;
use super::repair::Captured;
use crate::flows::Place;
use crate::hold::HeldFlow;
use baton_shared::reason::{ProxyReason, Refusal};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A connection in flight: frozen, captured, its handoff sent. Dropped before it is resolved (its task was
/// cancelled) it ends without a word: the request may be running, so nobody else may answer.
pub(super) struct Flight<'a> {
    pub(super) migrator: &'a Migrator,
    pub(super) place: Place,
    pub(super) held: Arc<HeldFlow>,
    pub(super) captured: Option<Captured>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if let Some(captured) = self.captured.take() {
            captured.release();
            self.migrator.unfreeze(&self.place, &self.held);
        }
        self.migrator.pending.forget(self.place.flow);
    }
}

/// A connection that stays here.
pub(super) struct Kept {
    pub(super) stream: Option<TcpStream>,
    pub(super) reason: ProxyReason,
    pub(super) refusal: Option<Refusal>,
}

/// Measures stages that follow each other.
pub(super) struct Lap(Instant);

impl Lap {
    pub(super) fn new() -> Self {
        Lap(Instant::now())
    }

    pub(super) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let took = now.duration_since(self.0);
        self.0 = now;
        took
    }
}
