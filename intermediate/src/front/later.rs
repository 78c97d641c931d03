//! Later requests of connections that targets have: routed as the site says now, and what cannot be given to a target
//! by itself comes back here.

use super::connection::{Asker, as_the_server_sees_it};
use super::{Front, Seat, Stop};
use crate::access_log::{Asked, RequestText};
use crate::handoff::{FlowNow, Next, Noted, Returned, Router};
use crate::pools::{Member, PickFacts};
use crate::ruling;
use crate::site::Decision;
use baton_shared::balance::{AlikeFacts, HolderFacts, NextFacts, Place, Stay, judge_next, judge_stay};
use baton_shared::http::{HeadLimits, RequestHead, Tunnel};
use baton_shared::plain::are_wide_enough;
use baton_shared::route::{HeadLines, KeepAlive, Mode, RequestFacts};
use baton_shared::state::later::is_followed;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

/// The site's word on later requests.
pub struct LaterRouter {
    /// The front holds the migrator, which holds this.
    front: Weak<Front>,
    stop: Stop,
}

impl LaterRouter {
    /// Connections that come back end with `stop` as those do that are accepted.
    pub fn new(front: &Arc<Front>, stop: Stop) -> Self {
        LaterRouter { front: Arc::downgrade(front), stop }
    }
}

impl Front {
    /// Whether the next request of a flow stays with the flow's target.
    fn stay(&self, flow: &FlowNow, decision: &Decision, asked: &PickFacts<'_>) -> Stay {
        // One that left the configuration is a member of the last pool of a listener that left as well.
        let target = self.targets.get(flow.target);
        let member = target.as_ref().and_then(|target| decision.pool.member(target.id));
        judge_stay(&HolderFacts {
            member: member.is_some(),
            standing: member.map(Member::standing).unwrap_or_default(),
            panic: decision.pool.in_panic(),
            named_other: decision.pool.named(asked).is_some_and(|named| named != flow.target),
            recallable: !flow.bound && target.is_some_and(|target| target.is_up()),
        })
    }
}

/// For the access log.
fn logged(flow: &FlowNow, listener: String, request: Option<(&RequestHead, &[u8])>) -> Asked {
    Asked {
        client: flow.client,
        vip: flow.vip,
        listener,
        at: SystemTime::now(),
        request: request.map(|(head, bytes)| RequestText::of_head(head, bytes)),
        request_no: flow.request_no,
    }
}

impl Router for LaterRouter {
    fn limits(&self, vip: SocketAddr) -> HeadLimits {
        let site = self.front.upgrade().and_then(|front| front.site_of(vip));
        site.map(|(site, listener)| site.limits(listener).head).unwrap_or_default()
    }

    fn route(&self, flow: &FlowNow, head: &RequestHead, bytes: &[u8]) -> Next {
        // Before any of the facts it stands for.
        let ruling = ruling::now();
        let Some(front) = self.front.upgrade() else { return Next::RETURN };
        let Some((site, listener)) = front.site_of(flow.vip) else { return Next::RETURN };
        let lines = HeadLines::new(bytes, head);
        let request = RequestFacts::of_head(listener, head, bytes, &lines);
        // A denial is an answer of ours.
        let Ok(decision) = site.decide(&request, head, bytes) else { return Next::RETURN };
        let asked = PickFacts { client: flow.client, vip: flow.vip, request };
        let unchanged = decision.headers.is_empty() && decision.tunnel == Tunnel::Unasked;
        let facts = NextFacts {
            migrates: is_followed(head)
                && decision.migration(head).is_ok()
                && decision.mode == Mode::Migrate
                && decision.keepalive == KeepAlive::Tracked,
            stay: front.stay(flow, &decision, &asked),
            as_it_is: unchanged && head.is_in_origin_form(bytes),
            head: head.is_head(bytes),
            owes: flow.owes,
            bound: flow.bound,
            drained: front.drains.listener(flow.vip).is_some(),
        };
        let place = judge_next(&facts, || decision.pool.pick(&asked, &[flow.target]));
        let noted = || {
            let asked = || logged(flow, site.listener_name(listener), Some((head, bytes)));
            front.access_log.is_on().then(|| (asked(), decision.placed()))
        };
        let asker = Asker { client: flow.client, listener };
        let to = |target, or_stay| {
            let head = as_the_server_sees_it(asker, &decision, bytes, head, facts.is_last(), None);
            Next::Move { target, head, noted: noted(), or_stay }
        };
        match place {
            Place::Here => {
                let alike = AlikeFacts {
                    one_way: site.table.is_one_way(listener),
                    sticky: decision.pool.spec.choice.sticky.is_some(),
                    within_limits: are_wide_enough(&site.limits(listener).head),
                    noted: front.access_log.is_on(),
                };
                let ruling = facts.lets_plain_ones_pass(&alike).then_some(ruling);
                Next::Stay { noted: noted(), ruling }
            }
            Place::Again { or_stay } => to(flow.target, or_stay),
            Place::Other { to: target, or_stay } => to(target, or_stay),
            Place::Front { or_stay } => Next::Return { or_stay },
        }
    }

    fn note(&self, flow: &FlowNow, request: Option<(&RequestHead, &[u8])>) -> Noted {
        let front = self.front.upgrade().filter(|front| front.access_log.is_on())?;
        let (site, listener) = front.site_of(flow.vip)?;
        let placed = request.and_then(|(head, bytes)| {
            let lines = HeadLines::new(bytes, head);
            site.decide(&RequestFacts::of_head(listener, head, bytes, &lines), head, bytes).ok()
        });
        let placed = placed.map(|decision| decision.placed()).unwrap_or_default();
        Some((logged(flow, site.listener_name(listener), request), placed))
    }

    fn seat(&self, vip: SocketAddr) -> Option<Seat> {
        self.front.upgrade()?.site_of(vip)
    }

    fn take_back(&self, returned: Returned) {
        let Some(front) = self.front.upgrade() else { return };
        let Returned { stream, client, vip, seat, bytes } = returned;
        front.begin(stream.into(), client, vip, seat, bytes, &self.stop);
    }
}
