//! The targets: their names and addresses, the control channels to their agents, and how many flows each has.

mod agent;
mod load;
mod order;

pub use agent::{Agent, AgentId, AgentLink, NotSent};
pub use load::{TargetLoad, UnderWay};
pub use order::Ordered;

pub use baton_shared::balance::Servers;
use baton_shared::control::{FlowRef, Message, ServerLoad};
use baton_shared::health::Admin;
use baton_shared::translate::Leg;
use serde::Serialize;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::UNIX_EPOCH;

/// Names a target for the life of the process: once given, never given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(NonZero<u32>);

impl TargetId {
    /// The one that came after so many others.
    pub const fn new(place: u32) -> Self {
        TargetId(NonZero::<u32>::MIN.saturating_add(place))
    }

    /// How many came before it.
    pub(crate) fn place(self) -> usize {
        usize::try_from(self.0.get() - 1).unwrap_or(usize::MAX)
    }
}

/// A target as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// Its name.
    pub name: String,
    /// The server's address and port for IPv4 clients, and for IPv6 clients; at least one is there.
    pub servers: Servers,
    /// The agent's control address and port.
    pub agent: SocketAddr,
    /// The name in the agent's certificate.
    pub agent_name: String,
    /// How packets go there.
    pub leg: Leg,
}

/// One target.
#[derive(Debug)]
pub struct Target {
    /// Its number.
    pub id: TargetId,
    /// As configured.
    pub spec: TargetSpec,
    /// The agent on its host.
    pub agent: Arc<Agent>,
    /// No longer in the configuration; it stays for the flows it has.
    removed: AtomicBool,
    migrated: AtomicU64,
    /// Its last connection was adopted.
    adopts: AtomicBool,
    /// What it has to do.
    pub load: TargetLoad,
    /// What the operator wants of it.
    pub ordered: Ordered,
}

impl Target {
    /// Whether its agent is connected.
    pub fn is_up(&self) -> bool {
        self.agent.is_up()
    }

    /// Sends its agent a message about a flow.
    pub fn send_of(&self, flow: FlowRef, message: Message) -> Result<(), NotSent> {
        self.agent.send_of(flow, message)
    }

    /// Whether the configuration has it no more.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// How its last connection was taken, by which the next one's is expected.
    pub(crate) fn expect_adopted(&self, adopted: bool) {
        if self.is_expected_to_adopt() != adopted {
            self.adopts.store(adopted, Ordering::Relaxed);
        }
    }

    /// Whether its next connection will be adopted, as far as can be told.
    pub(crate) fn is_expected_to_adopt(&self) -> bool {
        self.adopts.load(Ordering::Relaxed)
    }

    /// Whether its agent is connected and is not stopping.
    pub fn takes_handoffs(&self) -> bool {
        self.agent.takes_handoffs()
    }

    /// What the operator wants of it.
    pub fn admin(&self) -> Admin {
        self.ordered.state()
    }

    /// Live flows on it: handed off and not ended.
    pub fn flows(&self) -> u64 {
        self.load.flows()
    }

    /// For `/v1/targets`.
    pub fn view(&self) -> TargetView {
        let since = self.ordered.since().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let left = self.load.flows() + self.load.in_hand();
        TargetView {
            name: self.spec.name.clone(),
            server: self.spec.servers.iter().next(),
            server6: self.spec.servers.v6,
            agent: self.spec.agent,
            up: self.is_up(),
            agent_state: self.agent.state().name(),
            lost: self.is_lost(),
            removed: self.is_removed(),
            admin: self.admin().name(),
            admin_since: since.map(|at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
            drained: self.admin() != Admin::Ready && left == 0,
            flows: self.flows(),
            in_hand: self.load.in_hand(),
            migrated: self.migrated.load(Ordering::Relaxed),
            load: self.load.newest(),
        }
    }

    pub(crate) fn flow_began(&self, now: bool) {
        self.load.flow_began();
        if now {
            self.migrated.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn flow_ended(&self) {
        self.load.flow_ended();
    }

    /// Whether its agent has been gone for longer than `handoff.agent_lost_ms`. Its flows go on by the data
    /// plane; their ends are not reported until it is back.
    pub fn is_lost(&self) -> bool {
        self.agent.is_lost()
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
    /// [`baton_shared::health::Agent::name`].
    pub agent_state: &'static str,
    /// Whether the agent has been gone for longer than `handoff.agent_lost_ms`.
    pub lost: bool,
    /// Whether the configuration has it no more; it is there for its flows.
    pub removed: bool,
    /// What the operator wants of it: [`Admin::name`].
    pub admin: &'static str,
    /// Since when, milliseconds since 1970; `None` if it never was otherwise.
    pub admin_since: Option<u64>,
    /// Whether it is out of service and nothing is left on it.
    pub drained: bool,
    /// Live flows.
    pub flows: u64,
    /// Handoffs under way and proxied requests.
    pub in_hand: u64,
    /// Connections given to it since the start.
    pub migrated: u64,
    /// What its agent reported last, of each server address.
    pub load: Vec<ServerLoad>,
}

#[derive(Debug, Default)]
struct Registry {
    targets: Vec<Arc<Target>>,
    agents: Vec<Arc<Agent>>,
}

/// All targets there have been, and their agents. Numbers are places in these lists, which only grow.
#[derive(Debug, Default)]
pub struct Targets(RwLock<Registry>);

impl Targets {
    /// From the configuration; no channel is opened yet (see [`Migrator::start`](crate::handoff::Migrator::start)).
    pub fn new(specs: impl IntoIterator<Item = TargetSpec>) -> Self {
        let targets = Targets::default();
        targets.update(specs);
        targets
    }

    fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are the targets from here on. One that is the same as before keeps its number; of those that are not
    /// among them any more the flows go on. Gives them in order.
    pub fn update(&self, specs: impl IntoIterator<Item = TargetSpec>) -> Vec<Arc<Target>> {
        let mut registry = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let now: Vec<Arc<Target>> = specs.into_iter().map(|spec| registry.target(spec)).collect();
        for target in &registry.targets {
            let removed = !now.iter().any(|other| other.id == target.id);
            target.removed.store(removed, Ordering::Relaxed);
        }
        now
    }

    /// Makes room for these targets, new ones as removed: [`Targets::update`] will not have to make any.
    pub fn prepare(&self, specs: impl IntoIterator<Item = TargetSpec>) {
        let mut registry = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for spec in specs {
            registry.target(spec);
        }
    }

    /// The target with this number.
    pub fn get(&self, id: TargetId) -> Option<Arc<Target>> {
        self.read().targets.get(id.place()).cloned()
    }

    /// The target of this name that the configuration has.
    pub fn by_name(&self, name: &str) -> Option<Arc<Target>> {
        self.iter().find(|target| target.spec.name == name)
    }

    /// The target with this server address; of several the one that the configuration has.
    pub fn by_server(&self, server: SocketAddr) -> Option<TargetId> {
        let registry = self.read();
        let mut found = registry.targets.iter().filter(|t| t.spec.servers.iter().any(|s| s == server));
        let first = found.next()?;
        let now = found.find(|t| !t.is_removed()).filter(|_| first.is_removed());
        Some(now.unwrap_or(first).id)
    }

    /// Those that the configuration has, in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Target>> + use<> {
        self.all().into_iter().filter(|target| !target.is_removed())
    }

    /// All there have been.
    pub fn all(&self) -> Vec<Arc<Target>> {
        self.read().targets.clone()
    }

    /// The targets, removed ones too, with this agent.
    pub fn of_agent(&self, agent: AgentId) -> Vec<Arc<Target>> {
        self.read().targets.iter().filter(|target| target.agent.id == agent).cloned().collect()
    }

    /// All agents there have been.
    pub fn agents(&self) -> Vec<Arc<Agent>> {
        self.read().agents.clone()
    }

    /// The agent with this number.
    pub fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        self.read().agents.get(id.0).cloned()
    }

    /// For `/v1/targets`: all that the configuration has, and those that still have flows.
    pub fn shown(&self) -> Vec<Arc<Target>> {
        self.all().into_iter().filter(|t| !t.is_removed() || t.flows() > 0).collect()
    }
}

impl Registry {
    fn target(&mut self, spec: TargetSpec) -> Arc<Target> {
        if let Some(same) = self.targets.iter().find(|target| target.spec == spec) {
            return Arc::clone(same);
        }
        let target = Arc::new(Target {
            id: TargetId::new(u32::try_from(self.targets.len()).unwrap_or(u32::MAX)),
            agent: self.agent(&spec),
            spec,
            removed: AtomicBool::new(true),
            migrated: AtomicU64::new(0),
            adopts: AtomicBool::new(false),
            load: TargetLoad::default(),
            ordered: Ordered::default(),
        });
        self.targets.push(Arc::clone(&target));
        target
    }

    fn agent(&mut self, spec: &TargetSpec) -> Arc<Agent> {
        let same = |agent: &&Arc<Agent>| agent.addr == spec.agent && agent.name == spec.agent_name;
        if let Some(same) = self.agents.iter().find(same) {
            return Arc::clone(same);
        }
        let agent = Arc::new(Agent::new(AgentId(self.agents.len()), spec.agent, &spec.agent_name));
        self.agents.push(Arc::clone(&agent));
        agent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, server: &str, agent: &str) -> TargetSpec {
        TargetSpec {
            name: name.into(),
            servers: Servers::new([server.parse().unwrap()]),
            agent: agent.parse().unwrap(),
            agent_name: "host".into(),
            leg: Leg::Rewrite,
        }
    }

    const AGENT: &str = "10.0.0.1:7400";

    #[test]
    fn numbers_stay_over_every_change_of_the_configuration() {
        let (a, b) = (spec("a", "10.0.0.1:80", AGENT), spec("b", "10.0.0.1:81", AGENT));
        let targets = Targets::new([a.clone(), b.clone()]);
        assert_eq!(targets.agents().len(), 1, "one host, one channel");
        assert_eq!(targets.update([b.clone()]).iter().map(|t| t.id.place()).collect::<Vec<_>>(), [1]);
        assert!(targets.get(TargetId::new(0)).unwrap().is_removed());
        assert_eq!(targets.iter().map(|t| t.id.place()).collect::<Vec<_>>(), [1]);
        // The same name with another server is another target; the old one's flows are still its own.
        let moved = spec("a", "10.0.0.9:80", "10.0.0.9:7400");
        assert_eq!(
            targets.update([moved, b.clone()]).iter().map(|t| t.id.place()).collect::<Vec<_>>(),
            [2, 1]
        );
        assert_eq!((targets.by_name("a").unwrap().id.place(), targets.agents().len()), (2, 2));
        assert_eq!(
            targets.update([b, a]).iter().map(|t| t.id.place()).collect::<Vec<_>>(),
            [1, 0],
            "it is back"
        );
        assert!(!targets.get(TargetId::new(0)).unwrap().is_removed());
    }

    #[test]
    fn a_server_belongs_to_the_target_that_is_there_now() {
        let old = spec("a", "10.0.0.1:80", AGENT);
        let new = TargetSpec { leg: Leg::Ipip, ..old.clone() };
        let targets = Targets::new([old]);
        targets.update([new]);
        assert_eq!(targets.by_server("10.0.0.1:80".parse().unwrap()), Some(TargetId::new(1)));
        assert_eq!(targets.by_server("10.0.0.1:81".parse().unwrap()), None);
        assert_eq!(targets.shown().len(), 1, "one without flows is not shown");
        targets.get(TargetId::new(0)).unwrap().flow_began(true);
        let shown = targets.shown();
        assert_eq!(shown.iter().map(|t| t.view().removed).collect::<Vec<_>>(), [true, false]);
    }
}
