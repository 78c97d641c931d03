//! Looks after the members of all pools of the present site.

use super::check::check;
use super::spec::CheckSpec;
use crate::front::{Front, Stop};
use crate::pools::{CheckOutcome, Pool};
use crate::targets::{Servers, TargetId};
use baton_loader::monotonic_ns;
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
                    let (pool, id) = (Arc::clone(pool), member.target.id);
                    let (spec, servers) = (spec.clone(), member.target.spec.servers);
                    checks.spawn(async move { check_member(&pool, id, servers, &spec).await });
                }
            }
        }
    }
}

/// A member passes if all of its server's addresses do.
async fn check_member(pool: &Pool, id: TargetId, servers: Servers, spec: &CheckSpec) {
    let begun = Instant::now();
    let mut failure = None;
    for server in servers.iter() {
        if let Err(e) = check(server, spec).await {
            failure = Some(format!("{server}: {e}"));
            break;
        }
    }
    if let Some(member) = pool.member(id) {
        member.on_check(pool, CheckOutcome { at: SystemTime::now(), took: begun.elapsed(), failure });
    }
}
