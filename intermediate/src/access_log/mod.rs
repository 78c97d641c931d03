//! The access log: one line for each request, and for each connection that came to none.
//!
//! A proxied request is recorded when it is over ([`AccessLog::proxied`]), what was refused or closed at once
//! ([`AccessLog::closed`]). A migrated one has two halves: what the front knows ([`AccessLog::migrated`]), and what the
//! target's agent reports when the flow has ended ([`AccessLog::ended`]); the line is written when both are there. A
//! flow with several requests has a line for each: a later request's front half completes the one before, and the
//! agent's half stands with the last.
//!
//! Nothing here waits: records are handed to a thread over a bounded queue, and dropped, and counted, if it is full.

mod format;
mod join;
mod record;
mod writer;

pub use format::Format;
pub use record::{
    AgentHalf, Asked, ClosedRecord, MigratedRecord, Placed, ProxiedRecord, Record, RequestText,
};
pub use writer::Destination;

use baton_shared::control::EndReport;
use baton_shared::reason::EndReason;
use join::Join;
use prometheus_client::registry::Registry;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use writer::{Counts, Writer};

#[derive(Debug)]
struct Inner {
    join: Mutex<Join>,
    writer: Writer,
    counts: Counts,
}

/// The log. Cheap to clone; switched off unless opened.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    inner: Option<Arc<Inner>>,
}

impl AccessLog {
    /// None.
    pub const fn off() -> Self {
        AccessLog { inner: None }
    }

    /// Opens it.
    pub fn open(format: Format, to: Destination) -> io::Result<Self> {
        let counts = Counts::default();
        let writer = Writer::start(format, to, counts.clone())?;
        Ok(AccessLog { inner: Some(Arc::new(Inner { join: Mutex::default(), writer, counts })) })
    }

    /// Whether there is one; without it records need not be made.
    pub fn is_on(&self) -> bool {
        self.inner.is_some()
    }

    /// A proxied request is over.
    pub fn proxied(&self, record: ProxiedRecord) {
        self.write(Some(Record::Proxied(record)));
    }

    /// A connection was closed, or a request answered by the intermediate itself.
    pub fn closed(&self, record: ClosedRecord) {
        self.write(Some(Record::Closed(record)));
    }

    /// A request went to a target with its connection, or, on a connection given away, to the target that has it.
    pub fn migrated(&self, record: MigratedRecord) {
        self.joined(|join| join.front(record));
    }

    /// An agent reports a flow's end; repeated reports are harmless.
    pub fn ended(&self, report: &EndReport) {
        self.joined(|join| join.report(report));
    }

    /// A flow's connection came back to the intermediate. Without effect on one that nobody has recorded.
    pub fn taken_back(&self, flow_id: u64) {
        self.joined(|join| join.taken_back(flow_id));
    }

    /// A flow was given up whose end no agent will report.
    pub fn unreported(&self, flow_id: u64, reason: EndReason) {
        self.joined(|join| join.agent(flow_id, AgentHalf::Unreported(reason)));
    }

    /// Closes the file and opens it anew under its name, for rotation.
    pub fn reopen(&self) {
        if let Some(inner) = &self.inner {
            inner.writer.reopen();
        }
    }

    /// The intermediate stops: what waits for its agent's half is written without, and all is on disk afterwards,
    /// unless that takes longer than `limit`.
    pub fn finish(&self, limit: Duration) {
        let Some(inner) = &self.inner else { return };
        for record in inner.join().give_up() {
            inner.writer.write(record);
        }
        inner.writer.flush(limit);
    }

    /// Lines written and records dropped.
    pub fn counts(&self) -> (u64, u64) {
        let counts = self.inner.as_ref().map(|inner| &inner.counts);
        counts.map_or((0, 0), |counts| (counts.written.get(), counts.dropped.get()))
    }

    /// Front halves that wait for their agent's.
    pub fn waiting(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.join().waiting())
    }

    /// Puts its counts into a registry, if there is a log.
    pub fn register(&self, registry: &mut Registry) {
        let Some(counts) = self.inner.as_ref().map(|inner| &inner.counts) else { return };
        registry.register("baton_access_log_lines", "Access log lines written", counts.written.clone());
        registry.register(
            "baton_access_log_dropped",
            "Access log records dropped because the queue was full or the file could not be written",
            counts.dropped.clone(),
        );
    }

    fn joined(&self, take: impl FnOnce(&mut Join) -> Option<Record>) {
        let record = self.inner.as_ref().and_then(|inner| take(&mut inner.join()));
        self.write(record);
    }

    fn write(&self, record: Option<Record>) {
        if let (Some(inner), Some(record)) = (&self.inner, record) {
            inner.writer.write(record);
        }
    }
}

impl Inner {
    fn join(&self) -> MutexGuard<'_, Join> {
        self.join.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
