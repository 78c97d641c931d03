//! What the program puts into a ring buffer, parts of responses and the word that a flow closes: it is read without a system
//! call, many elements at once.

use super::engine::Engine;
use crate::flows::table::Table;
use baton_daemon::watch;
use baton_loader::{COPIES_BYTES, Copies, monotonic_ns};
use baton_shared::control::FlowRef;
use baton_shared::seq::Seq;
use baton_shared::state::copies::Reading;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// The ring buffer, and when it is read.
#[derive(Debug)]
pub(crate) struct Ring {
    copies: Copies,
    reading: Reading,
}

impl Ring {
    pub(crate) fn new(copies: Copies) -> Self {
        Ring { copies, reading: Reading::new() }
    }
}

/// Tells that there is something in the ring buffer that is to be read at once.
pub(crate) struct Arrivals(Option<AsyncFd<OwnedFd>>);

impl Arrivals {
    /// Without a ring buffer nothing ever comes.
    pub(crate) fn of(ring: Option<&Ring>) -> io::Result<Self> {
        let register = |ring: &Ring| watch(ring.copies.as_fd().try_clone_to_owned()?);
        ring.map(register).transpose().map(Arrivals)
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
    /// Reads what the ring buffer has by now; whether there was anything of responses. Whatever is told or judged of them comes
    /// after this, and so does a scan for flows that have ended.
    pub(crate) fn drain_copies(&mut self, table: &mut Table) -> bool {
        // Out of the way of what is done with a part.
        let Some(mut ring) = self.ring.take() else { return false };
        let (mut taken, mut found) = (0, false);
        while let Some(bytes) = ring.copies.next(|head, payload| {
            // Another flow may have the addresses by now.
            let flow = FlowRef { flow_id: head.flow_id, generation: head.generation };
            let slot = table.slot_under(&head.key.into());
            if let Some(slot) = slot.filter(|s| table.get(*s).is_some_and(|f| f.who.1 == flow)) {
                if head.closes != 0 {
                    table.note_closing(slot);
                }
                if !payload.is_empty() {
                    self.on_copy(table, slot, Seq::new(head.seq), payload);
                }
            }
            found |= !payload.is_empty();
            size_of_val(head) + payload.len()
        }) {
            taken += bytes;
            // Then all is read that was there at first; a server may send faster than is read here.
            if taken >= COPIES_BYTES {
                break;
            }
        }
        self.ring = Some(ring);
        found
    }

    /// The same, and settles when it is done again. With `woken` something has come that does not bear waiting; without, it
    /// may not be time yet.
    pub(crate) fn read_copies(&mut self, table: &mut Table, woken: bool) {
        let awaited = !self.recalls.is_empty();
        let is_due = |ring: &Ring| woken || ring.reading.is_due(awaited, monotonic_ns());
        if !self.ring.as_ref().is_some_and(is_due) {
            return;
        }
        loop {
            let found = self.drain_copies(table);
            // What was read may have been the end of what a recall waited for.
            let awaited = !self.recalls.is_empty();
            let Some(ring) = &mut self.ring else { return };
            let again = ring.reading.on_look(found, awaited, monotonic_ns());
            ring.copies.wake_for_each(ring.reading.is_woken());
            if !again {
                return;
            }
        }
    }

    /// When the ring buffer is to be read unless something wakes before, CLOCK_MONOTONIC ns.
    pub(crate) fn copies_at_ns(&self) -> Option<u64> {
        self.ring.as_ref().and_then(|ring| ring.reading.look_ns())
    }
}
