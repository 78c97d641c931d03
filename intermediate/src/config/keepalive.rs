//! Which `keepalive` a listener's requests can have.
//!
//! With `pinned` only a connection's first request is read: all that follow go, unjudged, where it went. So it is never
//! the default, and allowed only where that can be proved to make no difference to where requests go.

use super::Config;
use super::listener::Listener;
use baton_daemon::config::Problems;
use baton_shared::http::Tunnels;
use baton_shared::route::{KeepAlive, Mode, PoolId, Route};

const LIMITS_BODIES: &str = "limits the length of bodies (body_bytes), of the first request only";

/// What is decided for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fate {
    pool: Option<PoolId>,
    mode: Mode,
    tunnels: Tunnels,
}

impl Config {
    /// Whether all requests of a listener have the same fate, whatever they say; or why not.
    pub(super) fn pinned_is_safe(&self, listener: usize, routes: &[Route]) -> Result<(), String> {
        let Some(entry) = self.listener.get(listener) else { return Ok(()) };
        let limits = self.listener_limits(entry).request;
        let mut fates: Vec<(String, Fate)> = Vec::new();
        let mut takes_all = false;
        for route in routes.iter().filter(|route| route.rules.apply_to(listener)) {
            let tunnels = Tunnels {
                upgrade: route.upgrade.clone().unwrap_or_else(|| entry.tunnels().upgrade),
                connect: route.connect.unwrap_or(entry.tunnels().connect),
            };
            let fate = Fate { pool: Some(route.pool), mode: route.mode.unwrap_or(entry.mode()), tunnels };
            if !route.headers.is_empty() {
                return Err(format!("route {:?} changes headers, of the first request only", route.name));
            }
            if limits.with(&route.limits).body_bytes > 0 {
                return Err(format!("route {:?} {LIMITS_BODIES}", route.name));
            }
            fates.push((format!("route {:?}", route.name), fate));
            if route.rules.are_always_fulfilled() {
                takes_all = true;
                break;
            }
        }
        if !takes_all {
            let rest = Fate { pool: self.default_pool(entry), mode: entry.mode(), tunnels: entry.tunnels() };
            if limits.body_bytes > 0 {
                return Err(format!("the listener {LIMITS_BODIES}"));
            }
            fates.push(("the listener's own pool".to_owned(), rest));
        }
        let mut fates = fates.into_iter();
        let Some((first, fate)) = fates.next() else { return Ok(()) };
        match fates.find(|(_, other)| *other != fate) {
            None => Ok(()),
            Some((other, _)) => Err(format!("{first} and {other} differ in what they do with requests")),
        }
    }

    /// The pool of requests that no route takes.
    pub(crate) fn default_pool(&self, listener: &Listener) -> Option<PoolId> {
        match &listener.pool {
            Some(pool) => self.pool_names().iter().position(|name| name == pool.get_ref()).map(PoolId),
            None => (!self.has_pools()).then_some(PoolId(0)),
        }
    }

    pub(super) fn validate_keepalive(&self, n: usize, listener: &Listener, problems: &mut Problems<'_>) {
        // What is wrong with routes is told with the routes.
        let routes = self.compile_routes(&mut problems.unheard());
        let safe = self.pinned_is_safe(n, &routes);
        let mut given: Vec<_> = listener.keepalive.iter().collect();
        let of_routes = self.route.iter().zip(&routes).filter(|(_, route)| route.rules.apply_to(n));
        given.extend(of_routes.filter_map(|(entry, _)| entry.keepalive.as_ref()));
        for keepalive in given {
            if let (KeepAlive::Pinned, Err(why)) = (keepalive.get_ref(), &safe) {
                problems.with(
                    keepalive,
                    format!(
                        "keepalive \"pinned\" gives all later requests of a connection to the target of the first, \
                         unread, and on listener {:?} not all are to be treated alike: {why}; use \"tracked\"",
                        listener.name()
                    ),
                );
            }
        }
    }
}
