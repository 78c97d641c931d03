//! What a probe along the real path says of its target. It goes through four hosts' hands, and only some of what can go
//! wrong there speaks against the one that is probed.

use super::CheckResult;
use crate::control::ProbeReport;
use crate::probe::{Noted, Verdict, judge};
use crate::reason::{CloseReason, ProxyReason, Refusal};

/// What the probe tells, and why it did not pass. It passes if its connection migrated and the answer was complete, 2xx or
/// 3xx. It fails if the target's agent refused it, lost it or did not answer at all, or if what came back was no such answer. It tells nothing
/// where it did not come as far as that: its request was not seen (the asking host or its way to the VIP), the agent of
/// the target was not there (which is an [aspect of its own](super::Agent)), or this node did not let the connection go.
pub fn judge_probe(report: Option<&ProbeReport>, noted: Noted<'_>) -> (CheckResult, Option<String>) {
    let (verdict, why) = judge(report, noted);
    let result = match verdict {
        Verdict::Well => CheckResult::Passed,
        Verdict::Status | Verdict::Unanswered | Verdict::Begun | Verdict::Silent => CheckResult::Failed,
        Verdict::NotMigrated if speaks_against(noted) => CheckResult::Failed,
        Verdict::NotMigrated | Verdict::Unreported => CheckResult::Untold,
    };
    (result, why)
}

/// Whether what became of a request that did not migrate lies with the target.
fn speaks_against(noted: Noted<'_>) -> bool {
    let Noted::Stayed { reason: Some(reason), refusal } = noted else { return false };
    let refused = reason == ProxyReason::Refused.name() && refusal != Some(Refusal::Draining.name());
    refused || [CloseReason::Unresolved, CloseReason::RestoreFailed].iter().any(|lost| lost.name() == reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tests::report;

    #[test]
    fn only_what_came_to_the_target_speaks_against_it() {
        use Noted::{Migrated, Unanswered, Unseen};
        let not = |reason, refusal| Noted::Stayed { reason: Some(reason), refusal };
        let well = report(Some(200), None);
        use CheckResult::{Failed, Passed, Untold};
        for (report, noted, want) in [
            (Some(well.clone()), Migrated, Passed),
            (Some(report(Some(302), None)), Migrated, Passed),
            (Some(report(Some(500), None)), Migrated, Failed),
            (Some(report(Some(200), Some("cut off"))), Migrated, Failed),
            (Some(report(None, Some("no complete answer"))), Migrated, Failed),
            // It was served all the same, by being proxied or by another target.
            (Some(well.clone()), not("refused", Some("server_refused")), Failed),
            (Some(well.clone()), not("refused", Some("adopt_unavailable")), Failed),
            (Some(report(None, Some("reset"))), not("unresolved", None), Failed),
            // It is silent, or its server is: that it gave up comes later than a check waits.
            (Some(report(None, Some("no complete answer"))), Unanswered, Failed),
            // The agent's own affair, or this node's.
            (Some(well.clone()), not("refused", Some("draining")), Untold),
            (Some(well.clone()), not("no_agent", None), Untold),
            (Some(well.clone()), not("table_full", None), Untold),
            (Some(report(Some(404), None)), not("no_route", None), Untold),
            // The asking host's, or its way's.
            (Some(report(None, Some("no route to host"))), Unseen, Untold),
            (Some(well), Unseen, Untold),
            (None, Migrated, Untold),
            (None, Unanswered, Untold),
            (None, Unseen, Untold),
        ] {
            let (told, why) = judge_probe(report.as_ref(), noted);
            assert_eq!((told, why.is_none()), (want, want == Passed), "{report:?} {noted:?}: {why:?}");
        }
    }
}
