//! What an agent's report of a flow's end means for the intermediate, where a recalled flow goes on, as its next handoff or
//! without its agent, before or after the report of its recall has come.

use crate::control::{EndReport, FlowRef};
use crate::reason::EndReason;

/// What the intermediate has of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownFlow {
    /// The handoff it is in.
    pub flow: FlowRef,
    /// How it ended is known.
    pub ended: bool,
    /// It is being taken back from its target.
    pub turning: bool,
    /// The report of that has come.
    pub recall_told: bool,
    /// The handoff it was taken back from, if the report of that has not come yet.
    pub left: Option<FlowRef>,
}

/// What a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Of a handoff that is not known, or not any more.
    Unknown,
    /// Known already.
    Again,
    /// The target has given the flow back, which goes on.
    Recalled,
    /// The flow has ended.
    Ended,
}

/// What a report is.
pub fn judge_report(report: &EndReport, known: &KnownFlow) -> Word {
    let recalled = report.reason == EndReason::Recalled;
    if recalled && known.left == Some(report.flow) {
        return Word::Recalled;
    }
    if report.flow != known.flow {
        return Word::Unknown;
    }
    if known.ended {
        return Word::Again;
    }
    match (recalled && known.turning, known.recall_told) {
        (true, true) => Word::Again,
        (true, false) => Word::Recalled,
        // Of one that an earlier process took back, nobody here goes on with.
        (false, _) => Word::Ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(generation: u32) -> FlowRef {
        FlowRef { flow_id: 7, generation }
    }

    const FOLLOWED: KnownFlow = KnownFlow {
        flow: FlowRef { flow_id: 7, generation: 2 },
        ended: false,
        turning: false,
        recall_told: false,
        left: None,
    };

    fn judge(generation: u32, reason: EndReason, known: KnownFlow) -> Word {
        judge_report(&EndReport::unreported(flow(generation), reason), &known)
    }

    #[test]
    fn the_report_of_a_recall_counts_once_whether_it_comes_before_the_next_handoff_or_after_it() {
        let turning = KnownFlow { turning: true, ..FOLLOWED };
        assert_eq!(judge(2, EndReason::Recalled, turning), Word::Recalled);
        assert_eq!(judge(2, EndReason::Recalled, KnownFlow { recall_told: true, ..turning }), Word::Again);
        let handed_on = KnownFlow { flow: flow(3), left: Some(flow(2)), ..FOLLOWED };
        assert_eq!(judge(2, EndReason::Recalled, handed_on), Word::Recalled);
        assert_eq!(judge(2, EndReason::Recalled, KnownFlow { ended: true, ..handed_on }), Word::Recalled);
        assert_eq!(judge(2, EndReason::Recalled, KnownFlow { left: None, ..handed_on }), Word::Unknown);
        assert_eq!(judge(1, EndReason::Recalled, handed_on), Word::Unknown);
    }

    #[test]
    fn any_other_report_is_the_end_of_the_handoff_it_names_and_of_no_other() {
        for reason in EndReason::ALL.iter().copied().filter(|reason| *reason != EndReason::Recalled) {
            for turning in [false, true] {
                let known = KnownFlow { turning, ..FOLLOWED };
                assert_eq!(judge(2, reason, known), Word::Ended);
                assert_eq!(judge(2, reason, KnownFlow { ended: true, ..known }), Word::Again);
                assert_eq!(judge(1, reason, known), Word::Unknown);
                assert_eq!(judge(3, reason, known), Word::Unknown);
                let handed_on = KnownFlow { flow: flow(3), left: Some(flow(2)), ..known };
                assert_eq!(judge(2, reason, handed_on), Word::Unknown);
            }
        }
        assert_eq!(judge(2, EndReason::Recalled, FOLLOWED), Word::Ended, "taken back by an earlier process");
    }
}
