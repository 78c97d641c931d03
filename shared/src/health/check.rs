//! Active checks: a member changes sides only after several results in a row.

use super::Change;

/// What the checks say of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Checked {
    /// No result yet, or no checks are configured: counts as well.
    #[default]
    Unchecked,
    /// It passes.
    Up,
    /// It fails.
    Down,
}

impl Checked {
    /// Its name in the admin API and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Checked::Unchecked => "unchecked",
            Checked::Up => "up",
            Checked::Down => "down",
        }
    }
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// All is well.
    Passed,
    /// It is not.
    Failed,
    /// It could not be made, for a reason that does not lie with the member: nothing is known that was not before.
    Untold,
}

impl CheckResult {
    /// All of them.
    pub const ALL: [CheckResult; 3] = [CheckResult::Passed, CheckResult::Failed, CheckResult::Untold];

    /// Its name in the admin API and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            CheckResult::Passed => "passed",
            CheckResult::Failed => "failed",
            CheckResult::Untold => "untold",
        }
    }
}

/// How many results in a row it takes; 0 counts as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckThresholds {
    /// Passed checks that bring a member up.
    pub rise: u32,
    /// Failed checks that take it down.
    pub fall: u32,
}

/// One member under its pool's checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CheckState {
    state: Checked,
    /// Results in a row that speak against the state.
    against: u32,
}

impl CheckState {
    /// Where it stands.
    pub const fn state(&self) -> Checked {
        self.state
    }

    /// Results in a row that speak against the state.
    pub const fn against(&self) -> u32 {
        self.against
    }

    /// A check's result. The first one decides alone: nothing is known that it could be weighed against.
    pub fn on_result(&mut self, result: CheckResult, thresholds: CheckThresholds) -> Option<Change<Checked>> {
        let (to, needed) = match result {
            CheckResult::Passed => (Checked::Up, thresholds.rise),
            CheckResult::Failed => (Checked::Down, thresholds.fall),
            CheckResult::Untold => return None,
        };
        let from = self.state;
        if from == to {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if from != Checked::Unchecked && self.against < needed {
            return None;
        }
        *self = CheckState { state: to, against: 0 };
        Some(Change { from, to })
    }
}
