//! A target's part in a pool: its share, and what is known of its health there.

use super::{Choice, Pool};
use crate::ruling;
use crate::targets::Target;
use baton_daemon::admin::events::{self, Kind};
use baton_loader::monotonic_ns;
use baton_shared::balance::{Candidate, Method, effective_weight};
use baton_shared::health::{
    Change, CheckResult, CheckState, Checked, Passive, PassiveState, Serving, Signal, Standing,
};
use serde_json::json;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// A member that was never ejected and never down has served from the start.
const FROM_THE_START: u64 = 0;

/// How a check went.
#[derive(Clone, Debug)]
pub struct CheckOutcome {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What it found.
    pub result: CheckResult,
    /// Why it did not pass.
    pub failure: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    checked: CheckState,
    passive: PassiveState,
    serving: Serving,
    last: Option<CheckOutcome>,
    next_check_ns: u64,
    /// Load reports taken into account.
    reports: u64,
    /// What the standing was when it was last said.
    said: Option<Standing>,
}

/// See the module.
#[derive(Debug)]
pub struct Member {
    /// The target.
    pub target: Arc<Target>,
    /// Its share.
    pub weight: u32,
    state: Mutex<State>,
    /// The standing without the operator's word, for picks: its place in [`Standing::ALL`].
    standing: AtomicU32,
    /// Since when it has served, monotonic ns.
    serving_since_ns: AtomicU64,
    /// A check is under way.
    checking: AtomicBool,
    migrations: AtomicU64,
    proxied: AtomicU64,
    passed: AtomicU64,
    failed: AtomicU64,
    untold: AtomicU64,
    checks_us: AtomicU64,
}

impl Member {
    /// Nothing is known of it yet: it counts as well.
    pub fn new(target: Arc<Target>, weight: u32) -> Self {
        Member {
            target,
            weight,
            state: Mutex::default(),
            standing: AtomicU32::new(0),
            serving_since_ns: AtomicU64::new(FROM_THE_START),
            checking: AtomicBool::new(false),
            migrations: AtomicU64::new(0),
            proxied: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            untold: AtomicU64::new(0),
            checks_us: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn inherit(&self, old: &Member) {
        let (mut state, old_state) = (self.state(), old.state());
        state.checked = old_state.checked;
        state.passive = old_state.passive;
        state.serving = old_state.serving;
        state.last.clone_from(&old_state.last);
        state.reports = old_state.reports;
        state.said = old_state.said;
        for (new, old) in [
            (&self.serving_since_ns, &old.serving_since_ns),
            (&self.migrations, &old.migrations),
            (&self.proxied, &old.proxied),
            (&self.passed, &old.passed),
            (&self.failed, &old.failed),
            (&self.untold, &old.untold),
            (&self.checks_us, &old.checks_us),
        ] {
            new.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.standing.store(old.standing.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// How it stands now.
    pub fn standing(&self) -> Standing {
        let of_health = usize::try_from(self.standing.load(Ordering::Relaxed)).unwrap_or(0);
        let of_health = Standing::ALL.get(of_health).copied().unwrap_or_default();
        match Standing::of(self.target.admin(), Checked::Unchecked, Passive::Clear) {
            Standing::Up => of_health,
            ordered => ordered,
        }
    }

    /// Whether a client is a process on its server's own host: what the server sends it would not leave the host.
    pub fn is_host_of(&self, client: IpAddr) -> bool {
        self.target.spec.servers.iter().any(|server| server.ip() == client)
    }

    /// What the checks, and what requests say.
    pub fn aspects(&self) -> (CheckState, PassiveState) {
        let state = self.state();
        (state.checked, state.passive)
    }

    /// The last check.
    pub fn last_check(&self) -> Option<CheckOutcome> {
        self.state().last.clone()
    }

    /// How many checks found something.
    pub fn checks(&self, result: CheckResult) -> u64 {
        self.counted(result).load(Ordering::Relaxed)
    }

    fn counted(&self, result: CheckResult) -> &AtomicU64 {
        match result {
            CheckResult::Passed => &self.passed,
            CheckResult::Failed => &self.failed,
            CheckResult::Untold => &self.untold,
        }
    }

    /// How long all of them took, microseconds.
    pub fn checks_us(&self) -> u64 {
        self.checks_us.load(Ordering::Relaxed)
    }

    /// Requests it was picked for: to migrate, and to proxy.
    pub fn picks(&self) -> (u64, u64) {
        (self.migrations.load(Ordering::Relaxed), self.proxied.load(Ordering::Relaxed))
    }

    pub(super) fn count_pick(&self, proxied: bool) {
        let of = if proxied { &self.proxied } else { &self.migrations };
        of.fetch_add(1, Ordering::Relaxed);
    }

    /// Its weight now, in units of 1/256.
    pub fn effective_weight(&self, slow_start: Duration, now_ns: u64) -> u32 {
        let since = self.serving_since_ns.load(Ordering::Relaxed);
        let for_ms = (since != FROM_THE_START).then(|| now_ns.saturating_sub(since) / 1_000_000);
        let slow_start = u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX);
        effective_weight(self.weight, for_ms, slow_start)
    }

    pub(super) fn candidate(&self, choice: &Choice, usable: bool, now_ns: u64) -> Candidate {
        Candidate {
            weight: self.effective_weight(choice.slow_start, now_ns),
            active: self.target.load.active(),
            latency_us: if choice.method == Method::LeastTime {
                self.target.load.latency_us(now_ns)
            } else {
                0
            },
            usable,
        }
    }

    /// Whether a check is due; if so, the next one is after `interval` and none is begun before this one is over.
    pub(crate) fn begin_check(&self, interval: Duration, now_ns: u64) -> bool {
        let mut state = self.state();
        if now_ns < state.next_check_ns || self.checking.swap(true, Ordering::Relaxed) {
            return false;
        }
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        // Between nine and eleven tenths: not all intermediates and members at the same moment.
        let part = super::random() % 201;
        state.next_check_ns = now_ns.saturating_add(interval / 1000 * (900 + part));
        true
    }

    /// A check is over.
    pub(crate) fn on_check(&self, pool: &Pool, outcome: CheckOutcome) {
        let Some(check) = &pool.spec.choice.health.check else { return };
        let result = outcome.result;
        self.counted(result).fetch_add(1, Ordering::Relaxed);
        self.checks_us.fetch_add(u64::try_from(outcome.took.as_micros()).unwrap_or(0), Ordering::Relaxed);
        let detail = outcome.failure.clone();
        let mut state = self.state();
        state.last = Some(outcome);
        if let Some(change) = state.checked.on_result(result, check.thresholds) {
            // The server came back after it had been seen down: what happened to requests before is no news.
            if matches!(change, Change { from: Checked::Down, to: Checked::Up }) {
                state.passive.forget();
            }
            let event = detail.unwrap_or_else(|| "check passed".to_owned());
            self.settle(&mut state, pool, &event, monotonic_ns());
        }
        drop(state);
        self.checking.store(false, Ordering::Relaxed);
    }

    pub(super) fn on_signal(&self, pool: &Pool, signal: Signal, now_ns: u64) {
        // The usual case costs no lock.
        if signal == Signal::Served && self.standing.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.state();
        let change = state.passive.on_signal(signal, pool.spec.choice.health.passive, now_ns);
        if change.is_some_and(|change| change.to == Passive::Suspect) {
            state.next_check_ns = now_ns;
        }
        if change.is_some() {
            let event = match signal {
                Signal::Served => "a request was served",
                Signal::Failed => "a request could not be given to it",
                Signal::Strained => "its load is over a threshold",
                Signal::Calm => "its load is below all thresholds",
            };
            self.settle(&mut state, pool, event, now_ns);
        }
    }

    /// Time has passed: load reports, ejections that are over, the operator's word.
    pub(crate) fn on_time(&self, pool: &Pool, now_ns: u64) {
        let health = &pool.spec.choice.health;
        let (reports, strain) = self.target.load.strain(&health.load);
        let mut state = self.state();
        let news = state.reports != reports;
        state.reports = reports;
        let mut event = "ordered";
        if news {
            let signal = if strain.is_some() { Signal::Strained } else { Signal::Calm };
            if state.passive.on_signal(signal, health.passive, now_ns).is_some() {
                event = strain.map_or("its load is below all thresholds", |strain| strain.name());
            }
        }
        if state.passive.on_time(health.passive, now_ns).is_some() {
            event = "its time is over";
            state.next_check_ns = now_ns;
        }
        self.settle(&mut state, pool, event, now_ns);
    }

    /// The only place where a standing changes, and is told.
    fn settle(&self, state: &mut State, pool: &Pool, event: &str, now_ns: u64) {
        let of_health =
            Standing::of(baton_shared::health::Admin::Ready, state.checked.state(), state.passive.state());
        let place = Standing::ALL.iter().position(|s| *s == of_health).unwrap_or(0);
        let place = u32::try_from(place).unwrap_or(0);
        if self.standing.swap(place, Ordering::Relaxed) != place {
            ruling::change();
        }
        let now = self.standing();
        state.serving.note(now, now_ns);
        let since = state.serving.for_ms(now_ns).map_or(FROM_THE_START, |ms| now_ns - ms * 1_000_000);
        self.serving_since_ns.store(since, Ordering::Relaxed);
        let before = state.said.replace(now).unwrap_or_default();
        if before != now {
            events::publish(Kind::Health, || {
                json!({
                    "pool": pool.name(),
                    "target": self.target.spec.name,
                    "from": before.name(),
                    "to": now.name(),
                    "why": event,
                })
            });
            tracing::warn!(
                pool = pool.name(),
                target = self.target.spec.name,
                "{} -> {} ({event})",
                before.name(),
                now.name()
            );
        }
    }
}
