//! What an operator orders: drain a target, a listener or the node, take it back.

use super::{Admin, error, not_found};
use crate::flows::LiveCounts;
use crate::site::SiteListener;
use crate::targets::Target;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_daemon::admin::events::{self, Kind};
use baton_shared::health::AdminOrder;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
        _ => return not_found("a target can be ordered to drain, undrain, disable or probe"),
    };
    let Some(target) = admin.front.targets.by_name(&name) else {
        return not_found("no target of this name is configured");
    };
    let (from, to) = target.ordered.give(order);
    if from != to {
        events::publish(Kind::Order, || json!({ "target": name, "from": from.name(), "to": to.name() }));
        tracing::warn!(target = name, "{} -> {} (ordered)", from.name(), to.name());
    }
    // An order taken back meanwhile ends the waiting as well.
    wait_until(&wait, || target.view().drained || target.ordered.state() != to).await;
    Json(of_target(&admin, &target, &live(&admin))).into_response()
}

/// `POST /v1/listeners/{name}/{order}`.
pub(super) async fn listener(
    State(admin): State<Arc<Admin>>,
    Path((name, order)): Path<(String, String)>,
    query: Result<Query<Wait>, QueryRejection>,
) -> Response {
    let Ok(Query(wait)) = query else {
        return error(StatusCode::BAD_REQUEST, "the query may name wait_ms");
    };
    let Some(drain) = drain_or_undrain(&order) else {
        return not_found("a listener can be ordered to drain or undrain");
    };
    let site = admin.front.site.load_full();
    let Some(listener) = site.listeners.iter().find(|listener| listener.name == name) else {
        return not_found("no listener of this name is configured");
    };
    if admin.front.drains.drain_listener(listener.vip, drain) {
        events::publish(Kind::Order, || json!({ "listener": name, "order": order }));
        tracing::warn!(listener = name, "{order} (ordered)");
    }
    let drains = &admin.front.drains;
    wait_until(&wait, || {
        !drain || live(&admin).of_vip(listener.vip) == 0 || drains.listener(listener.vip).is_none()
    })
    .await;
    Json(of_listener(&admin, listener, &live(&admin))).into_response()
}

/// Query of an order to the node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeWait {
    /// Answer when nothing is left, at the latest after so many milliseconds.
    wait_ms: Option<u64>,
    /// For so many milliseconds the node says that it is not ready, and still takes connections: whoever sends them here
    /// learns of it.
    after_ms: Option<u64>,
}

/// `POST /v1/node/{order}`.
pub(super) async fn node(
    State(admin): State<Arc<Admin>>,
    Path(order): Path<String>,
    query: Result<Query<NodeWait>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        return error(StatusCode::BAD_REQUEST, "the query may name wait_ms and after_ms");
    };
    let Some(drain) = drain_or_undrain(&order) else {
        return not_found("the node can be ordered to drain or undrain");
    };
    if admin.front.drains.drain_node(drain) {
        events::publish(Kind::Order, || json!({ "node": null, "order": order }));
        tracing::warn!("node: {order} (ordered)");
    }
    if drain {
        let front = Arc::clone(&admin.front);
        let after = Duration::from_millis(query.after_ms.unwrap_or(0)).min(WAIT_MOST);
        let since = front.drains.node();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            // Taken back and ordered anew meanwhile: that order has its own time.
            if front.drains.node() == since {
                front.drains.close_node();
            }
        });
    }
    let wait = Wait { wait_ms: query.wait_ms };
    wait_until(&wait, || !drain || is_drained(&admin) || admin.front.drains.node().is_none()).await;
    Json(of_node(&admin)).into_response()
}

fn drain_or_undrain(order: &str) -> Option<bool> {
    match order {
        "drain" => Some(true),
        "undrain" => Some(false),
        _ => None,
    }
}

async fn wait_until(wait: &Wait, done: impl Fn() -> bool) {
    let wait = Duration::from_millis(wait.wait_ms.unwrap_or(0)).min(WAIT_MOST);
    let until = Instant::now() + wait;
    while Instant::now() < until {
        // First of all, since who chose a target as the order came may count it a moment later.
        tokio::time::sleep(LOOK).await;
        if done() {
            break;
        }
    }
}

/// How many flows are live.
pub(super) fn live(admin: &Admin) -> LiveCounts {
    admin.front.migration.migrator().map(|migrator| migrator.flows().live_counts()).unwrap_or_default()
}

fn is_drained(admin: &Admin) -> bool {
    let front = &admin.front;
    let closed = front.site.load().listeners.iter().all(|l| front.drains.listener(l.vip).is_some());
    front.drains.node().is_some() && closed && front.metrics.open_connections() == 0 && live(admin).all == 0
}

fn millis(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// A listener, and the flows that came by it.
pub(super) fn of_listener(admin: &Admin, listener: &SiteListener, live: &LiveCounts) -> Value {
    let since = admin.front.drains.listener(listener.vip);
    json!({
        "name": listener.name,
        "vip": listener.vip,
        "protocol": listener.protocol,
        "state": if since.is_some() { "draining" } else { "open" },
        "since": since.map(millis),
        "flows": live.of_vip(listener.vip),
    })
}

/// The node, and what is left on it.
pub(super) fn of_node(admin: &Admin) -> Value {
    let since = admin.front.drains.node();
    let site = admin.front.site.load_full();
    let live = live(admin);
    let listeners: Vec<Value> =
        site.listeners.iter().map(|listener| of_listener(admin, listener, &live)).collect();
    json!({
        "state": if since.is_some() { "draining" } else { "ready" },
        "since": since.map(millis),
        "drained": is_drained(admin),
        "connections": admin.front.metrics.open_connections(),
        "flows": live.all,
        "listeners": listeners,
    })
}

/// A target with its part in each pool, and how many of its flows a drain can only wait for.
pub(super) fn of_target(admin: &Admin, target: &Target, live: &LiveCounts) -> Value {
    let site = admin.front.site.load_full();
    let parts: Vec<_> =
        site.pools.iter().filter_map(|pool| Some(pool.member_view(pool.member(target.id)?))).collect();
    let mut view = json!(target.view());
    if let Some(object) = view.as_object_mut() {
        object.insert("pools".to_owned(), json!(parts));
        object.insert("pinned".to_owned(), json!(live.pinned_on(target.id)));
    }
    view
}
