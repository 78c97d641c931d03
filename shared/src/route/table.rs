//! The table.

use super::facts::RequestFacts;
use super::limits::OwnLimits;
use super::path;
use super::rules::{Mismatch, Rules};
use crate::http::HeaderChanges;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How a connection is kept alive once a target has it (DESIGN, "Keep-alive").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeepAlive {
    /// Each later request is read, routed anew, and given to the target that its route says.
    #[default]
    Tracked,
    /// The server is told to close after its first answer.
    Single,
    /// The connection stays with the target that got its first request; nobody reads the later ones.
    Pinned,
}

impl KeepAlive {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            KeepAlive::Tracked => "tracked",
            KeepAlive::Single => "single",
            KeepAlive::Pinned => "pinned",
        }
    }
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Give the connection to a target; proxy what cannot be given.
    Migrate,
    /// Proxy.
    Proxy,
}

impl Mode {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Migrate => "migrate",
            Mode::Proxy => "proxy",
        }
    }
}

/// A pool's place in the list of pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(pub usize);

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name, for logs and for people.
    pub name: String,
    /// Where its requests go.
    pub pool: PoolId,
    /// `None`: as the listener's.
    pub keepalive: Option<KeepAlive>,
    /// `None`: as the listener's.
    pub mode: Option<Mode>,
    /// What it says of limits itself; the rest is as the listener's.
    pub limits: OwnLimits,
    /// To which protocols its connections may be upgraded; `None`: as the listener's.
    pub upgrade: Option<Arc<[String]>>,
    /// Whether CONNECT is served; `None`: as the listener's.
    pub connect: Option<bool>,
    /// What is changed in a request's head on its way to the server.
    pub headers: Arc<HeaderChanges>,
    /// Which requests it takes.
    pub rules: Rules,
}

impl Route {
    /// One that has all the rest from its listener.
    pub fn new(name: &str, pool: PoolId, rules: Rules) -> Self {
        Route {
            name: name.to_owned(),
            pool,
            keepalive: None,
            mode: None,
            limits: OwnLimits::default(),
            upgrade: None,
            connect: None,
            headers: Arc::default(),
            rules,
        }
    }
}

/// Its two normal forms (see [`super::path`]) lead to different routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path can be read in two ways, and they lead to different routes")]
pub struct AmbiguousPath;

/// A route that was looked at.
#[derive(Clone, Debug)]
pub struct Tried<'a> {
    /// Which.
    pub route: &'a Route,
    /// Whether it takes the request, or why it does not.
    pub outcome: Result<(), Mismatch>,
}

/// All routes, in their order.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    paths_matter: bool,
}

impl RouteTable {
    /// The first that takes a request wins.
    pub fn new(routes: Vec<Route>) -> Self {
        let paths_matter = routes.iter().any(|route| route.rules.path.is_some());
        RouteTable { routes, paths_matter }
    }

    /// All of them.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Whether all requests of a listener are one route's, or no route's, whatever they say.
    pub fn is_one_way(&self, listener: usize) -> bool {
        let mut of_listener = self.routes.iter().filter(|route| route.rules.apply_to(listener));
        of_listener.next().is_none_or(|first| first.rules.are_always_fulfilled())
    }

    /// The route that takes a request, if any does.
    pub fn find(&self, facts: &RequestFacts<'_>) -> Result<Option<&Route>, AmbiguousPath> {
        if !self.paths_matter {
            return Ok(self.first(facts, &[]).map(|(_, route)| route));
        }
        let found = self.first(facts, &path::plain(facts.path));
        if let Some(loose) = path::loose(facts.path)
            && self.first(facts, &loose).map(|(n, _)| n) != found.map(|(n, _)| n)
        {
            return Err(AmbiguousPath);
        }
        Ok(found.map(|(_, route)| route))
    }

    fn first(&self, facts: &RequestFacts<'_>, path: &[u8]) -> Option<(usize, &Route)> {
        self.routes.iter().enumerate().find(|(_, route)| route.rules.check(facts, path).is_ok())
    }

    /// Each route up to the one that takes the request, and why those before it do not; by the plain form of the path.
    pub fn explain(&self, facts: &RequestFacts<'_>) -> Vec<Tried<'_>> {
        let path = path::plain(facts.path);
        let mut tried = Vec::new();
        for route in &self.routes {
            let outcome = route.rules.check(facts, &path);
            let taken = outcome.is_ok();
            tried.push(Tried { route, outcome });
            if taken {
                break;
            }
        }
        tried
    }
}
