//! Gives up what the daemons do not need once they have started.

pub use caps::Capability;
use caps::{CapSet, CapsHashSet};
use thiserror::Error;

/// What both daemons keep, as far as they have it: TUN, `TCP_REPAIR` and TC need `CAP_NET_ADMIN`, maps and programs
/// `CAP_BPF` and `CAP_PERFMON`, raw packets `CAP_NET_RAW`.
pub const KEPT: [Capability; 4] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_BPF, Capability::CAP_NET_RAW, Capability::CAP_PERFMON];

/// What the data plane needs at the start, and for what. `CAP_SYS_ADMIN` stands in for the two of eBPF, as it did
/// before Linux 5.8.
const NEEDED: [(Capability, bool, &str); 4] = [
    (Capability::CAP_NET_ADMIN, false, "TUN, TC and TCP_REPAIR"),
    (Capability::CAP_BPF, true, "maps and programs"),
    (Capability::CAP_PERFMON, true, "the verifier's rules for programs that compare pointers"),
    (Capability::CAP_NET_RAW, false, "raw packets"),
];

/// How to mend what [`require`] finds.
pub const MEND: &str =
    "run as root, or give the service AmbientCapabilities=CAP_NET_ADMIN CAP_BPF CAP_PERFMON CAP_NET_RAW";

/// Checks before anything is touched that this process may do what the data plane needs.
pub fn require() -> Result<(), PrivilegeError> {
    let held = |c| caps::has_cap(None, CapSet::Effective, c).unwrap_or(false);
    let admin = held(Capability::CAP_SYS_ADMIN);
    let lacking = |(c, or_admin, _): &&(Capability, bool, &str)| !(held(*c) || *or_admin && admin);
    let missing: Vec<String> =
        NEEDED.iter().filter(lacking).map(|(c, _, what)| format!("{c} ({what})")).collect();
    if missing.is_empty() { Ok(()) } else { Err(PrivilegeError::Missing(missing.join(", "))) }
}

/// As [`require`], for the data plane in user space.
pub fn require_without_ebpf() -> Result<(), PrivilegeError> {
    let (admin, _, what) = NEEDED[0];
    if caps::has_cap(None, CapSet::Effective, admin).unwrap_or(false) {
        return Ok(());
    }
    Err(PrivilegeError::Missing(format!("{admin} ({what})")))
}

/// Why the process has too few capabilities, or could not drop what it has too many.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// Some are missing; names them with their purpose.
    #[error("missing capabilities: {0}; {MEND}")]
    Missing(String),
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
