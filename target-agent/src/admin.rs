//! The admin endpoint: what the agent knows, as JSON and as metrics. Read only.

mod view;

use crate::metrics;
use crate::serve::engine::Shared;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use baton_daemon::admin::common_routes;
use baton_daemon::control::Server;
use serde::Deserialize;
use serde_json::json;
use std::sync::{Arc, OnceLock};

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
}

/// All routes.
pub(crate) fn router(shared: Shared, server: &Arc<OnceLock<Server>>) -> Router {
    let registry = Arc::new(metrics::registry(&shared, server));
    // The admin endpoint starts last: whoever reaches it reaches a ready agent.
    let own = Router::new()
        .route("/v1/targets", get(targets))
        .route("/v1/flows", get(flows))
        .route("/v1/flows/{id}", get(flow))
        .route("/v1/migrations", get(migrations))
        .with_state(shared);
    common_routes(registry, || Ok(())).merge(own)
}

async fn targets(State(shared): State<Shared>) -> Response {
    Json(view::targets(&shared)).into_response()
}

async fn flows(State(shared): State<Shared>, Query(filter): Query<Filter>) -> Response {
    let flows = view::flows(&shared, |flow| {
        matches(filter.target.as_deref(), &flow.server)
            && matches(filter.client.as_deref(), &flow.client)
            && filter.state.as_deref().is_none_or(|state| state == flow.state)
    });
    Json(json!({ "flows": flows })).into_response()
}

/// Whether `wanted` is the address, or its part before the port.
fn matches(wanted: Option<&str>, address: &std::net::SocketAddr) -> bool {
    wanted.is_none_or(|wanted| wanted == address.to_string() || wanted == address.ip().to_string())
}

async fn flow(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let not_found = |text: &str| (StatusCode::NOT_FOUND, Json(json!({ "error": text }))).into_response();
    match view::flows(&shared, |flow| flow.id == id).into_iter().next() {
        Some(flow) => Json(flow).into_response(),
        None => not_found("no such flow: the id is its 16 hexadecimal digits, as in /v1/flows"),
    }
}

async fn migrations(State(shared): State<Shared>) -> Response {
    Json(json!({ "migrations": view::migrations(&shared) })).into_response()
}
