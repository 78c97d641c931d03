//! Samples of steps, and what they come to.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Whose work a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Intermediate,
    Agent,
    /// For comparison, in no sum.
    Beside,
}

impl Whose {
    fn name(self) -> &'static str {
        match self {
            Whose::Intermediate => "intermediate",
            Whose::Agent => "agent",
            Whose::Beside => "-",
        }
    }
}

/// Which sums a step is in: all of them, or that of so many handoffs at once, which share writes and wakeups on the control
/// channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    All,
    Of(usize),
}

/// How many handoffs there are at once, for each sum, and how that is said.
pub(crate) const TOGETHER: [(usize, &str); 4] =
    [(1, "one at a time"), (2, "two at once"), (4, "four at once"), (8, "eight at once")];

struct Step {
    whose: Whose,
    sum: Sum,
    name: String,
    /// Nanoseconds, what reading the clock takes taken off.
    samples: Vec<u64>,
}

impl Step {
    /// The sample below which one in `part` are.
    fn at(&self, part: usize) -> u64 {
        self.samples.get(self.samples.len() / part).copied().unwrap_or(0)
    }
}

pub(crate) struct Steps {
    steps: Vec<Step>,
    /// What reading each clock takes, twice for a step.
    wall: Duration,
    own: Duration,
}

impl Steps {
    pub(crate) fn new() -> Self {
        let wall = (0..1000).map(|_| Instant::now().elapsed()).min().unwrap();
        let read_twice = |_| {
            let begun = own_time();
            own_time() - begun
        };
        let own = (0..1000).map(read_twice).min().unwrap();
        Steps { steps: Vec::new(), wall, own }
    }

    pub(crate) fn time<T>(&mut self, whose: Whose, name: &str, step: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let value = step();
        let took = begun.elapsed().saturating_sub(self.wall);
        self.note(whose, Sum::All, name, took);
        value
    }

    /// By this thread's processor time: what the step wakes may run on this processor before the step returns.
    pub(crate) fn work<T>(&mut self, whose: Whose, name: &str, step: impl FnOnce() -> T) -> T {
        let begun = own_time();
        let value = step();
        let took = (own_time() - begun).saturating_sub(self.own);
        self.note(whose, Sum::All, name, took);
        value
    }

    pub(crate) fn note(&mut self, whose: Whose, sum: Sum, name: &str, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap();
        match self.steps.iter_mut().find(|step| step.name == name) {
            Some(step) => step.samples.push(took),
            None => self.steps.push(Step { whose, sum, name: name.to_owned(), samples: vec![took] }),
        }
    }

    pub(crate) fn print(&mut self) {
        println!("| whose | step | ns, fastest tenth | ns, median |\n|---|---|---|---|");
        for step in &mut self.steps {
            step.samples.sort_unstable();
            println!("| {} | {} | {} | {} |", step.whose.name(), step.name, step.at(10), step.at(2));
        }
        for (together, how) in TOGETHER {
            let mut both = [0, 0];
            for whose in [Whose::Intermediate, Whose::Agent] {
                let own = || {
                    let in_it = |step: &&Step| step.sum == Sum::All || step.sum == Sum::Of(together);
                    self.steps.iter().filter(|step| step.whose == whose).filter(in_it)
                };
                let sums = [10, 2].map(|part| own().map(|step| step.at(part)).sum::<u64>());
                println!("| {} | **all its steps, {how}** | {} | {} |", whose.name(), sums[0], sums[1]);
                both = [both[0] + sums[0], both[1] + sums[1]];
            }
            println!("| both | **together, {how}** | {} | {} |", both[0], both[1]);
        }
    }
}

/// Processor time of this thread so far.
pub(crate) fn own_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap(), u32::try_from(now.tv_nsec).unwrap())
}
