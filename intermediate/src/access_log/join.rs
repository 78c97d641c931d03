//! The two halves of a migrated request's record, whichever comes first.

use super::record::{AgentHalf, MigratedRecord, Record};
use baton_shared::control::EndReport;
use std::collections::{HashMap, VecDeque};

/// How many reports may wait for a front half: an agent's report can overtake the end of its own handoff, but not
/// by much. Reports of flows that an earlier process gave away wait here in vain.
const EARLY: usize = 4096;

/// Halves that wait for the other one.
#[derive(Debug, Default)]
pub(super) struct Join {
    waiting: HashMap<u64, MigratedRecord>,
    early: HashMap<u64, AgentHalf>,
    order: VecDeque<u64>,
}

impl Join {
    /// The front's half of a request on a flow. What is complete by it: this one, or the one before it on the same
    /// flow.
    pub(super) fn front(&mut self, record: MigratedRecord) -> Option<Record> {
        let flow = record.flow_id;
        if self.waiting.get(&flow).is_some_and(|later| later.asked.request_no > record.asked.request_no) {
            // The flow's next request was quicker than the word that this one was given away.
            return Some(Record::Migrated(record, AgentHalf::NextRequest));
        }
        if let Some(half) = self.early.remove(&flow) {
            return Some(Record::Migrated(record, half));
        }
        let before = self.waiting.insert(flow, record)?;
        Some(Record::Migrated(before, AgentHalf::NextRequest))
    }

    /// The agent's half, or word that there will be none. A report that comes again finds nobody waiting.
    pub(super) fn agent(&mut self, flow: u64, half: AgentHalf) -> Option<Record> {
        if let Some(record) = self.waiting.remove(&flow) {
            return Some(Record::Migrated(record, half));
        }
        while self.order.len() >= EARLY {
            let oldest = self.order.pop_front()?;
            self.early.remove(&oldest);
        }
        if self.early.insert(flow, half).is_none() {
            self.order.push_back(flow);
        }
        None
    }

    /// The flow is the intermediate's again: nobody will report its end.
    pub(super) fn taken_back(&mut self, flow: u64) -> Option<Record> {
        let record = self.waiting.remove(&flow)?;
        Some(Record::Migrated(record, AgentHalf::TakenBack))
    }

    /// The agent's report.
    pub(super) fn report(&mut self, report: &EndReport) -> Option<Record> {
        self.agent(report.flow.flow_id, AgentHalf::Reported(*report))
    }

    /// All that still wait for their agent's half, which will not be waited for.
    pub(super) fn give_up(&mut self) -> Vec<Record> {
        self.waiting.drain().map(|(_, record)| Record::Migrated(record, AgentHalf::Stopped)).collect()
    }

    /// How many wait for their agent's half.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
