//! Whether a further request of a connection stays with the pool's member that has the connection. Within a pool nothing
//! is balanced anew: a connection leaves a member only that is to get no more requests, or for another one that the
//! request names.

use crate::health::Standing;

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

#[cfg(test)]
mod tests {
    use super::*;

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
