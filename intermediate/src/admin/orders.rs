//! What an operator orders: drain a target, take it back.

use super::{Admin, error, not_found};
use crate::targets::Target;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_shared::health::AdminOrder;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest an order is waited for.
const WAIT_MOST: Duration = Duration::from_secs(600);
/// How often it is looked whether something is left.
const LOOK: Duration = Duration::from_millis(20);

/// Query of an order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    /// Answer when nothing is left, at the latest after so many milliseconds.
    wait_ms: Option<u64>,
}

/// `POST /v1/targets/{name}/{order}`.
pub(super) async fn target(
    State(admin): State<Arc<Admin>>,
    Path((name, order)): Path<(String, String)>,
    query: Result<Query<Wait>, QueryRejection>,
) -> Response {
    let Ok(Query(wait)) = query else {
        return error(StatusCode::BAD_REQUEST, "the query may name wait_ms");
    };
    let order = match order.as_str() {
        "drain" => AdminOrder::Drain,
        "undrain" => AdminOrder::Undrain,
        "disable" => AdminOrder::Disable,
        _ => return not_found("a target can be ordered to drain, undrain or disable"),
    };
    let Some(target) = admin.front.targets.by_name(&name) else {
        return not_found("no target of this name is configured");
    };
    let (from, to) = target.ordered.give(order);
    if from != to {
        tracing::warn!(target = name, "{} -> {} (ordered)", from.name(), to.name());
    }
    let wait = Duration::from_millis(wait.wait_ms.unwrap_or(0)).min(WAIT_MOST);
    let until = Instant::now() + wait;
    // An order taken back meanwhile ends the waiting as well.
    while !target.view().drained && target.ordered.state() == to && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
    }
    Json(of_target(&admin, &target)).into_response()
}

/// A target with its part in each pool.
pub(super) fn of_target(admin: &Admin, target: &Target) -> Value {
    let site = admin.front.site.load_full();
    let parts: Vec<_> =
        site.pools.iter().filter_map(|pool| Some(pool.member_view(pool.member(target.id)?))).collect();
    let mut view = json!(target.view());
    if let Some(object) = view.as_object_mut() {
        object.insert("pools".to_owned(), json!(parts));
    }
    view
}
