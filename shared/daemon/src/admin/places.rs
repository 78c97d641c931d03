//! How many connections are served at once, and whose.

use baton_shared::access::Level;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections of all who may do something.
const COMMON: usize = 48;
/// And of those who may do more than look: whoever may only look cannot keep an operator out.
const KEPT: usize = 16;
/// And of those who may do nothing: they are told so.
const STRANGERS: usize = 4;

/// The places of one listening socket.
#[derive(Debug)]
pub(super) struct Places {
    common: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Places::new(COMMON, KEPT, STRANGERS)
    }
}

impl Places {
    pub(super) fn new(common: usize, kept: usize, strangers: usize) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Places { common: places(common), kept: places(kept), strangers: places(strangers) }
    }

    /// A place for a peer of this level, given back when it is dropped; `None` if there is none.
    pub(super) fn take(&self, level: Option<Level>) -> Option<OwnedSemaphorePermit> {
        let take = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        match level {
            None => take(&self.strangers),
            Some(Level::View) => take(&self.common),
            Some(Level::Operate | Level::Admin) => take(&self.common).or_else(|| take(&self.kept)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_only_look_or_nothing_cannot_keep_an_operator_out() {
        let places = Places::new(2, 1, 1);
        let look = [places.take(Some(Level::View)), places.take(Some(Level::View))];
        assert!(look.iter().all(Option::is_some) && places.take(Some(Level::View)).is_none());
        let stranger = places.take(None);
        assert!(stranger.is_some() && places.take(None).is_none(), "strangers have places of their own");
        let operator = places.take(Some(Level::Operate));
        assert!(operator.is_some() && places.take(Some(Level::Admin)).is_none());
        drop(look);
        assert!(places.take(Some(Level::Admin)).is_some(), "what is free is for all");
    }
}
