//! The Internet checksum (RFC 1071), changed incrementally (RFC 1624).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A checksum as it stands in a header: complemented, memory order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HeaderChecksum(pub u16);

impl HeaderChecksum {
    /// The checksum of a header that changed by `change`.
    #[inline(always)]
    #[must_use]
    pub const fn changed(self, change: Sum) -> Self {
        HeaderChecksum(!Sum(change.0 + (!self.0) as u64).folded())
    }
}

/// A one's complement sum being computed, of 16-bit pieces in memory order. Words of 32 bits may be added whole:
/// modulo 0xffff their halves weigh the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Nothing yet.
    pub const ZERO: Sum = Sum(0);

    /// With the change from one memory-order word to another. A sum holds some 2^31 of these.
    #[inline(always)]
    #[must_use]
    pub const fn replaced(self, old: u32, new: u32) -> Self {
        Sum(self.0 + new as u64 + (!old) as u64)
    }

    /// As [`Sum::replaced`], for 16 bits at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn replaced16(self, old: u16, new: u16) -> Self {
        Sum(self.0 + new as u64 + (!old) as u64)
    }

    /// With a word at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, word: u32) -> Self {
        Sum(self.0 + word as u64)
    }

    /// With the byte at this offset.
    #[inline(always)]
    #[must_use]
    pub const fn with_byte(self, offset: u32, byte: u8) -> Self {
        // The half of a 16-bit piece, in memory order, that the offset falls into.
        let half = if cfg!(target_endian = "little") { offset & 1 } else { !offset & 1 };
        Sum(self.0 + ((byte as u64) << (half * 8)))
    }

    /// With another sum, of words at even offsets as well.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Sum) -> Self {
        Sum(self.0 + other.0)
    }

    /// With another sum, of words that stand `offset` bytes into this one's header: at an odd offset each byte
    /// weighs what its neighbour would (RFC 1071, section 2(B)).
    #[inline(always)]
    #[must_use]
    pub const fn plus_at(self, other: Sum, offset: u32) -> Self {
        Sum(self.0 + ((other.folded() as u64) << ((offset & 1) * 8)))
    }

    /// The sum in 16 bits.
    #[inline(always)]
    pub const fn folded(self) -> u16 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        #[expect(clippy::cast_possible_truncation, reason = "three folds of 33 bits leave 16")]
        {
            sum as u16
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 as its text has it: 16-bit big-endian pieces, end-around carry.
    fn full(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !u16::try_from(sum).unwrap()
    }

    /// 0 and 0xffff are the same number in one's complement.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a.is_multiple_of(0xffff) && b.is_multiple_of(0xffff))
    }

    proptest! {
        #[test]
        fn words_and_bytes_add_up_to_the_full_sum(words: Vec<u32>, rest: Vec<u8>) {
            let mut sum = words.iter().fold(Sum::ZERO, |sum, word| sum.with(*word));
            for (offset, byte) in (0u32..).zip(&rest) {
                sum = sum.with_byte(offset, *byte);
            }
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).chain(rest).collect();
            prop_assert!(same(u16::from_be(!sum.folded()), full(&bytes)));
        }

        #[test]
        fn incremental_equals_full(mut bytes in prop::collection::vec(any::<u8>(), 40), at in 0usize..36,
                                   new in prop_oneof![Just(0u32), Just(u32::MAX), any::<u32>()]) {
            let old_checksum = HeaderChecksum(full(&bytes).to_be());
            let old = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&new.to_ne_bytes());
            let change = Sum::ZERO.plus_at(Sum::ZERO.replaced(old, new), u32::try_from(at).unwrap());
            prop_assert!(same(u16::from_be(old_checksum.changed(change).0), full(&bytes)));
        }
    }
}
