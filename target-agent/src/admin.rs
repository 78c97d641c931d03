//! The admin endpoint: what the agent knows, as JSON and as metrics. Read only.

mod view;

use crate::config::Config;
use crate::metrics;
use crate::serve::engine::Shared;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRef, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use baton_daemon::admin::{Routes, common_routes, events, list, reasons};
use baton_daemon::capture::{CaptureQuery, Place, Records};
use baton_daemon::control::Server;
use baton_loader::monotonic_ns;
use baton_shared::access::Level;
use baton_shared::reason::{EndReason, Refusal};
use baton_shared::record::{FlowKey, FlowRecord};
use baton_shared::translate::Direction;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

/// What describes the routes; served at `/v1/openapi.json`.
pub(crate) const OPENAPI: &str = include_str!("admin/openapi.json");

/// Filters of `/v1/flows`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// The server's address, with or without port.
    target: Option<String>,
    /// A state's name.
    state: Option<String>,
    /// The client's address, with or without port.
    client: Option<String>,
    /// Elements at most.
    limit: Option<usize>,
}

/// Query of `/v1/migrations`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecentQuery {
    /// The client's address, with or without port.
    client: Option<String>,
    /// Elements at most.
    limit: Option<usize>,
}

/// What the routes read.
#[derive(Clone)]
struct Agent {
    shared: Shared,
    /// What is captured.
    place: Arc<Place>,
    /// The configuration's file.
    path: Arc<std::path::Path>,
}

impl FromRef<Agent> for Shared {
    fn from_ref(agent: &Agent) -> Shared {
        agent.shared.clone()
    }
}

/// All routes.
pub(crate) fn router(
    shared: Shared,
    server: &Arc<OnceLock<Server>>,
    config: &Config,
    path: &std::path::Path,
) -> Router {
    let registry = Arc::new(metrics::registry(&shared, server));
    let place = Place {
        uplink: config.uplink.get_ref().clone(),
        tun: config.plane.tun.get_ref().clone(),
        direction: Direction::ToClient,
    };
    let agent = Agent { shared, place: Arc::new(place), path: path.into() };
    // The admin endpoint starts last: whoever reaches it reaches a ready agent.
    common_routes(registry, || Ok(())).merge(own_routes().with_state(agent)).described_by(OPENAPI).router()
}

fn own_routes() -> Routes<Agent> {
    Routes::new()
        .get("/v1/status", status)
        .get("/v1/targets", targets)
        .get("/v1/flows", flows)
        .get("/v1/flows/{id}", flow)
        .get("/v1/migrations", migrations)
        .get("/v1/reasons", counted)
        .get("/v1/events", events::events)
        .read("/v1/capture", Level::Operate, capture)
        .read("/v1/doctor", Level::Operate, doctor)
}

async fn capture(State(agent): State<Agent>, query: Result<Query<CaptureQuery>, QueryRejection>) -> Response {
    baton_daemon::capture::capture(&agent.place, OfTable(agent.shared), query)
}

/// What `target-agent doctor` finds.
async fn doctor(State(agent): State<Agent>) -> Response {
    let look = move || crate::doctor::checks(&agent.path, &view::clients(&agent.shared));
    match tokio::task::spawn_blocking(look).await {
        Ok(checks) => Json(json!({ "checks": checks })).into_response(),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the checks ended before they were done"),
    }
}

struct OfTable(Shared);

impl Records for OfTable {
    fn lookup(&self, key: &FlowKey) -> Option<u32> {
        self.0.plane.lookup(key).ok().flatten()
    }

    fn read(&self, slot: u32) -> FlowRecord {
        self.0.plane.slots().read(slot)
    }

    fn slots_of(&self, ip: IpAddr) -> HashMap<SocketAddr, u32> {
        view::slots_of(&self.0, ip)
    }

    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

fn error(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "error": text }))).into_response()
}

async fn status(State(shared): State<Shared>) -> Json<Value> {
    Json(view::status(&shared))
}

async fn counted(State(shared): State<Shared>) -> Json<Value> {
    let programs = shared.plane.counters().unwrap_or_default();
    let metrics = &shared.metrics;
    Json(json!({
        "packets": reasons::packets(&programs),
        "refused": reasons::counted(Refusal::ALL, |reason| metrics.refused_count(reason)),
        "recalls_refused": reasons::counted(Refusal::ALL, |reason| metrics.recall_refused_count(reason)),
        "ended": reasons::counted(EndReason::ALL, |reason| metrics.ended_count(reason)),
    }))
}

async fn targets(State(shared): State<Shared>) -> Response {
    Json(view::targets(&shared)).into_response()
}

async fn flows(State(shared): State<Shared>, filter: Result<Query<Filter>, QueryRejection>) -> Response {
    let Ok(Query(filter)) = filter else {
        return error(StatusCode::BAD_REQUEST, "the query may name target, state, client and limit");
    };
    let limit = match list::limit(filter.limit) {
        Ok(limit) => limit,
        Err(answer) => return *answer,
    };
    let flows = view::flows(shared, move |flow| {
        matches(filter.target.as_deref(), &flow.server)
            && matches(filter.client.as_deref(), &flow.client)
            && filter.state.as_deref().is_none_or(|state| state == flow.state)
    });
    list::stream("flows", limit, flows)
}

/// Whether `wanted` is the address, or its part before the port.
fn matches(wanted: Option<&str>, address: &std::net::SocketAddr) -> bool {
    wanted.is_none_or(|wanted| wanted == address.to_string() || wanted == address.ip().to_string())
}

async fn flow(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    match view::one(&shared, &id) {
        Some(flow) => Json(flow).into_response(),
        None => {
            error(StatusCode::NOT_FOUND, "no such flow: the id is its 16 hexadecimal digits, as in /v1/flows")
        }
    }
}

async fn migrations(
    State(shared): State<Shared>,
    query: Result<Query<RecentQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(RecentQuery { client, limit })) = query else {
        return error(StatusCode::BAD_REQUEST, "the query may name client and limit");
    };
    let limit = match list::limit(limit) {
        Ok(limit) => limit,
        Err(answer) => return *answer,
    };
    let recent = view::migrations(&shared, |of| matches(client.as_deref(), &of));
    list::stream("migrations", limit, std::iter::once(recent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_daemon::admin::differences;
    use prometheus_client::registry::Registry;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let common = common_routes(Arc::new(Registry::default()), || Ok(())).described_by(OPENAPI);
        let known: Vec<_> = common.known().iter().chain(own_routes().known()).copied().collect();
        assert_eq!(differences(&known, OPENAPI), Vec::<String>::new());
        assert_eq!(differences(&known[1..], OPENAPI), ["GET /healthz (view)"], "it can fail");
    }
}
