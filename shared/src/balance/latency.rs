//! A member's response time as an average that forgets: exponentially weighted by time, and quick to believe bad news.

/// For so long an old value counts for more than a third of a new one, nanoseconds.
const TAU_NS: u64 = 10_000_000_000;

/// The average.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ewma {
    value_us: f64,
    updated_ns: u64,
    known: bool,
}

impl Ewma {
    /// Takes in a response time, microseconds, at a moment of any one clock in nanoseconds. A value above the average
    /// replaces it at once: waiting to believe that a server has become slow costs requests.
    pub fn observe(&mut self, sample_us: u32, now_ns: u64) {
        let sample = f64::from(sample_us);
        if !self.known || sample > self.value_us {
            self.value_us = sample;
        } else {
            let keep = decay(now_ns.saturating_sub(self.updated_ns));
            self.value_us = self.value_us * keep + sample * (1.0 - keep);
        }
        self.known = true;
        self.updated_ns = self.updated_ns.max(now_ns);
    }

    /// The average at a later moment, microseconds; without news it falls, so that a slow server is tried again.
    /// 0 if nothing is known.
    pub fn value_us(&self, now_ns: u64) -> u32 {
        if !self.known {
            return 0;
        }
        let value = self.value_us * decay(now_ns.saturating_sub(self.updated_ns));
        // Known is never 0: that would mean unknown.
        to_u32(value.max(1.0))
    }
}

fn decay(elapsed_ns: u64) -> f64 {
    let seconds = |ns: u64| core::time::Duration::from_nanos(ns).as_secs_f64();
    (-seconds(elapsed_ns) / seconds(TAU_NS)).exp()
}

fn to_u32(value: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and a float's cast stays within the type's range"
    )]
    {
        value as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn bad_news_is_believed_at_once_and_good_news_slowly() {
        let mut ewma = Ewma::default();
        assert_eq!(ewma.value_us(5 * SECOND), 0, "nothing is known");
        ewma.observe(1_000, SECOND);
        assert_eq!(ewma.value_us(SECOND), 1_000);
        ewma.observe(50_000, SECOND);
        assert_eq!(ewma.value_us(SECOND), 50_000);
        ewma.observe(1_000, 2 * SECOND);
        let after = ewma.value_us(2 * SECOND);
        assert!((40_000..50_000).contains(&after), "{after}");
        assert!(ewma.value_us(60 * SECOND) < 1_000, "it is tried again");
        assert!(ewma.value_us(u64::MAX) >= 1);
    }

    #[test]
    fn a_clock_that_goes_back_does_no_harm() {
        let mut ewma = Ewma::default();
        ewma.observe(10, 9 * SECOND);
        ewma.observe(5, SECOND);
        assert_eq!(ewma.value_us(0), 10);
    }
}
