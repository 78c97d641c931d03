//! The packet: the only raw pointers, helper calls and inline assembly.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_INGRESS, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
};
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_ktime_get_ns, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
    bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::maps::RingBuf;
use baton_shared::record::{COPY_BYTES, COPY_HEAD, Copied, FlowRecord};
use core::arch::asm;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::{ptr, slice};

/// A packet at a TC hook.
#[derive(Clone, Copy)]
pub(crate) struct Skb(*mut __sk_buff);

impl Skb {
    /// # Safety
    /// `skb` is the context the program was called with.
    #[inline(always)]
    pub(crate) unsafe fn new(skb: *mut __sk_buff) -> Self {
        Skb(skb)
    }

    /// The context, for helpers that take more than the packet.
    #[inline(always)]
    pub(crate) fn raw(self) -> *mut __sk_buff {
        self.0
    }

    /// Bytes of the packet with its Ethernet header.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).len }
    }

    /// Payload bytes of each segment of a super-packet; 0: it is none.
    #[inline(always)]
    pub(crate) fn segment_bytes(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).gso_size }
    }

    /// EtherType, memory order in the low 16 bits.
    #[inline(always)]
    pub(crate) fn protocol(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).protocol }
    }

    #[inline(always)]
    pub(crate) fn mark(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).mark }
    }

    #[inline(always)]
    pub(crate) fn set_mark(self, mark: u32) {
        // SAFETY: as above; programs may write this field.
        unsafe { (*self.0).mark = mark }
    }

    /// Copies bytes at `offset` to `to`; false if the packet is too short.
    #[inline(always)]
    pub(crate) fn load<T>(self, offset: u32, to: &mut T) -> bool {
        // SAFETY: `to` has room for its own size; callers pass types of plain words.
        unsafe {
            bpf_skb_load_bytes(self.0.cast(), offset, ptr::from_mut(to).cast(), size_of::<T>() as u32) == 0
        }
    }

    /// Copies `length` bytes, 1 to `MOST`, at `offset` to the buffer's start. `MOST` is a power of two.
    #[inline(always)]
    pub(crate) fn load_up_to<const MOST: usize>(self, offset: u32, length: u32, to: &mut [u8; MOST]) -> bool {
        let length = bounded::<MOST>(length);
        // SAFETY: at most MOST bytes are written.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.as_mut_ptr().cast(), length as u32) == 0 }
    }

    /// The one's complement sum, in memory order, of `length` bytes at `offset`, 4 to 64 of them and a multiple of 4, by way of
    /// the buffer's start.
    #[inline(always)]
    pub(crate) fn sum_up_to<const MOST: usize>(
        self,
        offset: u32,
        length: u32,
        by: &mut [u8; MOST],
    ) -> Option<u32> {
        let header = by.first_chunk_mut::<64>()?;
        if !self.load_up_to(offset, length, header) {
            return None;
        }
        let length = bounded::<64>(length) as u32;
        // SAFETY: so many bytes are there.
        let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, header.as_mut_ptr().cast(), length, 0) };
        u32::try_from(sum).ok()
    }

    /// Puts an element into the ring buffer: the head of `part`, and the packet's `length` bytes, 1 to [`COPY_BYTES`], at
    /// `offset`. False if it has no room.
    #[inline(always)]
    pub(crate) fn put_into(
        self,
        ring: &RingBuf,
        offset: u32,
        length: u32,
        part: &mut Copied,
        flags: u64,
    ) -> bool {
        if !self.load_up_to(offset, length, &mut part.bytes) {
            return false;
        }
        // Anew, for a verifier that has forgotten the bounds of what was kept on the stack.
        let bytes = u64::from(COPY_HEAD) + bounded::<{ COPY_BYTES as usize }>(length);
        // SAFETY: head and bytes of the payload, which lies right behind it.
        let element = unsafe { slice::from_raw_parts(ptr::from_ref(part).cast::<u8>(), bytes as usize) };
        ring.output::<[u8]>(element, flags).is_ok()
    }

    /// Writes `from` at `offset`, without touching checksums.
    #[inline(always)]
    pub(crate) fn store<T>(self, offset: u32, from: &T) -> bool {
        // SAFETY: `from` is readable over its own size.
        unsafe {
            bpf_skb_store_bytes(self.0.cast(), offset, ptr::from_ref(from).cast(), size_of::<T>() as u32, 0)
                == 0
        }
    }

    /// As [`Skb::store`], keeping the device's sum over the whole packet right (`CHECKSUM_COMPLETE`): for changes
    /// that no checksum inside the packet balances.
    #[inline(always)]
    pub(crate) fn store_summed<T>(self, offset: u32, from: &T) -> bool {
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        let length = size_of::<T>() as u32;
        // SAFETY: as above.
        unsafe { bpf_skb_store_bytes(self.0.cast(), offset, ptr::from_ref(from).cast(), length, flags) == 0 }
    }

    /// Corrects the TCP checksum at `offset` for a change of the pseudo-header's addresses by this one's complement
    /// sum. The helper also changes the device's sum over the whole packet: right for IPv4, whose header checksum
    /// balances the addresses; for IPv6 [`Skb::store_summed`] undoes it. (From Linux 6.16 on BPF_F_IPV6 would keep
    /// the helper from doing it; this way is every kernel's.)
    #[inline(always)]
    pub(crate) fn addresses_changed(self, offset: u32, change: u32) -> bool {
        let flags = u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: a helper call on the context.
        unsafe { bpf_l4_csum_replace(self.0.cast(), offset, 0, u64::from(change), flags) == 0 }
    }

    /// Corrects the TCP checksum at `offset` for a change of the segment by this one's complement sum.
    #[inline(always)]
    pub(crate) fn segment_changed(self, offset: u32, change: u32) -> bool {
        // SAFETY: as above.
        unsafe { bpf_l4_csum_replace(self.0.cast(), offset, 0, u64::from(change), 0) == 0 }
    }

    /// Puts `T` in front of a packet that has no link-layer header.
    #[inline(always)]
    pub(crate) fn prepend<T>(self, header: &T) -> bool {
        // SAFETY: as above.
        let room = unsafe { bpf_skb_change_head(self.0.cast(), size_of::<T>() as u32, 0) == 0 };
        room && self.store(0, header)
    }
}

/// A length of 1 to `MOST`, a power of two, as the verifier can follow it.
#[inline(always)]
fn bounded<const MOST: usize>(length: u32) -> u64 {
    const { assert!(MOST.is_power_of_two()) };
    let mut bounded = u64::from(length).wrapping_sub(1);
    // SAFETY: arithmetic on one register. The verifier follows it to 1..=MOST where it loses a comparison that LLVM has
    // merged with another.
    unsafe { asm!("{0} &= {most}", "{0} += 1", inout(reg) bounded, most = const MOST - 1) };
    bounded
}

/// What a packet is put into.
#[derive(Clone, Copy)]
pub(crate) struct Wrapping {
    pub(crate) v4: bool,
    pub(crate) udp: bool,
}

impl Skb {
    /// Makes room for so many bytes of outer headers behind the Ethernet header. A super-packet's segments keep their
    /// size: the client was told one that leaves room.
    #[inline(always)]
    pub(crate) fn wrap(self, bytes: u32, wrapping: Wrapping) -> bool {
        let ip = if wrapping.v4 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 };
        let udp = if wrapping.udp { BPF_F_ADJ_ROOM_ENCAP_L4_UDP } else { 0 };
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | ip | udp);
        // SAFETY: a helper call on the context.
        unsafe { bpf_skb_adjust_room(self.0, bytes as i32, BPF_ADJ_ROOM_MAC, flags) == 0 }
    }

    /// Takes so many bytes away behind the Ethernet header.
    #[inline(always)]
    pub(crate) fn unwrap(self, bytes: u32) -> bool {
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
        // SAFETY: as above.
        unsafe { bpf_skb_adjust_room(self.0, -(bytes as i32), BPF_ADJ_ROOM_MAC, flags) == 0 }
    }
}

/// Sends the packet out of a device as it is: the verdict to return.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> i32 {
    // SAFETY: a helper call without pointers.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Lets the packet arrive on a device: the verdict to return.
#[inline(always)]
pub(crate) fn redirect_to_ingress(ifindex: u32) -> i32 {
    // SAFETY: as above.
    unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Routes the packet by its destination and sends it out of a device with the neighbour's MAC: the verdict.
#[inline(always)]
pub(crate) fn redirect_to_neighbour(ifindex: u32) -> i32 {
    // SAFETY: no parameters are passed (null, 0), so the kernel looks the next hop up.
    unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) as i32 }
}

/// CLOCK_MONOTONIC, ns.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: a helper call without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The same reference, of which neither LLVM nor, in its effect, the verifier knows what was stored there: values
/// read back are any value, and paths that differ only in what they stored become one.
#[inline(always)]
pub(crate) fn opaque<T>(value: &mut T) -> &mut T {
    let mut pointer = ptr::from_mut(value);
    // SAFETY: the register keeps its value; the pointer stays what it was.
    unsafe {
        asm!("{0} = {0}", inout(reg) pointer);
        &mut *pointer
    }
}

/// The same number, of which LLVM does not know that it is: a loop's end that is compared with it stays apart from a constant
/// one, which is what the verifier follows.
#[inline(always)]
pub(crate) fn opaque_number(number: u32) -> u32 {
    let mut number = number;
    // SAFETY: the register keeps its value.
    unsafe { asm!("{0} = {0}", inout(reg) number) };
    number
}

/// A flow's record in the map, which other CPUs and the daemon read and write at the same time: every access is
/// of one aligned word.
#[derive(Clone, Copy)]
pub(crate) struct SharedRecord(*mut FlowRecord);

/// Words of a record.
const WORDS: usize = size_of::<FlowRecord>() / 8;

macro_rules! word_store {
    ($name:ident, $field:ident, $kind:ty) => {
        #[inline(always)]
        pub(crate) fn $name(self, value: $kind) {
            // SAFETY: inside the map's element, aligned; see the type.
            unsafe { ptr::write_volatile(&raw mut (*self.0).$field, value) }
        }
    };
}

macro_rules! word_add {
    ($name:ident, $field:ident, $kind:ty) => {
        #[inline(always)]
        pub(crate) fn $name(self, value: $kind) {
            // SAFETY: as above; the result is not used, so that this is the XADD that every kernel has.
            unsafe {
                atomic_xadd::<$kind, $kind, { AtomicOrdering::Relaxed }>(&raw mut (*self.0).$field, value)
            };
        }
    };
}

impl SharedRecord {
    /// # Safety
    /// `record` is an element of `SLOTS`.
    #[inline(always)]
    pub(crate) unsafe fn new(record: *mut FlowRecord) -> Self {
        SharedRecord(record)
    }

    /// Copies the record.
    #[inline(always)]
    pub(crate) fn copy_to(self, copy: &mut FlowRecord) {
        let (from, to) = (self.0.cast::<u64>(), ptr::from_mut(copy).cast::<u64>());
        for word in 0..WORDS {
            // SAFETY: both are 8-aligned and WORDS words long.
            unsafe { to.add(word).write(ptr::read_volatile(from.add(word))) };
        }
    }

    /// Sets flags that are not set. Two CPUs that set different ones within the same few instructions may lose one: an atomic
    /// OR came with Linux 5.12.
    #[inline(always)]
    pub(crate) fn add_note_flags(self, flags: u32) {
        // SAFETY: inside the map's element, aligned; see the type.
        unsafe {
            let word = &raw mut (*self.0).note_flags;
            let now = ptr::read_volatile(word);
            if flags & !now != 0 {
                ptr::write_volatile(word, now | flags);
            }
        }
    }

    /// The state as it stands now.
    #[inline(always)]
    pub(crate) fn state(self) -> u32 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(&raw const (*self.0).state) }
    }

    /// Payload that is the daemon's to read begins here, as it stands now.
    #[inline(always)]
    pub(crate) fn read_from(self) -> u32 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(&raw const (*self.0).read_from) }
    }

    word_store!(store_state, state, u32);
    word_store!(store_read_from, read_from, u32);
    word_store!(store_requests, requests, u32);
    word_store!(store_last_seen, last_seen_ns, u64);
    word_store!(store_released, released, u32);
    word_store!(store_note_ack, note_ack, u32);
    word_store!(store_note_window, note_window, u32);
    word_store!(store_note_tsval, note_tsval, u32);
    word_store!(store_note_seq_end, note_seq_end, u32);
    word_add!(add_diverted, diverted, u32);
    word_add!(add_released, released, u32);
    word_add!(add_packets, packets, u64);
    word_add!(add_bytes, bytes, u64);
}
