//! The migrator's ties to the outside: agents' control channels, the hold TUN, the plane as an earlier run left it.

use super::{AgentEvent, Migrator};
use crate::leg_mtu;
use crate::targets::{Agent, AgentId, AgentLink, NotSent};
use baton_daemon::control::{ChannelEvent, Client, ClientSpec, ControlError, FaultCounters, SendError};
use baton_daemon::tls::TlsFiles;
use baton_daemon::tun::Tun;
use baton_shared::control::{Hello, Lane, Message, Role};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// The longest packet read from the TUN: an IP packet's length is 16 bits.
const PACKET_BYTES: usize = 65_536;
/// Packets read from the TUN before other tasks get their turn.
const BURST: usize = 64;

impl AgentLink for Client {
    fn send(&self, message: Message) -> Result<(), NotSent> {
        Client::send(self, message).map_err(|e| match e {
            SendError::Down => NotSent::Down,
            SendError::Busy => NotSent::Busy,
        })
    }

    fn is_up(&self) -> bool {
        Client::is_up(self)
    }
}

impl Migrator {
    /// Takes over what an earlier run left in the plane, connects to the agents, and starts the tasks that read
    /// `tun` (the device this migrator writes to) and sweep. In a tokio runtime; `tls` and `hello` are this
    /// node's. Before any connection is accepted.
    pub fn start(self: &Arc<Self>, tun: Arc<Tun>, tls: &TlsFiles, hello: &Hello) -> Result<(), ControlError> {
        let (taken, removed) = self.flows.recover();
        if taken + removed > 0 {
            tracing::info!(taken, removed, "flows of an earlier run: taken over, and removed as unfinished");
        }
        // Their clients would wait for ever.
        for (target, flow) in self.flows.owed() {
            self.disowned.add(target, flow);
        }
        let _ = self.home.set(Handle::current());
        self.connect(tls, hello)?;
        tokio::spawn(self.clone().run_sweeps());
        tokio::spawn(self.clone().run_leg_mtus());
        tokio::spawn(self.clone().run_hold(tun));
        Ok(())
    }

    /// Opens the channels to agents that are not open yet, and begins to look after each target that is new. In a tokio
    /// runtime. On an error nothing is begun that was not before.
    pub fn connect(self: &Arc<Self>, tls: &TlsFiles, hello: &Hello) -> Result<(), ControlError> {
        let beside = self.beside.get().map(Vec::as_slice).unwrap_or_default();
        for agent in self.targets.agents() {
            for n in agent.link_count()..=beside.len() {
                // The first in this runtime.
                let _entered = n.checked_sub(1).and_then(|n| beside.get(n)).map(Handle::enter);
                let client = self.open(&agent, Lane::nth(n), tls, hello)?;
                agent.add_link(Arc::new(client));
            }
        }
        let all = self.targets.all();
        let watched = self.watched.swap(all.len(), Ordering::Relaxed);
        for target in all.iter().skip(watched) {
            tokio::spawn(self.clone().watch_target(target.id));
        }
        Ok(())
    }

    /// Opens a channel to each agent for each of these runtimes, and from here on to each that comes. Each is of a thread that
    /// hands off beside the one that calls this; once.
    pub(crate) fn connect_beside(
        self: &Arc<Self>,
        runtimes: Vec<Handle>,
        tls: &TlsFiles,
        hello: &Hello,
    ) -> Result<(), ControlError> {
        let _ = self.beside.set(runtimes);
        self.connect(tls, hello)
    }

    /// One of an agent's channels, in the current runtime.
    fn open(
        self: &Arc<Self>,
        agent: &Agent,
        lane: Lane,
        tls: &TlsFiles,
        hello: &Hello,
    ) -> Result<Client, ControlError> {
        let spec = ClientSpec {
            addr: agent.addr,
            expect: (Role::Agent, agent.name.clone()),
            tls,
            hello: Hello { instance: lane.within(hello.instance), ..hello.clone() },
        };
        // The channel must not keep its migrator alive.
        let (migrator, id) = (Arc::downgrade(self), agent.id);
        let on_event = move |event| {
            if let Some(migrator) = migrator.upgrade() {
                migrator.on_channel_event(id, lane, event);
            }
        };
        Client::spawn_counted(spec, Arc::new(on_event), Arc::clone(&self.faults))
    }

    /// Has something of flows that are given away done where the hold TUN is read: what belongs to one of them is done in order there,
    /// whichever thread handed it off.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self.home.get() {
            Some(home) => drop(home.spawn(task)),
            None => drop(tokio::spawn(task)),
        }
    }

    /// Why control channels ended or did not come up.
    pub fn control_faults(&self) -> &FaultCounters {
        &self.faults
    }

    fn on_channel_event(&self, id: AgentId, lane: Lane, event: ChannelEvent) {
        let event = match event {
            ChannelEvent::Up { same_instance, .. } => AgentEvent::Up { same_instance },
            ChannelEvent::Down { undelivered, .. } => AgentEvent::Down { undelivered },
            ChannelEvent::Message(message) => AgentEvent::Message(message),
        };
        self.on_agent_event(id, lane, event);
    }

    /// Finds out what the ways to the targets take, for ever.
    async fn run_leg_mtus(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut probed: HashMap<IpAddr, Instant> = HashMap::new();
        loop {
            tick.tick().await;
            let targets = self.targets.all();
            let servers = targets.iter().filter(|t| !t.is_removed()).flat_map(|t| t.spec.servers.iter());
            let due = |server: &IpAddr| probed.get(server).is_none_or(|at| at.elapsed() >= leg_mtu::INTERVAL);
            let due: HashSet<IpAddr> = servers.map(|server| server.ip()).filter(due).collect();
            let mut probes = JoinSet::new();
            for server in due {
                probed.insert(server, Instant::now());
                let migrator = Arc::clone(&self);
                probes.spawn(async move {
                    let at_once = |told| migrator.flows.on_leg_probe(server, told);
                    (server, leg_mtu::probe(server, at_once).await)
                });
            }
            while let Some(done) = probes.join_next().await {
                match done {
                    Ok((server, Ok(told))) => self.flows.on_leg_probe(server, told),
                    // No route, as a rule: the way is as it was.
                    Ok((server, Err(e))) => {
                        tracing::debug!(%server, error = %e, "the way's MTU is not known")
                    }
                    Err(e) => tracing::error!(error = %e, "a probe of a way's MTU ended"),
                }
            }
        }
    }

    /// Reads the hold TUN, for ever. The only reader: packets keep their order.
    async fn run_hold(self: Arc<Self>, tun: Arc<Tun>) {
        let mut buffer = vec![0; PACKET_BYTES];
        loop {
            let take = |packet: &[u8], offload| self.on_hold_packet(packet, offload);
            if let Err(e) = tun.recv_burst(&mut buffer, BURST, take).await {
                tracing::error!(error = %e, "the hold device cannot be read");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            tokio::task::coop::consume_budget().await;
        }
    }
}
