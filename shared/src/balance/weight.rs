//! Weights, and how a member that has just become healthy grows into its own.

/// What a configured weight of 1 counts: room for fractions during slow start.
pub const SCALE: u32 = 256;
/// The largest weight that can be configured.
pub const MAX_WEIGHT: u32 = 1000;

/// A member's weight for a pick, in units of 1/[`SCALE`]. `healthy_for_ms` is how long it has been healthy, `None` if
/// it was so from the start; within the first `slow_start_ms` the weight grows evenly from a hundredth to the whole.
pub fn effective_weight(configured: u32, healthy_for_ms: Option<u64>, slow_start_ms: u64) -> u32 {
    let full = configured.min(MAX_WEIGHT).saturating_mul(SCALE);
    match healthy_for_ms {
        Some(elapsed) if elapsed < slow_start_ms => {
            let grown = u64::from(full).saturating_mul(elapsed.max(slow_start_ms / 100)) / slow_start_ms;
            // Never nothing: without requests nobody learns whether it is well.
            u32::try_from(grown).unwrap_or(full).clamp(full.min(1), full)
        }
        _ => full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weight_grows_evenly_from_a_hundredth() {
        let at = |ms| effective_weight(100, Some(ms), 10_000);
        assert_eq!([at(0), at(100), at(5_000), at(10_000)], [256, 256, 12_800, 25_600]);
        assert_eq!(effective_weight(100, None, 10_000), 25_600);
        assert_eq!(effective_weight(0, Some(1), 10_000), 0, "weight 0 stays out");
        assert_eq!(effective_weight(2, Some(0), 0), 512, "no slow start");
    }

    proptest! {
        #[test]
        fn weight_never_falls_as_time_passes_nor_exceeds_its_own(
            weight in 1u32..=MAX_WEIGHT, slow in 1u64..1_000_000_000, a in any::<u64>(), b in any::<u64>()
        ) {
            let (early, late) = (a.min(b), a.max(b));
            let (x, y) = (effective_weight(weight, Some(early), slow), effective_weight(weight, Some(late), slow));
            prop_assert!(0 < x && x <= y && y <= weight * SCALE);
        }
    }
}
