//! How the node is, in short.

use super::Admin;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_daemon::admin::events;
use baton_shared::control::PROTOCOL_VERSION;
use baton_shared::record::ABI_VERSION;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

fn data_plane(admin: &Admin) -> String {
    let hook = admin.plane.as_ref().map(|plane| format!("{:?}", plane.hook()).to_lowercase());
    hook.unwrap_or_else(|| "none".into())
}

/// `GET /readyz`.
pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let stopping = admin.is_stopping();
    let draining = admin.front.drains.node().is_some();
    let ready = !stopping && !draining;
    let targets = &admin.front.targets;
    let listeners: Vec<SocketAddr> = admin.front.site.load().listeners.iter().map(|l| l.vip).collect();
    let detail = json!({
        "ready": ready,
        "stopping": stopping,
        "draining": draining,
        "listeners": listeners,
        "data_plane": data_plane(&admin),
        "targets": targets.iter().count(),
        "targets_up": targets.iter().filter(|target| target.is_up()).count(),
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(detail)).into_response()
}

/// `GET /v1/status`.
pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let front = &admin.front;
    let metrics = &front.metrics;
    let migrator = front.migration.migrator();
    let draining = front.drains.node().is_some();
    let state = match (admin.is_stopping(), draining) {
        (true, _) => "stopping",
        (_, true) => "draining",
        _ => "ready",
    };
    let started = admin.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let slots = admin.plane.as_ref().map(|plane| plane.slots());
    let stats = migrator.map(|migrator| migrator.stats());
    let site = front.site.load_full();
    let live = super::orders::live(&admin);
    let listeners: Vec<Value> =
        site.listeners.iter().map(|l| super::orders::of_listener(&admin, l, &live)).collect();
    Json(json!({
        "daemon": "intermediate",
        "name": admin.reload.as_ref().map(|reload| reload.in_force().name.get_ref().clone()),
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": PROTOCOL_VERSION,
        "abi": ABI_VERSION,
        "pid": std::process::id(),
        "started": u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
        "state": state,
        "data_plane": data_plane(&admin),
        "listeners": listeners,
        "targets": front.targets.iter().count(),
        "targets_up": front.targets.iter().filter(|target| target.is_up()).count(),
        "connections": metrics.open_connections(),
        "requests": {
            "migrated": metrics.requests("migrated"),
            "proxied": metrics.requests("proxied"),
            "closed": metrics.requests("closed"),
        },
        "flows": {
            "live": live.all,
            "slots_used": slots.map_or(0, |slots| slots.in_use()),
            "slots": slots.map_or(0, |slots| slots.capacity()),
        },
        "handoffs_in_flight": stats.as_ref().map_or(0, |stats| stats.in_flight),
        "held_packets": stats.as_ref().map_or(0, |stats| stats.hold.packets),
        "reloads": { "applied": metrics.reloads("applied"), "refused": metrics.reloads("refused") },
        "events": { "subscribers": events::subscribers(), "missed": events::missed() },
        "now": u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
    }))
}
