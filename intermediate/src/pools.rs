//! The pools: which targets can serve the same requests, and which of them takes the next one. How to choose is judged
//! in [`baton_shared::balance`], who is well in [`baton_shared::health`]; here the facts are put together.

mod facts;
mod member;
mod view;

pub(crate) use facts::is_token;
pub use facts::{HashOn, PickFacts};
pub use member::{CheckOutcome, Member};
pub use view::{MemberView, PoolView};

use crate::health::HealthSpec;
use crate::targets::TargetId;
use baton_daemon::random::random;
use baton_loader::monotonic_ns;
use baton_shared::balance::{
    Candidate, DEFAULT_LOAD_PERCENT, DEFAULT_TABLE_SIZE, Method, Picker, StickyKey, cookie_value,
};
use baton_shared::health::{Signal, Standing, in_panic};
use baton_shared::reason::ProxyReason;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How a pool chooses and judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// By what rule.
    pub method: Method,
    /// What the rules by hash go by.
    pub hash: HashOn,
    /// Entries of Maglev's table.
    pub table_size: u32,
    /// How far over its share a member of a Maglev pool may be, percent.
    pub load_percent: u32,
    /// A cookie that brings a client back.
    pub sticky: Option<StickySpec>,
    /// Over which time a member that has come back gets its full share.
    pub slow_start: Duration,
    /// How members are judged.
    pub health: HealthSpec,
}

impl Default for Choice {
    fn default() -> Self {
        Choice {
            method: Method::P2c,
            hash: HashOn::Source,
            table_size: DEFAULT_TABLE_SIZE,
            load_percent: DEFAULT_LOAD_PERCENT,
            sticky: None,
            slow_start: Duration::ZERO,
            health: HealthSpec::default(),
        }
    }
}

/// `sticky`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickySpec {
    /// The cookie's name.
    pub cookie: String,
    /// What its values are made with.
    pub secret: String,
    /// A request without a good cookie is proxied, so that its response can set one.
    pub first_proxied: bool,
}

/// What a pool is, as configured. Two that are equal are one pool, which goes on over a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name.
    pub name: String,
    /// Its targets and their weights.
    pub members: Vec<(TargetId, u32)>,
    /// How it chooses among them.
    pub choice: Choice,
}

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// As configured.
    pub spec: PoolSpec,
    members: Vec<Member>,
    /// The members' sticky cookie values, in their order; empty without `sticky`.
    cookies: Vec<String>,
    /// Who chooses, and room for those it chooses among.
    picker: Mutex<(Picker, Vec<Candidate>)>,
    /// Picks that were made although too few members were healthy.
    panic_picks: AtomicU64,
}

impl Pool {
    /// With its targets, in the order of the configuration, chosen by default rules.
    pub fn new(name: &str, members: Vec<Member>) -> Self {
        Pool::choosing(name, members, Choice::default())
    }

    /// As [`Pool::new`], chosen by these rules.
    pub fn choosing(name: &str, members: Vec<Member>, choice: Choice) -> Self {
        let named: Vec<(&str, u32)> =
            members.iter().map(|m| (m.target.spec.name.as_str(), m.weight)).collect();
        let picker = Picker::new(choice.method, &named, choice.table_size, choice.load_percent);
        let cookies = choice.sticky.as_ref().map(|sticky| {
            let key = StickyKey { secret: sticky.secret.clone(), pool: name.to_owned() };
            named.iter().map(|(target, _)| cookie_value(&key, target)).collect()
        });
        let of = members.iter().map(|member| (member.target.id, member.weight)).collect();
        let spec = PoolSpec { name: name.to_owned(), members: of, choice };
        Pool {
            spec,
            members,
            cookies: cookies.unwrap_or_default(),
            picker: Mutex::new((picker, Vec::new())),
            panic_picks: AtomicU64::new(0),
        }
    }

    /// Takes over what is known of the members that were in the pool of this name before a reload: a server that is down
    /// does not become well by a change of the configuration.
    pub fn inherit(&self, before: &Pool) {
        for member in &self.members {
            if let Some(old) = before.member(member.target.id) {
                member.inherit(old);
            }
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its targets.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A target's part in it.
    pub fn member(&self, target: TargetId) -> Option<&Member> {
        self.members.iter().find(|member| member.target.id == target)
    }

    /// Whether a target is one of its own.
    pub fn has(&self, target: TargetId) -> bool {
        self.member(target).is_some()
    }

    /// Whether too few members are healthy: then all that are not drained are used.
    pub fn in_panic(&self) -> bool {
        let (mut healthy, mut wanted) = (0, 0);
        for standing in self.members.iter().map(Member::standing) {
            healthy += usize::from(standing.is_healthy());
            wanted += usize::from(standing.is_wanted());
        }
        in_panic(healthy, wanted, self.spec.choice.health.panic_percent)
    }

    /// Whether a target may be given a further request of a connection that is with it already.
    pub fn takes(&self, target: TargetId) -> bool {
        self.member(target).is_some_and(|member| member.standing().takes_requests(self.in_panic()))
    }

    /// Picks made in a panic.
    pub fn panic_picks(&self) -> u64 {
        self.panic_picks.load(Ordering::Relaxed)
    }

    /// What a request or a connection showed about a member.
    pub fn report(&self, target: TargetId, signal: Signal) {
        if let Some(member) = self.member(target) {
            member.on_signal(self, signal, monotonic_ns());
        }
    }

    /// A target to migrate to, none of `exclude`. Else why the request is proxied.
    ///
    /// Who belongs to a member by cookie or hash goes there even if its agent is gone: it is proxied. Else members with
    /// an agent that takes handoffs are preferred.
    pub fn pick(&self, facts: &PickFacts<'_>, exclude: &[TargetId]) -> Result<TargetId, ProxyReason> {
        let panic = self.in_panic();
        let takes = |m: &Member| m.standing().takes_requests(panic) && !exclude.contains(&m.target.id);
        let own = self.sticky_member(facts, takes);
        let sets = self.spec.choice.sticky.as_ref().is_some_and(|sticky| sticky.first_proxied);
        // What is no HTTP has no cookies.
        if own.is_none() && sets && !facts.request.method.is_empty() {
            return Err(ProxyReason::StickyCookie);
        }
        let picked = match own.or_else(|| self.by_hash(facts, takes)) {
            Some(n) => {
                let member = self.members.get(n).ok_or(ProxyReason::NoUsableTarget)?;
                if !member.target.takes_handoffs() {
                    return Err(ProxyReason::NoAgent);
                }
                if member.is_host_of(facts.client.ip()) {
                    return Err(ProxyReason::LocalClient);
                }
                if member.target.spec.servers.for_vip(facts.vip).is_none() {
                    return Err(ProxyReason::AddressFamily);
                }
                n
            }
            None => {
                let other = |m: &Member| !m.is_host_of(facts.client.ip());
                let serves = |m: &Member| m.target.spec.servers.for_vip(facts.vip).is_some() && other(m);
                let picked = self.by_method(|m| takes(m) && m.target.takes_handoffs() && serves(m));
                picked.ok_or_else(|| {
                    let taking = || self.members.iter().filter(|m| takes(m));
                    if taking().next().is_none() {
                        ProxyReason::NoUsableTarget
                    } else if !taking().any(other) {
                        ProxyReason::LocalClient
                    } else if taking().any(|m| m.target.takes_handoffs()) {
                        ProxyReason::AddressFamily
                    } else {
                        ProxyReason::NoAgent
                    }
                })?
            }
        };
        let member = self.members.get(picked).ok_or(ProxyReason::NoUsableTarget)?;
        member.count_pick(false);
        self.count_panic(panic);
        Ok(member.target.id)
    }

    /// A target to proxy to, whatever its agent does; none of `exclude`.
    pub fn pick_any(&self, facts: &PickFacts<'_>, exclude: &[TargetId]) -> Option<TargetId> {
        let panic = self.in_panic();
        let takes = |m: &Member| m.standing().takes_requests(panic) && !exclude.contains(&m.target.id);
        let n = self
            .sticky_member(facts, takes)
            .or_else(|| self.by_hash(facts, takes))
            .or_else(|| self.by_method(takes))?;
        let member = self.members.get(n)?;
        member.count_pick(true);
        self.count_panic(panic);
        Some(member.target.id)
    }

    /// The name and value of the cookie that a proxied response is to set, if the request did not bring it.
    pub fn cookie_to_set(&self, facts: &PickFacts<'_>, target: TargetId) -> Option<(&str, &str)> {
        let sticky = self.spec.choice.sticky.as_ref()?;
        let n = self.members.iter().position(|member| member.target.id == target)?;
        let value = self.cookies.get(n)?;
        let brought = facts.cookie_is(&sticky.cookie, value);
        (!brought).then_some((sticky.cookie.as_str(), value.as_str()))
    }

    /// A member's cookie value.
    pub(crate) fn cookie_of(&self, target: TargetId) -> Option<&str> {
        let n = self.members.iter().position(|member| member.target.id == target)?;
        self.cookies.get(n).map(String::as_str)
    }

    /// The member that a request's cookie names, if it takes requests.
    pub fn named(&self, facts: &PickFacts<'_>) -> Option<TargetId> {
        // Without one nothing is looked for.
        self.spec.choice.sticky.as_ref()?;
        let panic = self.in_panic();
        let n = self.sticky_member(facts, |member| member.standing().takes_requests(panic))?;
        self.members.get(n).map(|member| member.target.id)
    }

    fn sticky_member(&self, facts: &PickFacts<'_>, takes: impl Fn(&Member) -> bool) -> Option<usize> {
        let sticky = self.spec.choice.sticky.as_ref()?;
        let own = |value: &String| facts.cookie_is(&sticky.cookie, value);
        let n = self.cookies.iter().position(own)?;
        self.members.get(n).filter(|member| takes(member)).map(|_| n)
    }

    fn by_hash(&self, facts: &PickFacts<'_>, takes: impl Fn(&Member) -> bool) -> Option<usize> {
        if !self.spec.choice.method.is_by_hash() {
            return None;
        }
        let key = self.spec.choice.hash.key(facts)?;
        self.choose(Some(key), takes)
    }

    fn by_method(&self, takes: impl Fn(&Member) -> bool) -> Option<usize> {
        self.choose(None, takes)
    }

    fn choose(&self, key: Option<u64>, takes: impl Fn(&Member) -> bool) -> Option<usize> {
        let now = monotonic_ns();
        let mut choosing = self.picker.lock().unwrap_or_else(PoisonError::into_inner);
        let (picker, candidates) = &mut *choosing;
        candidates.clear();
        candidates.extend(self.members.iter().map(|m| m.candidate(&self.spec.choice, takes(m), now)));
        picker.pick(candidates, key, random())
    }

    fn count_panic(&self, panic: bool) {
        if panic {
            self.panic_picks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The members that stand so.
    pub fn count(&self, standing: Standing) -> usize {
        self.members.iter().filter(|member| member.standing() == standing).count()
    }
}

/// The servers of a pool in the order in which they are tried: that of `first` if it is one of the pool and takes
/// requests, then that of the pool's choice, then the others. A target of another pool is never among them.
///
/// A target with an address of each family is one server: it is tried at that of the VIP's family, where it gets migrated
/// connections as well, and at the other one only after all servers of the pool.
pub fn servers<'a>(
    pool: &'a Pool,
    facts: &'a PickFacts<'a>,
    first: Option<TargetId>,
) -> impl Iterator<Item = (TargetId, SocketAddr)> + use<'a> {
    let mut first = first.filter(|target| pool.takes(*target));
    let (mut tried, mut others) = (Vec::new(), VecDeque::new());
    std::iter::from_fn(move || {
        let Some(id) = first.take().or_else(|| pool.pick_any(facts, &tried)) else {
            return others.pop_front();
        };
        tried.push(id);
        let (server, other) = pool.member(id)?.target.spec.servers.towards(facts.vip)?;
        others.extend(other.map(|other| (id, other)));
        Some((id, server))
    })
}

/// The first of these servers, and so many further ones as are tried if one cannot be reached.
pub(crate) fn tries<T>(servers: impl Iterator<Item = T>, retries: u32) -> impl Iterator<Item = T> {
    servers.take(usize::try_from(retries).unwrap_or(usize::MAX).saturating_add(1))
}

#[cfg(test)]
mod tests;
