//! What the target's programs hand to the agent: parts of responses, and that flows close, in a ring buffer.

use crate::open::{load_error, map_error};
use crate::sys::MappedWord;
use crate::{Means, Plane, PlaneError};
use aya::maps::{Map, MapData, RingBuf};
use baton_shared::record::{Copied, CopiedHead};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::PoisonError;

/// The map.
pub(crate) const MAP: &str = "COPIES";
/// Where its reader says when it is to be woken.
pub(crate) const WAKE: &str = "COPIES_WAKE";
/// Bytes of it on a target: what an uplink of 10 Gbit/s carries in 6 ms.
pub const COPIES_BYTES: usize = 8 << 20;
#[expect(clippy::cast_possible_truncation, reason = "8 MiB")]
pub(crate) const BYTES: u32 = COPIES_BYTES as u32;
/// Where nobody reads it: the least that a kernel takes, of pages of up to 64 kB.
pub(crate) const NO_BYTES: u32 = 1 << 16;

/// The reading end of the ring buffer. Its descriptor is readable while there is something.
pub struct Copies {
    ring: RingBuf<MapData>,
    wake: MappedWord,
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copies").finish_non_exhaustive()
    }
}

impl Copies {
    pub(crate) fn of(ring: Map, wake: BorrowedFd<'_>) -> Result<Self, PlaneError> {
        let ring = RingBuf::try_from(ring).map_err(load_error(MAP))?;
        let wake = MappedWord::new(wake).map_err(map_error("mmap", WAKE))?;
        Ok(Copies { ring, wake })
    }

    /// Takes the next element out, if there is any.
    pub fn next<T>(&mut self, take: impl FnOnce(&CopiedHead, &[u8]) -> T) -> Option<T> {
        loop {
            let item = self.ring.next()?;
            // The program writes nothing else.
            if let Some((head, payload)) = Copied::read(&item) {
                return Some(take(head, payload));
            }
        }
    }

    /// Says whether the program is to wake who reads here for each part, or only for large ones and when an eighth of the room is
    /// taken.
    pub fn wake_for_each(&self, each: bool) {
        self.wake.store(if each { 0 } else { BYTES / 8 });
    }
}

impl AsFd for Copies {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
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
