//! Recalled flows that are not in the table any more, whose agent's report of the recall is still on its way: it comes
//! behind the agent's answer, and the answer's task may be quicker.

use crate::access_log::AccessLog;
use crate::targets::TargetId;
use baton_shared::control::{EndReport, FlowRef};
use baton_shared::reason::EndReason;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a report is waited for: agents repeat theirs after a reconnection.
const PATIENCE: Duration = Duration::from_secs(10);

/// The handoff a flow was taken back from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) flow: FlowRef,
    pub(super) client: SocketAddr,
    pub(super) target: Option<TargetId>,
    /// The connection has a socket here.
    pub(super) given_back: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct LeftFlows {
    by_id: HashMap<u64, Left>,
    /// In the order they came.
    due: VecDeque<(Instant, u64)>,
}

impl LeftFlows {
    pub(super) fn keep(&mut self, left: Left, now: Instant) {
        self.due.push_back((now + PATIENCE, left.flow.flow_id));
        self.by_id.insert(left.flow.flow_id, left);
    }

    /// The one whose recall is reported.
    pub(super) fn take(&mut self, report: &EndReport) -> Option<Left> {
        let id = report.flow.flow_id;
        let is_its = |left: &Left| left.flow == report.flow && report.reason == EndReason::Recalled;
        self.by_id.get(&id).filter(|left| is_its(left))?;
        self.by_id.remove(&id)
    }

    /// Those that were waited for long enough have their lines without.
    pub(super) fn sweep(&mut self, now: Instant, log: &AccessLog) {
        while let Some((_, id)) = self.due.pop_front_if(|(due, _)| *due <= now) {
            match self.by_id.remove(&id) {
                Some(left) if left.given_back => log.taken_back(id),
                Some(_) => log.unreported(id, EndReason::Recalled),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(flow_id: u64, given_back: bool) -> Left {
        let flow = FlowRef { flow_id, generation: 3 };
        Left { flow, client: "192.0.2.1:1000".parse().unwrap(), target: None, given_back }
    }

    #[test]
    fn a_recall_s_report_finds_its_flow_once_and_no_other_report_does() {
        let mut all = LeftFlows::default();
        let now = Instant::now();
        all.keep(left(7, true), now);
        let report = |generation, reason| EndReport::unreported(FlowRef { flow_id: 7, generation }, reason);
        assert!(all.take(&report(3, EndReason::Finished)).is_none());
        assert!(all.take(&report(2, EndReason::Recalled)).is_none());
        assert_eq!(all.take(&report(3, EndReason::Recalled)).map(|left| left.flow.generation), Some(3));
        assert!(all.take(&report(3, EndReason::Recalled)).is_none());
        all.sweep(now + PATIENCE, &AccessLog::off());
        assert!(all.due.is_empty());
    }

    #[test]
    fn one_that_is_never_reported_is_let_go() {
        let mut all = LeftFlows::default();
        let now = Instant::now();
        all.keep(left(7, true), now);
        all.keep(left(8, false), now);
        all.sweep(now, &AccessLog::off());
        assert_eq!(all.by_id.len(), 2);
        all.sweep(now + PATIENCE, &AccessLog::off());
        assert!(all.by_id.is_empty() && all.due.is_empty());
    }
}
