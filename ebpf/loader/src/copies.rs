//! What the target's program hands to the agent without a system call: small parts of responses, in a ring buffer.

use crate::open::load_error;
use crate::{Means, Plane, PlaneError};
use aya::maps::{Map, MapData, RingBuf};
use baton_shared::record::Copied;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::PoisonError;
use zerocopy::FromBytes as _;

/// The map.
pub(crate) const MAP: &str = "COPIES";
/// Bytes of it on a target: responses of many milliseconds. What does not fit goes through the TUN.
pub(crate) const BYTES: u32 = 1 << 20;
/// Where nobody reads it: the least that a kernel takes, of pages of up to 64 kB.
pub(crate) const NO_BYTES: u32 = 1 << 16;

/// The reading end of the ring buffer. Its descriptor is readable while there is something, and tells of what comes after
/// all before was read.
pub struct Copies(RingBuf<MapData>);

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copies").finish_non_exhaustive()
    }
}

impl Copies {
    pub(crate) fn of(map: Map) -> Result<Self, PlaneError> {
        RingBuf::try_from(map).map(Copies).map_err(load_error(MAP))
    }

    /// Takes the next one out, if there is any.
    pub fn next<T>(&mut self, take: impl FnOnce(&Copied) -> T) -> Option<T> {
        loop {
            let item = self.0.next()?;
            // The program writes nothing else.
            if let Ok((copied, _)) = Copied::ref_from_prefix(&item) {
                return Some(take(copied));
            }
        }
    }
}

impl AsFd for Copies {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Plane {
    /// The ring buffer's reading end, once; `None` on an intermediate, and in user space, where all goes through the TUN.
    pub fn take_copies(&self) -> Option<Copies> {
        match &self.0 {
            Means::Ebpf(programs) => programs.copies.lock().unwrap_or_else(PoisonError::into_inner).take(),
            Means::Userspace(_) => None,
        }
    }
}
