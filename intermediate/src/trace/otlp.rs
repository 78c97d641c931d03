//! Spans to a collector: OTLP over HTTP, as protocol buffers
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>). A thread of its own: nothing else waits for it.

use super::span::AttributeValue;
use super::{Span, count};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::mpsc;

/// Spans in one message, at most.
const BATCH: usize = 512;
/// How long the first of them waits for others.
const GATHER: Duration = Duration::from_millis(500);
/// How long a collector may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends what comes to the collector at `endpoint`, as this node's.
pub(super) fn start(endpoint: &str, node: &str, spans: mpsc::Receiver<Span>) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("traces cannot be sent to {endpoint}: {e}");
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
    let exporter = {
        let _entered = runtime.enter();
        let client = opentelemetry_http::hyper::HyperClient::with_default_connector(TIMEOUT, None);
        SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .build()
            .map_err(|e| failed(&e))?
    };
    let resource = Resource::builder_empty()
        .with_service_name("baton-intermediate")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
        .build();
    let thread = std::thread::Builder::new().name("traces".to_owned());
    let work = move || runtime.block_on(export(exporter, resource, spans));
    thread.spawn(work).map(drop).map_err(|e| format!("no thread for traces: {e}"))
}

async fn export(mut exporter: SpanExporter, resource: Resource, mut spans: mpsc::Receiver<Span>) {
    exporter.set_resource(&resource);
    let mut down = false;
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = spans.recv().await {
        batch.push(first);
        let more = async {
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                if spans.recv_many(&mut batch, room).await == 0 {
                    break;
                }
            }
        };
        // What has come by then is enough.
        let _ = tokio::time::timeout(GATHER, more).await;
        let spans_sent = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        match exporter.export(batch.drain(..).map(data).collect()).await {
            Ok(()) => {
                count("sent", spans_sent);
                down = false;
            }
            Err(e) => {
                count("failed", spans_sent);
                // Once for each time that it is away.
                if !std::mem::replace(&mut down, true) {
                    tracing::warn!("the collector of traces takes none, they are dropped: {e}");
                }
            }
        }
    }
}

/// A span as the collector's protocol has it.
fn data(span: Span) -> SpanData {
    let attribute = |(name, value)| match value {
        AttributeValue::Text(text) => KeyValue::new(name, text),
        AttributeValue::Number(number) => KeyValue::new(name, Value::I64(number)),
    };
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(span.trace),
            SpanId::from(span.id),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: span.parent_is_remote,
        span_kind: if span.server { SpanKind::Server } else { SpanKind::Internal },
        name: span.name.into(),
        start_time: span.start,
        end_time: span.end,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if span.failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder("baton").build(),
    }
}
