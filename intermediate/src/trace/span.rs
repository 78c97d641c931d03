//! The spans of a request, made when it is known how it went: a migration's stages are measured anyway.

use super::Trace;
use crate::handoff::{StageTimes, Subject};
use baton_daemon::random::random;
use baton_shared::control::flow_id_text;
use baton_shared::reason::{ProxyReason, Refusal};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttributeValue {
    Text(String),
    Number(i64),
}

/// A piece of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) trace: u128,
    pub(crate) id: u64,
    pub(crate) parent: Option<u64>,
    /// The parent is the client's.
    pub(crate) parent_is_remote: bool,
    /// The request's own span.
    pub(crate) server: bool,
    /// There was no answer, or one that says that the server failed.
    pub(crate) failed: bool,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) attributes: Vec<(&'static str, AttributeValue)>,
}

fn text(of: impl Into<String>) -> AttributeValue {
    AttributeValue::Text(of.into())
}

fn port(of: SocketAddr) -> AttributeValue {
    AttributeValue::Number(of.port().into())
}

impl Trace {
    /// The request's own span, from when its connection was accepted. Attributes as OpenTelemetry names them
    /// (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>), ours with `baton.` in front.
    fn root(self, subject: &Subject, outcome: &'static str, lasted: Duration) -> Span {
        let (method, path) = subject.request.split_once(' ').unwrap_or((&subject.request, ""));
        // No query: it may be a secret.
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let mut attributes = vec![
            ("http.request.method", text(method)),
            ("url.path", text(path)),
            ("client.address", text(subject.client.ip().to_string())),
            ("client.port", port(subject.client)),
            ("server.address", text(subject.vip.ip().to_string())),
            ("server.port", port(subject.vip)),
            ("baton.outcome", text(outcome)),
        ];
        if !subject.target.is_empty() {
            attributes.push(("baton.target", text(subject.target.as_str())));
        }
        if let Some(flow) = subject.flow_id {
            attributes.push(("baton.flow", text(flow_id_text(flow))));
        }
        Span {
            name: method.to_owned(),
            trace: self.trace,
            id: self.span,
            parent: self.parent,
            parent_is_remote: self.parent.is_some(),
            server: true,
            failed: false,
            start: subject.started,
            end: subject.started + lasted,
            attributes,
        }
    }

    /// A stage of it.
    fn stage(self, name: &'static str, start: SystemTime, lasted: Duration) -> Span {
        Span {
            name: name.to_owned(),
            trace: self.trace,
            id: random(),
            parent: Some(self.span),
            parent_is_remote: false,
            server: false,
            failed: false,
            start,
            end: start + lasted,
            attributes: Vec::new(),
        }
    }
}

/// The request's span, which ends when the client's packets were on their way to the target, and one for each stage. How long
/// the agent took is known, not when: its span is put in the middle of the transfer it is a part of.
pub(super) fn of_migration(trace: Trace, subject: &Subject, times: &StageTimes) -> Vec<Span> {
    let stages = [
        // A moment: how long a connection waited in the kernel's queue is not known.
        ("accept", Duration::ZERO),
        ("head", times.accept_to_head),
        ("route", times.decide),
        ("freeze", times.freeze),
        ("drain", times.drain),
        ("capture", times.capture),
        ("transfer", times.handoff),
        ("commit", times.commit),
        ("release", times.release),
        ("close", times.close),
    ];
    let mut at = subject.started;
    let mut children = Vec::new();
    for (name, lasted) in stages {
        let stage = trace.stage(name, at, lasted);
        at = stage.end;
        if name == "transfer" && !times.agent.is_zero() {
            let own = if times.adopted { "adopt" } else { "replay" };
            let agent = times.agent.min(lasted);
            let inner = trace.stage(own, stage.start + (lasted - agent) / 2, agent);
            children.push(Span { parent: Some(stage.id), ..inner });
        }
        children.push(stage);
    }
    let lasted = at.duration_since(subject.started).unwrap_or_default();
    let mut spans = vec![trace.root(subject, "migrated", lasted)];
    spans.append(&mut children);
    spans
}

/// The request's span, which ends with the head of its answer, or when there will be none; `proxy` in it is the part after
/// routing.
pub(super) fn of_proxied(
    trace: Trace,
    subject: &Subject,
    (reason, refusal): (ProxyReason, Option<Refusal>),
    status: Option<u16>,
    waited: Duration,
) -> Vec<Span> {
    let now = SystemTime::now();
    let lasted = now.duration_since(subject.started).unwrap_or_default().max(waited);
    let mut root = trace.root(subject, "proxied", lasted);
    if let Some(status) = status {
        root.attributes.push(("http.response.status_code", AttributeValue::Number(status.into())));
    }
    // A server's span is no error for a status that blames the client.
    root.failed = status.is_none_or(|status| status >= 500);
    root.attributes.push(("baton.reason", text(reason.name())));
    if let Some(refusal) = refusal {
        root.attributes.push(("baton.refusal", text(refusal.name())));
    }
    let proxy = trace.stage("proxy", root.end - waited, waited);
    vec![root, proxy]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const TRACE: Trace = Trace { trace: 1, span: 2, parent: Some(3) };

    fn subject() -> Subject {
        Subject {
            flow_id: Some(255),
            client: "10.0.0.1:1000".parse().unwrap(),
            vip: "10.0.0.2:80".parse().unwrap(),
            target: "target1".into(),
            request: "GET /a?token=secret".into(),
            started: UNIX_EPOCH + Duration::from_secs(1),
            trace: Some(TRACE),
        }
    }

    fn attribute<'a>(span: &'a Span, name: &str) -> Option<&'a AttributeValue> {
        span.attributes.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    #[test]
    fn a_migrations_stages_follow_each_other_within_the_requests_span() {
        let us = Duration::from_micros;
        let times = StageTimes {
            accept_to_head: us(10),
            decide: us(20),
            freeze: us(5),
            handoff: us(100),
            agent: us(60),
            commit: us(7),
            adopted: true,
            ..StageTimes::default()
        };
        let spans = of_migration(TRACE, &subject(), &times);
        let (root, rest) = spans.split_first().unwrap();
        assert_eq!(
            (root.name.as_str(), root.id, root.parent, root.parent_is_remote),
            ("GET", 2, Some(3), true)
        );
        assert_eq!(attribute(root, "url.path"), Some(&text("/a")), "without its query");
        assert_eq!(attribute(root, "baton.flow"), Some(&text("00000000000000ff")));
        assert_eq!(root.end.duration_since(root.start).unwrap(), us(142));
        let find = |name: &str| rest.iter().find(|s| s.name == name).unwrap();
        assert_eq!((find("accept").start, find("accept").end), (root.start, find("head").start));
        let (transfer, adopt) = (find("transfer"), find("adopt"));
        assert_eq!(adopt.parent, Some(transfer.id));
        assert_eq!(adopt.start.duration_since(transfer.start).unwrap(), us(20));
        assert_eq!(adopt.end.duration_since(adopt.start).unwrap(), us(60));
        let mut at = root.start;
        for stage in rest.iter().filter(|s| s.parent == Some(root.id)) {
            assert_eq!(stage.start, at, "{}", stage.name);
            at = stage.end;
        }
        assert_eq!(at, root.end);
        let replayed = of_migration(TRACE, &subject(), &StageTimes { adopted: false, ..times });
        assert!(replayed.iter().any(|s| s.name == "replay") && !replayed.iter().any(|s| s.name == "adopt"));
        let mut ids: Vec<u64> = spans.iter().map(|s| s.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), spans.len());
    }

    #[test]
    fn a_proxied_request_says_why() {
        let why = (ProxyReason::Refused, Some(Refusal::Draining));
        let spans = of_proxied(TRACE, &subject(), why, Some(200), Duration::from_millis(3));
        let [root, proxy] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!(attribute(root, "baton.reason"), Some(&text(ProxyReason::Refused.name())));
        assert_eq!(attribute(root, "http.response.status_code"), Some(&AttributeValue::Number(200)));
        assert_eq!((proxy.end, proxy.parent), (root.end, Some(root.id)));
        for (status, failed) in [(Some(200), false), (Some(404), false), (Some(503), true), (None, true)] {
            let spans = of_proxied(TRACE, &subject(), why, status, Duration::ZERO);
            assert_eq!(spans.iter().map(|s| s.failed).collect::<Vec<_>>(), [failed, false], "{status:?}");
        }
    }
}
