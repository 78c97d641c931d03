//! The impairment box: a user-space wire between a node and the router that loses, duplicates, reorders, delays,
//! corrupts and limits, by a seed.
//!
//! [`Impairment`] says what it shall do, [`Lot`] what happens to the n-th packet, [`Line`] when each packet leaves: these
//! have no I/O and no clock. `wire` reads and writes the two TAP devices; the lab runs it as a process of its own.
//!
//! **What replays.** The lot of a packet depends on the seed, the direction and the packet's number in its direction, and
//! on nothing else: not on time, on its content, or on the other probabilities. So a run with the same seed meets the same
//! lots in the same order. When which packet is sent remains the hosts' affair: a kernel that acknowledges at another
//! moment numbers its packets otherwise. Only the queue before a limited rate drops by time.
//!
//! ARP, neighbour discovery and link-local multicast have no number and are only delayed: they belong to the link, not to the network behind it.

mod line;
mod lot;
mod spec;
pub(crate) mod steer;
pub(crate) mod wire;

pub use line::{Counts, Line};
pub use lot::{Direction, Lot};
pub use spec::{Chance, Impairment, time};
pub use steer::{BoxState, Order};
pub use wire::{WireArgs, run as run_box};
