//! Passive signals: what happened to real requests at a target, and how loaded its agent says it is.
//!
//! A failure makes a target suspect: it is still used, and its next check is brought forward. Several in a row eject it
//! for a time, after which it is on probation: one more failure ejects it again, for twice as long.

use super::Change;

/// What requests tell of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Passive {
    /// Nothing speaks against it.
    #[default]
    Clear,
    /// Something failed lately; still used.
    Suspect,
    /// Too much failed: not used until its time is over.
    Ejected,
}

impl Passive {
    /// Its name in the admin API and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Passive::Clear => "clear",
            Passive::Suspect => "suspect",
            Passive::Ejected => "ejected",
        }
    }
}

/// What is learned beside the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// The server took a request: a handoff was answered `Migrated`, or a proxied request got a response.
    Served,
    /// The server's kernel refused a connection, or did not answer in time, or the connection broke before a response.
    Failed,
    /// A load report over a threshold.
    Strained,
    /// A load report below all of them.
    Calm,
}

impl Signal {
    /// All of them.
    pub const ALL: [Signal; 4] = [Signal::Served, Signal::Failed, Signal::Strained, Signal::Calm];
}

/// When signals matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassiveThresholds {
    /// Failures in a row that eject; 0: nothing ejects.
    pub failures: u32,
    /// Strained reports in a row that eject; 0: none does.
    pub strains: u32,
    /// For how long the first time, nanoseconds; doubled each time in a row, up to eightfold.
    pub eject_ns: u64,
}

/// One target. Times are nanoseconds of any one clock that does not go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PassiveState {
    state: Passive,
    failures: u32,
    strains: u32,
    /// Ejections since it was last clear.
    times: u32,
    until_ns: u64,
}

impl PassiveState {
    /// Where it stands.
    pub const fn state(&self) -> Passive {
        self.state
    }

    /// When an ejection ends.
    pub const fn until_ns(&self) -> Option<u64> {
        if matches!(self.state, Passive::Ejected) { Some(self.until_ns) } else { None }
    }

    /// Something was learned.
    pub fn on_signal(
        &mut self,
        signal: Signal,
        thresholds: PassiveThresholds,
        now_ns: u64,
    ) -> Option<Change<Passive>> {
        // What comes in now began before the ejection.
        if self.state == Passive::Ejected {
            return None;
        }
        match signal {
            Signal::Served => self.failures = 0,
            Signal::Failed => self.failures = self.failures.saturating_add(1),
            Signal::Strained => self.strains = self.strains.saturating_add(1),
            Signal::Calm => self.strains = 0,
        }
        let reached = |count: u32, limit: u32| limit > 0 && count >= limit;
        if reached(self.failures, thresholds.failures) || reached(self.strains, thresholds.strains) {
            let factor = 1u64 << self.times.min(3);
            self.until_ns = now_ns.saturating_add(thresholds.eject_ns.saturating_mul(factor));
            self.times = self.times.saturating_add(1);
            return self.to(Passive::Ejected);
        }
        if self.failures == 0 && self.strains == 0 {
            self.times = 0;
            return self.to(Passive::Clear);
        }
        self.to(Passive::Suspect)
    }

    /// Time has passed: an ejection may be over.
    pub fn on_time(&mut self, thresholds: PassiveThresholds, now_ns: u64) -> Option<Change<Passive>> {
        if self.state != Passive::Ejected || now_ns < self.until_ns {
            return None;
        }
        // On probation for failures: one more ejects. Strain is another's measure, and counted anew.
        self.failures = thresholds.failures.saturating_sub(1).max(1);
        self.strains = 0;
        self.to(Passive::Suspect)
    }

    /// Everything is forgotten: the operator says so, or checks that saw the server down see it up again.
    pub fn forget(&mut self) -> Option<Change<Passive>> {
        let from = self.state;
        *self = PassiveState::default();
        (from != Passive::Clear).then_some(Change { from, to: Passive::Clear })
    }

    fn to(&mut self, to: Passive) -> Option<Change<Passive>> {
        let from = core::mem::replace(&mut self.state, to);
        (from != to).then_some(Change { from, to })
    }
}
