//! The access log: one line for each request, and for each connection that came to none.
//!
//! A proxied request is recorded when it is over ([`AccessLog::proxied`]), what was refused or closed at once
//! ([`AccessLog::closed`]). A migrated one has two halves: what the front knows ([`AccessLog::migrated`]), and what the
//! target's agent reports when the flow has ended ([`AccessLog::ended`]); the line is written when both are there. A
//! flow with several requests has a line for each: the agent's half stands with the last, and its word on the statuses
//! with as many as it tells of.
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

use crate::ruling;
use arc_swap::ArcSwapOption;
use baton_shared::control::EndReport;
use baton_shared::reason::EndReason;
use join::Join;
use prometheus_client::registry::Registry;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use writer::{Counts, Writer};

#[derive(Debug, Default)]
struct Inner {
    join: Mutex<Join>,
    /// None: the log is switched off.
    writer: ArcSwapOption<Writer>,
    counts: Counts,
}

/// The log. Cheap to clone; switched off unless opened.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    inner: Arc<Inner>,
}

/// What is to become of the log: all that can fail was done.
#[derive(Debug)]
pub struct Prepared(Next);

#[derive(Debug)]
enum Next {
    AsItIs,
    Off,
    Anew(Writer),
}

impl Prepared {
    /// No change.
    pub const fn as_it_is() -> Self {
        Prepared(Next::AsItIs)
    }
}

impl AccessLog {
    /// None.
    pub fn off() -> Self {
        AccessLog::default()
    }

    /// Opens it.
    pub fn open(format: Format, to: Destination) -> io::Result<Self> {
        let log = AccessLog::off();
        log.change(log.prepare(Some((format, to)))?, Duration::ZERO);
        Ok(log)
    }

    /// Opens what the log is to become; nothing changes before [`AccessLog::change`].
    pub fn prepare(&self, wanted: Option<(Format, Destination)>) -> io::Result<Prepared> {
        let now = self.inner.writer.load();
        let next = match (now.as_deref(), wanted) {
            (None, None) => Next::AsItIs,
            (Some(_), None) => Next::Off,
            (Some(now), Some((format, to))) if now.is(format, &to) => Next::AsItIs,
            (_, Some((format, to))) => Next::Anew(Writer::start(format, to, self.inner.counts.clone())?),
        };
        Ok(Prepared(next))
    }

    /// Each record from here on is written as prepared, each before where it would have been; that is waited for, at
    /// most `limit`. If the log is switched off, what waits for its agent's half is written without.
    pub fn change(&self, prepared: Prepared, limit: Duration) {
        let next = match prepared.0 {
            Next::AsItIs => return,
            Next::Off => None,
            Next::Anew(writer) => Some(Arc::new(writer)),
        };
        let off = next.is_none();
        let before = self.inner.writer.swap(next);
        ruling::change();
        let Some(before) = before else { return };
        if off {
            let waiting = self.inner.join().give_up();
            waiting.into_iter().for_each(|record| before.write(record));
        }
        before.flush(limit);
    }

    /// Whether there is one; without it records need not be made.
    pub fn is_on(&self) -> bool {
        self.inner.writer.load().is_some()
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
        if let Some(writer) = &*self.inner.writer.load() {
            writer.reopen();
        }
    }

    /// The intermediate stops: what waits for its agent's half is written without, and all is on disk afterwards,
    /// unless that takes longer than `limit`.
    pub fn finish(&self, limit: Duration) {
        let Some(writer) = self.inner.writer.load_full() else { return };
        let waiting = self.inner.join().give_up();
        waiting.into_iter().for_each(|record| writer.write(record));
        writer.flush(limit);
    }

    /// Lines written and records dropped.
    pub fn counts(&self) -> (u64, u64) {
        (self.inner.counts.written.get(), self.inner.counts.dropped.get())
    }

    /// Flows that wait for their agent's half.
    pub fn waiting(&self) -> usize {
        self.inner.join().waiting()
    }

    /// Puts its counts into a registry.
    pub fn register(&self, registry: &mut Registry) {
        let counts = &self.inner.counts;
        registry.register("baton_access_log_lines", "Access log lines written", counts.written.clone());
        registry.register(
            "baton_access_log_dropped",
            "Access log records dropped because the queue was full or the file could not be written",
            counts.dropped.clone(),
        );
    }

    fn joined(&self, take: impl FnOnce(&mut Join) -> Vec<Record>) {
        if self.is_on() {
            // Written under the lock: the lines of one connection stay in their order.
            let mut join = self.inner.join();
            take(&mut join).into_iter().for_each(|record| self.write(Some(record)));
        }
    }

    fn write(&self, record: Option<Record>) {
        if let (Some(writer), Some(record)) = (&*self.inner.writer.load(), record) {
            writer.write(record);
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
