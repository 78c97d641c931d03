//! Whether a further request of a connection stays with the pool's member that has the connection. Within a pool nothing
//! is balanced anew: a connection leaves a member only that is to get no more requests, or for another one that the
//! request names.

use crate::health::{Admin, Standing};
use crate::reason::ProxyReason;

/// What is known of the member that has the connection, and of its next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderFacts {
    /// The request's pool has it.
    pub member: bool,
    /// How it stands.
    pub standing: Standing,
    /// The pool has too few healthy members.
    pub panic: bool,
    /// The request's cookie names another member, which takes requests.
    pub named_other: bool,
    /// The connection can be had from it: its agent is connected, and has not said that it cannot give it.
    pub recallable: bool,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stay {
    /// It stays.
    Stays,
    /// It goes to another member if one can have it, else it stays.
    Leaves,
    /// The same, and being proxied to one is better than staying: the operator wants the member empty.
    Drains,
    /// It must not stay: the request is for others.
    Strange,
}

/// What becomes of a connection whose next request has come.
pub fn judge_stay(facts: &HolderFacts) -> Stay {
    if !facts.member {
        return Stay::Strange;
    }
    if !facts.recallable {
        return Stay::Stays;
    }
    if !facts.standing.is_wanted() {
        return Stay::Drains;
    }
    if facts.named_other || !facts.standing.takes_requests(facts.panic) {
        return Stay::Leaves;
    }
    Stay::Stays
}

/// What is known of a further request of a connection that a target has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextFacts {
    /// Its end is known, its route lets it migrate, and has its connection followed.
    pub migrates: bool,
    /// What [`judge_stay`] says.
    pub stay: Stay,
    /// Its server is to get its head as it came.
    pub as_it_is: bool,
    /// Its method is HEAD: an agent that follows the responses must know of it before its response comes.
    pub head: bool,
    /// The client was told that bytes of it arrived which no server has: somebody must deliver them who sends them again.
    pub owes: bool,
    /// The connection's agent has said that it cannot give it back, and follows no responses.
    pub bound: bool,
    /// Its listener takes no new connections.
    pub drained: bool,
}

/// By what else a listener's requests could differ in what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlikeFacts {
    /// One route takes whatever comes, or none is there to take anything.
    pub one_way: bool,
    /// The pool's members may be named by a cookie.
    pub sticky: bool,
    /// The listener's limits let every plain head through.
    pub within_limits: bool,
    /// There is to be a record of each request.
    pub noted: bool,
}

impl NextFacts {
    /// Whether plain requests ([`crate::plain`]) that follow this one, which stays as it came, would do the same whatever they say, as
    /// long as nothing changes but them: then they need not be read.
    pub fn lets_plain_ones_pass(&self, alike: &AlikeFacts) -> bool {
        let followed = self.migrates && !self.bound && !self.owes && !self.drained;
        let stays = self.stay == Stay::Stays && self.as_it_is;
        followed && stays && alike.one_way && alike.within_limits && !alike.sticky && !alike.noted
    }

    /// Whether it is to be the connection's last: with its response the connection leaves a listener that is drained. One that
    /// cannot be had back is not told.
    pub const fn is_last(&self) -> bool {
        self.drained && !self.bound
    }

    /// Whether the member that has the connection can serve it without a handoff, as it came.
    const fn can_stay(&self) -> bool {
        self.as_it_is && !self.owes
    }

    /// The same, and a handoff would be of no use.
    const fn is_best_left(&self) -> bool {
        self.can_stay() && !self.is_last() && (!self.head || self.bound)
    }
}

/// Where a further request goes. `or_stay`: if the agent cannot give the connection back, it may as well go on as it came to the
/// member that has the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<T> {
    /// On, as it came, to the member that has the connection.
    Here,
    /// To the same member, by a handoff: its head is made anew and so has other numbers, or somebody must know of it.
    Again {
        /// See above.
        or_stay: bool,
    },
    /// To another member, with its connection.
    Other {
        /// Which.
        to: T,
        /// See above.
        or_stay: bool,
    },
    /// To a socket of the intermediate, with its connection: it is proxied or answered there.
    Front {
        /// See above.
        or_stay: bool,
    },
}

/// Where a further request goes. `pick` chooses another member of the request's pool to hand the connection to, or says why there
/// is none; it is called at most once.
pub fn judge_next<T>(facts: &NextFacts, pick: impl FnOnce() -> Result<T, ProxyReason>) -> Place<T> {
    if !facts.migrates {
        return Place::Front { or_stay: false };
    }
    let here = || {
        if facts.is_best_left() { Place::Here } else { Place::Again { or_stay: facts.can_stay() } }
    };
    if facts.stay == Stay::Stays {
        return here();
    }
    let or_stay = facts.can_stay() && facts.stay != Stay::Strange;
    match (pick(), facts.stay) {
        (Ok(to), _) => Place::Other { to, or_stay },
        // Its response is to bring a new cookie.
        (Err(ProxyReason::StickyCookie), _) => Place::Front { or_stay },
        // Nobody else has it, or could have it by a handoff only.
        (Err(ProxyReason::NoUsableTarget), Stay::Leaves | Stay::Drains) | (Err(_), Stay::Leaves) => here(),
        (Err(_), _) => Place::Front { or_stay },
    }
}

/// Whether a connection goes where its request was planned for, `again` to the member that had it, now that it can: that may be
/// long after. One that fails meanwhile refuses it, and then it is proxied; one that is drained would not.
pub const fn plan_holds(again: bool, ordered: Admin) -> bool {
    again || matches!(ordered, Admin::Ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: NextFacts = NextFacts {
        migrates: true,
        stay: Stay::Stays,
        as_it_is: true,
        head: false,
        owes: false,
        bound: false,
        drained: false,
    };

    fn next(facts: NextFacts, picked: Result<u8, ProxyReason>) -> Place<u8> {
        judge_next(&facts, || picked)
    }

    #[test]
    fn a_request_that_stays_goes_on_as_it_came_unless_its_head_is_changed_or_it_is_the_last() {
        let asked = || -> Result<u8, ProxyReason> { panic!("nobody else is asked for") };
        assert_eq!(judge_next(&PLAIN, asked), Place::Here);
        let changed = NextFacts { as_it_is: false, ..PLAIN };
        assert_eq!(judge_next(&changed, asked), Place::Again { or_stay: false });
        let last = NextFacts { drained: true, ..PLAIN };
        assert_eq!(judge_next(&last, asked), Place::Again { or_stay: true });
        assert_eq!(judge_next(&NextFacts { bound: true, ..last }, asked), Place::Here, "it cannot be had");
        let head = NextFacts { head: true, ..PLAIN };
        assert_eq!(judge_next(&head, asked), Place::Again { or_stay: true });
        assert_eq!(judge_next(&NextFacts { bound: true, ..head }, asked), Place::Here, "nobody follows it");
        let owed = NextFacts { owes: true, ..PLAIN };
        for owed in [owed, NextFacts { bound: true, ..owed }, NextFacts { head: true, ..owed }] {
            assert_eq!(judge_next(&owed, asked), Place::Again { or_stay: false });
        }
        let proxied = NextFacts { migrates: false, ..PLAIN };
        assert_eq!(judge_next(&proxied, asked), Place::Front { or_stay: false });
    }

    /// Spelled out by who is to be left and what the pool says: it must be changed here to be changed at all.
    #[test]
    fn who_must_be_left_is_left_for_the_proxy_and_who_should_be_only_for_another_member() {
        use ProxyReason::{NoAgent, NoUsableTarget, StickyCookie};
        let front = |or_stay| Place::Front { or_stay };
        let table = [
            (Stay::Leaves, Ok(7), Place::Other { to: 7, or_stay: true }),
            (Stay::Leaves, Err(StickyCookie), front(true)),
            (Stay::Leaves, Err(NoUsableTarget), Place::Here),
            (Stay::Leaves, Err(NoAgent), Place::Here),
            (Stay::Drains, Ok(7), Place::Other { to: 7, or_stay: true }),
            (Stay::Drains, Err(StickyCookie), front(true)),
            (Stay::Drains, Err(NoUsableTarget), Place::Here),
            (Stay::Drains, Err(NoAgent), front(true)),
            (Stay::Strange, Ok(7), Place::Other { to: 7, or_stay: false }),
            (Stay::Strange, Err(StickyCookie), front(false)),
            (Stay::Strange, Err(NoUsableTarget), front(false)),
            (Stay::Strange, Err(NoAgent), front(false)),
        ];
        for (stay, picked, expected) in table {
            assert_eq!(next(NextFacts { stay, ..PLAIN }, picked), expected, "{stay:?} {picked:?}");
            let changed = match next(NextFacts { stay, as_it_is: false, ..PLAIN }, picked) {
                Place::Here => panic!("its head was to be made anew"),
                Place::Again { or_stay } | Place::Other { or_stay, .. } | Place::Front { or_stay } => or_stay,
            };
            assert!(!changed, "{stay:?} {picked:?}: it cannot stay as it came");
        }
    }

    #[test]
    fn plain_requests_pass_only_where_nothing_but_themselves_could_make_a_difference() {
        let alike = AlikeFacts { one_way: true, sticky: false, within_limits: true, noted: false };
        assert!(PLAIN.lets_plain_ones_pass(&alike));
        for other in [
            AlikeFacts { one_way: false, ..alike },
            AlikeFacts { sticky: true, ..alike },
            AlikeFacts { within_limits: false, ..alike },
            AlikeFacts { noted: true, ..alike },
        ] {
            assert!(!PLAIN.lets_plain_ones_pass(&other), "{other:?}");
        }
        for other in [
            NextFacts { migrates: false, ..PLAIN },
            NextFacts { stay: Stay::Leaves, ..PLAIN },
            NextFacts { stay: Stay::Drains, ..PLAIN },
            NextFacts { stay: Stay::Strange, ..PLAIN },
            NextFacts { as_it_is: false, ..PLAIN },
            NextFacts { owes: true, ..PLAIN },
            NextFacts { bound: true, ..PLAIN },
            NextFacts { drained: true, ..PLAIN },
        ] {
            assert!(!other.lets_plain_ones_pass(&alike), "{other:?}");
        }
    }

    #[test]
    fn a_member_that_is_drained_meanwhile_gets_no_connection_that_it_did_not_have() {
        for ordered in [Admin::Ready, Admin::Draining, Admin::Down] {
            assert_eq!(plan_holds(false, ordered), ordered == Admin::Ready);
            assert!(plan_holds(true, ordered));
        }
    }

    const WELL: HolderFacts = HolderFacts {
        member: true,
        standing: Standing::Up,
        panic: false,
        named_other: false,
        recallable: true,
    };

    /// Spelled out by standing: it must be changed here to be changed at all.
    #[test]
    fn a_connection_leaves_who_takes_no_requests_and_whom_the_operator_drains_first_of_all() {
        let expected = [Stay::Stays, Stay::Stays, Stay::Leaves, Stay::Leaves, Stay::Drains, Stay::Drains];
        for (standing, expected) in Standing::ALL.into_iter().zip(expected) {
            let facts = HolderFacts { standing, ..WELL };
            assert_eq!(judge_stay(&facts), expected, "{standing:?}");
            // In a panic all that are wanted are used.
            let panic = judge_stay(&HolderFacts { panic: true, ..facts });
            assert_eq!(panic, if standing.is_wanted() { Stay::Stays } else { Stay::Drains }, "{standing:?}");
            let named = judge_stay(&HolderFacts { named_other: true, ..facts });
            assert_eq!(named, if standing.is_wanted() { Stay::Leaves } else { Stay::Drains }, "{standing:?}");
        }
    }

    #[test]
    fn what_cannot_be_had_back_stays_unless_the_request_is_for_others() {
        for standing in Standing::ALL {
            for named_other in [false, true] {
                let facts = HolderFacts { standing, named_other, recallable: false, ..WELL };
                assert_eq!(judge_stay(&facts), Stay::Stays);
                assert_eq!(judge_stay(&HolderFacts { member: false, ..facts }), Stay::Strange);
                assert_eq!(
                    judge_stay(&HolderFacts { member: false, recallable: true, ..facts }),
                    Stay::Strange
                );
            }
        }
    }
}
