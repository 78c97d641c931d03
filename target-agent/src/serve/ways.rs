//! Which way each server's connections are given to it: adopted, or by a replayed handshake.

use baton_daemon::metrics::ReasonCounters;
use baton_shared::reason::{AdoptNeed, Refusal};
use baton_shared::state::adopt::{Buffers, Cause};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// For how long a server's connections are not adopted after one was not, ns, if another way is open.
const PAUSE_NS: u64 = 30_000_000_000;

/// `serve.way`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// The handshake is replayed, and what the server sends is translated: every kernel.
    Translate,
    /// Connections are adopted; where one cannot be, the handoff is refused.
    Adopt,
    /// Adopted where the host can, else replayed.
    #[default]
    Auto,
}

impl Way {
    /// As in the configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Way::Translate => "translate",
            Way::Adopt => "adopt",
            Way::Auto => "auto",
        }
    }
}

/// What is done with a handoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// With this as the largest window scale of the server's socket ([`Buffers::scale`]).
    Adopt {
        own_scale: u8,
    },
    Translate,
    /// It is to be adopted and cannot be.
    Unavailable,
}

/// A server as the clients of one VIP reach it.
pub(crate) type Served = (SocketAddr, SocketAddr);

#[derive(Debug, Default)]
struct Server {
    needs: Vec<AdoptNeed>,
    buffers: Buffers,
    /// CLOCK_MONOTONIC, ns.
    paused_until: u64,
}

impl Server {
    fn lacks(&self, now_ns: u64) -> Vec<AdoptNeed> {
        let tried = (now_ns < self.paused_until).then_some(AdoptNeed::Tried);
        self.needs.iter().copied().chain(tried).collect()
    }
}

/// All servers, by VIP and server.
#[derive(Debug)]
pub(crate) struct Ways {
    way: Way,
    servers: Mutex<BTreeMap<Served, Server>>,
    adopted: AtomicU64,
    unadopted: Arc<ReasonCounters<Refusal>>,
}

impl Ways {
    pub(crate) fn new(way: Way) -> Self {
        Ways { way, servers: Mutex::default(), adopted: AtomicU64::new(0), unadopted: Arc::default() }
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<Served, Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As configured.
    pub(crate) fn configured(&self) -> Way {
        self.way
    }

    /// What was looked at on the host says this.
    pub(crate) fn set(&self, vip: SocketAddr, server: SocketAddr, needs: Vec<AdoptNeed>, buffers: Buffers) {
        let mut servers = self.servers();
        let of = servers.entry((vip, server)).or_default();
        of.buffers = buffers;
        if of.needs != needs {
            let names: Vec<_> = needs.iter().map(|need| need.name()).collect();
            if names.is_empty() {
                tracing::info!(%vip, %server, "connections are adopted");
            } else {
                tracing::warn!(%vip, %server, missing = names.join(" "), "connections are not adopted");
            }
            of.needs = needs;
        }
    }

    /// How a server's next connection is given to it.
    pub(crate) fn choose(&self, vip: SocketAddr, server: SocketAddr, now_ns: u64) -> Choice {
        if self.way == Way::Translate {
            return Choice::Translate;
        }
        let servers = self.servers();
        let Some(of) = servers.get(&(vip, server)) else { return Choice::Translate };
        let adopt = Choice::Adopt { own_scale: of.buffers.scale() };
        match self.way {
            Way::Translate => Choice::Translate,
            Way::Adopt if of.needs.is_empty() => adopt,
            Way::Adopt => Choice::Unavailable,
            Way::Auto if of.needs.is_empty() && now_ns >= of.paused_until => adopt,
            Way::Auto => Choice::Translate,
        }
    }

    /// What keeps a server's connections from being adopted.
    pub(crate) fn lacks(&self, vip: SocketAddr, server: SocketAddr, now_ns: u64) -> Vec<AdoptNeed> {
        self.servers().get(&(vip, server)).map(|of| of.lacks(now_ns)).unwrap_or_default()
    }

    /// Whether intermediates may expect connections to be adopted.
    pub(crate) fn may_adopt(&self) -> bool {
        self.way != Way::Translate
    }

    /// Whether a connection that was not adopted goes to the server by a replayed handshake.
    pub(crate) fn falls_back(&self) -> bool {
        self.way == Way::Auto
    }

    /// One was.
    pub(crate) fn on_adopted(&self) {
        self.adopted.fetch_add(1, Ordering::Relaxed);
    }

    /// One was not.
    pub(crate) fn on_unadopted(&self, vip: SocketAddr, server: SocketAddr, cause: Cause, now_ns: u64) {
        self.unadopted.add(cause.refusal());
        if let Some(of) = self.servers().get_mut(&(vip, server)) {
            of.paused_until = now_ns.saturating_add(PAUSE_NS);
        }
    }

    /// How many were.
    pub(crate) fn adopted(&self) -> u64 {
        self.adopted.load(Ordering::Relaxed)
    }

    /// How many were not, by cause, as the refusal it would have been.
    pub(crate) fn unadopted(&self) -> Arc<ReasonCounters<Refusal>> {
        Arc::clone(&self.unadopted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_chosen_for_each_server_by_what_it_lacks() {
        let (vip, fit, unfit): (SocketAddr, SocketAddr, SocketAddr) =
            ("192.0.2.1:80".parse().unwrap(), "10.0.0.1:80".parse().unwrap(), "10.0.0.1:81".parse().unwrap());
        let choices = |way| {
            let ways = Ways::new(way);
            let buffers = Buffers { largest: Some(6 << 20), ..Buffers::default() };
            ways.set(vip, fit, vec![], buffers);
            ways.set(vip, unfit, vec![AdoptNeed::Mptcp], buffers);
            let before = [fit, unfit].map(|server| ways.choose(vip, server, 1));
            ways.on_unadopted(vip, fit, Cause::Silent, 1);
            (before, ways.choose(vip, fit, 2), ways.choose(vip, fit, 1 + PAUSE_NS), ways.lacks(vip, fit, 2))
        };
        use Choice::{Translate, Unavailable};
        let adopt = Choice::Adopt { own_scale: 7 };
        let tried = || vec![AdoptNeed::Tried];
        assert_eq!(choices(Way::Translate), ([Translate, Translate], Translate, Translate, tried()));
        assert_eq!(choices(Way::Adopt), ([adopt, Unavailable], adopt, adopt, tried()));
        assert_eq!(choices(Way::Auto), ([adopt, Translate], Translate, adopt, tried()));
    }
}
