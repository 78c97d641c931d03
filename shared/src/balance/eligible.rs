//! Whether a connection may be handed off at all, before a member of its pool is chosen, and whether a probe's may be handed to
//! the target that is probed.

use crate::reason::ProxyReason;
use core::net::IpAddr;

/// What is known of a connection that could be handed off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFacts {
    /// There is a data plane, and the request's route lets it migrate.
    pub migrates: bool,
    /// The client's address.
    pub client: IpAddr,
    /// That is an address of the intermediate's own host.
    pub own: bool,
}

/// Why its request is proxied, if it may not be handed off to anybody.
pub fn judge_client(facts: &ClientFacts) -> Result<(), ProxyReason> {
    // An address that means nothing without a link's name: the target could not answer it.
    let link_local = matches!(facts.client, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !facts.migrates {
        Err(ProxyReason::Disabled)
    } else if link_local {
        Err(ProxyReason::AddressFamily)
    } else if facts.own {
        Err(ProxyReason::LocalClient)
    } else {
        Ok(())
    }
}

/// What is known of a target that a probe's request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbedFacts {
    /// Its agent is connected and is not stopping.
    pub takes_handoffs: bool,
    /// It has a server of the VIP's family.
    pub serves_family: bool,
}

/// Why a probe's request is proxied, if its target cannot have the connection: neither health nor drain nor balance are asked.
/// `None`: there is no such target any more.
pub fn judge_probed(target: Option<ProbedFacts>) -> Result<(), ProxyReason> {
    match target {
        None => Err(ProxyReason::NoUsableTarget),
        Some(target) if !target.takes_handoffs => Err(ProxyReason::NoAgent),
        Some(target) if !target.serves_family => Err(ProxyReason::AddressFamily),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_answered_by_a_target_is_not_handed_off() {
        let judge = |migrates, client: &str, own| {
            judge_client(&ClientFacts { migrates, client: client.parse().unwrap(), own })
        };
        for client in ["192.0.2.1", "2001:db8::1", "169.254.0.1"] {
            assert_eq!(judge(true, client, false), Ok(()));
            assert_eq!(judge(true, client, true), Err(ProxyReason::LocalClient));
            assert_eq!(judge(false, client, true), Err(ProxyReason::Disabled));
        }
        assert_eq!(judge(true, "fe80::1", true), Err(ProxyReason::AddressFamily));
    }

    #[test]
    fn a_probe_is_handed_to_any_target_that_can_take_it() {
        let judge =
            |takes_handoffs, serves_family| judge_probed(Some(ProbedFacts { takes_handoffs, serves_family }));
        assert_eq!(judge(true, true), Ok(()));
        assert_eq!(judge(true, false), Err(ProxyReason::AddressFamily));
        assert_eq!(judge(false, false), Err(ProxyReason::NoAgent));
        assert_eq!(judge_probed(None), Err(ProxyReason::NoUsableTarget));
    }
}
