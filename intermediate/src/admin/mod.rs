//! The admin endpoint's routes. All answers but `/metrics` and `/v1/events` are JSON; `openapi.json` describes them.

mod capture;
mod config;
mod doctor;
mod flows;
mod orders;
mod page;
mod pools;
mod probe;
mod reasons;
mod scrape;
mod status;

use crate::front::Front;
use crate::reload::{ReloadError, ReloadHandle};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use baton_daemon::admin::{Routes, events};
use baton_loader::Plane;
use baton_shared::access::Level;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

/// What describes the routes; served at `/v1/openapi.json`.
pub const OPENAPI: &str = include_str!("openapi.json");

/// What the routes read.
pub struct Admin {
    front: Arc<Front>,
    plane: Option<Arc<Plane>>,
    registry: Registry,
    reload: Option<ReloadHandle>,
    stopping: AtomicBool,
    started: SystemTime,
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
        let (stopping, started) = (AtomicBool::new(false), SystemTime::now());
        Arc::new(Admin { front, plane, registry, reload, stopping, started })
    }

    /// From here on `/readyz` says no.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The routes, each with the level it needs.
    pub fn routes(self: Arc<Self>) -> Routes {
        use Level::{Admin as All, Operate};
        Routes::new()
            .get("/", page::page)
            .get("/healthz", healthz)
            .get("/readyz", status::readyz)
            .get("/metrics", metrics)
            .get("/v1/status", status::status)
            .get("/v1/targets", targets)
            .get("/v1/targets/{name}", target)
            .post("/v1/targets/{name}/probe", Operate, probe::probe)
            .post("/v1/targets/{name}/{order}", Operate, orders::target)
            .get("/v1/pools", pools)
            .get("/v1/listeners", listeners)
            .post("/v1/listeners/{name}/{order}", Operate, orders::listener)
            .get("/v1/node", node)
            .post("/v1/node/{order}", Operate, orders::node)
            .get("/v1/flows", flows::list)
            .get("/v1/flows/{id}", flows::one)
            .get("/v1/migrations", flows::migrations)
            .get("/v1/reasons", reasons::reasons)
            .get("/v1/events", events::events)
            .read("/v1/capture", Operate, capture::capture)
            .read("/v1/doctor", Operate, doctor::doctor)
            .read("/v1/config", All, config::config)
            .post("/v1/reload", All, reload)
            .with_state(self)
            .described_by(OPENAPI)
    }

    /// The same, for serving.
    pub fn router(self: Arc<Self>) -> Router {
        self.routes().router().fallback(unknown)
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

async fn targets(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let shown = admin.front.targets.shown();
    let live = orders::live(&admin);
    let views: Vec<Value> = shown.iter().map(|target| orders::of_target(&admin, target, &live)).collect();
    Json(json!({ "targets": views }))
}

async fn target(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Response {
    match admin.front.targets.by_name(&name) {
        Some(target) => Json(orders::of_target(&admin, &target, &orders::live(&admin))).into_response(),
        None => not_found("no target of this name is configured"),
    }
}

async fn listeners(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let site = admin.front.site.load_full();
    let live = orders::live(&admin);
    let views: Vec<Value> = site.listeners.iter().map(|l| orders::of_listener(&admin, l, &live)).collect();
    Json(json!({ "listeners": views }))
}

async fn node(State(admin): State<Arc<Admin>>) -> Json<Value> {
    Json(orders::of_node(&admin))
}

async fn pools(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let pools: Vec<_> = admin.front.site.load().pools.iter().map(|pool| pool.view()).collect();
    Json(json!({ "pools": pools }))
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
