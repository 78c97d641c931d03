//! How much a target has to do, and how it copes: what this intermediate has given it, and what its agent reports.

use baton_shared::balance::Ewma;
use baton_shared::control::ServerLoad;
use baton_shared::health::{LoadThresholds, Strain, judge_load};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct Reports {
    /// For each server address.
    of: Vec<Report>,
    /// How many there have been.
    count: u64,
}

/// Of one server address.
#[derive(Debug)]
struct Report {
    newest: ServerLoad,
    before: ServerLoad,
    /// When the newest came, ns.
    at_ns: u64,
}

/// What an agent says of several servers at one moment comes closer together than this, ns; its moments are a second apart.
const ONE_MOMENT_NS: u64 = 500_000_000;

/// Of one target.
#[derive(Debug, Default)]
pub struct TargetLoad {
    /// Live flows: handed off and not ended.
    flows: AtomicU64,
    /// Handoffs under way and proxied requests.
    in_hand: AtomicU64,
    /// Flows of other intermediates, by the newest reports.
    others: AtomicU64,
    latency: Mutex<Ewma>,
    reports: Mutex<Reports>,
}

/// Something that is under way at a target, until it is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<super::Target>);

impl UnderWay {
    /// Begins.
    pub fn at(target: &Arc<super::Target>) -> Self {
        target.load.in_hand.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(target))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.load.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TargetLoad {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Live flows.
    pub fn flows(&self) -> u64 {
        self.flows.load(Ordering::Relaxed)
    }

    /// Handoffs under way and proxied requests.
    pub fn in_hand(&self) -> u64 {
        self.in_hand.load(Ordering::Relaxed)
    }

    pub(super) fn flow_began(&self) {
        self.flows.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn flow_ended(&self) {
        // A flow that was never counted must not wrap the number around.
        let _ = self.flows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }

    /// All that is under way there, whoever gave it.
    pub fn active(&self) -> u32 {
        let all = self.flows() + self.in_hand() + self.others.load(Ordering::Relaxed);
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Its response time, microseconds; 0 if nothing is known.
    pub fn latency_us(&self, now_ns: u64) -> u32 {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).value_us(now_ns)
    }

    /// A response began so long after its request.
    pub fn on_response(&self, after: Duration, now_ns: u64) {
        let micros = u32::try_from(after.as_micros()).unwrap_or(u32::MAX);
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).observe(micros, now_ns);
    }

    /// Its agent reports on one of its servers.
    pub fn on_report(&self, load: ServerLoad, now_ns: u64) {
        let mut reports = self.reports();
        reports.count += 1;
        // A server of which nothing is said has nothing new: what once grew there is not to be judged again and again.
        let silent = |r: &&mut Report| now_ns.saturating_sub(r.at_ns) > ONE_MOMENT_NS;
        for report in reports.of.iter_mut().filter(|r| r.newest.server != load.server).filter(silent) {
            report.before = report.newest.clone();
        }
        let known = reports.of.iter_mut().find(|r| r.newest.server == load.server);
        let before = match known {
            Some(report) => {
                report.at_ns = now_ns;
                report.before = std::mem::replace(&mut report.newest, load.clone());
                report.before.clone()
            }
            None => {
                // What it says of before it was first heard is no news, but for how long responses take.
                reports.of.push(Report { newest: load.clone(), before: load.clone(), at_ns: now_ns });
                ServerLoad::of(load.server)
            }
        };
        let others = |r: &Report| u64::from(r.newest.all_flows.saturating_sub(r.newest.flows));
        let others = reports.of.iter().map(others).sum();
        self.others.store(others, Ordering::Relaxed);
        drop(reports);
        let responses = load.responses.saturating_sub(before.responses);
        let micros = load.response_us.saturating_sub(before.response_us);
        if let Some(mean) = micros.checked_div(responses) {
            self.on_response(Duration::from_micros(mean), now_ns);
        }
    }

    /// A new agent process counts from zero.
    pub fn forget_reports(&self) {
        self.reports().of.clear();
        self.others.store(0, Ordering::Relaxed);
    }

    /// How many reports there have been, and what the newest are over, if they are.
    pub fn strain(&self, thresholds: &LoadThresholds) -> (u64, Option<Strain>) {
        let reports = self.reports();
        let strain = reports.of.iter().find_map(|r| judge_load(&r.before, &r.newest, thresholds));
        (reports.count, strain)
    }

    /// The newest reports.
    pub fn newest(&self) -> Vec<ServerLoad> {
        self.reports().of.iter().map(|report| report.newest.clone()).collect()
    }
}
