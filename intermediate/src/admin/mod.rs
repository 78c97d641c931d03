//! The admin endpoint's routes. All answers but `/metrics` are JSON.

mod orders;
mod pools;
mod probe;
mod scrape;

use crate::flows::FlowFilter;
use crate::front::{Front, Migration};
use crate::reload::{ReloadError, ReloadHandle};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use baton_loader::Plane;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Elements of a list if the request names no limit.
const LIMIT: usize = 1000;

/// What the routes read.
pub struct Admin {
    front: Arc<Front>,
    plane: Option<Arc<Plane>>,
    registry: Registry,
    reload: Option<ReloadHandle>,
    stopping: AtomicBool,
}

impl Admin {
    /// Over a front whose listeners are bound and whose data plane, if it has one, is attached.
    pub fn new(front: Arc<Front>, plane: Option<Arc<Plane>>, reload: Option<ReloadHandle>) -> Arc<Self> {
        let mut registry = Registry::default();
        baton_daemon::metrics::register_build_info(&mut registry, "intermediate", env!("CARGO_PKG_VERSION"));
        front.metrics.register(&mut registry);
        front.access_log.register(&mut registry);
        front.upstreams.register(&mut registry);
        scrape::register(&mut registry, &front, plane.as_ref());
        Arc::new(Admin { front, plane, registry, reload, stopping: AtomicBool::new(false) })
    }

    /// From here on `/readyz` says no.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The routes.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/v1/targets", get(targets))
            .route("/v1/targets/{name}", get(target))
            .route("/v1/targets/{name}/probe", post(probe::probe))
            .route("/v1/targets/{name}/{order}", post(orders::target))
            .route("/v1/pools", get(pools))
            .route("/v1/listeners", get(listeners))
            .route("/v1/listeners/{name}/{order}", post(orders::listener))
            .route("/v1/node", get(node))
            .route("/v1/node/{order}", post(orders::node))
            .route("/v1/flows", get(flows))
            .route("/v1/flows/{id}", get(flow))
            .route("/v1/migrations", get(migrations))
            .route("/v1/reload", post(reload))
            .route("/metrics", get(metrics))
            .route("/", get(unknown))
            .route("/{*path}", get(unknown))
            .with_state(self)
    }
}

fn error(status: StatusCode, what: &str) -> Response {
    (status, Json(json!({ "error": what }))).into_response()
}

fn not_found(what: &str) -> Response {
    error(StatusCode::NOT_FOUND, what)
}

async fn unknown() -> Response {
    not_found("no such path")
}

async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let stopping = admin.stopping.load(Ordering::Relaxed);
    let draining = admin.front.drains.node().is_some();
    let ready = !stopping && !draining;
    let targets = &admin.front.targets;
    let data_plane = admin.plane.as_ref().map(|plane| format!("{:?}", plane.hook()).to_lowercase());
    let listeners: Vec<SocketAddr> = admin.front.site.load().listeners.iter().map(|l| l.vip).collect();
    let detail = json!({
        "ready": ready,
        "stopping": stopping,
        "draining": draining,
        "listeners": listeners,
        "data_plane": data_plane.unwrap_or_else(|| "none".into()),
        "targets": targets.iter().count(),
        "targets_up": targets.iter().filter(|target| target.is_up()).count(),
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(detail)).into_response()
}

async fn targets(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let shown = admin.front.targets.shown();
    let views: Vec<Value> = shown.iter().map(|target| orders::of_target(&admin, target)).collect();
    Json(json!({ "targets": views }))
}

async fn target(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Response {
    match admin.front.targets.by_name(&name) {
        Some(target) => Json(orders::of_target(&admin, &target)).into_response(),
        None => not_found("no target of this name is configured"),
    }
}

async fn listeners(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let site = admin.front.site.load_full();
    let views: Vec<Value> = site.listeners.iter().map(|l| orders::of_listener(&admin, l)).collect();
    Json(json!({ "listeners": views }))
}

async fn node(State(admin): State<Arc<Admin>>) -> Json<Value> {
    Json(orders::of_node(&admin))
}

async fn pools(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let pools: Vec<_> = admin.front.site.load().pools.iter().map(|pool| pool.view()).collect();
    Json(json!({ "pools": pools }))
}

/// Query of `/v1/flows`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowQuery {
    target: Option<String>,
    state: Option<String>,
    client: Option<String>,
    limit: Option<usize>,
}

async fn flows(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<FlowQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        return error(StatusCode::BAD_REQUEST, "the query may name target, state, client and limit");
    };
    let limit = query.limit.unwrap_or(LIMIT);
    let filter = FlowFilter { target: query.target, state: query.state, client: query.client };
    let list = match &admin.front.migration {
        Migration::On(migrator) => migrator.flows().list(&filter, limit),
        Migration::Off(_) => Vec::new(),
    };
    Json(json!({ "flows": list })).into_response()
}

async fn flow(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Response {
    let Ok(id) = u64::from_str_radix(&id, 16) else {
        return error(StatusCode::BAD_REQUEST, "a flow's id is a hexadecimal number");
    };
    let found = admin.front.migration.migrator().and_then(|migrator| migrator.flows().get(id));
    match found {
        Some(view) => Json(view).into_response(),
        None => not_found("no such flow, or it has ended and its linger time is over"),
    }
}

/// Query of `/v1/migrations`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecentQuery {
    limit: Option<usize>,
}

async fn migrations(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<RecentQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match query {
        Ok(Query(query)) => {
            let recent = admin.front.migration.history().recent(query.limit.unwrap_or(LIMIT));
            // Not by way of `json!`, which sorts keys: the stages come in the order they happen.
            Json(BTreeMap::from([("migrations", recent)])).into_response()
        }
        Err(_) => error(StatusCode::BAD_REQUEST, "the query may name limit"),
    }
}

/// 200 with what was done; 422 if the file is wrong, 409 if it cannot be taken into service: then nothing was changed.
async fn reload(State(admin): State<Arc<Admin>>) -> Response {
    let Some(handle) = &admin.reload else {
        return error(StatusCode::NOT_IMPLEMENTED, "this process has no configuration file");
    };
    match handle.reload().await {
        Ok(reloaded) => Json(reloaded).into_response(),
        Err(ReloadError::Config(wrong)) => {
            let body = json!({ "error": "the configuration is wrong; nothing was changed", "problems": wrong.lines });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
        }
        Err(e) => error(StatusCode::CONFLICT, &format!("{e}; nothing was changed")),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let text = baton_daemon::metrics::encode(&admin.registry);
    ([(header::CONTENT_TYPE, baton_daemon::metrics::CONTENT_TYPE)], text).into_response()
}
