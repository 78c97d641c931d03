//! When a host's processors are held awake for the sake of handoffs, and how shallow their sleep is then.
//!
//! A handoff wakes a processor on each of two hosts, one after the other, and an idle one takes tens of microseconds to wake.
//! Processors that never sleep take power all the time: it is worth it while handoffs come often, and not for the odd one.

/// Handoffs are counted in windows of this length, ms.
const WINDOW_MS: u64 = 20;
/// So many in one window are often: 500 a second.
const OFTEN: u64 = 10;
/// After so long without such a window processors may sleep again, ms.
const QUIET_MS: u64 = 200;

/// Bits of [`Frequency`] that count.
const COUNT_BITS: u32 = 16;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// How often handoffs have come lately: the number of the window, and how many there were in it. One word, so that threads can share it without a
/// lock; a count lost between two of them is no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frequency(u64);

impl Frequency {
    /// What [`Frequency::bits`] gave.
    pub const fn from_bits(bits: u64) -> Self {
        Frequency(bits)
    }

    /// To be stored.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// One more came at this time, ms by a clock that does not go back.
    #[must_use]
    pub const fn after(self, now_ms: u64) -> Self {
        let window = now_ms / WINDOW_MS;
        // The clock's 48 bits of windows are more than any host runs.
        let of_window = window << COUNT_BITS;
        let count = if self.0 & !COUNT_MASK == of_window { self.0 & COUNT_MASK } else { 0 };
        // Full: there it stays.
        Frequency(of_window | if count < COUNT_MASK { count + 1 } else { count })
    }

    /// Whether they come so often that processors are to stay awake.
    pub const fn is_high(self) -> bool {
        self.0 & COUNT_MASK >= OFTEN
    }
}

/// For how long from now processors are to stay awake, ms, handoffs having last come often at this time; 0: they may sleep as
/// the system has it.
pub const fn awake_for_ms(often_at_ms: u64, now_ms: u64) -> u64 {
    often_at_ms.saturating_add(QUIET_MS).saturating_sub(now_ms)
}

/// A state in which a processor can idle (Documentation/admin-guide/pm/cpuidle.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleState<'a> {
    /// Its name.
    pub name: &'a str,
    /// How long it takes to leave it, us, as its driver says.
    pub latency_us: u32,
}

/// Within how many microseconds processors are to wake while they are held awake, if the configuration does not say: so that
/// they halt no deeper than in the first state that halts at all, which is what `tuned`'s profile `latency-performance` asks
/// for. In a virtual machine (drivers/cpuidle/cpuidle-haltpoll.c) that one is left to the hypervisor, and takes longer than
/// the driver says: 0 there, they do not halt.
pub fn wake_within_us<'a>(states: impl IntoIterator<Item = IdleState<'a>>) -> u32 {
    let mut least = None;
    for state in states {
        if state.name.starts_with("haltpoll") {
            return 0;
        }
        if state.latency_us > 0 {
            least = Some(least.map_or(state.latency_us, |so_far: u32| so_far.min(state.latency_us)));
        }
    }
    least.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(times: impl IntoIterator<Item = u64>) -> Frequency {
        times.into_iter().fold(Frequency::default(), Frequency::after)
    }

    #[test]
    fn ten_handoffs_within_a_window_are_often_and_nine_are_not() {
        assert!(!after([1000; 9]).is_high());
        assert!(after([1000; 10]).is_high());
        assert!(after(1000..1010).is_high());
    }

    #[test]
    fn a_handoff_every_three_milliseconds_is_never_often() {
        let mut frequency = Frequency::default();
        for n in 0..10_000 {
            frequency = frequency.after(n * 3);
            assert!(!frequency.is_high(), "at {} ms", n * 3);
        }
    }

    #[test]
    fn each_window_is_counted_anew() {
        let busy = after([20; 500]);
        assert!(busy.is_high());
        assert!(!busy.after(40).is_high());
    }

    #[test]
    fn processors_may_sleep_once_a_fifth_of_a_second_has_been_quiet() {
        assert_eq!(awake_for_ms(1000, 1000), 200);
        assert_eq!(awake_for_ms(1000, 1199), 1);
        assert_eq!(awake_for_ms(1000, 1200), 0);
        assert_eq!(awake_for_ms(1000, 5000), 0);
    }

    proptest! {
        #[test]
        fn however_many_come_at_once_the_window_is_not_mistaken(now_ms in 0u64..1 << 50, more in 0u64..100_000) {
            let mut frequency = Frequency::default();
            for _ in 0..=more {
                frequency = frequency.after(now_ms);
            }
            prop_assert_eq!(frequency.is_high(), more + 1 >= OFTEN);
            let next = frequency.after(now_ms + WINDOW_MS);
            prop_assert!(!next.is_high());
            prop_assert_eq!(Frequency::from_bits(next.bits()), next);
        }

        #[test]
        fn whoever_is_held_awake_comes_so_often_in_any_second(gaps in prop::collection::vec(0u64..40, 1..400)) {
            let mut now_ms = 0;
            let mut times = Vec::new();
            let mut frequency = Frequency::default();
            for gap in gaps {
                now_ms += gap;
                times.push(now_ms);
                frequency = frequency.after(now_ms);
                let window = now_ms / WINDOW_MS;
                let seen = times.iter().filter(|at| **at / WINDOW_MS == window).count() as u64;
                prop_assert_eq!(frequency.is_high(), seen >= OFTEN);
            }
        }
    }

    fn state(name: &str, latency_us: u32) -> IdleState<'_> {
        IdleState { name, latency_us }
    }

    #[test]
    fn a_real_processor_may_halt_as_shallow_as_it_can() {
        let intel = [state("POLL", 0), state("C1", 2), state("C1E", 10), state("C6", 133)];
        assert_eq!(wake_within_us(intel), 2);
    }

    #[test]
    fn a_virtual_processor_does_not_halt() {
        assert_eq!(wake_within_us([state("POLL", 0), state("haltpoll", 1)]), 0);
    }

    #[test]
    fn without_states_to_choose_from_nothing_is_left_to_allow() {
        assert_eq!(wake_within_us([]), 0);
        assert_eq!(wake_within_us([state("POLL", 0)]), 0);
    }
}
