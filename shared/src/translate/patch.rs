//! What is to be written: into the packet, and into the flow's record.

use crate::addr::{IpWords, PortWord};
use crate::wire::HeaderChecksum;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// New values of a packet's headers, host order where not said otherwise, and what the record gets.
///
/// An out-parameter: in eBPF it lives in a per-CPU map, and zeroed memory is a valid value. Only what the verdict
/// needs is filled in; the rest is left from the packet before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Patch {
    /// What takes the place of the flow key's local address: the destination on the intermediate, the source on
    /// the target.
    pub new_addr: IpWords,
    /// What takes the place of its port.
    pub new_port: PortWord,
    /// Window as in the header.
    pub window: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Timestamp value; if the segment has timestamps.
    pub tsval: u32,
    /// Timestamp echo reply; if the segment has timestamps.
    pub tsecr: u32,
    /// As many SACK edges as the segment has.
    pub sack_edges: [u32; 8],
    /// How the sum of the TCP header and its options changes, without the addresses: one's complement, memory
    /// order, as `bpf_l4_csum_replace` takes it with size 0.
    pub tcp_change: u32,
    /// How the sum of the pseudo-header's addresses changes: as `tcp_change`, of the addresses.
    pub address_change: u32,
    /// IPv4: the header's checksum.
    pub header_checksum: HeaderChecksum,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Explicit padding.
    pub reserved: u8,
    /// What the record gets.
    pub account: Account,
}

/// What to write into the flow's record. The judge fills in all of it every time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Account {
    /// To add to the record's `diverted`.
    pub diverted: u32,
    /// To add to its `released`.
    pub released: u32,
    /// The new state if it changes, else 0 (no packet frees a record).
    pub state: u32,
    /// 1 if the `note_*` values below are to be stored.
    pub noted: u32,
    /// New `note_ack`.
    pub note_ack: u32,
    /// New `note_window`.
    pub note_window: u32,
    /// New `note_tsval`.
    pub note_tsval: u32,
    /// New `note_seq_end`.
    pub note_seq_end: u32,
    /// Bits to set in `note_flags`.
    pub note_flags: u32,
    /// A second counter to count, beside the verdict's; 0: none.
    pub also: u32,
    /// How much of the payload the daemon gets a copy of ([`Copied`](crate::record::Copied)), bytes from its first; 0: of nothing.
    /// Where a copy costs nothing it gets the packet as it came.
    pub copy: u32,
    /// 1 if by this packet the agent must look at the flow, whose server's socket may be gone or go soon: it brings one of
    /// [`NOTE_CLOSING`](crate::record::NOTE_CLOSING) that the record does not have.
    pub closes: u32,
    /// 1 if a packet that is not changed is to be counted among those sent on the flow.
    pub sent: u32,
    /// 1 if `read_from` and `requests` below are to be stored: a plain request goes on, or a plain response begins.
    pub plain: u32,
    /// New `read_from`.
    pub read_from: u32,
    /// New `requests`.
    pub requests: u32,
    /// Why the kernel refused to make a socket; 0: nothing to store.
    pub errno: u32,
}
