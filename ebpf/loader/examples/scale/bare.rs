//! What no program of such tables can do without: a packet's flow looked up in `FLOWS`, its record touched in `SLOTS`, nothing
//! else. Written in instructions, so that nothing stands between them and the memory. The key is the packet's payload.

use super::sys;
use baton_shared::record::{FlowKey, FlowRecord};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use zerocopy::IntoBytes;

/// The bytes of an Ethernet header, which a packet must have.
const HEADER: usize = 14;

/// How much of the flow's memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Its entry in the hash table alone.
    Entry,
    /// And one word of its record.
    Word,
    /// And all of its record, the statistics written: what ours does.
    Record,
}

/// A loaded program.
pub(crate) struct Bare(OwnedFd, Touch);

impl Bare {
    pub(crate) const ALL: [Touch; 3] = [Touch::Entry, Touch::Word, Touch::Record];

    pub(crate) fn load(touch: Touch, flows: BorrowedFd<'_>, slots: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Bare(sys::load(&instructions(touch, sys::number(flows), sys::number(slots)))?, touch))
    }

    /// The packet with this key.
    pub(crate) fn packet(key: &FlowKey) -> Vec<u8> {
        let mut packet = vec![0; HEADER];
        packet.extend_from_slice(key.as_bytes());
        packet
    }

    /// Mean nanoseconds of `repeat` runs.
    pub(crate) fn run(&self, packet: &[u8], repeat: u32) -> io::Result<u32> {
        let (value, ns) = sys::test_run(self.0.as_fd(), packet, repeat)?;
        // Otherwise what was measured is a flow that is not there.
        assert_eq!(value, FOUND, "{:?}", self.1);
        Ok(ns)
    }
}

/// What a program returns that has found the flow.
const FOUND: u32 = 2;

// Instructions, include/uapi/linux/bpf.h and Documentation/bpf/standardization/instruction-set.rst.
const LOAD_WORD: u8 = 0x61;
const LOAD_DOUBLE: u8 = 0x79;
const STORE_WORD: u8 = 0x63;
const STORE_DOUBLE: u8 = 0x7b;
const LOAD_MAP: u8 = 0x18;
const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const ADD: u8 = 0x0f;
const ADD_VALUE: u8 = 0x07;
const JUMP_IF_AT_MOST: u8 = 0xbd;
const JUMP_UNLESS_VALUE: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// `BPF_FUNC_map_lookup_elem`.
const LOOKUP: i32 = 1;
/// `BPF_PSEUDO_MAP_FD`, in the place of a source register.
const MAP_FD: u8 = 1;
/// The register with the stack's end.
const STACK: u8 = 10;

/// One instruction as the kernel takes it.
fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [a, b] = offset.to_le_bytes();
    let [c, d, e, f] = value.to_le_bytes();
    u64::from_le_bytes([code, from << 4 | to, a, b, c, d, e, f])
}

/// The value of `map` under the key at `pointer` and `offset`, in register 0; without one the program ends.
fn look_up(map: i32, pointer: u8, offset: i32) -> [u64; 7] {
    [
        op(LOAD_MAP, 1, MAP_FD, 0, map),
        0,
        op(MOVE, 2, pointer, 0, 0),
        op(ADD_VALUE, 2, 0, 0, offset),
        op(CALL, 0, 0, 0, LOOKUP),
        op(JUMP_UNLESS_VALUE, 0, 0, 1, 0),
        op(EXIT, 0, 0, 0, 0),
    ]
}

/// What drops whatever comes.
pub(crate) fn dropping() -> [u64; 2] {
    /// `TCX_DROP`.
    const DROP: i32 = 2;
    [op(MOVE_VALUE, 0, 0, 0, DROP), op(EXIT, 0, 0, 0, 0)]
}

fn instructions(touch: Touch, flows: i32, slots: i32) -> Vec<u64> {
    /// Of `struct __sk_buff`.
    const DATA: i16 = 76;
    const DATA_END: i16 = 80;
    let number = |n: usize| i16::try_from(n).unwrap();
    let end = i32::try_from(HEADER + size_of::<FlowKey>()).unwrap();
    let mut code = vec![
        op(LOAD_WORD, 6, 1, DATA, 0),
        op(LOAD_WORD, 7, 1, DATA_END, 0),
        op(MOVE, 2, 6, 0, 0),
        op(ADD_VALUE, 2, 0, 0, end),
        op(JUMP_IF_AT_MOST, 2, 7, 2, 0),
        op(MOVE_VALUE, 0, 0, 0, 0),
        op(EXIT, 0, 0, 0, 0),
    ];
    code.extend(look_up(flows, 6, i32::try_from(HEADER).unwrap()));
    code.push(op(LOAD_WORD, 8, 0, 0, 0));
    if touch != Touch::Entry {
        code.push(op(STORE_WORD, STACK, 8, -4, 0));
        code.extend(look_up(slots, STACK, -4));
        code.push(op(LOAD_WORD, 8, 0, number(offset_of!(FlowRecord, state)), 0));
    }
    if touch == Touch::Record {
        for word in 0..size_of::<FlowRecord>() / 8 {
            code.extend([op(LOAD_DOUBLE, 1, 0, number(word * 8), 0), op(ADD, 8, 1, 0, 0)]);
        }
        let statistics = [
            offset_of!(FlowRecord, last_seen_ns),
            offset_of!(FlowRecord, packets),
            offset_of!(FlowRecord, bytes),
        ];
        code.extend(statistics.map(|at| op(STORE_DOUBLE, 0, 8, number(at), 0)));
    }
    code.extend([op(MOVE_VALUE, 0, 0, 0, FOUND.cast_signed()), op(EXIT, 0, 0, 0, 0)]);
    code
}
