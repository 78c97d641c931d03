//! A part of a response, as the target's program hands it to the agent: by a ring buffer where it is small, which costs the
//! agent no system call, else as a copy of the packet through the TUN.

use super::FlowKey;
use crate::seq::before;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Payload that goes by the ring buffer, bytes, at most: a power of two, by which the verifier follows a length.
pub const COPY_BYTES: u32 = 2048;

/// What stands in the ring buffer `COPIES` for one packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Copied {
    /// The flow's, as on the target's egress.
    pub key: FlowKey,
    /// Of the first byte, in the server's space, host order.
    pub seq: u32,
    /// How many bytes, 1 to [`COPY_BYTES`].
    pub length: u32,
    /// The payload; what is behind it means nothing.
    pub bytes: [u8; COPY_BYTES as usize],
}

const _: () = assert!(size_of::<Copied>() == 44 + COPY_BYTES as usize);

impl Copied {
    /// Whether so much payload, bytes, with this number goes by the ring buffer while the agent needs the stream next at
    /// `read_from`. What lies behind that goes through the TUN, in its order: the two are not read in the order of both.
    #[inline(always)]
    pub const fn fits(read_from: u32, seq: u32, payload: u32) -> bool {
        payload.wrapping_sub(1) < COPY_BYTES && !before(read_from, seq)
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        self.bytes.get(..length).unwrap_or(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_up_to_all_fit() {
        let fitting = [0, 1, COPY_BYTES, COPY_BYTES + 1, u32::MAX].map(|payload| Copied::fits(7, 7, payload));
        assert_eq!(fitting, [false, true, true, false, false]);
    }

    #[test]
    fn what_lies_behind_the_byte_to_be_read_next_does_not_overtake_what_goes_through_the_tun() {
        let fitting = [u32::MAX - 9, 2, 3, 4].map(|seq| Copied::fits(3, seq, 100));
        assert_eq!(fitting, [true, true, true, false]);
    }

    #[test]
    fn the_payload_is_as_long_as_it_says_and_never_longer_than_there_is() {
        let copied = |length| {
            Copied { key: FlowKey::default(), seq: 0, length, bytes: [7; COPY_BYTES as usize] }
                .payload()
                .len()
        };
        assert_eq!([0, 5, COPY_BYTES, u32::MAX].map(copied), [0, 5, 2048, 2048]);
    }
}
