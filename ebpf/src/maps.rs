//! The maps. Sizes are set by the loader; ARCHITECTURE.md says who writes and who reads.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use baton_shared::reason::PacketCounter;
use baton_shared::record::{Copied, FlowKey, FlowRecord, LegSettings, Settings};
use baton_shared::translate::adopt::Attributes;
use baton_shared::translate::fragments::{FragmentKey, PACKETS_MAX};
use baton_shared::translate::{Patch, ReportPatch};
use baton_shared::wire::{IpFacts, Ipv4Words, Ipv6Words, OPTION_BUFFER, Report, Segment, TcpWords};

/// Flow key to slot number. Written by the daemon, read here.
#[map]
pub(crate) static FLOWS: HashMap<FlowKey, u32> = HashMap::with_max_entries(65_536, 0);

/// Flow records. Identity, translation and state are the daemon's; accounts, notes and statistics are ours.
#[map]
pub(crate) static SLOTS: Array<FlowRecord> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// The host's devices and marks. Written by the daemon, read here.
#[map]
pub(crate) static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// The addresses of outer headers. Written by the daemon, read here.
#[map]
pub(crate) static LEGS: Array<LegSettings> = Array::with_max_entries(1, 0);

/// Index [`PacketCounter`]. Written here, read by the daemon.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(PacketCounter::CAPACITY, 0);

/// When a packet's first fragment was dropped, CLOCK_MONOTONIC ns. Written and read here alone.
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, u64> = LruHashMap::with_max_entries(PACKETS_MAX, 0);
/// Parts of responses, and that flows close, for the agent ([`Copied`]). Written here, read by the daemon; not pinned: what no
/// agent has read when it ends, its successor does not know either.
#[map]
pub(crate) static COPIES: RingBuf = RingBuf::with_byte_size(1 << 16, 0);
/// When to wake its reader ([`wakes`](baton_shared::record::wakes)). Written by the daemon, read here.
#[map]
pub(crate) static COPIES_WAKE: Array<u32> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The ruling in force on an intermediate ([`may_be_plain`](baton_shared::translate::may_be_plain)); 0: none, every later
/// request is read. Written by the daemon, read here; not pinned: a new daemon rules anew.
#[map]
pub(crate) static RULING: Array<u32> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The next element of `COPIES`; on an intermediate, a client's segment that is read.
#[map]
pub(crate) static PIECE: PerCpuArray<Copied> = PerCpuArray::with_max_entries(1, 0);

/// The packet in hand. Programs do not interrupt each other on one CPU.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// What does not fit on the stack of 512 bytes. Any bytes are a valid value.
#[repr(C)]
pub(crate) struct Scratch {
    /// A copy of the flow's record as it was when the packet came.
    pub(crate) record: FlowRecord,
    pub(crate) key: FlowKey,
    pub(crate) ipv4: Ipv4Words,
    pub(crate) ipv6: Ipv6Words,
    pub(crate) extension: [u32; 2],
    pub(crate) ip: IpFacts,
    pub(crate) fragment: FragmentKey,
    pub(crate) tcp: TcpWords,
    pub(crate) segment: Segment,
    pub(crate) patch: Patch,
    pub(crate) options: [u8; OPTION_BUFFER],
    pub(crate) report: Report,
    pub(crate) quoted_ipv4: Ipv4Words,
    pub(crate) quoted_ipv6: Ipv6Words,
    pub(crate) report_patch: ReportPatch,
    /// On the target's ingress: the outer header.
    pub(crate) outer: IpFacts,
    /// On the target's ingress: what the kernel is told of a connection to adopt.
    pub(crate) attributes: Attributes,
    /// On the target's egress: where in the packet the next piece for the agent begins, and how many bytes are left.
    pub(crate) copy_at: u32,
    pub(crate) copy_left: u32,
    /// On the target's egress: how long a response's head is, 0 if that is not known, and the content behind it, bytes.
    pub(crate) head: u32,
    pub(crate) content: u32,
}

/// Counts one packet.
#[inline(always)]
pub(crate) fn count(code: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(code) {
        // SAFETY: the map's memory; per CPU, and programs do not interrupt each other on one CPU.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
