//! Which targets may be given requests: what checks say, what happens to requests there, what the operator says.
//!
//! Four aspects, each with its own small machine, none mixed with another:
//!
//! | aspect | of | learned from | machine |
//! |---|---|---|---|
//! | [`Checked`] | a member of a pool | the pool's active checks | [`CheckState`] |
//! | [`Passive`] | a target | refused connects, time-outs, its agent's load reports | [`PassiveState`] |
//! | [`Admin`] | a target | the operator | [`Admin::on`] |
//! | [`Agent`] | a target | the control channel | [`Agent::on`] |
//!
//! [`Standing`] is the first three put together. The agent's liveness is apart from it: a server whose agent is gone is
//! well, its requests are proxied. All transitions stand in `transitions.txt`, which a test compares.

mod check;
mod load;
mod passive;
mod probed;
mod standing;

pub use check::{CheckResult, CheckState, CheckThresholds, Checked};
pub use load::{LoadThresholds, Strain, judge_load};
pub use passive::{Passive, PassiveState, PassiveThresholds, Signal};
pub use probed::judge_probe;
pub use standing::{Admin, AdminOrder, Agent, AgentEvent, Serving, Standing, in_panic};

/// A change of state, to be logged and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<S> {
    /// Before.
    pub from: S,
    /// Now.
    pub to: S,
}

#[cfg(test)]
mod tests;
