//! Looks after the members of all pools of the present site.

use super::check::check;
use super::spec::{CheckKind, CheckSpec};
use crate::front::{Front, Stop};
use crate::pools::{CheckOutcome, Pool};
use crate::probe::Ask;
use crate::targets::Target;
use baton_loader::monotonic_ns;
use baton_shared::health::{CheckResult, judge_probe};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// How often it is looked who is due.
const TICK: Duration = Duration::from_millis(20);

/// Checks and looks until told to stop. A pool that a reload has taken away is not looked at any more.
pub async fn run(front: Arc<Front>, mut stop: Stop) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Dropped with this task: no check outlives it.
    let mut checks = JoinSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.wait() => return,
        }
        while checks.try_join_next().is_some() {}
        let site = front.site.load_full();
        let now = monotonic_ns();
        for pool in &site.pools {
            for member in pool.members() {
                member.on_time(pool, now);
                let Some(spec) = &pool.spec.choice.health.check else { continue };
                let wanted = member.target.admin() != baton_shared::health::Admin::Down;
                if wanted && member.begin_check(spec.interval, now) {
                    let (front, pool, target) =
                        (Arc::clone(&front), Arc::clone(pool), Arc::clone(&member.target));
                    let spec = spec.clone();
                    checks.spawn(async move { check_member(&front, &pool, &target, &spec).await });
                }
            }
        }
    }
}

async fn check_member(front: &Front, pool: &Pool, target: &Target, spec: &CheckSpec) {
    let begun = Instant::now();
    let Some(member) = pool.member(target.id) else { return };
    let (result, failure) = match &spec.kind {
        CheckKind::Migrate { vip, path, host } => {
            let timeout_ms = u32::try_from(spec.timeout.as_millis()).unwrap_or(u32::MAX);
            let turn = CheckResult::ALL.iter().map(|result| member.checks(*result)).sum();
            let ask = Ask { vip: *vip, host: host.as_deref(), path, timeout_ms, turn };
            match front.probe(target, ask).await {
                Ok(probed) => judge_probe(probed.report.as_ref(), probed.noted()),
                Err(why) => (CheckResult::Untold, Some(why.to_string())),
            }
        }
        CheckKind::Http { .. } | CheckKind::Tcp => check_servers(target, spec).await,
    };
    member.on_check(pool, CheckOutcome { at: SystemTime::now(), took: begun.elapsed(), result, failure });
}

/// A member passes if all of its server's addresses do.
async fn check_servers(target: &Target, spec: &CheckSpec) -> (CheckResult, Option<String>) {
    for server in target.spec.servers.iter() {
        if let Err(e) = check(server, spec).await {
            return (CheckResult::Failed, Some(format!("{server}: {e}")));
        }
    }
    (CheckResult::Passed, None)
}
