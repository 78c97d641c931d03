//! The order to probe a target along the real path: another target's host asks the VIP, and the connection must migrate
//! to the target in question.

use super::{Admin, error, not_found};
use crate::config::Protocol;
use crate::handoff::{HistoryOutcome, MigrationRecord, stages};
use crate::probe::Pending;
use crate::site::SiteListener;
use crate::targets::{Agent, Target};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_shared::control::{Message, ProbeOrder, ProbeReport};
use baton_shared::health;
use baton_shared::probe::{Host, Noted, Verdict, choose_askers, judge, request, was_begun};
use baton_shared::route::Mode;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// For all of it if the order does not say, and at most, milliseconds.
const TIMEOUT_MS: u32 = 5000;
const TIMEOUT_MOST_MS: u32 = 60_000;
/// How much later than its end an agent's report, or the record of what a client has the answer of already, may come.
const LATE: Duration = Duration::from_secs(1);

/// Query of the order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProbeQuery {
    vip: Option<SocketAddr>,
    path: Option<String>,
    host: Option<String>,
    timeout_ms: Option<u32>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct ProbeAnswer {
    /// It migrated to the target, and the answer was complete, 2xx or 3xx.
    ok: bool,
    /// [`Verdict`].
    verdict: &'static str,
    /// Why it is not well.
    reason: Option<String>,
    target: String,
    /// The agent that asked, and from which address and port.
    from: String,
    client: Option<SocketAddr>,
    vip: SocketAddr,
    migrated: bool,
    /// As in `/v1/flows/ID`.
    flow_id: Option<String>,
    /// What the asking host saw.
    status: Option<u16>,
    body_bytes: u64,
    first_byte_us: u32,
    total_us: u32,
    /// As in `/v1/migrations`.
    migration_us: u64,
    #[serde(serialize_with = "stages")]
    stages_us: Vec<(&'static str, u64)>,
}

/// `POST /v1/targets/{name}/probe`.
pub(super) async fn probe(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    query: Result<Query<ProbeQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        return error(StatusCode::BAD_REQUEST, "the query may name vip, path, host and timeout_ms");
    };
    let timeout_ms = query.timeout_ms.unwrap_or(TIMEOUT_MS);
    if timeout_ms == 0 || timeout_ms > TIMEOUT_MOST_MS {
        return error(StatusCode::BAD_REQUEST, "timeout_ms must be 1 to 60000");
    }
    let front = &admin.front;
    let Some(target) = front.targets.by_name(&name) else {
        return not_found("no target of this name is configured");
    };
    let Some(migrator) = front.migration.migrator() else {
        return error(StatusCode::CONFLICT, "no listener migrates");
    };
    let vip = match vip_for(&admin, &target, query.vip) {
        Ok(vip) => vip,
        Err((status, text)) => return error(status, &text),
    };
    let askers = match askers(&admin, &target) {
        Ok(found) => found,
        Err(text) => return error(StatusCode::CONFLICT, text),
    };
    let host = query.host.unwrap_or_else(|| vip.to_string());
    let path = query.path.unwrap_or_else(|| "/".to_owned());
    let mut cannot = Vec::new();
    for (asker, from) in askers {
        let pending = migrator.probes().begin(target.id, asker.id, from);
        let (host, path, token) = (host.clone(), path.clone(), pending.token.clone());
        let order = ProbeOrder { id: pending.id, vip, host, path, token, timeout_ms };
        if let Err(text) = request(&order) {
            return error(StatusCode::BAD_REQUEST, text);
        }
        if asker.send(Message::Probe(Box::new(order))).is_err() {
            cannot.push(format!("{}: its channel is gone or full", asker.name));
            continue;
        }
        let (report, record) = outcome(pending, Duration::from_millis(timeout_ms.into())).await;
        if let Some(not_begun) = report.as_ref().filter(|report| !was_begun(report)) {
            cannot.push(format!("{}: {}", asker.name, not_begun.error.as_deref().unwrap_or_default()));
            continue;
        }
        let answer = join(&target, &asker, vip, report, record);
        front.metrics.on_probe(answer.ok);
        let reason = answer.reason.as_deref().unwrap_or("ok");
        tracing::info!(target = name, from = asker.name, "probe along the real path: {reason}");
        return Json(answer).into_response();
    }
    let text = format!("no agent of another target's host can ask: {}", cannot.join("; "));
    error(StatusCode::CONFLICT, &text)
}

/// Where a client could come to the target: the listener that is asked for, or else the first.
fn vip_for(
    admin: &Admin,
    target: &Target,
    asked: Option<SocketAddr>,
) -> Result<SocketAddr, (StatusCode, String)> {
    let site = admin.front.site.load_full();
    let unusable = |listener: &SiteListener| {
        if listener.protocol != Protocol::Http {
            Some("does not speak http")
        } else if listener.mode != Mode::Migrate {
            Some("does not migrate")
        } else if target.spec.servers.for_vip(listener.vip).is_none() {
            Some("has an address of another family than the target's")
        } else if admin.front.drains.listener(listener.vip).is_some() {
            Some("is drained")
        } else {
            None
        }
    };
    let Some(asked) = asked else {
        let text = "no listener that is open speaks http, migrates and has an address of the target's family";
        let usable = site.listeners.iter().find(|listener| unusable(listener).is_none());
        return usable.map(|listener| listener.vip).ok_or_else(|| (StatusCode::CONFLICT, text.to_owned()));
    };
    let Some(listener) = site.listeners.iter().find(|listener| listener.vip == asked) else {
        let vips: Vec<String> = site.listeners.iter().map(|listener| listener.vip.to_string()).collect();
        let text = format!("no listener has {asked}: there are {}", vips.join(", "));
        return Err((StatusCode::NOT_FOUND, text));
    };
    match unusable(listener) {
        None => Ok(asked),
        Some(why) => Err((StatusCode::CONFLICT, format!("the listener at {asked} {why}"))),
    }
}

/// An agent that may ask, and its host's addresses.
type Asker = (Arc<Agent>, Vec<IpAddr>);

/// Those that may ask, in order.
fn askers(admin: &Admin, target: &Target) -> Result<Vec<Asker>, &'static str> {
    let targets: Vec<Arc<Target>> = admin.front.targets.iter().collect();
    let addresses = |agent: &Agent| {
        let of_agent = targets.iter().filter(|target| target.agent.id == agent.id);
        let servers = of_agent.flat_map(|target| target.spec.servers.iter()).map(|server| server.ip());
        std::iter::once(agent.addr.ip()).chain(servers).collect::<Vec<_>>()
    };
    // From this host nothing migrates either.
    let migrator = admin.front.migration.migrator();
    let is_own = |ip: &IpAddr| migrator.is_some_and(|migrator| migrator.is_own(SocketAddr::new(*ip, 0)));
    let agents = targets.iter().map(|target| Arc::clone(&target.agent));
    let mut agents: Vec<Arc<Agent>> = agents.filter(|agent| !addresses(agent).iter().any(is_own)).collect();
    // Targets may share one.
    let mut seen = HashSet::new();
    agents.retain(|agent| seen.insert(agent.id));
    let host =
        |agent: &Arc<Agent>| Host { addresses: addresses(agent), up: agent.state() == health::Agent::Up };
    let hosts: Vec<Host> = agents.iter().map(host).collect();
    let chosen = choose_askers(&addresses(&target.agent), &hosts).map_err(|no| no.explanation())?;
    let all: Vec<_> = agents.into_iter().zip(hosts).map(|(agent, host)| (agent, host.addresses)).collect();
    Ok(chosen.into_iter().filter_map(|place| all.get(place).cloned()).collect())
}

/// What both ends say.
async fn outcome(mut pending: Pending, limit: Duration) -> (Option<ProbeReport>, Option<MigrationRecord>) {
    let report = timeout(limit + LATE, &mut pending.report).await.ok().and_then(Result::ok);
    // A request that comes only now is nobody's.
    pending.forget();
    let record = timeout(LATE, &mut pending.record).await.ok().and_then(Result::ok);
    (report, record)
}

fn join(
    target: &Target,
    asker: &Agent,
    vip: SocketAddr,
    report: Option<ProbeReport>,
    record: Option<MigrationRecord>,
) -> ProbeAnswer {
    let migrated = record.as_ref().is_some_and(|record| record.outcome == HistoryOutcome::Migrated);
    let noted =
        record.as_ref().map(|record| Noted { migrated, reason: record.reason, refusal: record.refusal });
    let (verdict, reason) = judge(report.as_ref(), noted);
    let report = report.as_ref();
    ProbeAnswer {
        ok: verdict == Verdict::Well,
        verdict: verdict.name(),
        reason,
        target: target.spec.name.clone(),
        from: asker.name.clone(),
        client: report.and_then(|report| report.local),
        vip,
        migrated,
        flow_id: record.as_ref().map(|record| record.id.clone()).filter(|id| !id.is_empty()),
        status: report.and_then(|report| report.status),
        body_bytes: report.map_or(0, |report| report.body_bytes),
        first_byte_us: report.map_or(0, |report| report.first_byte_us),
        total_us: report.map_or(0, |report| report.total_us),
        migration_us: record.as_ref().map_or(0, |record| record.total_us),
        stages_us: record.map(|record| record.stages_us).unwrap_or_default(),
    }
}
