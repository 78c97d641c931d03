//! The TCP options whose values a migration changes: timestamps (RFC 7323, section 3) and selective
//! acknowledgements (RFC 2018, section 3).
//!
//! Done in two steps, [`OptionPlaces::find`] and [`OptionValues::load`], because the eBPF programs have to make
//! the places opaque to the verifier in between: it would follow every layout of options to the packet's end.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of the buffer with option bytes: 40 at most are options; a power of two, so that indices are masked
/// instead of checked.
pub const OPTION_BUFFER: usize = 64;
const MASK: u32 = 63;
/// The most option bytes a TCP header has.
pub const OPTIONS_MAX: u32 = 40;

const KIND_END: u8 = 0;
const KIND_NOP: u8 = 1;
const KIND_SACK: u8 = 5;
const KIND_TIMESTAMPS: u8 = 8;

/// Where the options stand; offsets of the values behind kind and length, from the first option byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OptionPlaces {
    /// Of the timestamp value; 0 without the option.
    pub timestamps: u32,
    /// Of the first SACK block; 0 without the option.
    pub sack: u32,
    /// How many SACK blocks there are, 0 to 4.
    pub sack_blocks: u32,
    /// The walk's own: where the option after the last one seen begins.
    pub next: u32,
}

/// The values, host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OptionValues {
    /// Where they came from.
    pub places: OptionPlaces,
    /// Timestamp value.
    pub tsval: u32,
    /// Timestamp echo reply; counts only with ACK.
    pub tsecr: u32,
    /// Left and right edges of the SACK blocks, as many as [`OptionPlaces::sack_blocks`] says.
    pub sack_edges: [u32; 8],
}

#[inline(always)]
fn byte(bytes: &[u8; OPTION_BUFFER], at: u32) -> u8 {
    #[expect(clippy::indexing_slicing, reason = "masked: always inside")]
    bytes[(at & MASK) as usize]
}

#[inline(always)]
fn word(bytes: &[u8; OPTION_BUFFER], at: u32) -> u32 {
    u32::from_be_bytes([byte(bytes, at), byte(bytes, at + 1), byte(bytes, at + 2), byte(bytes, at + 3)])
}

impl OptionPlaces {
    /// Walks `length` bytes (0 to 40) of options. As a receiver does, it stops at an option that cannot be
    /// right and takes the last of several of a kind (`tcp_parse_options()` in the kernel's net/ipv4/tcp_input.c).
    pub fn find(&mut self, bytes: &[u8; OPTION_BUFFER], length: u32) {
        *self = OptionPlaces::default();
        for at in 0..OPTIONS_MAX {
            if !self.step(bytes, length, at) {
                break;
            }
        }
    }

    /// One byte of the walk, which begins with zeroed places; false ends it. Byte by byte instead of option by
    /// option, and with what is known kept in `self`: so the eBPF program can make `self` opaque in between, and
    /// its verifier knows every index but does not remember how it came there.
    #[inline(always)]
    #[expect(clippy::manual_range_contains, reason = "plain comparisons are what the verifier follows best")]
    pub fn step(&mut self, bytes: &[u8; OPTION_BUFFER], length: u32, at: u32) -> bool {
        if at >= length {
            return false;
        }
        if at < self.next {
            return true;
        }
        let kind = byte(bytes, at);
        if kind == KIND_END {
            return false;
        }
        if kind == KIND_NOP {
            return true;
        }
        let size = byte(bytes, at + 1) as u32;
        if size < 2 || size > length - at {
            return false;
        }
        self.next = at + size;
        if kind == KIND_TIMESTAMPS && size == 10 {
            self.timestamps = at + 2;
        }
        if kind == KIND_SACK && size >= 10 && size <= 34 && (size - 2) & 7 == 0 {
            self.sack = at + 2;
            self.sack_blocks = (size - 2) >> 3;
        }
        true
    }
}

impl OptionValues {
    /// Reads the values at the places found.
    #[inline(always)]
    pub fn load(&mut self, bytes: &[u8; OPTION_BUFFER]) {
        let places = self.places;
        if places.timestamps != 0 {
            self.tsval = word(bytes, places.timestamps);
            self.tsecr = word(bytes, places.timestamps + 4);
        }
        let mut at = places.sack;
        for (block, edges) in (0u32..).zip(self.sack_edges.as_chunks_mut::<2>().0) {
            if block >= places.sack_blocks {
                break;
            }
            edges[0] = word(bytes, at);
            edges[1] = word(bytes, at + 4);
            at += 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{TcpOptionElement, TcpOptions};
    use proptest::prelude::*;

    fn load(options: &[u8]) -> OptionValues {
        let mut buffer = [0xa5; OPTION_BUFFER];
        buffer[..options.len()].copy_from_slice(options);
        let mut values = OptionValues::default();
        values.places.find(&buffer, u32::try_from(options.len()).unwrap());
        values.load(&buffer);
        values
    }

    #[test]
    fn linux_layouts() {
        // NOP NOP TS; NOP NOP SACK with two blocks.
        let mut bytes = vec![1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9, 1, 1, 5, 18];
        bytes.extend((0u32..4).flat_map(|e| (100 + e).to_be_bytes()));
        let values = load(&bytes);
        assert_eq!(values.places, OptionPlaces { timestamps: 4, sack: 16, sack_blocks: 2, next: 32 });
        assert_eq!((values.tsval, values.tsecr), (7, 9));
        assert_eq!(values.sack_edges[..4], [100, 101, 102, 103]);
    }

    #[test]
    fn broken_options_end_the_walk() {
        for bytes in [
            &[8u8, 10, 0, 0][..],
            &[8, 0],
            &[8, 1],
            &[5],
            &[0, 8, 10],
            &[5, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let places = load(bytes).places;
            assert_eq!((places.timestamps, places.sack_blocks), (0, 0), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_etherparse(ts in any::<Option<(u32, u32)>>(),
                                  sack in prop::collection::vec(any::<(u32, u32)>(), 0..4),
                                  nops in 0usize..4, nops_between in 0usize..3) {
            let mut elements = vec![TcpOptionElement::Noop; nops];
            elements.extend(ts.map(|(v, e)| TcpOptionElement::Timestamp(v, e)));
            elements.extend(vec![TcpOptionElement::Noop; nops_between]);
            let mut rest = [None; 3];
            for (to, from) in rest.iter_mut().zip(sack.iter().skip(1)) { *to = Some(*from); }
            elements.extend(sack.first().map(|first| TcpOptionElement::SelectiveAcknowledgement(*first, rest)));
            let Ok(options) = TcpOptions::try_from_elements(&elements) else { return Ok(()); };
            let values = load(options.as_slice());
            prop_assert_eq!(values.places.timestamps != 0, ts.is_some());
            if let Some((v, e)) = ts { prop_assert_eq!((values.tsval, values.tsecr), (v, e)); }
            prop_assert_eq!(usize::try_from(values.places.sack_blocks).unwrap(), sack.len());
            for (i, (l, r)) in sack.iter().enumerate() {
                prop_assert_eq!((values.sack_edges[2 * i], values.sack_edges[2 * i + 1]), (*l, *r));
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..=40)) {
            let values = load(&bytes);
            prop_assert!(values.places.sack_blocks <= 4);
        }
    }
}
