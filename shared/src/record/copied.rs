//! Parts of responses, and the word that a flow closes, as the target's programs hand them to the agent: by a ring buffer, whole
//! and in their order, many of them for one wakeup of the agent.

use super::FlowKey;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Payload in one element of the ring buffer, bytes, at most: a power of two, by which the verifier follows a length.
pub const COPY_BYTES: u32 = 2048;
/// Elements that one packet may take: of more than 64 kB of payload the rest is not handed over.
pub const COPY_PIECES: u32 = 32;
/// Bytes of an element before its payload.
pub const COPY_HEAD: u32 = 56;

/// What stands in the ring buffer `COPIES`: payload of one packet, or a part of it, or none if all it tells is that the flow
/// closes. An element ends with its payload, so `bytes` is rarely there in full.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Copied {
    /// What it is a part of.
    pub head: CopiedHead,
    /// The payload.
    pub bytes: [u8; COPY_BYTES as usize],
}

/// What stands before the payload: of which flow it is, and where.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CopiedHead {
    /// The flow's number.
    pub flow_id: u64,
    /// Which of its handoffs.
    pub generation: u32,
    /// Of the payload's first byte, in the server's space.
    pub seq: u32,
    /// The flow's, of an adopted one either of its two.
    pub key: FlowKey,
    /// 1 if by this packet the agent must look at the flow ([`Account::closes`](crate::translate::Account::closes)).
    pub closes: u32,
}

const _: () = assert!(size_of::<CopiedHead>() == COPY_HEAD as usize);
const _: () = assert!(size_of::<Copied>() == (COPY_HEAD + COPY_BYTES) as usize);

impl Copied {
    /// What an element of the ring buffer says, and its payload. `None` if it is none of the program's.
    pub fn read(element: &[u8]) -> Option<(&CopiedHead, &[u8])> {
        CopiedHead::ref_from_prefix(element).ok()
    }
}

/// Whether to wake the reader for the last piece of a packet with so much payload, bytes; for those before, and for the word
/// that a flow closes, it is not woken. The reader has said that it is to be woken (`wake_at` is 0), or that it looks by itself
/// unless more than `wake_at` bytes wait; `waiting` tells how many do.
///
/// Woken whether it has read all before or not, as the kernel would by itself: for what is still unread it may not have been woken.
#[inline(always)]
pub fn wakes(payload: u32, wake_at: u32, waiting: impl FnOnce() -> u64) -> bool {
    // Of a large body more is copied until the reader has seen how long it is.
    payload > COPY_BYTES || wake_at == 0 || waiting() > wake_at as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_a_head_and_what_follows_it() {
        let head = CopiedHead { flow_id: 5, generation: 2, seq: 7, ..CopiedHead::default() };
        let element = [head.as_bytes(), b"abc"].concat();
        // As aligned as in the ring buffer.
        let mut words = vec![0_u64; element.len().div_ceil(8)];
        let bytes = words.as_mut_bytes();
        bytes[..element.len()].copy_from_slice(&element);
        assert_eq!(Copied::read(&bytes[..element.len()]), Some((&head, &b"abc"[..])));
        assert_eq!(Copied::read(&bytes[..size_of::<CopiedHead>()]), Some((&head, &b""[..])));
        assert_eq!(Copied::read(&bytes[..size_of::<CopiedHead>() - 1]), None);
    }

    #[test]
    fn a_reader_that_looks_by_itself_is_woken_only_for_much() {
        let unasked = || -> u64 { panic!("asked what need not be known") };
        assert!(wakes(COPY_BYTES + 1, 64, unasked));
        assert!(wakes(COPY_BYTES, 0, unasked));
        assert!(!wakes(COPY_BYTES, 64, || 64));
        assert!(wakes(1, 64, || 65));
    }
}
