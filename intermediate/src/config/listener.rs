//! `[[listener]]`.

use super::certificate::Certificate;
use super::own_limits::ListenerLimits;
use super::{Config, check_address};
use baton_daemon::config::{Problems, Spanned};
use baton_shared::route::{KeepAlive, Mode};
use rustls::server::ServerConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1 in the clear.
    #[default]
    Http,
    /// HTTP over TLS that ends here.
    Https,
    /// TLS that passes through to the target: routed by SNI and ALPN.
    Tls,
    /// Anything in which the client speaks first.
    Tcp,
}

impl Protocol {
    /// Whether requests are read here.
    pub fn is_http(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Https)
    }
}

/// `[[listener]]`: an address clients connect to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// What routes call it; the vip's text if it is not given.
    pub name: Option<Spanned<String>>,
    /// The address and port clients connect to.
    pub vip: Spanned<SocketAddr>,
    /// What is spoken there.
    pub protocol: Option<Spanned<Protocol>>,
    /// What its routes have if they say nothing else; tracked.
    pub keepalive: Option<Spanned<KeepAlive>>,
    /// What its routes have if they say nothing else.
    pub mode: Option<Spanned<Mode>>,
    /// Protocols to which its routes let connections be upgraded if they say nothing else, such as "websocket".
    pub upgrade: Option<Vec<Spanned<String>>>,
    /// Whether its routes serve CONNECT if they say nothing else.
    pub connect: Option<Spanned<bool>>,
    /// The pool of requests that no route takes.
    pub pool: Option<Spanned<String>>,
    /// Milliseconds a client of protocol "tcp" may say nothing before its connection is relayed, so that the server can
    /// speak; 1000.
    pub silence_ms: Option<Spanned<u64>>,
    /// Milliseconds for which nothing may pass on a relayed connection or tunnel; 3600000.
    pub idle_ms: Option<Spanned<u64>>,
    /// Whether the kernel gives a connection out only once its client has said something (TCP_DEFER_ACCEPT); false. Not for
    /// protocol "tcp".
    pub defer_accept: Option<Spanned<bool>>,
    /// As `[limits]` where it says nothing.
    pub limits: Option<ListenerLimits>,
    /// For protocol "https".
    #[serde(default)]
    pub certificate: Vec<Certificate>,
    /// Of the certificates, once they were validated.
    #[serde(skip)]
    pub(super) server_config: OnceLock<Arc<ServerConfig>>,
}

impl Listener {
    /// What routes call it.
    pub fn name(&self) -> String {
        self.name.as_ref().map_or_else(|| self.vip.get_ref().to_string(), |name| name.get_ref().clone())
    }

    /// What is spoken there.
    pub fn protocol(&self) -> Protocol {
        self.protocol.as_ref().map(|p| *p.get_ref()).unwrap_or_default()
    }

    /// What its routes have if they say nothing else.
    pub fn mode(&self) -> Mode {
        if self.protocol() == Protocol::Https {
            return Mode::Proxy;
        }
        self.mode.as_ref().map_or(Mode::Migrate, |mode| *mode.get_ref())
    }

    /// Whether connections wait in the kernel until their clients have spoken.
    pub fn is_deferred(&self) -> bool {
        self.defer_accept.as_ref().is_some_and(|deferred| *deferred.get_ref())
    }

    /// What its routes have if they say nothing else.
    pub fn keepalive(&self) -> KeepAlive {
        self.keepalive.as_ref().map(|keepalive| *keepalive.get_ref()).unwrap_or_default()
    }
}

impl Config {
    pub(super) fn validate_listeners(&self, problems: &mut Problems<'_>) {
        for (n, listener) in self.listener.iter().enumerate() {
            let before = || self.listener.iter().take(n);
            let vip = *listener.vip.get_ref();
            check_address(&listener.vip, "vip", problems);
            if before().any(|other| *other.vip.get_ref() == vip) {
                problems.with(
                    &listener.vip,
                    format!("vip {vip} is listed twice; one listener takes all that comes there"),
                );
            }
            if let Some(name) = &listener.name {
                let is = name.get_ref();
                problems.require(name, !is.is_empty(), "a listener's name must not be empty");
                if before().any(|other| other.name() == *is) {
                    problems.with(name, format!("listener {is:?} is listed twice; name them differently"));
                }
            }
            self.validate_protocol(listener, problems);
            listener.validate_stream(problems);
            listener.validate_limits(&self.limits, problems);
            self.validate_default_pool(listener, problems);
            self.validate_keepalive(n, listener, problems);
        }
    }

    fn validate_protocol(&self, listener: &Listener, problems: &mut Problems<'_>) {
        listener.validate_certificates(problems);
        for certificate in &listener.certificate {
            problems.require(
                &certificate.cert,
                listener.protocol() == Protocol::Https,
                "a [[listener.certificate]] means something only where TLS ends here: protocol = \"https\"",
            );
        }
    }

    fn validate_default_pool(&self, listener: &Listener, problems: &mut Problems<'_>) {
        if let Some(pool) = &listener.pool {
            self.require_pool(pool, problems);
            return;
        }
        let name = listener.name();
        let named = |route: &super::RouteEntry| {
            route.listener.is_empty() || route.listener.iter().any(|l| *l.get_ref() == name)
        };
        if self.default_pool(listener).is_none() && !self.route.iter().any(named) {
            problems.with(
                &listener.vip,
                format!("listener {name:?} has neither a pool nor a route: nothing could be served"),
            );
        }
    }
}
