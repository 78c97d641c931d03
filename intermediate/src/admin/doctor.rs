//! What `intermediate doctor` finds, asked of the daemon.

use super::{Admin, error};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::Arc;

/// `GET /v1/doctor`.
pub(super) async fn doctor(State(admin): State<Arc<Admin>>) -> Response {
    let Some(reload) = &admin.reload else {
        return error(StatusCode::NOT_IMPLEMENTED, "this process has no configuration file");
    };
    let path = reload.path().to_owned();
    // It looks at files, devices and other hosts, some of that without a runtime's help.
    match tokio::task::spawn_blocking(move || crate::doctor::look(&path)).await {
        Ok(Ok(checks)) => Json(json!({ "checks": checks })).into_response(),
        Ok(Err(e)) => error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the checks ended before they were done"),
    }
}
