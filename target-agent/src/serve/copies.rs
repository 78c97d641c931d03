//! Small parts of responses, which the program puts into a ring buffer: they are read without a system call, many at once.

use super::engine::Engine;
use crate::flows::table::Table;
use baton_daemon::watch;
use baton_loader::Copies;
use baton_shared::seq::Seq;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// Tells that there is something in the ring buffer, if all that was there before was read.
pub(crate) struct Arrivals(Option<AsyncFd<OwnedFd>>);

impl Arrivals {
    /// Without a ring buffer nothing ever comes.
    pub(crate) fn of(copies: Option<&Copies>) -> io::Result<Self> {
        let register = |copies: &Copies| watch(copies.as_fd().try_clone_to_owned()?);
        copies.map(register).transpose().map(Arrivals)
    }

    /// Waits for the next news. What is there must be read after it, not before.
    pub(crate) async fn next(&self) -> io::Result<()> {
        match &self.0 {
            Some(ring) => ring.readable().await.map(|mut news| news.clear_ready()),
            None => pending().await,
        }
    }
}

impl Engine {
    /// Reads what the ring buffer has by now; whether there was anything.
    pub(crate) fn drain_copies(&mut self, table: &mut Table) -> bool {
        // Out of the way of what is done with a part.
        let Some(mut copies) = self.copies.take() else { return false };
        let mut any = false;
        while copies
            .next(|copied| {
                if let Some(slot) = table.slot_under(&copied.key) {
                    self.on_copy(table, slot, Seq::new(copied.seq), copied.payload());
                }
            })
            .is_some()
        {
            any = true;
        }
        self.copies = Some(copies);
        any
    }
}
