//! Packets of a flow that this process has in hand: nothing new of the flow may pass them.
//!
//! A program counts a packet from the hold TUN as released when it translates it. It is on its way then, through queues of the
//! CPU on which it was written, and what comes on another CPU could overtake it there. When the write has returned it is
//! through: the kernel works these queues off before (`local_bh_enable()` in `tun_get_user()`). So the accounts are kept apart
//! by one byte as long as a write may be under way, or packets wait for the window of their server. Such accounts are no sign of
//! a loss, however long they stand still.

use super::{ByNumber, Flows};
use baton_loader::Plane;
use baton_shared::packet::held::facts;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many packets or queues of which flows, by their numbers, are in hand. Of this process: what an earlier one had is lost.
#[derive(Clone, Debug, Default)]
pub(super) struct InHands(Arc<Mutex<ByNumber<u32>>>);

impl InHands {
    /// While this is held no flow is taken in hand or let go.
    pub(super) fn lock(&self) -> MutexGuard<'_, ByNumber<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As long as it lives the flow's hold accounts differ.
pub(crate) struct InHand {
    plane: Arc<Plane>,
    all: InHands,
    slot: u32,
    flow_id: u64,
}

impl Flows {
    /// Before packets of the flow in this slot are written.
    pub(crate) fn in_hand(&self, slot: u32) -> InHand {
        let slots = self.plane.slots();
        let flow_id = slots.flow_id(slot);
        let mut all = self.in_hands.lock();
        let count = all.entry(flow_id).or_default();
        *count = count.saturating_add(1);
        slots.add_released(slot, 1u32.wrapping_neg());
        drop(all);
        InHand { plane: Arc::clone(&self.plane), all: self.in_hands.clone(), slot, flow_id }
    }

    /// These packets will come from the hold TUN without having been diverted to it.
    pub(crate) fn not_diverted(&self, slot: u32, packets: &[Vec<u8>]) {
        let length = |packet: &Vec<u8>| facts(packet).map_or(0, |facts| facts.segment.held_length());
        let bytes: u32 = packets.iter().map(length).fold(0, u32::wrapping_add);
        self.plane.slots().add_released(slot, bytes.wrapping_neg());
    }
}

impl InHand {
    /// Whose flow's packets it is.
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let slots = self.plane.slots();
        let mut all = self.all.lock();
        // Another flow's by now?
        if slots.flow_id(self.slot) == self.flow_id {
            slots.add_released(self.slot, 1);
        }
        if let Entry::Occupied(mut count) = all.entry(self.flow_id) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
