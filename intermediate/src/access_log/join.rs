//! The two halves of a migrated request's record, whichever comes first.

use super::record::{AgentHalf, MigratedRecord, Record};
use baton_shared::control::EndReport;
use baton_shared::http::KEPT_STATUSES;
use baton_shared::reason::EndReason;
use std::collections::{HashMap, VecDeque};

/// How many reports may wait for a front half: an agent's report can overtake the end of its own handoff, but not
/// by much. Reports of flows that an earlier process gave away wait here in vain.
const EARLY: usize = 4096;
/// How many requests may wait, beside the last one of each flow, for the word on their statuses.
const BESIDE: usize = 16_384;
/// The same of one flow, with the last one: no agent tells of more.
const OF_ONE_FLOW: usize = KEPT_STATUSES as usize;

/// Halves that wait for the other one.
#[derive(Debug, Default)]
pub(super) struct Join {
    /// By flow, the requests since its last handoff that wait, in their order.
    waiting: HashMap<u64, VecDeque<MigratedRecord>>,
    /// How many of them are not the last of their flow.
    beside: usize,
    early: HashMap<u64, AgentHalf>,
    order: VecDeque<u64>,
}

/// The records of one flow's requests since a handoff: the agent's half stands with the last one, its word on statuses
/// with each.
fn complete(records: VecDeque<MigratedRecord>, half: AgentHalf) -> Vec<Record> {
    let last = records.len().saturating_sub(1);
    let record = |(n, record): (usize, MigratedRecord)| {
        let status = match half {
            AgentHalf::Reported(report) if report.flow == record.flow => {
                report.statuses.of(record.since_handoff)
            }
            _ => None,
        };
        let record = MigratedRecord { status, ..record };
        Record::Migrated(Box::new(record), if n == last { half } else { AgentHalf::NextRequest })
    };
    records.into_iter().enumerate().map(record).collect()
}

impl Join {
    fn take(&mut self, flow: u64) -> Option<VecDeque<MigratedRecord>> {
        let records = self.waiting.remove(&flow)?;
        self.beside = self.beside.saturating_sub(records.len().saturating_sub(1));
        Some(records)
    }

    /// The half that came before the front's: not the report of another handoff.
    fn take_early(&mut self, record: &MigratedRecord) -> Option<AgentHalf> {
        let of_another = |half: &AgentHalf| matches!(half, AgentHalf::Reported(r) if r.flow != record.flow);
        let id = record.flow.flow_id;
        self.early.get(&id).filter(|half| !of_another(half))?;
        self.early.remove(&id)
    }

    /// The front's half of a request on a flow. What is complete by it.
    pub(super) fn front(&mut self, record: MigratedRecord) -> Vec<Record> {
        let flow = record.flow.flow_id;
        if let Some(half) = self.take_early(&record) {
            let missed = self.take(flow).unwrap_or_default();
            let mut done = complete(missed, AgentHalf::NextRequest);
            done.extend(complete(VecDeque::from([record]), half));
            return done;
        }
        let handoff = record.flow;
        let mut records = self.take(flow).unwrap_or_default();
        // What waits for the report of a handoff before has missed it.
        let before = records.front().is_some_and(|first| first.flow != handoff);
        let mut done = if before {
            let missed = std::mem::take(&mut records);
            complete(missed, AgentHalf::NextRequest)
        } else {
            Vec::new()
        };
        // The flow's next request may be quicker than the word that this one was given away.
        let place = records.partition_point(|other| other.asked.request_no < record.asked.request_no);
        records.insert(place, record);
        while records.len() > OF_ONE_FLOW || (records.len() > 1 && self.beside + records.len() > BESIDE) {
            done.extend(
                records.pop_front().map(|first| Record::Migrated(Box::new(first), AgentHalf::NextRequest)),
            );
        }
        self.beside += records.len().saturating_sub(1);
        self.waiting.insert(flow, records);
        done
    }

    /// The agent's half, or word that there will be none. A report that comes again finds nobody waiting.
    pub(super) fn agent(&mut self, flow: u64, half: AgentHalf) -> Vec<Record> {
        if let Some(records) = self.take(flow) {
            return complete(records, half);
        }
        while self.order.len() >= EARLY {
            let Some(oldest) = self.order.pop_front() else { break };
            self.early.remove(&oldest);
        }
        if self.early.insert(flow, half).is_none() {
            self.order.push_back(flow);
        }
        Vec::new()
    }

    /// The flow is the intermediate's again: nobody will report its end.
    pub(super) fn taken_back(&mut self, flow: u64) -> Vec<Record> {
        self.take(flow).map(|records| complete(records, AgentHalf::TakenBack)).unwrap_or_default()
    }

    /// The agent's report. That of a recall is the half of requests before it alone: none that comes later waits for it.
    pub(super) fn report(&mut self, report: &EndReport) -> Vec<Record> {
        let waiting = self.waiting.get(&report.flow.flow_id).and_then(VecDeque::front);
        let of_these = waiting.is_some_and(|first| first.flow == report.flow);
        if report.reason == EndReason::Recalled && !of_these {
            return Vec::new();
        }
        self.agent(report.flow.flow_id, AgentHalf::Reported(*report))
    }

    /// All that still wait for their agent's half, which will not be waited for.
    pub(super) fn give_up(&mut self) -> Vec<Record> {
        self.beside = 0;
        self.waiting.drain().flat_map(|(_, records)| complete(records, AgentHalf::Stopped)).collect()
    }

    /// How many flows wait for their agent's half.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
