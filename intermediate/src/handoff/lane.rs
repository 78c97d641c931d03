//! Which thread hands off by which lane.

use baton_shared::control::Lane;
use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<Option<Lane>> = const { Cell::new(None) };
}

/// This thread hands off by this lane from here on.
pub(crate) fn enter(lane: Lane) {
    CURRENT.set(Some(lane));
}

/// This thread's, if it is one that hands off.
pub(crate) fn current() -> Option<Lane> {
    CURRENT.get()
}
