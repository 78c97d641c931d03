//! Listeners that left the configuration while connections of theirs go on: in a queue until they are accepted, at a
//! target until their next request comes, or until they come back from it. What becomes of them is said by the last
//! snapshot of the site that had their listener.

use crate::site::Site;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of one.
#[derive(Debug)]
struct Last {
    /// The last snapshot that had it.
    site: Arc<Site>,
    /// Its sockets accept yet.
    accepts: bool,
}

/// All of them. A listener that comes again is none of them any more.
#[derive(Debug, Default)]
pub struct Departed(Mutex<HashMap<SocketAddr, Last>>);

impl Departed {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Last>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These go; `site` is the last snapshot that has them.
    pub(super) fn note(&self, vips: &[SocketAddr], site: &Arc<Site>) {
        let last = |vip: &SocketAddr| (*vip, Last { site: Arc::clone(site), accepts: true });
        self.lock().extend(vips.iter().map(last));
    }

    /// These are there (again).
    pub(super) fn forget(&self, vips: &[SocketAddr]) {
        self.lock().retain(|vip, _| !vips.contains(vip));
    }

    /// These have no listening sockets any more.
    pub fn closed(&self, vips: &[SocketAddr]) {
        for (_, last) in self.lock().iter_mut().filter(|(vip, _)| vips.contains(vip)) {
            last.accepts = false;
        }
    }

    /// The last snapshot that had it, and its place in that.
    pub(super) fn site_of(&self, vip: SocketAddr) -> Option<(Arc<Site>, usize)> {
        let site = self.lock().get(&vip).map(|last| Arc::clone(&last.site))?;
        let place = site.listener(vip).map(|(place, _)| place)?;
        Some((site, place))
    }

    /// Those go of which no connection is left: none of a socket of ours, which holds its snapshot, and none at a target by
    /// the word of `has_flows`. A connection that comes back from there asks for its snapshot while it is a flow yet, and one
    /// that is given away holds it until it is one: under the lock it is this or that.
    pub(super) fn sweep(&self, has_flows: impl Fn(SocketAddr) -> bool) {
        let mut all = self.lock();
        let over = |site: &Arc<Site>| {
            let here = all.values().filter(|last| Arc::ptr_eq(&last.site, site)).count();
            Arc::strong_count(site) <= here
        };
        let over =
            |(vip, last): &(&SocketAddr, &Last)| !last.accepts && over(&last.site) && !has_flows(**vip);
        let over: Vec<SocketAddr> = all.iter().filter(over).map(|(vip, _)| *vip).collect();
        all.retain(|vip, _| !over.contains(vip));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }
}
