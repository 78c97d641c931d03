//! Why requests did not go directly, and packets not at all: every reason there is, its count and what to do about it.

use super::Admin;
use axum::Json;
use axum::extract::State;
use baton_daemon::admin::reasons::{counted, packets};
use baton_shared::http::GateRule;
use baton_shared::reason::{CloseReason, ControlFault, HoldDrop, ProxyReason, Refusal};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /v1/reasons`.
pub(super) async fn reasons(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let metrics = &admin.front.metrics;
    let programs = admin.plane.as_ref().and_then(|plane| plane.counters().ok()).unwrap_or_default();
    let migrator = admin.front.migration.migrator();
    let hold = migrator.map(|migrator| migrator.stats().hold).unwrap_or_default();
    Json(json!({
        "packets": packets(&programs),
        "proxied": counted(ProxyReason::ALL, |reason| metrics.proxied(reason)),
        "retried": counted(ProxyReason::ALL, |reason| metrics.retried(reason)),
        "refused": counted(Refusal::ALL, |reason| metrics.refused(reason)),
        "closed": counted(CloseReason::ALL, |reason| metrics.closed(reason)),
        "gate": counted(GateRule::ALL, |rule| metrics.gate_refused(rule)),
        "held_dropped": counted(HoldDrop::ALL, |reason| hold.dropped(reason)),
        "control_faults": counted(ControlFault::ALL, |reason| {
            migrator.map_or(0, |migrator| migrator.control_faults().get(reason))
        }),
    }))
}
