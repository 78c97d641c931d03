//! The header by which a request tells which trace it belongs to: W3C Trace Context,
//! <https://www.w3.org/TR/trace-context/#traceparent-header>.

use crate::route::HeaderLines;

/// What a valid `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace's number, not 0.
    pub trace: u128,
    /// The number of the span that sent the request, not 0.
    pub parent: u64,
    /// Whoever began the trace records it.
    pub sampled: bool,
}

/// The lowest bit of the flags.
const SAMPLED: u8 = 1;

impl TraceParent {
    /// Version, trace, parent, flags, in small hexadecimal digits; a later version may have more behind a hyphen.
    pub fn parse(value: &[u8]) -> Option<TraceParent> {
        const LENGTH: usize = 55;
        let digits = |range: core::ops::Range<usize>| {
            let part = value.get(range)?;
            let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            if part.iter().all(hex) { core::str::from_utf8(part).ok() } else { None }
        };
        let (version, flags) = (digits(0..2)?, digits(53..LENGTH)?);
        let hyphens = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
        let length = match version {
            "ff" => false,
            "00" => value.len() == LENGTH,
            _ => value.len() == LENGTH || value.get(LENGTH) == Some(&b'-'),
        };
        let trace = u128::from_str_radix(digits(3..35)?, 16).ok()?;
        let parent = u64::from_str_radix(digits(36..52)?, 16).ok()?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & SAMPLED != 0;
        (hyphens && length && trace != 0 && parent != 0).then_some(TraceParent { trace, parent, sampled })
    }

    /// That of a request: of one that has several, or one that is not valid, none.
    pub fn of(lines: &dyn HeaderLines) -> Option<TraceParent> {
        let (mut count, mut found) = (0u32, None);
        lines.any("traceparent", &mut |value| {
            count = count.saturating_add(1);
            found = TraceParent::parse(value);
            false
        });
        found.filter(|_| count == 1)
    }
}

/// Whether a trace that begins here is recorded, if `per_million` of all are: judged by its number, so that whoever asks gets
/// the same answer.
pub fn is_sampled(trace: u128, per_million: u32) -> bool {
    trace % 1_000_000 < u128::from(per_million)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_understood_only_if_it_is_valid() {
        let parsed = TraceParent {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            parent: 0x00f0_67aa_0ba9_02b7,
            sampled: true,
        };
        assert_eq!(TraceParent::parse(GOOD.as_bytes()), Some(parsed));
        let later = format!("cc{}-more", &GOOD[2..]);
        assert_eq!(TraceParent::parse(later.as_bytes()), Some(parsed), "a later version may have more");
        let unsampled = GOOD.replace("-01", "-fe");
        assert_eq!(TraceParent::parse(unsampled.as_bytes()), Some(TraceParent { sampled: false, ..parsed }));
        for bad in [
            "",
            &GOOD[..54],
            &format!("{GOOD}0"),
            &format!("{GOOD}-more"),
            &GOOD.replace("00-4", "ff-4"),
            &GOOD.to_uppercase(),
            &GOOD.replace("-01", "-+1"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            &GOOD.replace('-', "_"),
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., parent in 1u64.., flags: u8) {
            let text = format!("00-{trace:032x}-{parent:016x}-{flags:02x}");
            let sampled = flags & 1 == 1;
            prop_assert_eq!(TraceParent::parse(text.as_bytes()), Some(TraceParent { trace, parent, sampled }));
        }

        #[test]
        fn no_bytes_make_it_fail(bytes: Vec<u8>) {
            let _ = TraceParent::parse(&bytes);
        }

        #[test]
        fn all_are_sampled_or_none(trace: u128) {
            prop_assert!(is_sampled(trace, 1_000_000));
            prop_assert!(!is_sampled(trace, 0));
        }
    }
}
