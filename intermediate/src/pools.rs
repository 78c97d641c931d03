//! The pools: which targets can serve the same requests, and whose turn it is.

use crate::targets::{Target, TargetId};
use baton_shared::reason::ProxyReason;
use baton_shared::route::RequestFacts;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A target's part in a pool.
#[derive(Clone, Debug)]
pub struct Member {
    /// The target.
    pub target: Arc<Target>,
    /// Its share.
    pub weight: u32,
}

/// What a pool is, as configured. Two that are equal are one pool, which goes on over a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name.
    pub name: String,
    /// Its targets and their weights.
    pub members: Vec<(TargetId, u32)>,
}

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// As configured.
    pub spec: PoolSpec,
    members: Vec<Member>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

/// What a choice may depend on.
#[derive(Clone, Copy, Debug)]
pub struct PickFacts<'a> {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port it connected to.
    pub vip: SocketAddr,
    /// What it asks for.
    pub request: RequestFacts<'a>,
}

impl Pool {
    /// With its targets, in the order of the configuration.
    pub fn new(name: &str, members: Vec<Member>) -> Self {
        let of = members.iter().map(|member| (member.target.id, member.weight)).collect();
        let spec = PoolSpec { name: name.to_owned(), members: of };
        Pool { spec, members, turn: AtomicUsize::new(0) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its targets.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether a target is one of its own.
    pub fn has(&self, target: TargetId) -> bool {
        self.members.iter().any(|member| member.target.id == target)
    }

    /// A target to migrate to: its agent is connected, and its server has an address of the VIP's family; none of
    /// `exclude`. Else why there is none.
    pub fn pick(&self, facts: &PickFacts<'_>, exclude: &[TargetId]) -> Result<TargetId, ProxyReason> {
        let suits = |t: &Target| t.spec.servers.for_vip(facts.vip).is_some() && t.is_up();
        self.next(|t| suits(t) && !exclude.contains(&t.id)).ok_or_else(|| {
            let any_up = self.members.iter().any(|member| member.target.is_up());
            if any_up { ProxyReason::AddressFamily } else { ProxyReason::NoAgent }
        })
    }

    /// A target to proxy to, connected or not; none of `exclude`.
    pub fn pick_any(&self, _facts: &PickFacts<'_>, exclude: &[TargetId]) -> Option<TargetId> {
        self.next(|t| !exclude.contains(&t.id))
    }

    fn next(&self, suits: impl Fn(&Target) -> bool) -> Option<TargetId> {
        // Turns are taken among those that suit, so that the one after a missing target gets no double share.
        let suiting = || self.members.iter().map(|member| &*member.target).filter(|t| suits(t));
        let count = suiting().count();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(count)?;
        suiting().nth(turn).map(|target| target.id)
    }
}

/// The servers of a pool in the order in which they are tried: those of `first` if it is one of the pool, then those of
/// the pool's choice, then the others'. A target of another pool is never among them.
pub fn servers<'a>(
    pool: &'a Pool,
    facts: &'a PickFacts<'a>,
    first: Option<TargetId>,
) -> impl Iterator<Item = (TargetId, SocketAddr)> + use<'a> {
    let mut first = first.filter(|target| pool.has(*target));
    let mut tried = Vec::new();
    std::iter::from_fn(move || {
        let id = first.take().or_else(|| pool.pick_any(facts, &tried))?;
        tried.push(id);
        pool.members().iter().find(|member| member.target.id == id)
    })
    .flat_map(|member| member.target.spec.servers.iter().map(|server| (member.target.id, server)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::{AgentLink, NotSent, Servers, TargetSpec, Targets};
    use baton_shared::control::Message;
    use baton_shared::route::NoHeaders;
    use baton_shared::translate::Leg;

    struct Link(bool);
    impl AgentLink for Link {
        fn send(&self, _: Message) -> Result<(), NotSent> {
            Ok(())
        }
        fn is_up(&self) -> bool {
            self.0
        }
    }

    const VIP: &str = "10.0.0.9:80";
    const VIP6: &str = "[2001:db8::9]:80";

    fn pool(all: &[(bool, &[&str])]) -> Pool {
        let spec = |(n, (_, servers)): (usize, &(bool, &[&str]))| TargetSpec {
            name: format!("target{n}"),
            servers: Servers::new(servers.iter().map(|s| s.parse().unwrap())),
            agent: "10.0.0.1:7400".parse().unwrap(),
            agent_name: format!("target{n}"),
            leg: Leg::Rewrite,
        };
        let targets = Targets::new(all.iter().enumerate().map(spec));
        for (target, (up, _)) in targets.iter().zip(all) {
            target.agent.set_link(Arc::new(Link(*up)));
        }
        Pool::new("p", targets.iter().map(|target| Member { target, weight: 1 }).collect())
    }

    fn up(up: &[bool]) -> Pool {
        let all: Vec<(bool, &[&str])> = up.iter().map(|up| (*up, &["10.0.0.1:80"][..])).collect();
        pool(&all)
    }

    fn facts(vip: &str) -> PickFacts<'static> {
        PickFacts {
            client: "10.0.0.7:1234".parse().unwrap(),
            vip: vip.parse().unwrap(),
            request: RequestFacts::new(0, "GET", "/", &NoHeaders),
        }
    }

    #[test]
    fn connected_targets_take_turns_and_others_are_passed_over() {
        let pool = up(&[true, false, true]);
        let picked: Vec<_> = (0..4).map(|_| pool.pick(&facts(VIP), &[]).unwrap().0).collect();
        assert_eq!(picked, [0, 2, 0, 2]);
        assert_eq!(pool.pick(&facts(VIP), &[TargetId(0)]), Ok(TargetId(2)));
    }

    #[test]
    fn without_a_connected_agent_nothing_is_picked_but_for_the_proxy() {
        let pool = up(&[false, false]);
        assert_eq!(pool.pick(&facts(VIP), &[]), Err(ProxyReason::NoAgent));
        let any: Vec<_> = (0..4).filter_map(|_| pool.pick_any(&facts(VIP), &[])).map(|t| t.0).collect();
        assert_eq!(any, [1, 0, 1, 0], "the failed pick took the first turn");
        assert_eq!(pool.pick_any(&facts(VIP), &[TargetId(0), TargetId(1)]), None);
    }

    #[test]
    fn a_request_goes_to_a_target_that_serves_its_family() {
        let (v4, v6) = ("10.0.0.1:80", "[2001:db8::1]:80");
        let all: [(bool, &[&str]); 3] = [(true, &[v4]), (true, &[v4, v6]), (false, &[v6])];
        let three = pool(&all);
        for _ in 0..3 {
            assert_eq!(three.pick(&facts(VIP6), &[]), Ok(TargetId(1)));
        }
        assert_eq!(pool(&all[..1]).pick(&facts(VIP6), &[]), Err(ProxyReason::AddressFamily));
        assert_eq!(pool(&all[2..]).pick(&facts(VIP6), &[]), Err(ProxyReason::NoAgent));
    }
}
