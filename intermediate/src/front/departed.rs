//! Listeners that left the configuration while connections of theirs go on: in a queue until they are accepted, at a
//! target until their next request comes, or until they come back from it. What becomes of them is said by the last
//! snapshot of the site that had their listener.

use crate::site::Site;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All of them. A listener that comes again is none of them any more.
#[derive(Debug, Default)]
pub struct Departed(Mutex<HashMap<SocketAddr, Arc<Site>>>);

impl Departed {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Site>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These go; `site` is the last snapshot that has them.
    pub(super) fn note(&self, vips: &[SocketAddr], site: &Arc<Site>) {
        self.lock().extend(vips.iter().map(|vip| (*vip, Arc::clone(site))));
    }

    /// These are there (again).
    pub(super) fn forget(&self, vips: &[SocketAddr]) {
        self.lock().retain(|vip, _| !vips.contains(vip));
    }

    /// The last snapshot that had it, and its place in that.
    pub(super) fn site_of(&self, vip: SocketAddr) -> Option<(Arc<Site>, usize)> {
        let site = self.lock().get(&vip).map(Arc::clone)?;
        let place = site.listener(vip).map(|(place, _)| place)?;
        Some((site, place))
    }
}
