//! The ruling: a number for all that later requests are judged by, but for what they say themselves.
//!
//! It changes whenever anything of that does: the site, what the operator ordered, who is well, whose agent is there. A flow
//! whose last request was judged by the ruling in force, and that would be judged alike whatever a client asks, may have plain
//! requests go on in the kernel (`baton_shared::translate::may_be_plain`). With a change all flows are read again.
//!
//! Who judges takes the number first and looks at the facts after that; who changes a fact tells of it afterwards. So what was
//! judged by a fact that is none any more never has the number in force.

use baton_loader::Plane;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Never 0, which is none.
static NOW: AtomicU32 = AtomicU32::new(1);
/// Who is told of each change; locked while one is told.
static TOLD: Mutex<Vec<Weak<Plane>>> = Mutex::new(Vec::new());

/// The ruling in force.
pub fn now() -> u32 {
    NOW.load(Ordering::Acquire)
}

/// A fact has changed by which later requests are judged: from here on there is another ruling.
pub fn change() {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let next = now().checked_add(1).unwrap_or(1);
    NOW.store(next, Ordering::Release);
    told.retain(|plane| {
        plane.upgrade().is_some_and(|plane| {
            plane.set_ruling(next);
            true
        })
    });
}

/// This plane's programs know the ruling from here on, and each that follows.
pub fn begin(plane: &Arc<Plane>) {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    plane.set_ruling(now());
    told.push(Arc::downgrade(plane));
}
