//! Connections whose first request head is not complete, oldest first: when there are too many connections, these are
//! given up in this order. Who opens connections to hold them open is old before long; who has a request to make is
//! not, and gets through.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

/// All of them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<Mutex<Inner>>);

/// One connection's place among them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    waiting: Waiting,
    number: u64,
    given_up: oneshot::Receiver<()>,
}

impl Waiting {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place behind all others.
    pub(super) fn enter(&self) -> Place {
        let (give_up, given_up) = oneshot::channel();
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        inner.by_age.insert(number, give_up);
        drop(inner);
        Place { waiting: self.clone(), number, given_up }
    }

    /// Gives up the one that has waited longest; whether there was one.
    pub(super) fn give_up_oldest(&self) -> bool {
        let mut inner = self.inner();
        while let Some((_, oldest)) = inner.by_age.pop_first() {
            if oldest.send(()).is_ok() {
                return true;
            }
        }
        false
    }
}

impl Place {
    /// Until the connection is given up.
    pub(crate) async fn given_up(&mut self) {
        // The sender goes only after it was used, or with this place.
        let _ = (&mut self.given_up).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.inner().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_still_waits_is_given_up() {
        let waiting = Waiting::default();
        let (first, mut second, third) = (waiting.enter(), waiting.enter(), waiting.enter());
        drop(first);
        assert!(waiting.give_up_oldest());
        second.given_up().await;
        drop(third);
        assert!(!waiting.give_up_oldest());
        assert!(waiting.inner().by_age.is_empty());
    }
}
