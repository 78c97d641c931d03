//! Probes along the real path that are under way: ordered by the admin endpoint or by a pool's checks, asked by an agent of
//! another host, and known by their token when their request comes to the front.

mod ask;

pub(crate) use ask::{Ask, CannotProbe, Probed};

use crate::handoff::MigrationRecord;
use crate::targets::{AgentId, TargetId};
use baton_daemon::random::random;
use baton_shared::control::ProbeReport;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

#[derive(Debug)]
struct Waiting {
    target: TargetId,
    /// Who asks, and from where.
    asker: AgentId,
    from: Vec<IpAddr>,
    /// Until its request came.
    token: Option<(String, oneshot::Sender<MigrationRecord>)>,
    report: Option<oneshot::Sender<ProbeReport>>,
}

/// Those under way.
#[derive(Debug, Default)]
pub struct Probes {
    waiting: Mutex<HashMap<u64, Waiting>>,
    /// How many: requests look here first.
    count: AtomicUsize,
    last: AtomicU64,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Pending {
    probes: Arc<Probes>,
    pub(crate) id: u64,
    /// Known to the asking agent alone, good for one request.
    pub(crate) token: String,
    /// What the agent says.
    pub(crate) report: oneshot::Receiver<ProbeReport>,
    /// How its request went here. It fails once the probe is [forgotten](Pending::forget) and none came.
    pub(crate) record: oneshot::Receiver<MigrationRecord>,
}

impl Pending {
    /// From here on its request is like any other.
    pub(crate) fn forget(&self) {
        let mut waiting = self.probes.waiting();
        waiting.remove(&self.id);
        self.probes.count.store(waiting.len(), Ordering::Release);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Probes {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `target` is to be probed by an agent whose host has the addresses `from`.
    pub(crate) fn begin(self: &Arc<Self>, target: TargetId, asker: AgentId, from: Vec<IpAddr>) -> Pending {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let token = format!("{:016x}{:016x}", random(), random());
        let (to_report, report) = oneshot::channel();
        let (to_record, record) = oneshot::channel();
        let token_for = Some((token.clone(), to_record));
        let mut waiting = self.waiting();
        waiting.insert(id, Waiting { target, asker, from, token: token_for, report: Some(to_report) });
        self.count.store(waiting.len(), Ordering::Release);
        drop(waiting);
        Pending { probes: Arc::clone(self), id, token, report, record }
    }

    /// Whether requests need not be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Where the request with this token goes if it is a probe's, and who is to be told how it went. Once.
    pub(crate) fn claim(
        &self,
        token: &[u8],
        client: IpAddr,
    ) -> Option<(TargetId, oneshot::Sender<MigrationRecord>)> {
        let mut waiting = self.waiting();
        let client = client.to_canonical();
        let known = |probe: &&mut Waiting| {
            probe.token.as_ref().is_some_and(|(known, _)| known.as_bytes() == token)
                && probe.from.contains(&client)
        };
        let probe = waiting.values_mut().find(known)?;
        let (_, record) = probe.token.take()?;
        Some((probe.target, record))
    }

    /// An agent reports.
    pub(crate) fn on_report(&self, from: AgentId, report: ProbeReport) {
        let mut waiting = self.waiting();
        let Some(probe) = waiting.get_mut(&report.id).filter(|probe| probe.asker == from) else { return };
        if let Some(to) = probe.report.take() {
            // Nobody waits any more if that fails.
            let _ = to.send(report);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: AgentId = AgentId(2);

    fn report(id: u64) -> ProbeReport {
        let error = Some("x".to_owned());
        ProbeReport { id, local: None, status: None, body_bytes: 0, first_byte_us: 0, total_us: 0, error }
    }

    #[test]
    fn a_token_is_good_for_one_request_of_the_asking_host_while_the_probe_lasts() {
        let probes = Arc::new(Probes::default());
        let (from, other): (IpAddr, IpAddr) = ("10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap());
        let mut one = probes.begin(TargetId::new(1), ASKER, vec![from]);
        let two = probes.begin(TargetId::new(5), ASKER, vec![from]);
        assert_ne!(one.token, two.token);
        let token = one.token.clone().into_bytes();
        assert!(probes.claim(&token, other).is_none(), "from another host");
        assert!(probes.claim(b"", from).is_none() && probes.claim(b"0", from).is_none());
        let (target, to) = probes.claim(&token, from).unwrap();
        assert_eq!(target, TargetId::new(1));
        assert!(probes.claim(&token, from).is_none(), "a second time");
        one.forget();
        assert_eq!(
            one.record.try_recv().unwrap_err(),
            oneshot::error::TryRecvError::Empty,
            "it may still come"
        );
        drop(to);
        assert_eq!(one.record.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert!(!probes.is_empty());
        let token = two.token.clone().into_bytes();
        drop(two);
        assert!(probes.is_empty() && probes.claim(&token, from).is_none());
    }

    #[test]
    fn only_the_agent_that_was_asked_reports() {
        let probes = Arc::new(Probes::default());
        let mut pending = probes.begin(TargetId::new(1), ASKER, Vec::new());
        probes.on_report(AgentId(0), report(pending.id));
        assert!(pending.report.try_recv().is_err());
        probes.on_report(ASKER, report(pending.id + 1));
        assert!(pending.report.try_recv().is_err());
        probes.on_report(ASKER, report(pending.id));
        assert_eq!(pending.report.try_recv().unwrap().id, pending.id);
    }
}
