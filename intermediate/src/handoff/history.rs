//! The most recent migrations and the reasons for what was not migrated, for `/v1/migrations`.

use super::candidate::StageTimes;
use crate::trace::{self, Trace};
use baton_daemon::admin::events::{self, Kind};
use baton_shared::access::without_query_values;
use baton_shared::control::{flow_id, flow_id_text};
use baton_shared::http::Verdict;
use baton_shared::reason::{CloseReason, ProxyReason, Refusal};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryOutcome {
    /// The connection was given to a target.
    Migrated,
    /// The request went through the proxy.
    Proxied,
    /// The connection was closed or reset.
    Closed,
}

/// One request's way, as `/v1/migrations` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct MigrationRecord {
    /// The flow's number, 16 hexadecimal digits; empty if it never got one.
    pub id: String,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port the client connected to.
    pub vip: SocketAddr,
    /// The target's name; empty if none was chosen.
    pub target: String,
    /// Method and path, without the values of a query.
    pub request: String,
    /// How it went.
    pub outcome: HistoryOutcome,
    /// Why it was proxied or closed: a [`ProxyReason`]'s or [`CloseReason`]'s name.
    pub reason: Option<&'static str>,
    /// The agent's reason, if it refused.
    pub refusal: Option<&'static str>,
    /// The rule of the gate, if that refused it.
    pub rule: Option<&'static str>,
    /// When the connection was accepted, milliseconds since 1970.
    pub started: u64,
    /// Microseconds per stage, in the order they happen.
    #[serde(serialize_with = "stages")]
    pub stages_us: Vec<(&'static str, u64)>,
    /// Microseconds from the start of the freeze until the client's packets were on their way to the target; 0
    /// if it was not migrated.
    pub total_us: u64,
}

impl MigrationRecord {
    /// For `/v1/events`.
    fn event(&self) -> Value {
        let mut event = json!(self);
        if let Some(object) = event.as_object_mut()
            && let Some(id) = object.remove("id")
        {
            object.insert("flow".to_owned(), id);
        }
        event
    }
}

/// As a JSON object that keeps its order.
pub(crate) fn stages<Z: Serializer>(stages: &[(&'static str, u64)], z: Z) -> Result<Z::Ok, Z::Error> {
    let mut map = z.serialize_map(Some(stages.len()))?;
    for (name, us) in stages {
        map.serialize_entry(name, us)?;
    }
    map.end()
}

/// What is known of a request besides how it went.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The flow's number, if it got one.
    pub flow_id: Option<u64>,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port the client connected to.
    pub vip: SocketAddr,
    /// The target's name; empty if none was chosen.
    pub target: String,
    /// Method and path.
    pub request: String,
    /// When the connection was accepted.
    pub started: SystemTime,
    /// If its spans are wanted.
    pub trace: Option<Trace>,
}

/// What is kept of a request. Its [`MigrationRecord`], where the fields are explained, is made when somebody wants to see it.
#[derive(Debug)]
pub struct Remembered {
    /// The request without the values of a query.
    subject: Subject,
    pub(crate) outcome: HistoryOutcome,
    reason: Option<&'static str>,
    refusal: Option<&'static str>,
    rule: Option<&'static str>,
    /// If it was migrated.
    times: Option<StageTimes>,
}

impl Remembered {
    fn new(mut subject: Subject, outcome: HistoryOutcome) -> Self {
        if subject.request.contains('?') {
            subject.request = without_query_values(&subject.request);
        }
        Remembered { subject, outcome, reason: None, refusal: None, rule: None, times: None }
    }

    pub(crate) fn client(&self) -> SocketAddr {
        self.subject.client
    }

    pub(crate) fn target(&self) -> &str {
        &self.subject.target
    }

    /// Why it was proxied or closed: the reason, an agent's refusal, the rule of the gate.
    pub(crate) fn reasons(&self) -> [Option<&'static str>; 3] {
        [self.reason, self.refusal, self.rule]
    }

    /// Whether its record has this number.
    pub(crate) fn has_id(&self, id: &str) -> bool {
        self.subject.flow_id.map_or(id.is_empty(), |own| flow_id(id) == Some(own))
    }

    fn record(&self) -> MigrationRecord {
        let subject = &self.subject;
        let since_1970 = subject.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let stages = self.times.iter().flat_map(StageTimes::named);
        MigrationRecord {
            id: subject.flow_id.map(flow_id_text).unwrap_or_default(),
            client: subject.client,
            vip: subject.vip,
            target: subject.target.clone(),
            request: subject.request.clone(),
            outcome: self.outcome,
            reason: self.reason,
            refusal: self.refusal,
            rule: self.rule,
            started: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            stages_us: stages.map(|(name, took)| (name, micros(took))).collect(),
            total_us: self.times.map_or(0, |times| micros(times.total)),
        }
    }
}

pub(crate) fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<Remembered>,
    /// Who waits for a client's next record.
    awaited: HashMap<SocketAddr, oneshot::Sender<MigrationRecord>>,
}

/// A ring of what the most recent [`MigrationRecord`]s are made of.
#[derive(Debug)]
pub struct History {
    ring: Mutex<Ring>,
    capacity: usize,
}

impl History {
    /// One that keeps the `capacity` most recent records.
    pub fn new(capacity: usize) -> Self {
        let ring = Ring { records: VecDeque::with_capacity(capacity), ..Ring::default() };
        History { ring: Mutex::new(ring), capacity }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest records, newest first.
    pub fn recent(&self, limit: usize) -> Vec<MigrationRecord> {
        self.wanted(limit, |_| true)
    }

    /// The newest of the records that are wanted, newest first.
    pub fn wanted(&self, limit: usize, wanted: impl Fn(&Remembered) -> bool) -> Vec<MigrationRecord> {
        self.ring()
            .records
            .iter()
            .rev()
            .filter(|request| wanted(request))
            .take(limit)
            .map(Remembered::record)
            .collect()
    }

    fn push(&self, remembered: Remembered) {
        let kind = match remembered.outcome {
            HistoryOutcome::Migrated => Kind::Handoff,
            _ if remembered.refusal.is_some() => Kind::Refusal,
            HistoryOutcome::Proxied => Kind::Proxied,
            HistoryOutcome::Closed => Kind::Closed,
        };
        events::publish(kind, || remembered.record().event());
        let mut ring = self.ring();
        if !ring.awaited.is_empty()
            && let Some(awaiting) = ring.awaited.remove(&remembered.subject.client)
        {
            // Nobody waits any more if that fails.
            let _ = awaiting.send(remembered.record());
        }
        while ring.records.len() >= self.capacity.max(1) {
            ring.records.pop_front();
        }
        ring.records.push_back(remembered);
    }

    /// Sends the next record of this client's as well. Records are pushed out of the ring in no time on a busy node.
    pub(crate) fn await_record(&self, client: SocketAddr, to: oneshot::Sender<MigrationRecord>) {
        let mut ring = self.ring();
        ring.awaited.retain(|_, waiting| !waiting.is_closed());
        ring.awaited.insert(client, to);
    }

    /// The connection was given to a target.
    pub fn record_migrated(&self, subject: Subject, times: &StageTimes) {
        trace::migrated(&subject, times);
        self.push(Remembered { times: Some(*times), ..Remembered::new(subject, HistoryOutcome::Migrated) });
    }

    /// The request is proxied.
    pub fn record_proxied(&self, subject: Subject, reason: ProxyReason, refusal: Option<Refusal>) {
        let (reason, refusal) = (Some(reason.name()), refusal.map(Refusal::name));
        self.push(Remembered { reason, refusal, ..Remembered::new(subject, HistoryOutcome::Proxied) });
    }

    /// A target did not take the connection, and another is tried: told to those who follow `/v1/events`.
    pub fn tell_retried(&self, subject: &Subject, reason: ProxyReason, refusal: Option<Refusal>) {
        events::publish(Kind::Refusal, || {
            json!({
                "flow": subject.flow_id.map(flow_id_text),
                "client": subject.client,
                "vip": subject.vip,
                "target": subject.target,
                "request": without_query_values(&subject.request),
                "outcome": "retried",
                "reason": reason.name(),
                "refusal": refusal.map(Refusal::name),
            })
        });
    }

    /// The connection was closed or reset, or answered by the intermediate itself.
    pub fn record_closed(&self, subject: Subject, reason: CloseReason) {
        self.push(Remembered {
            reason: Some(reason.name()),
            ..Remembered::new(subject, HistoryOutcome::Closed)
        });
    }

    /// The gate refused the request.
    pub fn record_refused(&self, subject: Subject, verdict: &Verdict) {
        let (reason, rule) = (Some(verdict.reason.name()), Some(verdict.rule.name()));
        self.push(Remembered { reason, rule, ..Remembered::new(subject, HistoryOutcome::Closed) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(id: u64) -> Subject {
        Subject {
            flow_id: Some(id),
            client: "10.0.0.1:1000".parse().unwrap(),
            vip: "10.0.0.2:80".parse().unwrap(),
            target: "target1".into(),
            request: "GET /".into(),
            started: UNIX_EPOCH + Duration::from_millis(5),
            trace: None,
        }
    }

    #[test]
    fn the_ring_keeps_the_newest_and_shows_them_first() {
        let history = History::new(2);
        for id in 1..=3 {
            history.record_proxied(subject(id), ProxyReason::Refused, Some(Refusal::Draining));
        }
        let ids: Vec<_> = history.recent(10).into_iter().map(|r| r.id).collect();
        assert_eq!(ids, ["0000000000000003", "0000000000000002"]);
        assert_eq!(history.recent(1).len(), 1);
        history.record_closed(Subject { flow_id: None, ..subject(4) }, CloseReason::NoRoute);
        let with = |id: &str| history.wanted(10, |request| request.has_id(id)).len();
        assert_eq!(["0000000000000003", "", "3", "0000000000000004"].map(with), [1, 1, 0, 0]);
    }

    #[test]
    fn an_awaited_record_comes_once_and_those_nobody_waits_for_are_forgotten() {
        let history = History::new(1);
        let client = subject(1).client;
        let (to, mut record) = oneshot::channel();
        history.await_record(client, to);
        history.record_closed(
            Subject { client: "10.0.0.1:1001".parse().unwrap(), ..subject(1) },
            CloseReason::NoRoute,
        );
        assert!(record.try_recv().is_err(), "another client's");
        history.record_migrated(subject(2), &StageTimes::default());
        history.record_migrated(subject(3), &StageTimes::default());
        assert_eq!(record.try_recv().unwrap().id, "0000000000000002");
        let (to, gone) = oneshot::channel();
        history.await_record("10.0.0.1:1002".parse().unwrap(), to);
        drop(gone);
        let (to, _waiting) = oneshot::channel();
        history.await_record(client, to);
        assert_eq!(history.ring().awaited.len(), 1);
    }

    #[test]
    fn the_values_of_a_query_are_not_kept() {
        let history = History::new(2);
        let request = "GET /a?token=s3cret".to_owned();
        history.record_closed(Subject { request, ..subject(1) }, CloseReason::NoRoute);
        assert!(!format!("{history:?}").contains("s3cret"));
        assert_eq!(history.recent(1)[0].request, "GET /a?…");
    }

    #[test]
    fn stages_keep_their_order_in_json() {
        let history = History::new(2);
        let times = StageTimes { freeze: Duration::from_micros(7), ..StageTimes::default() };
        history.record_migrated(subject(1), &times);
        let json = serde_json::to_string(&history.recent(1)).unwrap();
        let at = |name: &str| json.find(name).unwrap();
        assert!(at("\"freeze\":7") < at("\"drain\"") && at("\"drain\"") < at("\"commit\""));
        assert!(json.contains("\"outcome\":\"migrated\""));
    }
}
