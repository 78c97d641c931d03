//! Routes, each with the level it needs, and the list of them, which the OpenAPI file is compared with.

use super::{CSRF_HEADER, Granted};
use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json};
use baton_shared::access::Level;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Its path, parts that vary in braces.
    pub path: &'static str,
    /// What its caller must be allowed.
    pub level: Level,
}

/// A router whose routes are known by name.
#[derive(Debug)]
pub struct Routes<S = ()> {
    router: Router<S>,
    known: Vec<Route>,
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// None yet.
    pub fn new() -> Self {
        Routes { router: Router::new(), known: Vec::new() }
    }

    /// A route that changes nothing, for everyone who may look.
    #[must_use]
    pub fn get<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.read(path, Level::View, handler)
    }

    /// A route that changes nothing, for those of a level.
    #[must_use]
    pub fn read<T: 'static>(self, path: &'static str, level: Level, handler: impl Handler<T, S>) -> Self {
        self.add("GET", path, level, get(handler))
    }

    /// A route that changes something.
    #[must_use]
    pub fn post<T: 'static>(self, path: &'static str, level: Level, handler: impl Handler<T, S>) -> Self {
        self.add("POST", path, level, post(handler))
    }

    fn add(
        mut self,
        method: &'static str,
        path: &'static str,
        level: Level,
        handler: MethodRouter<S>,
    ) -> Self {
        self.known.push(Route { method, path, level });
        let guarded = handler.layer(from_fn(move |granted, request: Request, next: Next| {
            require(level, granted, request, next)
        }));
        Routes { router: self.router.route(path, guarded), known: self.known }
    }

    /// All routes there are.
    pub fn known(&self) -> &[Route] {
        &self.known
    }

    /// With the state its handlers read.
    pub fn with_state(self, state: S) -> Routes {
        Routes { router: self.router.with_state(state), known: self.known }
    }
}

impl Routes {
    /// Both.
    #[must_use]
    pub fn merge(mut self, other: Routes) -> Self {
        self.known.extend(other.known);
        Routes { router: self.router.merge(other.router), known: self.known }
    }

    /// With the OpenAPI file at `/v1/openapi.json`, which describes all of them.
    #[must_use]
    pub fn described_by(self, openapi: &'static str) -> Self {
        self.get("/v1/openapi.json", async move || ([(header::CONTENT_TYPE, "application/json")], openapi))
    }

    /// For [`serve`](super::serve).
    pub fn router(self) -> Router {
        self.router
    }
}

/// What routes and their OpenAPI file do not agree about: nothing, as a test of each daemon sees to.
pub fn differences(known: &[Route], openapi: &str) -> Vec<String> {
    let Ok(openapi) = serde_json::from_str::<Value>(openapi) else { return vec!["it is no JSON".to_owned()] };
    let described = openapi.get("paths").and_then(Value::as_object).into_iter().flatten();
    let described: BTreeSet<String> = described
        .flat_map(|(path, operations)| {
            operations.as_object().into_iter().flatten().map(move |(method, operation)| {
                let level = operation.get("x-baton-level").and_then(Value::as_str).unwrap_or("no level");
                format!("{} {path} ({level})", method.to_uppercase())
            })
        })
        .collect();
    let known: BTreeSet<String> = known
        .iter()
        .map(|route| format!("{} {} ({})", route.method, route.path, route.level.name()))
        .collect();
    described.symmetric_difference(&known).cloned().collect()
}

async fn require(level: Level, granted: Extension<Granted>, request: Request, next: Next) -> Response {
    let refused = |text: &str| (StatusCode::FORBIDDEN, Json(json!({ "error": text }))).into_response();
    match granted.0.0 {
        Some(has) if has >= level => {}
        has => {
            let has = has.map_or("nothing at all", Level::name);
            return refused(&format!(
                "this needs the level {:?}; this peer may {has} ([admin])",
                level.name()
            ));
        }
    }
    // A capture is a GET and costs the host something all the same.
    let is_for_all = level == Level::View && request.method() != Method::POST;
    let sent = request.headers().get(CSRF_HEADER);
    if is_for_all || sent.is_some_and(|value| value.as_bytes() == b"1") {
        return next.run(request).await;
    }
    refused("this needs the header X-Baton-CSRF: 1")
}
