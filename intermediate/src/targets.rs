//! The targets: their names and addresses, the control channels to their agents, and how many flows each has.

use baton_shared::control::Message;
use baton_shared::reason::ProxyReason;
use baton_shared::translate::Leg;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Names a target: its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub usize);

/// A target as configured.
#[derive(Clone, Debug)]
pub struct TargetSpec {
    /// Its name, as in its certificate.
    pub name: String,
    /// The server's address and port for IPv4 clients, and for IPv6 clients; at least one is there.
    pub servers: Servers,
    /// The agent's control address and port.
    pub agent: SocketAddr,
    /// How packets go there.
    pub leg: Leg,
}

/// One server's addresses, at most one of each family. A flow keeps its family, so the client's says which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// Of the IPv4 socket.
    pub v4: Option<SocketAddr>,
    /// Of the IPv6 socket.
    pub v6: Option<SocketAddr>,
}

impl Servers {
    /// Each into the place of its family; a later one replaces an earlier one.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut servers = Servers::default();
        for address in addresses {
            let place = if address.is_ipv4() { &mut servers.v4 } else { &mut servers.v6 };
            *place = Some(address);
        }
        servers
    }

    /// The one that can take over connections of this VIP.
    pub fn for_vip(&self, vip: SocketAddr) -> Option<SocketAddr> {
        if vip.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = SocketAddr> {
        self.v4.into_iter().chain(self.v6)
    }
}

/// Why a message did not go on its way to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// The agent is not connected.
    Down,
    /// Its queue is full.
    Busy,
}

/// A control channel as the handoff uses it: `baton_daemon::control::Client`, or a test's stand-in.
pub trait AgentLink: Send + Sync {
    /// Queues a message without waiting.
    fn send(&self, message: Message) -> Result<(), NotSent>;
    /// Whether the agent is connected now.
    fn is_up(&self) -> bool;
}

/// One target.
pub struct Target {
    /// As configured.
    pub spec: TargetSpec,
    /// Set once at start; without it the target counts as not connected.
    link: OnceLock<Arc<dyn AgentLink>>,
    flows: AtomicU64,
    migrated: AtomicU64,
    /// The agent has been gone for longer than `handoff.agent_lost_ms`.
    lost: AtomicBool,
}

impl Target {
    /// Whether its agent is connected.
    pub fn is_up(&self) -> bool {
        self.link.get().is_some_and(|link| link.is_up())
    }

    /// Sends its agent a message.
    pub fn send(&self, message: Message) -> Result<(), NotSent> {
        self.link.get().ok_or(NotSent::Down)?.send(message)
    }

    /// Live flows on it: handed off and not ended.
    pub fn flows(&self) -> u64 {
        self.flows.load(Ordering::Relaxed)
    }

    pub(crate) fn flow_began(&self, now: bool) {
        self.flows.fetch_add(1, Ordering::Relaxed);
        if now {
            self.migrated.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn flow_ended(&self) {
        // A flow that was never counted must not wrap the number around.
        let _ = self.flows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }

    pub(crate) fn set_lost(&self, lost: bool) {
        self.lost.store(lost, Ordering::Relaxed);
    }

    /// Whether its agent has been gone for longer than `handoff.agent_lost_ms`. Its flows go on by the data
    /// plane; their ends are not reported until it is back.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("spec", &self.spec).field("up", &self.is_up()).finish_non_exhaustive()
    }
}

/// A target as `/v1/targets` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct TargetView {
    /// Its name.
    pub name: String,
    /// The server's address and port; the IPv4 one if it has both.
    pub server: Option<SocketAddr>,
    /// The server's IPv6 address and port.
    pub server6: Option<SocketAddr>,
    /// The agent's control address and port.
    pub agent: SocketAddr,
    /// Whether the agent is connected.
    pub up: bool,
    /// Whether the agent has been gone for longer than `handoff.agent_lost_ms`.
    pub lost: bool,
    /// Live flows.
    pub flows: u64,
    /// Connections given to it since the start.
    pub migrated: u64,
}

/// All targets, in the order of the configuration.
#[derive(Debug)]
pub struct Targets {
    list: Vec<Target>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

impl Targets {
    /// From the configuration; no channel is opened yet (see [`Migrator::start`](crate::handoff::Migrator::start)).
    pub fn new(specs: impl IntoIterator<Item = TargetSpec>) -> Self {
        let target = |spec| Target {
            spec,
            link: OnceLock::new(),
            flows: AtomicU64::new(0),
            migrated: AtomicU64::new(0),
            lost: AtomicBool::new(false),
        };
        Targets { list: specs.into_iter().map(target).collect(), turn: AtomicUsize::new(0) }
    }

    /// Gives a target its control channel; once.
    pub fn set_link(&self, id: TargetId, link: Arc<dyn AgentLink>) {
        if let Some(target) = self.get(id) {
            let _ = target.link.set(link);
        }
    }

    /// The target with this number.
    pub fn get(&self, id: TargetId) -> Option<&Target> {
        self.list.get(id.0)
    }

    /// The target with this server address.
    pub fn by_server(&self, server: SocketAddr) -> Option<TargetId> {
        self.list.iter().position(|t| t.spec.servers.iter().any(|s| s == server)).map(TargetId)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (TargetId, &Target)> {
        self.list.iter().enumerate().map(|(n, t)| (TargetId(n), t))
    }

    /// The next target in turn whose agent is connected and whose server has an address of the VIP's family; else
    /// why there is none.
    pub fn pick_connected(&self, vip: SocketAddr) -> Result<TargetId, ProxyReason> {
        let suits = |t: &Target| t.spec.servers.for_vip(vip).is_some() && t.is_up();
        self.pick(suits).ok_or_else(|| {
            let any_up = self.list.iter().any(Target::is_up);
            if any_up { ProxyReason::AddressFamily } else { ProxyReason::NoAgent }
        })
    }

    /// The next target in turn, connected or not: for proxying when no agent is there.
    pub fn pick_any(&self) -> Option<TargetId> {
        self.pick(|_| true)
    }

    fn pick(&self, suits: impl Fn(&Target) -> bool) -> Option<TargetId> {
        // Turns are taken among those that suit, so that the one after a missing target gets no double share.
        let suiting = || self.iter().filter(|(_, t)| suits(t)).map(|(id, _)| id);
        let count = suiting().count();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(count)?;
        suiting().nth(turn)
    }

    /// All targets for `/v1/targets`.
    pub fn views(&self) -> Vec<TargetView> {
        let view = |t: &Target| TargetView {
            name: t.spec.name.clone(),
            server: t.spec.servers.iter().next(),
            server6: t.spec.servers.v6,
            agent: t.spec.agent,
            up: t.is_up(),
            lost: t.is_lost(),
            flows: t.flows(),
            migrated: t.migrated.load(Ordering::Relaxed),
        };
        self.list.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Link(bool);
    impl AgentLink for Link {
        fn send(&self, _: Message) -> Result<(), NotSent> {
            Ok(())
        }
        fn is_up(&self) -> bool {
            self.0
        }
    }

    const VIP: &str = "10.0.0.9:80";
    const VIP6: &str = "[2001:db8::9]:80";

    fn with_servers(all: &[(bool, &[&str])]) -> Targets {
        let spec = |(n, (_, servers)): (usize, &(bool, &[&str]))| TargetSpec {
            name: format!("target{n}"),
            servers: Servers::new(servers.iter().map(|s| s.parse().unwrap())),
            agent: "10.0.0.1:7400".parse().unwrap(),
            leg: Leg::Rewrite,
        };
        let targets = Targets::new(all.iter().enumerate().map(spec));
        for (n, (up, _)) in all.iter().enumerate() {
            targets.set_link(TargetId(n), Arc::new(Link(*up)));
        }
        targets
    }

    fn targets(up: &[bool]) -> Targets {
        let all: Vec<(bool, &[&str])> = up.iter().map(|up| (*up, &["10.0.0.1:80"][..])).collect();
        with_servers(&all)
    }

    #[test]
    fn connected_targets_take_turns_and_others_are_passed_over() {
        let targets = targets(&[true, false, true]);
        let vip = VIP.parse().unwrap();
        let picked: Vec<_> = (0..4).map(|_| targets.pick_connected(vip).unwrap().0).collect();
        assert_eq!(picked, [0, 2, 0, 2]);
    }

    #[test]
    fn without_a_connected_agent_nothing_is_picked_but_for_the_proxy() {
        let targets = targets(&[false, false]);
        assert_eq!(targets.pick_connected(VIP.parse().unwrap()), Err(ProxyReason::NoAgent));
        let any: Vec<_> = (0..4).filter_map(|_| targets.pick_any()).map(|t| t.0).collect();
        assert_eq!(any, [1, 0, 1, 0], "the failed pick took the first turn");
        assert_eq!(super::Targets::new([]).pick_any(), None);
    }

    #[test]
    fn a_request_goes_to_a_target_that_serves_its_family() {
        let (v4, v6) = ("10.0.0.1:80", "[2001:db8::1]:80");
        let all: [(bool, &[&str]); 3] = [(true, &[v4]), (true, &[v4, v6]), (false, &[v6])];
        let targets = with_servers(&all);
        for _ in 0..3 {
            assert_eq!(targets.pick_connected(VIP6.parse().unwrap()), Ok(TargetId(1)));
        }
        assert_eq!(targets.by_server(v6.parse().unwrap()), Some(TargetId(1)));
        let only4 = with_servers(&all[..1]);
        assert_eq!(only4.pick_connected(VIP6.parse().unwrap()), Err(ProxyReason::AddressFamily));
        let down = with_servers(&all[2..]);
        assert_eq!(down.pick_connected(VIP6.parse().unwrap()), Err(ProxyReason::NoAgent));
    }
}
