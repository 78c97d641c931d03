//! Pools and their members as the admin endpoint shows them.

use super::{Member, Pool};
use baton_loader::monotonic_ns;
use baton_shared::balance::SCALE;
use baton_shared::health::CheckResult;
use serde::Serialize;
use std::time::UNIX_EPOCH;

/// A pool.
#[derive(Clone, Debug, Serialize)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// How it chooses.
    pub balance: &'static str,
    /// Whether too few members are healthy, so that all are used.
    pub panic: bool,
    /// Picks made so.
    pub panic_picks: u64,
    /// The sticky cookie's name.
    pub sticky: Option<String>,
    /// Its members.
    pub members: Vec<MemberView>,
}

/// A target's part in a pool.
#[derive(Clone, Debug, Serialize)]
pub struct MemberView {
    /// The pool's name.
    pub pool: String,
    /// The target's name.
    pub target: String,
    /// [`baton_shared::health::Standing::name`].
    pub standing: &'static str,
    /// What the checks say.
    pub checked: &'static str,
    /// What requests and load reports say.
    pub passive: &'static str,
    /// For how long an ejection still lasts, milliseconds.
    pub ejected_ms: Option<u64>,
    /// Its weight.
    pub weight: u32,
    /// Its weight now, while it grows after its return.
    pub weight_now: f64,
    /// Requests under way there, of all pools.
    pub active: u32,
    /// Its response time as the choice sees it, microseconds; 0 if it is not known.
    pub latency_us: u32,
    /// The value of the sticky cookie that leads to it.
    pub cookie: Option<String>,
    /// Requests it was picked for: to migrate.
    pub picks_migrated: u64,
    /// And to proxy.
    pub picks_proxied: u64,
    /// Checks passed and failed.
    pub checks_passed: u64,
    /// See there.
    pub checks_failed: u64,
    /// Checks that could not be made, for reasons that do not lie with the member.
    pub checks_untold: u64,
    /// The last check.
    pub last_check: Option<CheckView>,
}

/// A check.
#[derive(Clone, Debug, Serialize)]
pub struct CheckView {
    /// When it ended, milliseconds since 1970.
    pub at: u64,
    /// How long it took, microseconds.
    pub took_us: u64,
    /// What it found.
    pub result: &'static str,
    /// Why it did not pass.
    pub failure: Option<String>,
}

impl Pool {
    /// For `/v1/pools`.
    pub fn view(&self) -> PoolView {
        PoolView {
            name: self.name().to_owned(),
            balance: self.spec.choice.method.name(),
            panic: self.in_panic(),
            panic_picks: self.panic_picks(),
            sticky: self.spec.choice.sticky.as_ref().map(|sticky| sticky.cookie.clone()),
            members: self.members.iter().map(|member| self.member_view(member)).collect(),
        }
    }

    /// A member of it.
    pub fn member_view(&self, member: &Member) -> MemberView {
        let now = monotonic_ns();
        let (checked, passive) = member.aspects();
        let (picks_migrated, picks_proxied) = member.picks();
        let weight = member.effective_weight(self.spec.choice.slow_start, now);
        MemberView {
            pool: self.name().to_owned(),
            target: member.target.spec.name.clone(),
            standing: member.standing().name(),
            checked: checked.state().name(),
            passive: passive.state().name(),
            ejected_ms: passive.until_ns().map(|until| until.saturating_sub(now) / 1_000_000),
            weight: member.weight,
            weight_now: f64::from(weight) / f64::from(SCALE),
            active: member.target.load.active(),
            latency_us: member.target.load.latency_us(now),
            cookie: self.cookie_of(member.target.id).map(str::to_owned),
            picks_migrated,
            picks_proxied,
            checks_passed: member.checks(CheckResult::Passed),
            checks_failed: member.checks(CheckResult::Failed),
            checks_untold: member.checks(CheckResult::Untold),
            last_check: member.last_check().map(|check| CheckView {
                at: u64::try_from(check.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis())
                    .unwrap_or(u64::MAX),
                took_us: u64::try_from(check.took.as_micros()).unwrap_or(u64::MAX),
                result: check.result.name(),
                failure: check.failure,
            }),
        }
    }
}
