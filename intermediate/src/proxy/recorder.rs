//! One proxied request's line in the access log and its spans: filled in on its way, written when it is over, or its response
//! has begun.

use super::bodies::Progress;
use super::paced::TooSlow;
use crate::access_log::{AccessLog, Asked, Placed, ProxiedRecord};
use crate::handoff::Subject;
use crate::trace;
use baton_shared::http::GateRule;
use baton_shared::reason::{CloseReason, ProxyReason, Refusal};
use baton_shared::termination::ProxiedEnd;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

#[derive(Debug)]
struct Open {
    log: AccessLog,
    record: ProxiedRecord,
    began: Instant,
    progress: Option<Progress>,
    /// Of the client and the response.
    too_slow: TooSlow,
}

/// What its spans are made of.
#[derive(Debug)]
struct Traced {
    subject: Subject,
    why: (ProxyReason, Option<Refusal>),
    routed: std::time::Instant,
}

/// The record in the making; nothing if there is no log. Dropped without a word of how the request ended, the client
/// was gone: whoever serves it was not let come to its end.
#[derive(Debug)]
pub(crate) struct Recorder {
    open: Option<Box<Open>>,
    /// Since when, and where the duration goes.
    timer: Option<(Instant, Histogram)>,
    traced: Option<Box<Traced>>,
}

impl Recorder {
    /// Of nothing.
    pub(crate) const fn none() -> Self {
        Recorder { open: None, timer: None, traced: None }
    }

    /// Of a request whose head is complete. `asked` is called only if there is a log.
    pub(crate) fn begin(
        log: &AccessLog,
        asked: impl FnOnce() -> Asked,
        placed: impl FnOnce() -> Placed,
        reason: ProxyReason,
        refusal: Option<Refusal>,
        too_slow: TooSlow,
    ) -> Self {
        let open = log.is_on().then(|| {
            let record = ProxiedRecord {
                asked: asked(),
                placed: placed(),
                flow_id: None,
                reason,
                refusal,
                status: None,
                request_bytes: 0,
                bytes: 0,
                connect: None,
                first_byte: None,
                total: std::time::Duration::ZERO,
                end: ProxiedEnd::ClientGone,
                rule: None,
            };
            Box::new(Open { log: log.clone(), record, began: Instant::now(), progress: None, too_slow })
        });
        Recorder { open, timer: None, traced: None }
    }

    /// The request's duration, from now to its end, goes there as well, be there a log or not.
    pub(super) fn timed(mut self, durations: Histogram) -> Self {
        self.timer = Some((Instant::now(), durations));
        self
    }

    /// It was routed then; its spans are wanted, whatever becomes of it.
    pub(super) fn traced(
        &mut self,
        subject: Subject,
        why: (ProxyReason, Option<Refusal>),
        routed: std::time::Instant,
    ) {
        self.traced = Some(Box::new(Traced { subject, why, routed }));
    }

    /// The client gets this status; none if it got no answer.
    fn tell(&mut self, status: Option<u16>) {
        if let Some(traced) = self.traced.take() {
            trace::proxied(&traced.subject, traced.why, status, traced.routed.elapsed());
        }
    }

    /// It has become a tunnel, whose end says nothing of a request.
    pub(super) fn untimed(&mut self) {
        self.timer = None;
    }

    /// There is a connection to this target.
    pub(crate) fn on_connected(&mut self, target: impl FnOnce() -> String) {
        if let Some(open) = &mut self.open {
            open.record.placed.target = target();
            open.record.connect = Some(open.began.elapsed());
        }
    }

    /// The request's body is counted here.
    pub(super) fn set_progress(&mut self, progress: &Progress) {
        if let Some(open) = &mut self.open {
            open.progress = Some(progress.clone());
        }
    }

    /// The server's response has this status.
    pub(crate) fn on_head(&mut self, status: u16) {
        self.tell(Some(status));
        if let Some(open) = &mut self.open {
            open.record.status = Some(status);
            open.record.first_byte = Some(open.began.elapsed());
        }
    }

    /// So much of the response's body was passed on.
    pub(crate) fn add(&mut self, bytes: usize) {
        if let Some(open) = &mut self.open {
            open.record.bytes += bytes as u64;
        }
    }

    /// What a tunnel carried, client to server and server to client.
    pub(crate) fn on_tunnelled(&mut self, (up, down): (u64, u64)) {
        if let Some(open) = &mut self.open {
            open.record.request_bytes += up;
            open.record.bytes += down;
        }
    }

    /// It is over; written.
    pub(crate) fn end(&mut self, end: ProxiedEnd) {
        self.tell(None);
        if let Some((began, durations)) = self.timer.take() {
            durations.observe(began.elapsed().as_secs_f64());
        }
        if let Some(mut open) = self.open.take() {
            open.record.end = match end {
                ProxiedEnd::Finished | ProxiedEnd::Closed(_) => end,
                _ if open.too_slow.is_set() => ProxiedEnd::Closed(CloseReason::SlowReader),
                _ if open.progress.as_ref().is_some_and(Progress::is_too_slow) => {
                    ProxiedEnd::Closed(CloseReason::SlowBody)
                }
                _ => end,
            };
            open.record.total = open.began.elapsed();
            open.record.request_bytes += open.progress.as_ref().map_or(0, Progress::bytes);
            open.log.proxied(open.record);
        }
    }

    /// The intermediate answers by itself.
    pub(crate) fn answered(mut self, status: u16, reason: CloseReason, rule: Option<GateRule>) {
        self.tell(Some(status));
        if let Some(open) = &mut self.open {
            open.record.status = Some(status);
            open.record.rule = rule;
        }
        self.end(ProxiedEnd::Closed(reason));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end(ProxiedEnd::ClientGone);
    }
}
