//! Headers as values: what a packet says, loaded from words exactly as they stand in memory.
//!
//! Words, not bytes or slices: the eBPF programs load headers as word arrays, and the kernel's verifier never
//! meets generic slice code.

mod checksum;
mod icmp;
mod ip;
mod ipv4;
mod ipv6;
mod options;
mod segment;
mod tcp;

pub use checksum::{HeaderChecksum, Sum};
pub use icmp::{IcmpWords, PROTOCOL_ICMP, PROTOCOL_ICMPV6, QuotedTcp, Report};
pub use ip::{EXTENSIONS_MAX, Fragment, IpFacts};
pub use ipv4::{Ipv4Words, PROTOCOL_TCP, PROTOCOL_UDP};
pub use ipv6::{Ipv6Words, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP, NEXT_ROUTING};
pub use options::{OPTION_BUFFER, OPTIONS_MAX, OptionPlaces, OptionValues};
pub use segment::Segment;
pub use tcp::{ACK, FIN, PSH, RST, SYN, TcpWords};
