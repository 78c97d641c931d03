//! How many flows are live, counted in one walk over the table: whoever asks holds up handoffs meanwhile.

use super::Flows;
use crate::targets::TargetId;
use std::collections::HashMap;
use std::net::SocketAddr;

/// Live flows: handed off and not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveCounts {
    /// All of them.
    pub all: usize,
    of_vip: HashMap<SocketAddr, usize>,
    pinned: HashMap<TargetId, usize>,
}

impl LiveCounts {
    /// Those that came by a VIP.
    pub fn of_vip(&self, vip: SocketAddr) -> usize {
        self.of_vip.get(&vip).copied().unwrap_or(0)
    }

    /// Those on a target that are not read: they stay there until they end.
    pub fn pinned_on(&self, target: TargetId) -> usize {
        self.pinned.get(&target).copied().unwrap_or(0)
    }

    fn count(&mut self, vip: SocketAddr, target: Option<TargetId>, read: bool) {
        self.all += 1;
        *self.of_vip.entry(vip).or_default() += 1;
        if let Some(target) = target.filter(|_| !read) {
            *self.pinned.entry(target).or_default() += 1;
        }
    }
}

impl Flows {
    /// By VIP and target.
    pub fn live_counts(&self) -> LiveCounts {
        let table = self.table();
        let mut counts = LiveCounts::default();
        for entry in table.entries().filter(|entry| entry.is_live()) {
            counts.count(table.key(entry).local_addr(), entry.target, entry.later.is_some());
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_counts_with_its_vip_and_one_that_is_not_read_with_its_target() {
        let (here, there) = ("192.0.2.1:80".parse().unwrap(), "192.0.2.1:81".parse().unwrap());
        let mut counts = LiveCounts::default();
        counts.count(here, Some(TargetId::new(3)), true);
        counts.count(here, Some(TargetId::new(3)), false);
        counts.count(there, Some(TargetId::new(3)), false);
        // Of an earlier run, on a server that nobody knows any more.
        counts.count(there, None, false);
        assert_eq!((counts.all, counts.of_vip(here), counts.of_vip(there)), (4, 2, 2));
        assert_eq!((counts.pinned_on(TargetId::new(3)), counts.pinned_on(TargetId::new(0))), (2, 0));
    }
}
