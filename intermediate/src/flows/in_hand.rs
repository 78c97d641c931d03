//! Packets of a flow that this process has in hand: nothing new of the flow may pass them.
//!
//! A program counts a packet from the hold TUN as released when it translates it. It is on its way then, through queues of the
//! CPU on which it was written, and what comes on another CPU could overtake it there. When the write has returned it is
//! through: the kernel works these queues off before (`local_bh_enable()` in `tun_get_user()`). So the accounts are kept apart
//! by one byte as long as a write may be under way.

use super::Flows;
use baton_loader::Plane;
use baton_shared::packet::held::facts;
use std::sync::Arc;

/// As long as it lives the flow's hold accounts differ.
pub(crate) struct InHand {
    plane: Arc<Plane>,
    slot: u32,
    flow_id: u64,
}

impl Flows {
    /// Before packets of the flow in this slot are written.
    pub(crate) fn in_hand(&self, slot: u32) -> InHand {
        let slots = self.plane.slots();
        slots.add_released(slot, 1u32.wrapping_neg());
        InHand { plane: Arc::clone(&self.plane), slot, flow_id: slots.read(slot).flow_id }
    }

    /// These packets will come from the hold TUN without having been diverted to it.
    pub(crate) fn not_diverted(&self, slot: u32, packets: &[Vec<u8>]) {
        let length = |packet: &Vec<u8>| facts(packet).map_or(0, |facts| facts.segment.held_length());
        let bytes: u32 = packets.iter().map(length).fold(0, u32::wrapping_add);
        self.plane.slots().add_released(slot, bytes.wrapping_neg());
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let slots = self.plane.slots();
        // Another flow's by now?
        if slots.read(self.slot).flow_id == self.flow_id {
            slots.add_released(self.slot, 1);
        }
    }
}
