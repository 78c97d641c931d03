//! Flows and recent migrations.

use super::{Admin, error, not_found};
use crate::flows::{FlowFilter, FlowView, Flows, Inspected, Shared};
use crate::handoff::{HistoryOutcome, Remembered};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_daemon::admin::list;
use baton_shared::control::{MapReport, TargetFlow};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// Query of `/v1/flows`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowQuery {
    target: Option<String>,
    state: Option<String>,
    client: Option<String>,
    vip: Option<String>,
    /// Those with numbers after this one, 16 hexadecimal digits.
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/flows`.
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        let text = "the query may name target, state, client, vip, after and limit";
        return error(StatusCode::BAD_REQUEST, text);
    };
    let limit = match list::limit(query.limit) {
        Ok(limit) => limit,
        Err(answer) => return *answer,
    };
    let after = match query.after.map(|id| u64::from_str_radix(&id, 16)).transpose() {
        Ok(after) => after,
        Err(_) => return error(StatusCode::BAD_REQUEST, "after is a flow's id, a hexadecimal number"),
    };
    let FlowQuery { target, state, client, vip, .. } = query;
    let filter = FlowFilter { target, state, client, vip };
    match admin.front.migration.migrator() {
        Some(migrator) => {
            let flows = Flows::chunks(Shared(Arc::clone(migrator)), filter, after);
            list::stream("flows", limit, flows)
        }
        None => list::stream("flows", limit, std::iter::empty::<Vec<FlowView>>()),
    }
}

/// One flow, with all that is known of it on both hosts.
#[derive(Serialize)]
struct FlowDetail {
    #[serde(flatten)]
    view: FlowView,
    /// Key and record in this host's maps.
    intermediate: MapReport,
    /// What its target's agent knows: keys and record there, and the server's socket.
    agent: Option<TargetFlow>,
    /// Why there is nothing.
    agent_error: Option<String>,
}

/// `GET /v1/flows/{id}`.
pub(super) async fn one(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Response {
    let Ok(id) = u64::from_str_radix(&id, 16) else {
        return error(StatusCode::BAD_REQUEST, "a flow's id is a hexadecimal number");
    };
    let migrator = admin.front.migration.migrator();
    let found = migrator.and_then(|migrator| Some((migrator, migrator.flows().inspect(id)?)));
    let Some((migrator, Inspected { flow, view, target, map })) = found else {
        return not_found("no such flow, or it has ended and its linger time is over");
    };
    let asked = match target.and_then(|target| admin.front.targets.get(target)) {
        Some(target) => migrator.inspections().ask(&target.agent, flow).await.map_err(|e| e.to_string()),
        None => Err("the configuration no longer names the target of this flow".to_owned()),
    };
    let (agent, agent_error) = match asked {
        Ok(agent) => (Some(agent), None),
        Err(why) => (None, Some(why)),
    };
    Json(FlowDetail { view, intermediate: map, agent, agent_error }).into_response()
}

/// Query of `/v1/migrations`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecentQuery {
    /// `migrated`, `proxied` or `closed`.
    outcome: Option<HistoryOutcome>,
    target: Option<String>,
    /// Why it was proxied or closed, an agent's refusal, or a rule of the gate.
    reason: Option<String>,
    client: Option<String>,
    /// A flow's number.
    id: Option<String>,
    limit: Option<usize>,
}

impl RecentQuery {
    fn wants(&self, request: &Remembered) -> bool {
        let client = |wanted: &String| match wanted.parse::<IpAddr>() {
            Ok(ip) => request.client().ip() == ip,
            Err(_) => wanted.parse() == Ok(request.client()),
        };
        self.outcome.is_none_or(|outcome| outcome == request.outcome)
            && self.target.as_ref().is_none_or(|target| *target == request.target())
            && self.reason.as_ref().is_none_or(|reason| request.reasons().contains(&Some(reason.as_str())))
            && self.client.as_ref().is_none_or(client)
            && self.id.as_ref().is_none_or(|id| request.has_id(id))
    }
}

/// `GET /v1/migrations`. Written by way of the record itself: its stages come in the order they happen.
pub(super) async fn migrations(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<RecentQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        let text = "the query may name outcome, target, reason, client, id and limit";
        return error(StatusCode::BAD_REQUEST, text);
    };
    let limit = match list::limit(query.limit) {
        Ok(limit) => limit,
        Err(answer) => return *answer,
    };
    // One more, to know whether there are more.
    let history = admin.front.migration.history();
    let records = history.wanted(limit.saturating_add(1), |request| query.wants(request));
    list::stream("migrations", limit, std::iter::once(records))
}
