//! One probe from its order to its outcome: which listener is asked, who asks, and what both ends say of it.

use super::Pending;
use crate::config::Protocol;
use crate::front::Front;
use crate::handoff::{HistoryOutcome, MigrationRecord};
use crate::site::SiteListener;
use crate::targets::{Agent, Target};
use baton_shared::control::{Message, ProbeOrder, ProbeReport};
use baton_shared::health;
use baton_shared::probe::{Host, ListenerFacts, Noted, choose_askers, request, was_begun};
use baton_shared::route::Mode;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::timeout;

/// How much later than its end an agent's report, or the record of what a client has the answer of already, may come.
const LATE: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// The listener to ask; the first that can be if it is not given.
    pub(crate) vip: Option<SocketAddr>,
    /// The `Host`; that listener's address if it is not given.
    pub(crate) host: Option<&'a str>,
    /// Path and query.
    pub(crate) path: &'a str,
    /// For all of it.
    pub(crate) timeout_ms: u32,
    /// The host to ask first, counted through those that can: another one each time, so that what is wrong with one of
    /// them does not show every time.
    pub(crate) turn: u64,
}

/// Why nobody was asked.
#[derive(Debug, Error)]
pub(crate) enum CannotProbe {
    /// There is no listener at the address given.
    #[error("{0}")]
    NoSuchListener(String),
    /// The order is wrong.
    #[error("{0}")]
    BadOrder(&'static str),
    /// As things stand it cannot be done.
    #[error("{0}")]
    Now(String),
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Probed {
    /// The agent that asked.
    pub(crate) asker: Arc<Agent>,
    /// Which listener.
    pub(crate) vip: SocketAddr,
    /// What it said.
    pub(crate) report: Option<ProbeReport>,
    /// How the request went here.
    pub(crate) record: Option<MigrationRecord>,
    /// It came here; without a record the target's agent has it, and how it went is not known.
    pub(crate) came: bool,
}

impl Probed {
    /// Whether its connection went to the target.
    pub(crate) fn has_migrated(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.outcome == HistoryOutcome::Migrated)
    }

    /// What was noted here.
    pub(crate) fn noted(&self) -> Noted<'_> {
        match &self.record {
            None if self.came => Noted::Unanswered,
            None => Noted::Unseen,
            Some(_) if self.has_migrated() => Noted::Migrated,
            Some(record) => Noted::Stayed { reason: record.reason, refusal: record.refusal },
        }
    }
}

impl Front {
    /// Has a target probed.
    pub(crate) async fn probe(&self, target: &Target, ask: Ask<'_>) -> Result<Probed, CannotProbe> {
        let migrator = self.migration.migrator();
        let migrator = migrator.ok_or_else(|| CannotProbe::Now("no listener migrates".to_owned()))?;
        let vip = self.vip_to_probe(target, ask.vip)?;
        let mut askers = self.askers(target).map_err(|why| CannotProbe::Now(why.to_owned()))?;
        let first = usize::try_from(ask.turn).unwrap_or(0).checked_rem(askers.len()).unwrap_or(0);
        askers.rotate_left(first);
        let mut cannot = Vec::new();
        for (asker, from) in askers {
            let pending = migrator.probes().begin(target.id, asker.id, from);
            let order = ProbeOrder {
                id: pending.id,
                vip,
                host: ask.host.map_or_else(|| vip.to_string(), str::to_owned),
                path: ask.path.to_owned(),
                token: pending.token.clone(),
                timeout_ms: ask.timeout_ms,
            };
            request(&order).map_err(CannotProbe::BadOrder)?;
            if asker.send(Message::Probe(Box::new(order))).is_err() {
                cannot.push(format!("{}: its channel is gone or full", asker.name));
                continue;
            }
            let probed = outcome(asker, vip, pending, Duration::from_millis(ask.timeout_ms.into())).await;
            if let Some(not_begun) = probed.report.as_ref().filter(|report| !was_begun(report)) {
                cannot.push(format!(
                    "{}: {}",
                    probed.asker.name,
                    not_begun.error.as_deref().unwrap_or_default()
                ));
                continue;
            }
            return Ok(probed);
        }
        Err(CannotProbe::Now(format!("no agent of another target's host can ask: {}", cannot.join("; "))))
    }

    /// Where a client could come to the target: the listener that is asked for, or else the first.
    fn vip_to_probe(&self, target: &Target, asked: Option<SocketAddr>) -> Result<SocketAddr, CannotProbe> {
        let site = self.site.load_full();
        let unfit = |listener: &SiteListener| {
            let facts = ListenerFacts {
                http: listener.protocol == Protocol::Http,
                migrates: listener.mode == Mode::Migrate,
                family: target.spec.servers.for_vip(listener.vip).is_some(),
                drained: self.drains.listener(listener.vip).is_some(),
            };
            facts.unfit()
        };
        let Some(asked) = asked else {
            let text =
                "no listener that is open speaks http, migrates and has an address of the target's family";
            let usable = site.listeners.iter().find(|listener| unfit(listener).is_none());
            return usable.map(|listener| listener.vip).ok_or_else(|| CannotProbe::Now(text.to_owned()));
        };
        let Some(listener) = site.listeners.iter().find(|listener| listener.vip == asked) else {
            let vips: Vec<String> = site.listeners.iter().map(|listener| listener.vip.to_string()).collect();
            let text = format!("no listener has {asked}: there are {}", vips.join(", "));
            return Err(CannotProbe::NoSuchListener(text));
        };
        match unfit(listener) {
            None => Ok(asked),
            Some(why) => Err(CannotProbe::Now(format!("the listener at {asked} {why}"))),
        }
    }

    /// Those that may ask, in order.
    fn askers(&self, target: &Target) -> Result<Vec<Asker>, &'static str> {
        let targets: Vec<Arc<Target>> = self.targets.iter().collect();
        let addresses = |agent: &Agent| {
            let of_agent = targets.iter().filter(|target| target.agent.id == agent.id);
            let servers = of_agent.flat_map(|target| target.spec.servers.iter()).map(|server| server.ip());
            std::iter::once(agent.addr.ip()).chain(servers).collect::<Vec<_>>()
        };
        // From this host nothing migrates either.
        let migrator = self.migration.migrator();
        let is_own = |ip: &IpAddr| migrator.is_some_and(|migrator| migrator.is_own(SocketAddr::new(*ip, 0)));
        let agents = targets.iter().map(|target| Arc::clone(&target.agent));
        let mut agents: Vec<Arc<Agent>> =
            agents.filter(|agent| !addresses(agent).iter().any(is_own)).collect();
        // Targets may share one.
        let mut seen = HashSet::new();
        agents.retain(|agent| seen.insert(agent.id));
        let host =
            |agent: &Arc<Agent>| Host { addresses: addresses(agent), up: agent.state() == health::Agent::Up };
        let hosts: Vec<Host> = agents.iter().map(host).collect();
        let chosen = choose_askers(&addresses(&target.agent), &hosts).map_err(|no| no.explanation())?;
        let all: Vec<_> =
            agents.into_iter().zip(hosts).map(|(agent, host)| (agent, host.addresses)).collect();
        Ok(chosen.into_iter().filter_map(|place| all.get(place).cloned()).collect())
    }
}

/// An agent that may ask, and its host's addresses.
type Asker = (Arc<Agent>, Vec<IpAddr>);

/// What both ends say.
async fn outcome(asker: Arc<Agent>, vip: SocketAddr, mut pending: Pending, limit: Duration) -> Probed {
    let report = timeout(limit + LATE, &mut pending.report).await.ok().and_then(Result::ok);
    // A request that comes only now is nobody's.
    pending.forget();
    let record = timeout(LATE, &mut pending.record).await;
    // A request that did not come can have no record, which is known at once.
    let came = !matches!(record, Ok(Err(_)));
    Probed { asker, vip, report, record: record.ok().and_then(Result::ok), came }
}
