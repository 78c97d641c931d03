//! Later requests of connections that targets have: routed as the site says now, and what cannot be given to a target
//! by itself comes back here.

use super::connection::{Asker, as_the_server_sees_it};
use super::{Front, Stop};
use crate::access_log::{Asked, RequestText};
use crate::handoff::{FlowNow, Next, Returned, Router};
use baton_shared::http::{HeadLimits, RequestHead, Tunnel};
use baton_shared::route::{HeadLines, KeepAlive, Mode, RequestFacts};
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

impl Router for LaterRouter {
    fn limits(&self) -> HeadLimits {
        self.front.upgrade().map(|front| front.site.load().limits.head).unwrap_or_default()
    }

    fn route(&self, flow: &FlowNow, head: &RequestHead, bytes: &[u8]) -> Next {
        let Some(front) = self.front.upgrade() else { return Next::Return };
        let site = front.site.load();
        let Some((listener, _)) = site.listener(flow.vip) else { return Next::Return };
        // A denial is an answer of ours.
        let Ok(decision) = site.decide(listener, head, bytes) else { return Next::Return };
        if decision.mode != Mode::Migrate || decision.keepalive != KeepAlive::Tracked {
            return Next::Return;
        }
        // Within one pool nothing is balanced anew: the connection is where it is best off.
        let has_it = front.targets.get(flow.target).is_some_and(|target| !target.is_removed());
        let has_it = has_it && decision.pool.has(flow.target);
        let form = bytes.get(head.target.start);
        let as_it_is = decision.headers.is_empty() && decision.tunnel == Tunnel::Unasked;
        let noted = front.access_log.is_on().then(|| {
            let asked = Asked {
                client: flow.client,
                vip: flow.vip,
                listener: site.listener_name(listener),
                at: SystemTime::now(),
                request: Some(RequestText::of_head(head, bytes)),
                request_no: flow.request_no,
            };
            (asked, decision.placed())
        });
        if has_it && as_it_is && matches!(form, Some(b'/' | b'*')) {
            return Next::Stay { noted };
        }
        // Its head is made anew, and so has other numbers: that takes a handoff, if only to the same target.
        let asker = Asker { client: flow.client, listener };
        let fed = as_the_server_sees_it(asker, &decision, bytes, head, false);
        if has_it {
            return Next::Move { target: flow.target, head: fed, noted };
        }
        let lines = HeadLines::new(bytes, head);
        let request = RequestFacts::of_head(listener, head, bytes, &lines);
        match front.pick(&decision, flow.client, flow.vip, request) {
            Ok(target) => Next::Move { target, head: fed, noted },
            Err(_) => Next::Return,
        }
    }

    fn take_back(&self, returned: Returned) {
        let Some(front) = self.front.upgrade() else { return };
        let Returned { stream, client, vip, bytes } = returned;
        front.begin(stream, client, vip, bytes, &self.stop);
    }
}
