//! A TCP peer in user space: every segment is the test's own decision, and every segment that comes back is checked.
//!
//! [`Device`] is a TUN device in a client's or a target's namespace with a network of its own behind it. [`Host`] is one
//! address in that network and [`Peer`] one end of a TCP connection there: a client's that dials, or a server's that is
//! called. Nothing is ever sent by itself: no acknowledgement and above all no retransmission, so a packet that is lost on
//! the way shows as a test that waits in vain. [`watch`] lists what must hold for every packet received. [`Spoofer`] sends from
//! another place.

mod between;
mod called;
mod connection;
mod device;
mod fragments;
mod spoof;
mod sys;
pub mod watch;
mod wire;

pub use connection::{PATIENCE, Peer, Start, request};
pub use device::{Device, Host, SERVER, SERVER6};
pub use spoof::Spoofer;
pub use sys::{Held, hold};
pub use wire::{Options, Packet, Segment, flag};
