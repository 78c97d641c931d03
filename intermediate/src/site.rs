//! The site as it is served now: one immutable snapshot of what the configuration says about listeners, routes, pools
//! and limits. A connection finishes with the snapshot it began with.

use crate::access_log::Placed;
use crate::config::{Config, DEFAULT_POOL, Protocol, StreamTimes};
use crate::front::FrontLimits;
use crate::pools::{Choice, Member, Pool};
use crate::targets::{Target, Targets};
use baton_shared::admission::Network;
use baton_shared::balance::Method;
use baton_shared::http::{GateRule, HeaderChanges, RequestHead, Tunnel, Tunnels};
use baton_shared::reason::{CloseReason, ProxyReason};
use baton_shared::route::{
    BodyVerdict, KeepAlive, Mode, PoolId, RequestFacts, RequestLimits, Route, RouteTable,
};
use rustls::server::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;

/// A listener as requests meet it.
#[derive(Clone, Debug)]
pub struct SiteListener {
    /// What routes call it.
    pub name: String,
    /// The address and port clients connect to.
    pub vip: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
    /// What its routes have if they say nothing else.
    pub keepalive: KeepAlive,
    /// What its routes have if they say nothing else.
    pub mode: Mode,
    /// The pool of requests that no route takes.
    pub pool: Option<PoolId>,
    /// What its routes let through if they say nothing else.
    pub tunnels: Tunnels,
    /// What a client may ask of us here.
    pub limits: FrontLimits,
    /// How many connections a source has is counted apart from other listeners.
    pub counts_sources_apart: bool,
    /// Of connections that are relayed.
    pub times: StreamTimes,
    /// What clients get to see in the handshake, where TLS ends here.
    pub tls: Option<Arc<ServerConfig>>,
}

/// The snapshot.
#[derive(Debug)]
pub struct Site {
    /// In the order of the file; routes know them by their place.
    pub listeners: Vec<SiteListener>,
    /// In the order of the file; routes know them by their place.
    pub pools: Vec<Arc<Pool>>,
    /// The routes.
    pub table: RouteTable,
    /// What a client may ask of us where its listener says nothing else.
    pub limits: FrontLimits,
    /// Clients whose source's connections are not counted.
    pub source_exempt: Vec<Network>,
}

/// What is to be done with a request.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The route that took it; `None`: the listener's own pool.
    pub route: Option<String>,
    /// Where it goes.
    pub pool: Arc<Pool>,
    /// What becomes of its connection afterwards, if it migrates.
    pub keepalive: KeepAlive,
    /// Whether it may migrate.
    pub mode: Mode,
    /// What is asked of it, and of its server.
    pub limits: RequestLimits,
    /// What becomes of its wish to change the protocol.
    pub tunnel: Tunnel,
    /// What is changed in its head on the way to the server.
    pub headers: Arc<HeaderChanges>,
    /// It came over TLS that ended here.
    pub secure: bool,
}

impl Decision {
    /// Whether its connection may migrate as far as limits go, or why it may not.
    pub fn migration(&self, head: &RequestHead) -> Result<(), ProxyReason> {
        match self.limits.judge_body(head.framing) {
            BodyVerdict::Count => Err(ProxyReason::BodyCounted),
            BodyVerdict::Fits | BodyVerdict::TooLarge => Ok(()),
        }
    }

    /// For the access log: where a request goes, before there is a target.
    pub fn placed(&self) -> Placed {
        Placed { route: self.route.clone(), pool: self.pool.name().to_owned(), target: String::new() }
    }
}

/// Why a request that passed the gate goes nowhere, and what it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The status code of the answer.
    pub status: u16,
    /// Under what it is counted.
    pub reason: CloseReason,
    /// For the answer's body and the log.
    pub detail: &'static str,
}

const NO_ROUTE: Denial = Denial {
    status: 404,
    reason: CloseReason::NoRoute,
    detail: "nothing is served under this name and path",
};
const NO_CONNECT: Denial = Denial {
    status: 501,
    reason: CloseReason::NotImplemented,
    detail: GateRule::ConnectRefused.explanation(),
};
const BODY_TOO_LARGE: Denial =
    Denial { status: 413, reason: CloseReason::BodyTooLarge, detail: "the request's body is too large" };
const AMBIGUOUS: Denial = Denial {
    status: 400,
    reason: CloseReason::AmbiguousPath,
    detail: "the path can be read in two ways that lead to different places",
};

impl Site {
    /// Of a configuration that was validated. Its targets are in `targets` from here on; pools that are the same as
    /// in `before` go on.
    pub fn new(config: &Config, targets: &Targets, before: Option<&Site>) -> Self {
        let all = targets.update(config.targets());
        let same = |pool: Pool| {
            let before = before.and_then(|site| site.pools.iter().find(|other| other.name() == pool.name()));
            match before {
                Some(before) if before.spec == pool.spec => Arc::clone(before),
                Some(before) => {
                    pool.inherit(before);
                    Arc::new(pool)
                }
                None => Arc::new(pool),
            }
        };
        let routes = config.routes();
        Site {
            listeners: config.site_listeners(),
            pools: pools(config, &all).into_iter().map(same).collect(),
            table: RouteTable::new(routes),
            limits: config.front_limits(),
            source_exempt: config.limits.source_exempt(),
        }
    }

    /// The listener on this address, and its place.
    pub fn listener(&self, vip: SocketAddr) -> Option<(usize, &SiteListener)> {
        self.listeners.iter().enumerate().find(|(_, listener)| listener.vip == vip)
    }

    /// What a client may ask of us on a listener.
    pub fn limits(&self, place: usize) -> &FrontLimits {
        self.listeners.get(place).map_or(&self.limits, |listener| &listener.limits)
    }

    /// What a listener is called.
    pub fn listener_name(&self, place: usize) -> String {
        self.listeners.get(place).map(|listener| listener.name.clone()).unwrap_or_default()
    }

    /// What is to be done with a request whose head passed the gate; `bytes` are those it was parsed from, `facts` its own. The
    /// error is to be answered.
    pub fn decide(
        &self,
        facts: &RequestFacts<'_>,
        head: &RequestHead,
        bytes: &[u8],
    ) -> Result<Decision, Denial> {
        let (route, mut decision) = self.find(facts)?;
        if decision.limits.judge_body(head.framing) == BodyVerdict::TooLarge {
            return Err(BODY_TOO_LARGE);
        }
        let Some(listener) = self.listeners.get(facts.listener) else { return Ok(decision) };
        let of_route = route.and_then(|route| route.upgrade.clone());
        let tunnels = Tunnels {
            upgrade: of_route.unwrap_or_else(|| Arc::clone(&listener.tunnels.upgrade)),
            connect: route.and_then(|route| route.connect).unwrap_or(listener.tunnels.connect),
        };
        decision.tunnel = tunnels.judge(head, bytes);
        match decision.tunnel {
            Tunnel::Refused => return Err(NO_CONNECT),
            // A server that says yes has the connection for good; one that does not closes it, so that no later request
            // slips past the routes.
            Tunnel::Allowed if decision.keepalive == KeepAlive::Tracked => {
                decision.keepalive = KeepAlive::Single
            }
            Tunnel::Allowed | Tunnel::Ignored | Tunnel::Unasked => {}
        }
        Ok(decision)
    }

    /// As [`Site::decide`], of whatever can be said of a connection or request.
    pub fn decide_on(&self, facts: &RequestFacts<'_>) -> Result<Decision, Denial> {
        self.find(facts).map(|(_, decision)| decision)
    }

    fn find(&self, facts: &RequestFacts<'_>) -> Result<(Option<&Route>, Decision), Denial> {
        let route = self.table.find(facts).map_err(|_| AMBIGUOUS)?;
        let listener = self.listeners.get(facts.listener).ok_or(NO_ROUTE)?;
        let pool = route.map_or(listener.pool, |route| Some(route.pool)).ok_or(NO_ROUTE)?;
        let decision = Decision {
            route: route.map(|route| route.name.clone()),
            pool: Arc::clone(self.pools.get(pool.0).ok_or(NO_ROUTE)?),
            keepalive: route.and_then(|route| route.keepalive).unwrap_or(listener.keepalive),
            mode: route.and_then(|route| route.mode).unwrap_or(listener.mode),
            secure: listener.protocol == Protocol::Https,
            headers: route.map(|route| Arc::clone(&route.headers)).unwrap_or_default(),
            tunnel: Tunnel::Unasked,
            limits: route.map_or(listener.limits.request, |r| listener.limits.request.with(&r.limits)),
        };
        Ok((route, decision))
    }
}

/// The pools of the file, or the one there is without.
fn pools(config: &Config, targets: &[Arc<Target>]) -> Vec<Pool> {
    if !config.has_pools() {
        let member = |target: &Arc<Target>| Member::new(Arc::clone(target), 1);
        // A file without pools goes on as before there were any: its targets take turns.
        let choice = Choice { method: Method::RoundRobin, ..Choice::default() };
        return vec![Pool::choosing(DEFAULT_POOL, targets.iter().map(member).collect(), choice)];
    }
    let named = |name: &str| targets.iter().find(|target| target.spec.name == name);
    config
        .pool
        .iter()
        .map(|pool| {
            let members = pool.targets.iter().filter_map(|member| {
                let member = member.get_ref();
                Some(Member::new(Arc::clone(named(&member.target)?), member.weight))
            });
            Pool::choosing(pool.name.get_ref(), members.collect(), pool.choice())
        })
        .collect()
}

impl Config {
    fn site_listeners(&self) -> Vec<SiteListener> {
        let listener = |entry: &crate::config::Listener| SiteListener {
            name: entry.name(),
            vip: *entry.vip.get_ref(),
            protocol: entry.protocol(),
            keepalive: entry.keepalive(),
            mode: entry.mode(),
            pool: self.default_pool(entry),
            tunnels: entry.tunnels(),
            limits: self.listener_limits(entry),
            counts_sources_apart: entry
                .limits
                .as_ref()
                .is_some_and(|limits| limits.connections_per_source.is_some()),
            times: entry.times(),
            tls: entry.server_config(),
        };
        self.listener.iter().map(listener).collect()
    }
}
