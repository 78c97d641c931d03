//! The configuration with all that it leaves unsaid.

use super::listener::Protocol;
use super::own_limits::ListenerLimits;
use super::pool::{DEFAULT_POOL, PoolEntry, PoolTarget};
use super::{Config, Spanned};
use baton_shared::route::KeepAlive;

fn said<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

impl Config {
    /// The same with each default written out, names too. It means what this one means.
    pub fn effective(&self) -> Config {
        let routes = self.routes();
        let mut config = self.clone();
        config.include = None;
        config.workers = Some(said(self.workers()));
        config.handoff_workers = Some(said(self.handoff_workers()));
        if !self.has_pools() {
            let member = |target: &super::TargetEntry| {
                said(PoolTarget { target: target.name.get_ref().clone(), weight: 1 })
            };
            config.pool = vec![PoolEntry {
                name: said(DEFAULT_POOL.to_owned()),
                targets: self.target.iter().map(member).collect(),
                balance: None,
                hash: None,
                maglev: None,
                sticky: None,
                slow_start_ms: None,
                health: None,
            }];
        }
        for (n, listener) in config.listener.iter_mut().enumerate() {
            let pool = self.listener.get(n).and_then(|l| self.default_pool(l));
            let pool = pool.and_then(|pool| self.pool_names().get(pool.0).map(|name| (*name).to_owned()));
            listener.name = Some(said(listener.name()));
            listener.protocol = Some(said(listener.protocol()));
            listener.mode = Some(said(listener.mode()));
            listener.pool = pool.map(said);
            if listener.protocol().is_http() {
                let own = listener.limits.as_ref();
                listener.limits = Some(ListenerLimits::effective(own, &self.limits));
            }
            if listener.keepalive.is_none() && listener.protocol().is_http() {
                listener.keepalive = Some(said(KeepAlive::default()));
            }
        }
        for (entry, route) in config.route.iter_mut().zip(&routes) {
            entry.name = Some(said(route.name.clone()));
        }
        for target in &mut config.target {
            target.agent_name = Some(said(target.agent_name().to_owned()));
            target.leg = Some(said(target.leg()));
        }
        config
    }

    /// In TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

impl Protocol {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Https => "https",
            Protocol::Tls => "tls",
            Protocol::Tcp => "tcp",
        }
    }
}
