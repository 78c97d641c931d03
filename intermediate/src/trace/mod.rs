//! Traces: which requests are recorded, their spans, and where those go (`[tracing]`, docs/tracing.md).
//!
//! One for the process, as with events: while nobody asked for traces a request costs one load.

#[cfg(feature = "otlp")]
mod otlp;
mod span;

pub(crate) use span::Span;

use crate::config::Tracing;
use crate::handoff::{StageTimes, Subject};
use crate::metrics::OutcomeLabel;
use baton_daemon::random::random;
use baton_shared::http::{TraceIds, TraceParent, is_sampled};
use baton_shared::reason::{ProxyReason, Refusal};
use baton_shared::route::HeaderLines;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;

/// Spans that wait to be sent, at most; what comes then is dropped and counted.
const WAITING: usize = 4096;

/// What the spans of one request have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace's number.
    pub trace: u128,
    /// The request's own span.
    pub span: u64,
    /// The client's span, if it named one.
    pub parent: Option<u64>,
}

/// Who wants spans.
struct Tracer {
    per_million: u32,
    to: mpsc::Sender<Span>,
}

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// What became of spans since the start, for metrics: `sent`; `dropped`, as more came than could be sent; `failed`, as the
/// collector did not take them.
pub(crate) static COUNTS: LazyLock<Family<OutcomeLabel, Counter>> = LazyLock::new(|| {
    let counts = Family::default();
    for outcome in ["sent", "dropped", "failed"] {
        drop(counts.get_or_create(&OutcomeLabel { outcome }));
    }
    counts
});

fn count(outcome: &'static str, spans: u64) {
    COUNTS.get_or_create(&OutcomeLabel { outcome }).inc_by(spans);
}

/// Begins to record and to send, as the configuration says.
///
/// # Errors
/// If nothing can be sent there, or this build cannot send.
pub(crate) fn start(config: &Tracing, node: &str) -> Result<(), String> {
    let (to, spans) = mpsc::channel(WAITING);
    send_to(config.endpoint.get_ref(), node, spans)?;
    // A second one in this process is a test's.
    let _ = TRACER.set(Tracer { per_million: config.per_million(), to });
    Ok(())
}

#[cfg(feature = "otlp")]
fn send_to(endpoint: &str, node: &str, spans: mpsc::Receiver<Span>) -> Result<(), String> {
    otlp::start(endpoint, node, spans)
}

#[cfg(not(feature = "otlp"))]
fn send_to(_: &str, _: &str, _: mpsc::Receiver<Span>) -> Result<(), String> {
    Err(WITHOUT.to_owned())
}

/// Why this build sends nothing; `None` if it does.
pub(crate) fn lacking() -> Option<&'static str> {
    (!cfg!(feature = "otlp")).then_some(WITHOUT)
}

const WITHOUT: &str = "this build sends no traces: it was made without the feature \"otlp\"";

/// The trace of a request with these header lines, if it is to be recorded: the client's, if it says so itself, else one that
/// begins here.
pub(crate) fn begin(lines: &dyn HeaderLines) -> Option<Trace> {
    let tracer = TRACER.get()?;
    match TraceParent::of(lines) {
        Some(TraceParent { trace, parent, sampled }) => {
            sampled.then(|| Trace { trace, span: random(), parent: Some(parent) })
        }
        None => {
            let TraceIds { trace, parent: span } = trace_ids();
            is_sampled(trace, tracer.per_million).then_some(Trace { trace, span, parent: None })
        }
    }
}

/// Numbers for a trace that begins here.
pub(crate) fn trace_ids() -> TraceIds {
    TraceIds { trace: u128::from(random()) << 64 | u128::from(random()), parent: random() }
}

/// The numbers for a `traceparent` where the request has none: its server's spans are our span's children.
pub(crate) fn ids_of(trace: Option<Trace>) -> TraceIds {
    trace.map_or_else(trace_ids, |t| TraceIds { trace: t.trace, parent: t.span })
}

fn send(make: impl FnOnce() -> Vec<Span>) {
    let Some(tracer) = TRACER.get() else { return };
    for span in make() {
        if tracer.to.try_send(span).is_err() {
            count("dropped", 1);
        }
    }
}

/// A connection was given away with its request.
pub(crate) fn migrated(subject: &Subject, times: &StageTimes) {
    if let Some(trace) = subject.trace {
        send(|| span::of_migration(trace, subject, times));
    }
}

/// A proxied request's answer began `waited` after it was routed, or it is known that there will be none.
pub(crate) fn proxied(
    subject: &Subject,
    why: (ProxyReason, Option<Refusal>),
    status: Option<u16>,
    waited: Duration,
) {
    if let Some(trace) = subject.trace {
        send(|| span::of_proxied(trace, subject, why, status, waited));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_lacks_to_send_traces_is_what_stops_it_from_sending_them() {
        let (_, spans) = mpsc::channel(1);
        // A collector that need not be there: spans are sent when there are some.
        let stopped = send_to("http://127.0.0.1:4318/v1/traces", "lb1", spans).err();
        assert_eq!(stopped.as_deref(), lacking());
    }
}
