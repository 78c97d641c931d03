//! What comes from the agents, and the migrator's background work.

use super::Migrator;
use super::later::waits as recall;
use super::pending::Told;
use crate::targets::{Agent, AgentId, Target, TargetId};
use baton_loader::monotonic_ns;
use baton_shared::control::{FlowRef, Lane, Message};
use baton_shared::health::AgentEvent as Channel;
use baton_shared::reason::Refusal;
use baton_shared::state::handoff::HandoffEvent;
use baton_shared::state::recall::RecallEvent;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often lingering flows and hold accounts are looked at.
const SWEEP: Duration = Duration::from_millis(50);
/// In how many sweeps all flows are looked at, whether they are idle.
const SWEEPS_PER_IDLE_SWEEP: usize = 100;

/// How long an agent without targets and flows keeps its channel.
const LET_GO: Duration = Duration::from_secs(60);

/// What happens on an agent's control channel.
#[derive(Clone, Debug)]
pub enum AgentEvent {
    /// Connected.
    Up {
        /// The agent is the same process as at the last connection.
        same_instance: bool,
    },
    /// Disconnected.
    Down {
        /// Handoffs of which not one byte was written.
        undelivered: Vec<FlowRef>,
    },
    /// The agent says something.
    Message(Message),
}

impl Migrator {
    /// Takes in what happened on one of an agent's control channels. In order, per channel. Whether the agent is there its
    /// first one says; of the flows each has its own.
    pub fn on_agent_event(&self, id: AgentId, lane: Lane, event: AgentEvent) {
        let Some(agent) = self.targets.agent(id) else { return };
        let ids = || self.targets.of_agent(id).iter().map(|target| target.id).collect::<Vec<_>>();
        let own = |flow| agent.lane_of(flow) == lane;
        match event {
            AgentEvent::Message(message) => self.on_message(&agent, lane, message),
            AgentEvent::Up { same_instance } => {
                if lane == Lane::FIRST {
                    agent.set_lost(false);
                    agent.on_event(Channel::Connected);
                    if !same_instance {
                        self.targets.of_agent(id).iter().for_each(|target| target.load.forget_reports());
                    }
                }
                if !same_instance {
                    self.targets.of_agent(id).iter().for_each(|target| target.expect_adopted(false));
                }
                let targets = ids();
                let up = HandoffEvent::ChannelUp { same_instance };
                self.pending.tell_all(&targets, |flow| own(flow).then_some(up));
                if lane == Lane::FIRST {
                    self.laters.waits.tell_all(&targets, RecallEvent::ChannelUp);
                }
                for target in targets {
                    self.ask_after_lost(target, own);
                    if !same_instance {
                        self.ask_after_flows(target, own);
                    }
                }
            }
            AgentEvent::Down { undelivered } => {
                if lane == Lane::FIRST {
                    agent.on_event(Channel::Disconnected);
                    self.laters.waits.tell_all(&ids(), RecallEvent::ChannelDown);
                }
                let undelivered: HashSet<FlowRef> = undelivered.into_iter().collect();
                self.pending.tell_all(&ids(), |flow| {
                    let down = HandoffEvent::ChannelDown { delivered: !undelivered.contains(&flow) };
                    own(flow).then_some(down)
                });
            }
        }
    }

    fn on_message(&self, agent: &Agent, lane: Lane, message: Message) {
        match message {
            Message::Migrated(answer) => {
                let told = self.pending.tell(answer.flow, Told::Migrated(answer));
                if let Some(lost) = self.unresolved.take(answer.flow) {
                    self.resetter.reset_server(&lost.connection, lost.server);
                } else if !told && !self.flows.is_committed(answer.flow) {
                    self.stray_answers.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Refused(answer) => {
                let draining = answer.reason == Refusal::Draining;
                agent.on_event(if draining { Channel::RefusedDraining } else { Channel::Answered });
                if answer.flow == FlowRef::NONE {
                    return;
                }
                let refused = Told::Event(HandoffEvent::Refused(answer.reason));
                if self.pending.tell(answer.flow, refused) {
                    return;
                }
                if self.unresolved.take(answer.flow).is_some() {
                    return;
                }
                if self.flows.is_committed(answer.flow) {
                    // The answer to `ask_after_flows`: a restarted agent does not have this flow any more.
                    if let Some(target) = self.flows.target_of(answer.flow) {
                        self.disowned.add(target, answer.flow);
                    }
                } else {
                    self.stray_answers.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Ended(report) => {
                // The farewell of an agent that stops reports the end of no flow; it is sent for the answer alone.
                if report.flow != FlowRef::NONE {
                    self.flows.on_end(report);
                }
                // If it cannot be sent the agent repeats its report.
                let _ = agent.send_by(lane, Message::EndSeen(report.flow));
            }
            Message::Recalled(answer) => {
                if !self.laters.waits.tell(answer.flow, recall::Told::Recalled(answer)) {
                    // The agent reports the end as well.
                    self.stray_answers.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::RecallRefused(answer) => {
                let refused = recall::Told::Event(RecallEvent::Refused(answer.reason));
                if !self.laters.waits.tell(answer.flow, refused) {
                    self.stray_answers.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Probed(report) => self.probes.on_report(agent.id, *report),
            Message::Inspected(report) => self.inspections.on_report(agent.id, *report),
            Message::Load(load) => {
                let targets = self.targets.of_agent(agent.id);
                let of = |target: &&Arc<Target>| target.spec.servers.iter().any(|s| s == load.server);
                for target in targets.iter().filter(of) {
                    target.load.on_report((*load).clone(), monotonic_ns());
                }
            }
            // Pings are the channel's business; the rest goes the other way.
            Message::Hello(_)
            | Message::Handoff(_)
            | Message::Status(_)
            | Message::Cancel(_)
            | Message::EndSeen(_)
            | Message::Recall(_)
            | Message::Probe(_)
            | Message::Inspect(_)
            | Message::Ping(_)
            | Message::Pong(_) => {}
        }
    }

    /// What became of the handoffs given up? `Cancel`, so that none of them is run from here on.
    fn ask_after_lost(&self, id: TargetId, own: impl Fn(FlowRef) -> bool) {
        let Some(target) = self.targets.get(id) else { return };
        for flow in self.unresolved.on(id).into_iter().filter(|flow| own(*flow)) {
            // What cannot be asked now is asked at the next return.
            let _ = target.send_of(flow, Message::Cancel(flow));
        }
    }

    /// A new agent process: which of the flows given to the old one does it have?
    fn ask_after_flows(&self, id: TargetId, own: impl Fn(FlowRef) -> bool) {
        let Some(target) = self.targets.get(id) else { return };
        for flow in self.flows.live_on(id).into_iter().filter(|flow| own(*flow)) {
            if target.send_of(flow, Message::Status(flow)).is_err() {
                tracing::warn!(target = target.spec.name, "not all flows could be asked after");
                return;
            }
        }
    }

    /// Closes the channels of agents that the configuration has no more, once they have had nothing to do for a while:
    /// connections that began with an older configuration may still hand off.
    fn let_agents_go(&self, idle: &mut HashMap<AgentId, Instant>) {
        for agent in self.targets.agents().into_iter().filter(|agent| agent.link_count() > 0) {
            let targets = self.targets.of_agent(agent.id);
            let ids: Vec<TargetId> = targets.iter().map(|target| target.id).collect();
            let over = targets.iter().all(|target| target.is_removed() && target.flows() == 0);
            if !over || self.pending.is_awaited(&ids) {
                idle.remove(&agent.id);
            } else if idle.entry(agent.id).or_insert_with(Instant::now).elapsed() > LET_GO {
                idle.remove(&agent.id);
                agent.drop_links();
                tracing::info!(agent = %agent.addr, "the configuration has no target of this agent any more: channel closed");
            }
        }
    }

    /// Lingering flows, hold accounts, idle flows, lost agents: for ever.
    pub async fn run_sweeps(self: Arc<Self>) {
        let mut interval = tokio::time::interval(SWEEP);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut down_since: HashMap<AgentId, Instant> = HashMap::new();
        let mut idle: HashMap<AgentId, Instant> = HashMap::new();
        let mut sweeps = 0usize;
        loop {
            interval.tick().await;
            self.flows.sweep();
            self.sweep_partial();
            self.flows.sweep_idle(sweeps, SWEEPS_PER_IDLE_SWEEP);
            sweeps = (sweeps + 1) % SWEEPS_PER_IDLE_SWEEP;
            if sweeps == 0 {
                self.own.look();
                self.let_agents_go(&mut idle);
            }
            for agent in self.targets.agents() {
                if agent.is_up() {
                    down_since.remove(&agent.id);
                } else {
                    let since = *down_since.entry(agent.id).or_insert_with(Instant::now);
                    agent.set_lost(since.elapsed() > self.settings().agent_lost);
                }
            }
        }
    }
}
