//! From samples to figures: medians with their spread.

use super::cpu::CpuReading;
use super::load::Done;
use super::{Cell, Cpu};
use serde::Serialize;

/// A median over the rounds, with the least and the largest value beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Figure {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Figure {
    /// Of one value for each round; zeros if there is none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first().copied(), sorted.last().copied()) else {
            return Figure::default();
        };
        Figure { median: percentile(&sorted, 50), min, max }
    }
}

/// Two percentiles of durations, each a figure over the rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// The median request's.
    pub p50: Figure,
    /// Of a hundred requests the second slowest's.
    pub p99: Figure,
}

/// The value below which `percent` of the sorted values are; 0 if there are none. With an even number and 50 percent it is
/// the mean of the two in the middle.
pub(super) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let count = sorted.len();
    let at = |n: usize| sorted.get(n.min(count.saturating_sub(1))).copied().unwrap_or(0.0);
    if percent == 50 && count > 0 && count.is_multiple_of(2) {
        return f64::midpoint(at(count / 2 - 1), at(count / 2));
    }
    at(count * percent / 100)
}

/// What one round found of one cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) mb_per_s: f64,
    pub(super) requests_per_s: f64,
    ttfb_p50: f64,
    ttfb_p99: f64,
    per_gb: CpuReading,
    per_1000: CpuReading,
    failed: u64,
    /// Median and 99th percentile of what handoffs took, microseconds: one at a time, and under the load.
    alone: Option<(f64, f64)>,
    loaded: Option<(f64, f64)>,
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
impl Sample {
    /// `ttfb` in microseconds.
    pub(super) fn new(done: &Done, cpu: CpuReading, mut ttfb: Vec<f64>) -> Self {
        ttfb.sort_by(f64::total_cmp);
        let (bytes, requests) = (done.bytes as f64, done.requests as f64);
        let scaled = |by: f64| CpuReading {
            intermediate: cpu.intermediate / by,
            target: cpu.target / by,
            machine: cpu.machine / by,
            kernel_network: cpu.kernel_network / by,
        };
        Sample {
            mb_per_s: bytes / 1e6 / done.seconds,
            requests_per_s: requests / done.seconds,
            ttfb_p50: percentile(&ttfb, 50),
            ttfb_p99: percentile(&ttfb, 99),
            per_gb: scaled(bytes / 1e9),
            per_1000: scaled(requests / 1e3),
            failed: done.failed,
            alone: None,
            loaded: None,
        }
    }

    /// With what handoffs took, microseconds.
    pub(super) fn with_handoffs(self, alone: Option<Vec<f64>>, loaded: Option<Vec<f64>>) -> Self {
        let two = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            (!values.is_empty()).then(|| (percentile(&values, 50), percentile(&values, 99)))
        };
        Sample { alone: alone.and_then(two), loaded: loaded.and_then(two), ..self }
    }
}

/// Over the rounds that have them.
fn percentiles(samples: impl Iterator<Item = Option<(f64, f64)>>) -> Option<Percentiles> {
    let (p50, p99): (Vec<f64>, Vec<f64>) = samples.flatten().unzip();
    (!p50.is_empty()).then(|| Percentiles { p50: Figure::of(p50), p99: Figure::of(p99) })
}

/// The cell with the figures of its samples.
pub(super) fn filled(mut cell: Cell, samples: &[Sample]) -> Cell {
    let of = |value: fn(&Sample) -> f64| Figure::of(samples.iter().map(value));
    cell.mb_per_s = of(|s| s.mb_per_s);
    cell.requests_per_s = of(|s| s.requests_per_s);
    cell.ttfb_us = Percentiles { p50: of(|s| s.ttfb_p50), p99: of(|s| s.ttfb_p99) };
    cell.freeze_to_installed_us = percentiles(samples.iter().map(|s| s.alone));
    cell.freeze_to_installed_under_load_us = percentiles(samples.iter().map(|s| s.loaded));
    cell.cpu_s_per_gb = Cpu {
        intermediate: of(|s| s.per_gb.intermediate),
        target: of(|s| s.per_gb.target),
        machine: of(|s| s.per_gb.machine),
        kernel_network: of(|s| s.per_gb.kernel_network),
    };
    cell.cpu_s_per_1000_requests = Cpu {
        intermediate: of(|s| s.per_1000.intermediate),
        target: of(|s| s.per_1000.target),
        machine: of(|s| s.per_1000.machine),
        kernel_network: of(|s| s.per_1000.kernel_network),
    };
    cell.failed = samples.iter().map(|s| s.failed).sum();
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_with_its_spread() {
        assert_eq!(Figure::of([3.0, 1.0, 2.0]), Figure { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Figure::of([4.0, 1.0]), Figure { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Figure::of([f64::NAN, 5.0]), Figure { median: 5.0, min: 5.0, max: 5.0 });
        assert_eq!(Figure::of([]), Figure::default());
    }

    #[test]
    fn percentiles_come_from_the_sorted_values() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (50.5, 100.0));
        assert_eq!((percentile(&[7.0], 99), percentile(&[], 50)), (7.0, 0.0));
    }

    #[test]
    fn handoffs_are_told_of_by_the_rounds_that_had_any() {
        let rounds = [Some((3.0, 9.0)), None, Some((1.0, 5.0))];
        let found = percentiles(rounds.into_iter()).unwrap();
        assert_eq!(found.p50, Figure { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(found.p99, Figure { median: 7.0, min: 5.0, max: 9.0 });
        assert_eq!(percentiles([None, None].into_iter()), None);
    }
}
