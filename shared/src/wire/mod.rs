//! Headers as values: what a packet says, loaded from words exactly as they stand in memory.
//!
//! Words, not bytes or slices: the eBPF programs load headers as word arrays, and the kernel's verifier never
//! meets generic slice code.

mod checksum;
mod ipv4;
mod options;
mod segment;
mod tcp;

pub use checksum::{HeaderChecksum, Sum};
pub use ipv4::{Fragment, Ipv4Words, PROTOCOL_TCP};
pub use options::{OPTION_BUFFER, OPTIONS_MAX, OptionPlaces, OptionValues};
pub use segment::Segment;
pub use tcp::{ACK, FIN, RST, SYN, TcpWords};
