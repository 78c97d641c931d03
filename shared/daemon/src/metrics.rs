//! What the daemons' `/metrics` share: counters by reason, build information, the text itself.

use baton_shared::http::GateRule;
use baton_shared::reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The content type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds for durations of HTTP requests, and of a server's silence before it answers one, seconds, as OpenTelemetry's
/// conventions have them (`http.server.request.duration`).
pub const HTTP_SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// An enum of numbered reasons; those of `baton_shared::reason` all are.
pub trait Reason: Copy + fmt::Debug + Send + Sync + 'static {
    /// The label's name.
    const LABEL: &'static str = "reason";
    /// All of them.
    const ALL: &'static [Self];
    /// The number, small.
    fn code(self) -> u32;
    /// The label's value.
    fn name(self) -> &'static str;
    /// What it means and what to do about it; its name says enough if there is no more.
    fn explanation(self) -> &'static str {
        self.name()
    }
    /// Whether a person should look at what was counted.
    fn is_telling(self) -> bool;
}

macro_rules! shared_reasons {
    ($($name:ident: $telling:expr;)+) => { $(
        impl Reason for reason::$name {
            const ALL: &'static [Self] = reason::$name::ALL;
            fn code(self) -> u32 { self.code() }
            fn name(self) -> &'static str { self.name() }
            fn explanation(self) -> &'static str { self.explanation() }
            fn is_telling(self) -> bool { $telling(self) }
        }
    )+ };
}
shared_reasons! {
    PacketCounter: Self::is_telling;
    Refusal: Self::is_telling;
    ProxyReason: Self::is_telling;
    CloseReason: Self::is_telling;
    // Ends of flows are told one by one, and a channel's faults as what is wrong with the target.
    EndReason: |_| false;
    ControlFault: |_| false;
    HoldDrop: |_| true;
}

impl Reason for GateRule {
    const LABEL: &'static str = "rule";
    const ALL: &'static [Self] = GateRule::ALL;
    fn code(self) -> u32 {
        self.code()
    }
    fn name(self) -> &'static str {
        self.name()
    }
    fn explanation(self) -> &'static str {
        self.explanation()
    }
    /// What clients send is their own matter.
    fn is_telling(self) -> bool {
        false
    }
}

/// One counter for each reason of `R`.
#[derive(Debug)]
pub struct ReasonCounters<R> {
    /// By number; a reason's place is its code.
    counts: Box<[AtomicU64]>,
    marker: std::marker::PhantomData<R>,
}

impl<R: Reason> Default for ReasonCounters<R> {
    fn default() -> Self {
        let length = R::ALL.iter().map(|r| place(*r)).max().map_or(0, |most| most + 1);
        ReasonCounters {
            counts: (0..length).map(|_| AtomicU64::new(0)).collect(),
            marker: std::marker::PhantomData,
        }
    }
}

fn place<R: Reason>(reason: R) -> usize {
    usize::try_from(reason.code()).unwrap_or(usize::MAX)
}

impl<R: Reason> ReasonCounters<R> {
    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one.
    pub fn add(&self, reason: R) {
        if let Some(count) = self.counts.get(place(reason)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often this one was counted.
    pub fn get(&self, reason: R) -> u64 {
        self.counts.get(place(reason)).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// All names with their counts, zeros too.
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        R::ALL.iter().map(|r| (r.name(), self.get(*r))).collect()
    }
}

/// Gives a counter family's label values and counts at each scrape.
type Read = dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync;

struct ByReason {
    name: String,
    help: String,
    label: &'static str,
    read: Box<Read>,
}

impl fmt::Debug for ByReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByReason").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector for ByReason {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(&self.name, &self.help, None, MetricType::Counter)?;
        for (reason, count) in (self.read)() {
            family
                .encode_family(&[(self.label, reason)])?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}

/// Registers `NAME_total{reason="..."}`, read by `read` at each scrape. `name` without `_total`, `help` without the
/// full stop.
pub fn register_reasons(
    registry: &mut Registry,
    name: &str,
    help: &str,
    read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
) {
    register_labelled(registry, name, help, "reason", read);
}

/// Registers a counter family with one label, whose values `read` gives at each scrape.
pub fn register_labelled(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
) {
    // A collector writes its help text as it is; the registry adds a full stop to those it writes itself.
    let help = format!("{help}.");
    let family = ByReason { name: name.to_owned(), help, label, read: Box::new(read) };
    registry.register_collector(Box::new(family));
}

/// As [`register_reasons`], for [`ReasonCounters`].
pub fn register_counters<R: Reason>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    counters: &Arc<ReasonCounters<R>>,
) {
    let counters = counters.clone();
    register_labelled(registry, name, help, R::LABEL, move || counters.snapshot());
}

/// Registers `baton_build_info`, always 1, with the program's name and version as labels.
pub fn register_build_info(registry: &mut Registry, program: &'static str, version: &'static str) {
    let info = Info::new(vec![("program", program), ("version", version)]);
    registry.register("baton_build", "What is running", info);
}

/// Microseconds as the base unit of metrics.
#[expect(clippy::cast_precision_loss, reason = "285 years are exact to the microsecond")]
pub fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

/// The registry's metrics as OpenMetrics text, see [`CONTENT_TYPE`].
pub fn encode(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing into a string fails only if a collector does; what there is until then is still of use.
    if text::encode(&mut out, registry).is_err() {
        tracing::warn!("a metric could not be encoded");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::reason::ProxyReason;

    #[test]
    fn reasons_and_build_info_come_out_as_openmetrics() {
        let mut registry = Registry::default();
        let counters = Arc::new(ReasonCounters::<ProxyReason>::new());
        register_counters(&mut registry, "baton_proxied", "Requests proxied", &counters);
        register_build_info(&mut registry, "test", "1.2.3");
        counters.add(ProxyReason::NoAgent);
        counters.add(ProxyReason::NoAgent);
        let text = encode(&registry);
        assert!(text.contains("# TYPE baton_proxied counter\n"), "{text}");
        assert!(text.contains("# HELP baton_proxied Requests proxied.\n"), "{text}");
        assert!(text.contains("baton_proxied_total{reason=\"no_agent\"} 2\n"), "{text}");
        assert!(text.contains("baton_proxied_total{reason=\"refused\"} 0\n"), "{text}");
        assert!(text.contains("baton_build_info{program=\"test\",version=\"1.2.3\"} 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
