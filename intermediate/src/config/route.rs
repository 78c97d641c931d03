//! `[[route]]`.

use super::Config;
use super::headers::RequestHeaders;
use super::limits::{SILENCE_MS, within};
use super::listener::Protocol;
use super::own_limits::RouteLimits;
use super::stream::{protocols, validate_upgrade};
use baton_daemon::config::{Problems, Spanned, did_you_mean};
use baton_shared::http::is_token_text;
use baton_shared::route::{
    HostRule, KeepAlive, Mode, OwnLimits, PathRule, PoolId, Route, RuleError, Rules, ValueRule,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Names and values, as the file has them.
pub type Pairs = BTreeMap<Spanned<String>, Spanned<String>>;

/// `[[route]]`: which requests go to which pool. The first that takes a request wins.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteEntry {
    /// What logs call it; `route N` if it is not given.
    pub name: Option<Spanned<String>>,
    /// The listeners it is for; all if it names none.
    #[serde(default)]
    pub listener: Vec<Spanned<String>>,
    /// Any of these hosts.
    #[serde(default)]
    pub host: Vec<Spanned<String>>,
    /// This path and all below it.
    pub path: Option<Spanned<String>>,
    /// This path alone.
    pub path_exact: Option<Spanned<String>>,
    /// Paths that this expression matches as a whole.
    pub path_regex: Option<Spanned<String>>,
    /// Any of these methods.
    #[serde(default)]
    pub method: Vec<Spanned<String>>,
    /// All of these headers.
    #[serde(default)]
    pub header: Pairs,
    /// All of these parameters of the query.
    #[serde(default)]
    pub query: Pairs,
    /// All of these cookies.
    #[serde(default)]
    pub cookie: Pairs,
    /// Any of these protocols in the ClientHello.
    #[serde(default)]
    pub alpn: Vec<Spanned<String>>,
    /// Where its requests go.
    pub pool: Spanned<String>,
    /// As the listener's if it is not given.
    pub keepalive: Option<Spanned<KeepAlive>>,
    /// As the listener's if it is not given.
    pub mode: Option<Spanned<Mode>>,
    /// Protocols to which connections may be upgraded, such as "websocket"; as the listener's if it is not given.
    pub upgrade: Option<Vec<Spanned<String>>>,
    /// Whether CONNECT is served; as the listener's if it is not given.
    pub connect: Option<Spanned<bool>>,
    /// The same as `limits.upstream_timeout_ms` here.
    pub upstream_timeout_ms: Option<Spanned<u64>>,
    /// As the listener's where it says nothing.
    pub limits: Option<RouteLimits>,
    /// What is changed in a request's head.
    #[serde(default)]
    pub request_headers: RequestHeaders,
}

/// Puts a rule that cannot be among the problems.
fn or_problem<T, V>(
    value: &Spanned<V>,
    rule: Result<T, RuleError>,
    problems: &mut Problems<'_>,
) -> Option<T> {
    rule.map_err(|e| problems.with(value, e)).ok()
}

impl RouteEntry {
    fn path_rule(&self, problems: &mut Problems<'_>) -> Option<PathRule> {
        let given = [&self.path, &self.path_exact, &self.path_regex];
        if let Some(second) = given.into_iter().flatten().nth(1) {
            problems.with(second, "a route has one of path, path_exact and path_regex");
        }
        let prefix = self.path.as_ref().map(|p| (p, PathRule::prefix(p.get_ref())));
        let exact = || self.path_exact.as_ref().map(|p| (p, PathRule::exact(p.get_ref())));
        let regex = || self.path_regex.as_ref().map(|p| (p, PathRule::regex(p.get_ref())));
        let (place, rule) = prefix.or_else(exact).or_else(regex)?;
        or_problem(place, rule, problems)
    }

    /// What it says of limits.
    fn own_limits(&self) -> OwnLimits {
        let own = self.limits.as_ref().map(RouteLimits::own).unwrap_or_default();
        let flat = self.upstream_timeout_ms.as_ref().map(|ms| Duration::from_millis(*ms.get_ref()));
        OwnLimits { upstream_timeout: own.upstream_timeout.or(flat), ..own }
    }

    fn validate_limits(&self, problems: &mut Problems<'_>) {
        if let Some(limits) = &self.limits {
            limits.validate(problems);
        }
        let Some(flat) = &self.upstream_timeout_ms else { return };
        within(problems, "upstream_timeout_ms", flat, SILENCE_MS);
        if let Some(again) = self.limits.as_ref().and_then(|limits| limits.upstream_timeout_ms.as_ref()) {
            problems.with(again, "upstream_timeout_ms stands in this route, too: give it once");
        }
    }

    /// The conditions; what is wrong with them is put among the problems and left out.
    fn rules(&self, config: &Config, problems: &mut Problems<'_>) -> Rules {
        let listeners: Vec<usize> =
            self.listener.iter().filter_map(|l| config.listener_number(l, problems)).collect();
        let host = |h: &Spanned<String>| or_problem(h, HostRule::parse(h.get_ref()), problems);
        let hosts = self.host.iter().filter_map(host).collect();
        let path = self.path_rule(problems);
        let mut tokens = |pairs: &Pairs| -> Vec<ValueRule> {
            let rule = |(name, value): (&Spanned<String>, &Spanned<String>)| {
                or_problem(name, ValueRule::token(name.get_ref(), value.get_ref()), problems)
            };
            pairs.iter().filter_map(rule).collect()
        };
        Rules {
            hosts,
            path,
            headers: tokens(&self.header),
            cookies: tokens(&self.cookie),
            query: self
                .query
                .iter()
                .map(|(name, value)| ValueRule::new(name.get_ref(), value.get_ref()))
                .collect(),
            methods: self.method.iter().map(|m| m.get_ref().clone()).collect(),
            alpn: self.alpn.iter().map(|a| a.get_ref().clone()).collect(),
            listeners: (!self.listener.is_empty()).then_some(listeners),
        }
    }
}

impl Config {
    /// Listener by the name a route calls it.
    fn listener_number(&self, name: &Spanned<String>, problems: &mut Problems<'_>) -> Option<usize> {
        let names: Vec<String> = self.listener.iter().map(super::Listener::name).collect();
        let found = names.iter().position(|n| n == name.get_ref());
        if found.is_none() {
            let hint = did_you_mean(name.get_ref(), names.iter().map(String::as_str));
            problems.with(name, format!("there is no listener {:?}{hint}", name.get_ref()));
        }
        found
    }

    /// The routes, compiled; what is wrong with them is put among the problems.
    pub(super) fn compile_routes(&self, problems: &mut Problems<'_>) -> Vec<Route> {
        let pools = self.pool_names();
        let compile = |(n, entry): (usize, &RouteEntry)| {
            let rules = entry.rules(self, problems);
            let number = pools.iter().position(|pool| pool == entry.pool.get_ref()).unwrap_or_default();
            let name =
                entry.name.as_ref().map_or_else(|| format!("route {}", n + 1), |n| n.get_ref().clone());
            Route {
                keepalive: entry.keepalive.as_ref().map(|k| *k.get_ref()),
                mode: entry.mode.as_ref().map(|m| *m.get_ref()),
                upgrade: entry.upgrade.as_ref().map(|upgrade| protocols(upgrade)),
                connect: entry.connect.as_ref().map(|connect| *connect.get_ref()),
                limits: entry.own_limits(),
                headers: Arc::new(entry.request_headers.changes()),
                ..Route::new(&name, PoolId(number), rules)
            }
        };
        self.route.iter().enumerate().map(compile).collect()
    }

    pub(super) fn validate_routes(&self, problems: &mut Problems<'_>) {
        let compiled = self.compile_routes(problems);
        for (n, route) in self.route.iter().enumerate() {
            self.require_pool(&route.pool, problems);
            if let Some(name) = &route.name {
                let is = name.get_ref();
                problems.require(name, !is.is_empty(), "a route's name must not be empty");
                let same = |other: &RouteEntry| other.name.as_ref().is_some_and(|o| o.get_ref() == is);
                if self.route.iter().take(n).any(same) {
                    problems.with(name, format!("route {is:?} is listed twice; name them differently"));
                }
            }
            for method in &route.method {
                let is = method.get_ref();
                problems.require(method, is_token_text(is), format!("method {is:?} is no HTTP method"));
                let upper = is.to_ascii_uppercase();
                let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
                problems.require(
                    method,
                    *is == upper || !known.contains(&upper.as_str()),
                    format!("method {is:?} is not {upper:?}: methods are compared with regard to case"),
                );
            }
            validate_upgrade(route.upgrade.as_ref(), problems);
            route.validate_limits(problems);
            route.request_headers.validate(problems);
            self.validate_reach(n, route, &compiled, problems);
            self.validate_route_protocol(n, route, &compiled, problems);
        }
    }

    /// A route behind one that takes all of its requests is never reached.
    fn validate_reach(&self, n: usize, route: &RouteEntry, compiled: &[Route], problems: &mut Problems<'_>) {
        let Some(this) = compiled.get(n) else { return };
        let listeners = || (0..self.listener.len()).filter(|listener| this.rules.apply_to(*listener));
        let takes_all = |listener: usize| {
            let mut before = compiled.iter().take(n);
            before.find(|route| route.rules.apply_to(listener) && route.rules.cover(&this.rules))
        };
        if let Some(first) = listeners().next().and_then(takes_all)
            && listeners().all(|listener| takes_all(listener).is_some())
        {
            let (name, first) = (&this.name, &first.name);
            problems.with(
                route.name.as_ref().unwrap_or(&route.pool),
                format!("route {name:?} is never reached: {first:?} before it takes all its requests; put it in front"),
            );
        }
    }

    /// Of a TLS connection only name and protocols are known; of a TCP connection nothing.
    fn validate_route_protocol(
        &self,
        n: usize,
        route: &RouteEntry,
        compiled: &[Route],
        problems: &mut Problems<'_>,
    ) {
        let Some(this) = compiled.get(n) else { return };
        let named = !route.listener.is_empty();
        let protocols: Vec<Protocol> = self
            .listener
            .iter()
            .enumerate()
            .filter(|(l, _)| named && this.rules.apply_to(*l))
            .map(|(_, listener)| listener.protocol())
            .collect();
        let about_requests = [
            route.path.as_ref().map(Spanned::span),
            route.path_exact.as_ref().map(Spanned::span),
            route.path_regex.as_ref().map(Spanned::span),
            route.method.first().map(Spanned::span),
            route.header.keys().next().map(Spanned::span),
            route.query.keys().next().map(Spanned::span),
            route.cookie.keys().next().map(Spanned::span),
        ];
        if let Some(place) = about_requests.into_iter().flatten().next()
            && protocols.iter().any(|p| !p.is_http())
        {
            problems.at(place, "requests are not read on a listener of protocol \"tls\" or \"tcp\": host and alpn alone can be asked for there, of \"tls\"");
        }
        if let Some(alpn) = route.alpn.first() {
            let tls = self.listener.iter().enumerate().any(|(l, listener)| {
                this.rules.apply_to(l) && matches!(listener.protocol(), Protocol::Tls | Protocol::Https)
            });
            problems.require(
                alpn,
                tls,
                "alpn is offered by TLS clients: no listener of this route has protocol \"tls\" or \"https\"",
            );
        }
    }
}
