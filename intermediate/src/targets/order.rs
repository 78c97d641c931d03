//! What the operator ordered of a target.

use crate::ruling;
use baton_shared::health::{Admin, AdminOrder};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

const ALL: [Admin; 3] = [Admin::Ready, Admin::Draining, Admin::Down];

/// The state, and since when.
#[derive(Debug, Default)]
pub struct Ordered {
    /// Its place in [`ALL`]: read at each pick.
    now: AtomicU32,
    since: Mutex<Option<SystemTime>>,
}

impl Ordered {
    /// The state.
    pub fn state(&self) -> Admin {
        let place = usize::try_from(self.now.load(Ordering::Relaxed)).unwrap_or(0);
        ALL.get(place).copied().unwrap_or_default()
    }

    /// When the state was last changed; `None` if it never was.
    pub fn since(&self) -> Option<SystemTime> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order; the state before and now. One that changes nothing leaves the time as it is.
    pub fn give(&self, order: AdminOrder) -> (Admin, Admin) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.state();
        let to = from.on(order);
        if from != to {
            let place = ALL.iter().position(|state| *state == to).unwrap_or(0);
            self.now.store(u32::try_from(place).unwrap_or(0), Ordering::Relaxed);
            *since = Some(SystemTime::now());
            ruling::change();
        }
        (from, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_given_twice_changes_nothing_the_second_time() {
        let ordered = Ordered::default();
        assert_eq!((ordered.state(), ordered.since()), (Admin::Ready, None));
        assert_eq!(ordered.give(AdminOrder::Drain), (Admin::Ready, Admin::Draining));
        let since = ordered.since().unwrap();
        assert_eq!(ordered.give(AdminOrder::Drain), (Admin::Draining, Admin::Draining));
        assert_eq!(ordered.since(), Some(since));
        assert_eq!(ordered.give(AdminOrder::Undrain), (Admin::Draining, Admin::Ready));
    }
}
