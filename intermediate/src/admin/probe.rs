//! The order to probe a target along the real path: another target's host asks the VIP, and the connection must migrate
//! to the target in question.

use super::{Admin, error, not_found};
use crate::handoff::stages;
use crate::probe::{Ask, CannotProbe, Probed};
use crate::targets::Target;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_shared::probe::{Verdict, judge};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// For all of it if the order does not say, and at most, milliseconds.
const TIMEOUT_MS: u32 = 5000;
const TIMEOUT_MOST_MS: u32 = 60_000;

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
    let path = query.path.as_deref().unwrap_or("/");
    let ask = Ask { vip: query.vip, host: query.host.as_deref(), path, timeout_ms, turn: 0 };
    match front.probe(&target, ask).await {
        Ok(probed) => {
            let answer = ProbeAnswer::new(&target, probed);
            front.metrics.on_probe(answer.ok);
            let reason = answer.reason.as_deref().unwrap_or("ok");
            tracing::info!(target = name, from = answer.from, "probe along the real path: {reason}");
            Json(answer).into_response()
        }
        Err(why) => refused(&why),
    }
}

fn refused(why: &CannotProbe) -> Response {
    let status = match why {
        CannotProbe::NoSuchListener(_) => StatusCode::NOT_FOUND,
        CannotProbe::BadOrder(_) => StatusCode::BAD_REQUEST,
        CannotProbe::Now(_) => StatusCode::CONFLICT,
    };
    error(status, &why.to_string())
}

impl ProbeAnswer {
    fn new(target: &Target, probed: Probed) -> Self {
        let migrated = probed.has_migrated();
        let (verdict, reason) = judge(probed.report.as_ref(), probed.noted());
        let Probed { asker, vip, report, record, .. } = probed;
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
}
