//! The agents: one control channel for each, and for each thread that hands off, however many targets are on its host.

use crate::ruling;
use baton_daemon::admin::events::{self, Kind};
use baton_shared::control::{FlowRef, Lane, Message};
use baton_shared::health::{Agent as AgentState, AgentEvent};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// Names an agent for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(pub usize);

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

/// One agent.
pub struct Agent {
    /// Its number.
    pub id: AgentId,
    /// Its control address and port.
    pub addr: SocketAddr,
    /// The name in its certificate.
    pub name: String,
    /// Its channels, each at its lane's place. Without the first the agent counts as not connected.
    links: RwLock<Vec<Arc<dyn AgentLink>>>,
    /// Gone for longer than `handoff.agent_lost_ms`.
    lost: AtomicBool,
    /// By what was seen on the channel. Whether it is connected now, the channel itself knows best.
    state: Mutex<AgentState>,
}

impl Agent {
    pub(super) fn new(id: AgentId, addr: SocketAddr, name: &str) -> Self {
        Agent {
            id,
            addr,
            name: name.to_owned(),
            links: RwLock::default(),
            lost: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Gives it the channel of its next lane.
    pub fn add_link(&self, link: Arc<dyn AgentLink>) {
        self.links.write().unwrap_or_else(PoisonError::into_inner).push(link);
        ruling::change();
    }

    /// Closes its control channels.
    pub(crate) fn drop_links(&self) {
        self.links.write().unwrap_or_else(PoisonError::into_inner).clear();
        ruling::change();
    }

    fn links(&self) -> RwLockReadGuard<'_, Vec<Arc<dyn AgentLink>>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many control channels it has, connected or not.
    pub fn link_count(&self) -> usize {
        self.links().len()
    }

    /// Whether it is connected.
    pub fn is_up(&self) -> bool {
        self.links().first().is_some_and(|link| link.is_up())
    }

    /// The lane of a handoff's messages, and of what its agent says of it.
    pub fn lane_of(&self, flow: FlowRef) -> Lane {
        Lane::of_handoff(flow).among(self.link_count())
    }

    /// The lane for a new flow of a thread that would have this one.
    pub fn lane_for(&self, wanted: Lane) -> Lane {
        let up = self.links().get(wanted.place()).is_some_and(|link| link.is_up());
        if up { wanted } else { Lane::FIRST }
    }

    /// Sends it a message that is about no flow's handoff, by the first of its channels.
    pub fn send(&self, message: Message) -> Result<(), NotSent> {
        self.send_by(Lane::FIRST, message)
    }

    /// Sends it a message about a flow, behind all others about it.
    pub fn send_of(&self, flow: FlowRef, message: Message) -> Result<(), NotSent> {
        self.send_by(self.lane_of(flow), message)
    }

    /// Sends it a message by one of its channels.
    pub fn send_by(&self, lane: Lane, message: Message) -> Result<(), NotSent> {
        // Its queue is not waited for.
        self.links().get(lane.place()).ok_or(NotSent::Down)?.send(message)
    }

    /// Something happened on its channel.
    pub fn on_event(&self, event: AgentEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *state;
        *state = before.on(event);
        // Not with every answer: one who refuses much must not have the requests of all others read.
        if before != *state || event.is_of_the_channel() {
            ruling::change();
        }
        if before != *state {
            events::publish(
                Kind::Channel,
                || json!({ "agent": self.name, "from": before.name(), "to": state.name() }),
            );
            tracing::info!(agent = self.name, "agent {} -> {} ({event:?})", before.name(), state.name());
        }
    }

    /// How it is.
    pub fn state(&self) -> AgentState {
        match *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            _ if !self.is_up() => AgentState::Gone,
            AgentState::Stopping => AgentState::Stopping,
            _ => AgentState::Up,
        }
    }

    /// Whether it is connected and is not stopping.
    pub fn takes_handoffs(&self) -> bool {
        self.state() == AgentState::Up
    }

    pub(crate) fn set_lost(&self, lost: bool) {
        self.lost.store(lost, Ordering::Relaxed);
    }

    /// Whether it has been gone for longer than `handoff.agent_lost_ms`.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let up = self.is_up();
        f.debug_struct("Agent").field("name", &self.name).field("up", &up).finish_non_exhaustive()
    }
}
