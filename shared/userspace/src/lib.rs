//! The data plane without eBPF: the same verdicts as the programs', carried out by the daemon on packets that policy
//! routing leads through its TUN device.
//!
//! [`carry`] is what the two uplink programs are in the eBPF plane: it finds the flow, asks `shared` for the verdict,
//! writes the patch into the packet and books. [`Steering`] leads the packets to the TUN and puts everything back
//! when it is dropped. [`Carrier`] is what the TUN's owner sees of it. `docs/userspace-plane.md` tells the whole way
//! of a packet, and what this plane lacks.

mod carrier;
pub mod netlink;
mod packet;
mod plain;
mod report;
mod steering;

pub use carrier::{Carrier, Fate};
pub use packet::{Flows, Handled, carry};
pub use steering::{Lead, Steering, SteeringError, set_queue_length};
