//! How slow a peer may be: a bucket of time that waiting for it empties and its bytes fill.

/// The least a peer must move while it is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes per second; 0: there is no least.
    pub bytes_per_second: u64,
    /// How long, in all, it may be waited for without a byte, ns: what a bucket holds.
    pub grace_ns: u64,
}

impl MinRate {
    /// Nobody is too slow.
    pub const NONE: MinRate = MinRate { bytes_per_second: 0, grace_ns: 0 };

    /// What this many bytes are worth, ns.
    const fn worth(self, bytes: u64) -> u64 {
        match bytes.saturating_mul(1_000_000_000).checked_div(self.bytes_per_second) {
            Some(ns) => ns,
            None => u64::MAX,
        }
    }
}

/// One peer's bucket. Only time for which the peer is waited for counts, so that whoever is served slowly is not
/// blamed for it; and a fast start buys no more than the grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    rule: MinRate,
    left_ns: u64,
}

impl Pace {
    /// Full.
    pub const fn new(rule: MinRate) -> Self {
        Pace { rule, left_ns: rule.grace_ns }
    }

    /// The peer moved so many bytes.
    pub fn on_moved(&mut self, bytes: u64) {
        self.left_ns = self.left_ns.saturating_add(self.rule.worth(bytes)).min(self.rule.grace_ns);
    }

    /// The peer was waited for. Whether it is too slow by now.
    pub fn on_waited(&mut self, ns: u64) -> bool {
        self.left_ns = self.left_ns.saturating_sub(ns);
        self.rule.bytes_per_second > 0 && self.left_ns == 0
    }

    /// For how long it may be waited for from now on, ns; `None`: for ever.
    pub fn left_ns(&self) -> Option<u64> {
        (self.rule.bytes_per_second > 0).then_some(self.left_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const RULE: MinRate = MinRate { bytes_per_second: 100, grace_ns: 5 * SECOND };

    /// How many seconds a peer lasts that moves this many bytes at each second's end, of ten minutes.
    fn lasts(bytes: u64) -> u64 {
        let mut pace = Pace::new(RULE);
        for second in 1..=600 {
            if pace.on_waited(SECOND) {
                return second;
            }
            pace.on_moved(bytes);
        }
        600
    }

    #[test]
    fn who_keeps_the_rate_lasts_and_who_does_not_lasts_the_grace_and_what_he_earned() {
        assert_eq!(lasts(0), 5);
        assert_eq!(lasts(50), 9);
        assert_eq!(lasts(99), 401);
        assert_eq!(lasts(100), 600);
        assert_eq!(lasts(1_000_000), 600);
    }

    #[test]
    fn a_fast_start_buys_no_more_than_the_grace() {
        let mut pace = Pace::new(RULE);
        pace.on_moved(u64::MAX);
        assert!(!pace.on_waited(5 * SECOND - 1));
        assert_eq!(pace.left_ns(), Some(1));
        assert!(pace.on_waited(1));
    }

    #[test]
    fn without_a_least_nobody_is_too_slow() {
        let mut pace = Pace::new(MinRate::NONE);
        assert!(!pace.on_waited(u64::MAX));
        pace.on_moved(0);
        assert_eq!(pace.left_ns(), None);
    }
}
