//! When the agent reads the ring buffer with parts of responses ([`Copied`](crate::record::Copied)): at once where nothing has
//! come for a while, and else now and then, without being woken for each part.
//!
//! | stands | looked, and found | stands then | what follows |
//! |---|---|---|---|
//! | any | a recall waits for the end of a response | `Woken` | looks again if it was not before |
//! | any | something | `Resting` | looks after [`REST_NS`] |
//! | `Resting` | nothing | `Woken` | looks again |
//! | `Woken` | nothing | `Woken` | waits |
//!
//! A program that saw `Resting`, and was held up until after that second look, hands its part over without waking. Nothing that is
//! judged hangs on it: before that, and with each tick of the agent's clock, what is there is read.

/// How long parts gather, ns.
pub const REST_NS: u64 = 1_000_000;

/// The reader's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It is woken for each part.
    Woken,
    /// It is woken for large parts only, and looks by itself then.
    Resting {
        /// CLOCK_MONOTONIC, ns.
        until_ns: u64,
    },
}

impl Default for Reading {
    fn default() -> Self {
        Self::new()
    }
}

impl Reading {
    /// Nothing was read yet.
    pub const fn new() -> Self {
        Reading::Woken
    }

    /// All was read that was there; `found` if that was anything, `awaited` if a recall waits for what comes. Whether to look
    /// again at once, after the program was told of [`Reading::is_woken`].
    pub fn on_look(&mut self, found: bool, awaited: bool, now_ns: u64) -> bool {
        let was_woken = self.is_woken();
        *self = if found && !awaited {
            Reading::Resting { until_ns: now_ns.saturating_add(REST_NS) }
        } else {
            Reading::Woken
        };
        self.is_woken() && !was_woken
    }

    /// Whether the program is to wake the reader for each part.
    pub fn is_woken(&self) -> bool {
        matches!(self, Reading::Woken)
    }

    /// When to look unless woken before, CLOCK_MONOTONIC ns.
    pub fn look_ns(&self) -> Option<u64> {
        match *self {
            Reading::Woken => None,
            Reading::Resting { until_ns } => Some(until_ns),
        }
    }

    /// Whether to look now though nothing has woken: it is time, or what comes is awaited.
    pub fn is_due(&self, awaited: bool, now_ns: u64) -> bool {
        (awaited && !self.is_woken()) || self.look_ns().is_some_and(|at| at <= now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_read_with_rests_and_the_reader_is_woken_again_when_it_is_over() {
        let mut reading = Reading::new();
        assert!(reading.is_woken() && reading.look_ns().is_none(), "no timer while nothing comes");
        // Woken by the first part.
        assert!(!reading.on_look(true, false, 10));
        for round in 1..5 {
            let now = 10 + round * REST_NS;
            assert!(!reading.is_woken() && !reading.is_due(false, now - 1) && reading.is_due(false, now));
            assert!(!reading.on_look(true, false, now));
        }
        let now = 10 + 5 * REST_NS;
        assert!(reading.on_look(false, false, now), "again, now that it is woken");
        assert!(reading.is_woken());
        assert!(!reading.on_look(false, false, now));
        assert_eq!((reading, reading.look_ns()), (Reading::new(), None));
    }

    #[test]
    fn what_came_between_the_last_look_and_the_word_to_be_woken_is_found_by_the_look_after_it() {
        let mut reading = Reading::Resting { until_ns: 5 };
        assert!(reading.on_look(false, false, 5) && !reading.on_look(true, false, 6));
        assert_eq!(reading, Reading::Resting { until_ns: 6 + REST_NS });
    }

    #[test]
    fn who_is_awaited_is_never_left_to_gather() {
        let mut reading = Reading::Resting { until_ns: 100 };
        assert!(!reading.is_due(false, 1) && reading.is_due(true, 1));
        assert!(reading.on_look(true, true, 1), "something may have come before it was to be woken");
        assert!(!reading.on_look(true, true, 2));
        assert_eq!(reading, Reading::new());
    }

    proptest::proptest! {
        /// Whatever happens: parts that nobody is woken for are read within two rests.
        #[test]
        fn nothing_lies_unread_for_long(
            steps in proptest::collection::vec((0..3_u64, proptest::bool::ANY, proptest::bool::ANY), 1..60),
        ) {
            let (mut reading, mut now) = (Reading::new(), 0);
            for (rests, found, awaited) in steps {
                now += rests * REST_NS / 2;
                while reading.on_look(found && reading.is_woken(), awaited, now) {}
                proptest::prop_assert!(!awaited || reading.is_woken());
                if !reading.is_woken() {
                    let at = reading.look_ns().unwrap_or(u64::MAX);
                    proptest::prop_assert!(at <= now + REST_NS && reading.is_due(false, at));
                }
            }
        }
    }
}
