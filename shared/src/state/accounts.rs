//! A flow's hold accounts under watch: what went into the hold queue and what came back from it
//! (`FlowRecord::diverted` and `FlowRecord::released`, payload bytes).
//!
//! As long as they differ the program lets new data queue behind what is held, so accounts that differ for ever would lead a
//! flow through user space for ever. A packet that was lost on its way through the queue leaves them so.

use core::time::Duration;

/// Accounts that differ, and have not moved for this long though nothing is held, are those of a lost packet.
pub const STALLED: Duration = Duration::from_millis(200);

/// What is known of a flow's accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountFacts {
    /// What was diverted and what came back, now.
    pub accounts: (u32, u32),
    /// The same when they were seen to move last.
    pub before: (u32, u32),
    /// How long ago that was.
    pub still_for: Duration,
    /// Something of the flow is held: for its turn, for its server's window, or until it has an owner again.
    pub holding: bool,
    /// They were to be watched until now at least.
    pub watched_enough: bool,
    /// The flow has ended: nothing more is diverted.
    pub ended: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounts {
    /// They are settled, and need no watch any more.
    Over,
    /// They are settled for now.
    Settled,
    /// They differ and move, or what makes them differ is held.
    Moving,
    /// They differ and stand still, not for long enough.
    Still,
    /// What makes them differ will not come back: the account of what came back is to be set to the other.
    Lost,
}

/// Judges accounts under watch.
pub fn judge_accounts(facts: &AccountFacts) -> Accounts {
    let (diverted, released) = facts.accounts;
    if diverted == released {
        return if facts.watched_enough || facts.ended { Accounts::Over } else { Accounts::Settled };
    }
    if facts.holding || facts.accounts != facts.before {
        return Accounts::Moving;
    }
    if facts.still_for >= STALLED { Accounts::Lost } else { Accounts::Still }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APART: AccountFacts = AccountFacts {
        accounts: (7, 5),
        before: (7, 5),
        still_for: STALLED,
        holding: false,
        watched_enough: true,
        ended: false,
    };

    #[test]
    fn only_what_stands_still_and_is_not_held_counts_as_lost() {
        assert_eq!(judge_accounts(&APART), Accounts::Lost);
        assert_eq!(judge_accounts(&AccountFacts { ended: true, ..APART }), Accounts::Lost);
        let younger = STALLED - Duration::from_nanos(1);
        assert_eq!(judge_accounts(&AccountFacts { still_for: younger, ..APART }), Accounts::Still);
        assert_eq!(judge_accounts(&AccountFacts { holding: true, ..APART }), Accounts::Moving);
        assert_eq!(judge_accounts(&AccountFacts { before: (7, 4), ..APART }), Accounts::Moving);
    }

    #[test]
    fn settled_accounts_are_watched_for_their_time_or_to_the_flows_end() {
        let settled = AccountFacts { accounts: (7, 7), ..APART };
        assert_eq!(judge_accounts(&settled), Accounts::Over);
        let early = AccountFacts { watched_enough: false, ..settled };
        assert_eq!(judge_accounts(&early), Accounts::Settled);
        assert_eq!(judge_accounts(&AccountFacts { holding: true, ..early }), Accounts::Settled);
        assert_eq!(judge_accounts(&AccountFacts { ended: true, ..early }), Accounts::Over);
    }
}
