//! Flows on this host from handoff to the freeing of their slot.

pub(crate) mod ageing;
pub(crate) mod index;
pub(crate) mod memory;
pub(crate) mod recovery;
pub(crate) mod slot_set;
mod strays;
pub(crate) mod table;
mod way;
