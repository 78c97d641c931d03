//! Gives up what the daemons do not need once they have started.

use caps::{CapSet, Capability, CapsHashSet};
use thiserror::Error;

/// What both daemons keep, as far as they have it: TUN, `TCP_REPAIR` and TC need `CAP_NET_ADMIN`, maps and programs
/// `CAP_BPF` and `CAP_PERFMON`, raw packets `CAP_NET_RAW`.
pub const KEPT: [Capability; 4] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_BPF, Capability::CAP_NET_RAW, Capability::CAP_PERFMON];

/// Why capabilities could not be dropped.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// A step failed.
    #[error("cannot drop capabilities ({step}): {detail}")]
    Caps {
        /// Which step.
        step: &'static str,
        /// What the library said.
        detail: String,
    },
    /// `PR_SET_NO_NEW_PRIVS` failed.
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivs(std::io::Error),
}

/// Keeps [`KEPT`] and drops all other capabilities, see [`drop_to`].
pub fn drop_after_start() -> Result<Vec<Capability>, PrivilegeError> {
    drop_to(&KEPT)
}

/// Drops all capabilities but those of `keep` that are held: from the permitted, effective and (where
/// `CAP_SETPCAP` allows) bounding sets; the inheritable and ambient ones become empty. Sets `no_new_privs`. Gives
/// what is left.
///
/// **It acts on the calling thread and on threads started after it.** Call it from `main` before the tokio runtime
/// is built, with privileged ports bound by then (as `std` sockets) or with `CAP_NET_BIND_SERVICE` in `keep`. A log
/// line warns if there are other threads. Under user 0 files of root stay readable, files of others do not.
pub fn drop_to(keep: &[Capability]) -> Result<Vec<Capability>, PrivilegeError> {
    let fail = |step| move |e: caps::errors::CapsError| PrivilegeError::Caps { step, detail: e.to_string() };
    let permitted = caps::read(None, CapSet::Permitted).map_err(fail("read"))?;
    let left: CapsHashSet = keep.iter().copied().filter(|c| permitted.contains(c)).collect();
    // The bounding set first: dropping from it needs CAP_SETPCAP, which goes next.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(fail("read"))? {
        for capability in caps::read(None, CapSet::Bounding).map_err(fail("read"))? {
            if !left.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).map_err(fail("bounding"))?;
            }
        }
    }
    // Kernels and containers without ambient capabilities have none to clear.
    if let Err(e) = caps::clear(None, CapSet::Ambient) {
        tracing::debug!("ambient capabilities: {e}");
    }
    caps::set(None, CapSet::Effective, &left).map_err(fail("effective"))?;
    caps::set(None, CapSet::Permitted, &left).map_err(fail("permitted"))?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(fail("inheritable"))?;
    crate::sys::set_no_new_privileges().map_err(PrivilegeError::NoNewPrivs)?;
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        tracing::warn!("{} other threads keep their capabilities", threads - 1);
    }
    let mut left: Vec<_> = left.into_iter().collect();
    left.sort_by_key(Capability::index);
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_gone_for_good() {
        // Capabilities belong to a thread: this one's end gives the test process its own back.
        let work = || {
            let left = drop_after_start().unwrap();
            for set in [CapSet::Effective, CapSet::Permitted] {
                let held = caps::read(None, set).unwrap();
                assert_eq!(held, left.iter().copied().collect(), "{set:?}");
                assert!(held.iter().all(|c| KEPT.contains(c)));
            }
            assert!(caps::read(None, CapSet::Inheritable).unwrap().is_empty());
            assert!(caps::raise(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).is_err());
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        };
        std::thread::spawn(work).join().unwrap();
    }
}
