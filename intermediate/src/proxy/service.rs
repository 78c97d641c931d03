//! One proxied connection's requests, each from the gate to its answer.

use super::bodies::{AnswerBody, Progress, RequestBody, ResponseBody};
use super::gated::{GatedRequest, Requests};
use super::headers::{
    add_forwarded_for, change, interim, put_upgrade, strip_hop_by_hop, take_trailers, takes_trailers,
};
use super::pool::Lease;
use super::recorder::Recorder;
use super::tunnel::Tunnelling;
use super::upstream::{Answered, UpstreamError, connect, may_repeat};
use super::{Entry, Peer, tunnel};
use crate::access_log::{Asked, ClosedRecord, Placed, RequestText};
use crate::front::{Front, FrontLimits, Guards, Stop, text};
use crate::handoff::Subject;
use crate::pools::{PickFacts, Pool, servers};
use crate::site::{Denial, Site};
use crate::targets::{TargetId, UnderWay};
use crate::trace;
use baton_loader::monotonic_ns;
use baton_shared::health::Signal;
use baton_shared::http::{Edits, Framing, GateRule, Origin, RequestHead, Switch, Tunnel, Verdict, is_switch};
use baton_shared::reason::{CloseReason, ProxyReason};
use baton_shared::route::{HeadLines, RequestFacts};
use http::header::{self, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// How many interim responses to one request may wait to be passed on.
const INTERIM: usize = 4;

/// What the requests come over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// HTTP/1 in the clear.
    Plain,
    /// HTTP/1 in TLS.
    Tls,
    /// HTTP/2 in TLS: several requests at a time.
    Http2,
}

/// What a connection's requests have in common.
pub(super) struct Session {
    channel: Channel,
    front: Arc<Front>,
    site: Arc<Site>,
    peer: Peer,
    requests: Requests,
    /// How the first request came here; none once it was taken.
    entry: Mutex<Option<Entry>>,
    /// The target that took the request before.
    target: Mutex<Option<TargetId>>,
    /// How many requests have come.
    count: AtomicU32,
    stop: Stop,
    /// Held by the session, and by the tunnel that it may become.
    guards: Arc<Guards>,
}

impl Session {
    pub(super) fn new(
        front: Arc<Front>,
        site: Arc<Site>,
        peer: Peer,
        entry: Entry,
        requests: Requests,
        stop: Stop,
        guards: Guards,
    ) -> Self {
        Session {
            channel: Channel::Plain,
            front,
            site,
            peer,
            requests,
            target: Mutex::new(entry.target),
            entry: Mutex::new(Some(entry)),
            count: AtomicU32::new(0),
            stop,
            guards: Arc::new(guards),
        }
    }

    /// The same over another channel.
    pub(super) fn over(mut self, channel: Channel) -> Self {
        self.channel = channel;
        self
    }

    /// As they were when the connection was accepted.
    pub(super) fn limits(&self) -> FrontLimits {
        *self.site.limits(self.peer.listener)
    }

    /// Another one has come.
    pub(super) fn count_request(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// What hyper calls, one request after the other.
    pub(super) async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Infallible> {
        self.count_request();
        let gated = match self.requests.next() {
            Some(Ok(gated)) => gated,
            Some(Err(verdict)) => return Ok(self.refuse_head(verdict)),
            // Every head hyper sees went through the gate; if it counts otherwise, nothing can be trusted.
            None => return Ok(self.refuse_head(GateRule::OutOfStep.into())),
        };
        let connect = gated.head.connect;
        let mut response = self.forward(request, gated).await;
        if !is_switch(response.status().as_u16(), connect)
            && self.front.drains.listener(self.peer.vip).is_some()
        {
            // It leaves the listener behind this response, as those do that targets have.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    /// Sends a request that passed the gate to a server, and gives its answer.
    pub(super) async fn forward(
        &self,
        mut request: Request<Incoming>,
        gated: GatedRequest,
    ) -> Response<AnswerBody> {
        let began = SystemTime::now();
        let entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (reason, refusal, recorded) = match entry {
            Some(entry) => (entry.reason, entry.refusal, entry.recorded),
            None if self.channel == Channel::Plain => (ProxyReason::LaterRequest, None, false),
            None => (ProxyReason::TlsTerminated, None, false),
        };
        // Each request by itself: what an earlier one on this connection was allowed says nothing about this one.
        let lines = HeadLines::new(&gated.bytes, &gated.head);
        let facts = RequestFacts::of_head(self.peer.listener, &gated.head, &gated.bytes, &lines);
        let decision = match self.site.decide(&facts, &gated.head, &gated.bytes) {
            Ok(decision) => decision,
            Err(denial) => return self.deny(denial, &gated),
        };
        self.front.metrics.on_proxied(reason, refusal);
        let asked = || self.asked(Some(&gated));
        let placed = || decision.placed();
        let mut recorder =
            Recorder::begin(&self.front.access_log, asked, placed, reason, refusal, self.requests.too_slow())
                .timed(self.front.metrics.proxied_durations());
        let limits = decision.limits;
        let limit = limits.upstream_timeout;
        let tunnelled = decision.tunnel == Tunnel::Allowed;
        if !tunnelled {
            self.requests.on_switch(Switch::Stayed);
        }
        let upstreams = &self.front.upstreams;
        let origin =
            Origin { client: self.peer.client.ip(), secure: decision.secure, authority: facts.authority };
        let trace = trace::begin(&lines);
        let edits = decision.headers.edits(&lines, &origin, trace::ids_of(trace));
        let facts = PickFacts { client: self.peer.client, vip: self.peer.vip, request: facts };
        // Requests at a time are better spread.
        let last = match self.channel {
            Channel::Http2 => None,
            Channel::Plain | Channel::Tls => *self.target.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let pool = &decision.pool;
        let unreachable = |target| pool.report(target, Signal::Failed);
        let servers = servers(pool, &facts, last);
        let begin = |target| self.front.targets.get(target).map(|target| UnderWay::at(&target));
        let routed = Instant::now();
        let connected = connect(upstreams, servers, tunnelled, &limits, begin, unreachable).await;
        let target = connected.as_ref().ok().map(|c| c.target);
        let asked = Instant::now();
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
        if trace.is_some() {
            let subject = self.peer.subject(self.target_name(target), gated.request_line.clone());
            recorder.traced(Subject { trace, started: began, ..subject }, (reason, refusal), routed);
        }
        if connected.is_ok() {
            recorder.on_connected(|| self.target_name(target));
        }
        if !recorded {
            let subject = self.peer.subject(self.target_name(target), gated.request_line.clone());
            self.front.migration.history().record_proxied(subject, reason, refusal);
        }
        let client_end = tunnelled.then(|| hyper::upgrade::on(&mut request));
        let progress = Progress::new(&limits);
        recorder.set_progress(&progress);
        let sent = match connected {
            Ok(connected) => match self.outgoing(request, &gated, &edits, tunnelled, &progress) {
                Ok(mut request) => {
                    let hints = self.early_hints(&mut request, &gated.head);
                    let again = may_repeat(request.method(), &gated.head).then(|| same(&request, &progress));
                    let sending = connected.send(upstreams, request, again, &progress, &limits);
                    self.with_hints(sending, hints).await
                }
                Err(verdict) => return self.refuse(verdict, gated.request_line, recorder),
            },
            Err(e) => Err(e),
        };
        match sent {
            Ok(Answered { mut response, mut lease }) => {
                if let Some(target) = target {
                    self.on_answer(pool, &facts, target, asked.elapsed(), &mut response);
                }
                let switched = tunnelled && is_switch(response.status().as_u16(), gated.head.connect);
                if !switched && response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    recorder.answered(502, CloseReason::UpstreamFailed, None);
                    return self.fail(
                        CloseReason::UpstreamFailed,
                        502,
                        "the server changed the protocol unasked",
                    );
                }
                recorder.on_head(response.status().as_u16());
                if let (true, Some(client_end)) = (switched, client_end) {
                    let server_end = hyper::upgrade::on(&mut response);
                    self.requests.on_switch(Switch::Tunnel);
                    let held = (Arc::clone(&self.guards), lease.under_way.take());
                    let listener = self.site.listeners.get(self.peer.listener);
                    let idle = listener.map_or(crate::relay::IDLE, |l| l.times.idle);
                    let (stop, metrics) = (self.stop.clone(), self.front.metrics.clone());
                    recorder.untimed();
                    let tunnelling = Tunnelling { stop, held, recorder, idle, metrics };
                    tunnel::join(client_end, server_end, tunnelling);
                    recorder = Recorder::none();
                } else if tunnelled {
                    self.requests.on_switch(Switch::Stayed);
                }
                self.incoming(response, lease, switched, limit, recorder)
            }
            Err(e) => {
                if tunnelled {
                    self.requests.on_switch(Switch::Stayed);
                }
                let clients_fault = progress.is_too_large() || self.requests.broken_body().is_some();
                if let (UpstreamError::Failed(_), Some(target), false) = (&e, target, clients_fault) {
                    pool.report(target, Signal::Failed);
                }
                self.on_error(e, gated, recorder, &progress)
            }
        }
    }

    /// Where the server's interim responses to this request come (RFC 9110, section 15.2); none if the client cannot
    /// take them.
    fn early_hints(&self, request: &mut Request<RequestBody>, head: &RequestHead) -> mpsc::Receiver<Vec<u8>> {
        let (hint, hints) = mpsc::channel(INTERIM);
        // hyper's HTTP/2 server keeps to itself what could send one (`h2::server::SendResponse`).
        if head.version == baton_shared::http::Version::Http11 && self.channel != Channel::Http2 {
            hyper::ext::on_informational(request, move |response| {
                // Whether it may go on the client has heard from us, and what it must not change to the server.
                if !matches!(response.status(), StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
                    // Whoever sends very many is not heard in all.
                    let _ = hint.try_send(interim(response.status(), response.headers()));
                }
            });
        }
        hints
    }

    /// Passes interim responses on while the answer is waited for.
    async fn with_hints<T>(&self, sending: impl Future<Output = T>, mut hints: mpsc::Receiver<Vec<u8>>) -> T {
        let mut sending = std::pin::pin!(sending);
        loop {
            tokio::select! {
                biased;
                Some(hint) = hints.recv() => self.requests.interim(&hint),
                answered = &mut sending => return answered,
            }
        }
    }

    fn target_name(&self, target: Option<TargetId>) -> String {
        let target = target.and_then(|id| self.front.targets.get(id));
        target.map(|t| t.spec.name.clone()).unwrap_or_default()
    }

    /// The request as the server gets it.
    fn outgoing(
        &self,
        request: Request<Incoming>,
        gated: &GatedRequest,
        edits: &Edits,
        tunnelled: bool,
        progress: &Progress,
    ) -> Result<Request<RequestBody>, Verdict> {
        let (mut parts, body) = request.into_parts();
        let protocol = parts.headers.get(header::UPGRADE).cloned();
        let trailers = takes_trailers(&parts.headers);
        strip_hop_by_hop(&mut parts.headers);
        if trailers && !tunnelled {
            take_trailers(&mut parts.headers);
        }
        // hyper answers it to the client itself as soon as the body is asked for.
        parts.headers.remove(header::EXPECT);
        add_forwarded_for(&mut parts.headers, self.peer.client.ip());
        change(&mut parts.headers, edits);
        if let (true, false, Some(protocol)) = (tunnelled, gated.head.connect, protocol) {
            put_upgrade(&mut parts.headers, protocol);
        }
        if gated.head.framing == Framing::Chunked {
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let bad = |_| Verdict::from(GateRule::NotForwardable);
        if !parts.headers.contains_key(header::HOST) {
            // HTTP/1.0 need not say it: then it is what the client connected to.
            let host = parts.uri.authority().map_or_else(|| self.peer.vip.to_string(), ToString::to_string);
            parts.headers.insert(header::HOST, HeaderValue::from_str(&host).map_err(|_| bad(()))?);
        }
        if parts.method != Method::CONNECT {
            let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
            parts.uri = Uri::from(path);
        }
        parts.version = Version::HTTP_11;
        Ok(Request::from_parts(parts, RequestBody::new(body, progress.clone())))
    }

    /// The response as the client gets it.
    fn incoming(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        switched: bool,
        limit: Duration,
        recorder: Recorder,
    ) -> Response<AnswerBody> {
        let (mut parts, body) = response.into_parts();
        let protocol = parts.headers.get(header::UPGRADE).cloned();
        strip_hop_by_hop(&mut parts.headers);
        if let (true, Some(protocol)) = (switched, protocol) {
            put_upgrade(&mut parts.headers, protocol);
        }
        let lease = (!switched).then(|| (self.front.upstreams.clone(), lease));
        let body = ResponseBody::new(body, limit, lease, recorder);
        Response::from_parts(parts, Either::Left(body))
    }

    /// A server has answered: it is well, so quick, and where its clients shall come back to it their response says so.
    fn on_answer(
        &self,
        pool: &Pool,
        facts: &PickFacts<'_>,
        target: TargetId,
        after: Duration,
        response: &mut Response<Incoming>,
    ) {
        pool.report(target, Signal::Served);
        if let Some(target) = self.front.targets.get(target) {
            target.load.on_response(after, monotonic_ns());
        }
        if let Some((name, value)) = pool.cookie_to_set(facts, target)
            && let Ok(cookie) = HeaderValue::from_str(&self.set_cookie(name, value))
        {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }

    fn set_cookie(&self, name: &str, value: &str) -> String {
        let secure = if matches!(self.channel, Channel::Plain) { "" } else { "; Secure" };
        format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}")
    }

    fn on_error(
        &self,
        error: UpstreamError,
        gated: GatedRequest,
        recorder: Recorder,
        progress: &Progress,
    ) -> Response<AnswerBody> {
        if progress.is_too_slow() {
            recorder.answered(408, CloseReason::SlowBody, None);
            return self.fail(CloseReason::SlowBody, 408, "the request's body came too slowly");
        }
        if progress.is_too_large() {
            recorder.answered(413, CloseReason::BodyTooLarge, None);
            return self.fail(CloseReason::BodyTooLarge, 413, "the request's body is too large");
        }
        if let Some(verdict) = self.requests.broken_body() {
            return self.refuse(verdict, gated.request_line, recorder);
        }
        let (status, reason, detail) = error.answer();
        recorder.answered(status, reason, None);
        tracing::warn!(client = %self.peer.client, request = gated.request_line, "{error}");
        self.fail(reason, status, detail)
    }

    /// For the access log: who asks, and what was understood of it.
    fn asked(&self, gated: Option<&GatedRequest>) -> Asked {
        Asked {
            client: self.peer.client,
            vip: self.peer.vip,
            listener: self.site.listener_name(self.peer.listener),
            at: SystemTime::now(),
            request: gated.map(|gated| self.text(gated)),
            request_no: self.count.load(Ordering::Relaxed),
        }
    }

    fn text(&self, gated: &GatedRequest) -> RequestText {
        let text = RequestText::of_head(&gated.head, &gated.bytes);
        // Judged as one of HTTP/1.1, it came as another.
        if self.channel == Channel::Http2 { RequestText { version: "HTTP/2.0", ..text } } else { text }
    }

    fn log_closed(
        &self,
        gated: Option<&GatedRequest>,
        reason: CloseReason,
        rule: Option<GateRule>,
        status: u16,
    ) {
        if self.front.access_log.is_on() {
            self.front.access_log.closed(ClosedRecord {
                asked: self.asked(gated),
                placed: Placed::default(),
                reason,
                rule,
                status: Some(status),
                flow_id: None,
            });
        }
    }

    /// No request can be made out.
    pub(super) fn refuse_head(&self, verdict: Verdict) -> Response<AnswerBody> {
        self.log_closed(None, verdict.reason, Some(verdict.rule), verdict.status);
        self.refuse(verdict, String::new(), Recorder::none())
    }

    fn refuse(&self, verdict: Verdict, request_line: String, recorder: Recorder) -> Response<AnswerBody> {
        recorder.answered(verdict.status, verdict.reason, Some(verdict.rule));
        let subject = self.peer.subject(String::new(), request_line);
        self.front.migration.history().record_refused(subject, &verdict);
        self.front.metrics.on_gate_refused(&verdict);
        answer(verdict.status, verdict.detail)
    }

    fn deny(&self, denial: Denial, gated: &GatedRequest) -> Response<AnswerBody> {
        self.log_closed(Some(gated), denial.reason, None, denial.status);
        let subject = self.peer.subject(String::new(), gated.request_line.clone());
        self.front.migration.history().record_closed(subject, denial.reason);
        self.fail(denial.reason, denial.status, denial.detail)
    }

    fn fail(&self, reason: CloseReason, status: u16, detail: &str) -> Response<AnswerBody> {
        self.front.metrics.on_closed(reason);
        answer(status, detail)
    }
}

/// An answer of our own, after which the connection closes.
pub(super) fn answer(status: u16, detail: &str) -> Response<AnswerBody> {
    let body = Full::new(Bytes::from(text(status, detail)));
    let mut response = Response::new(Either::Right(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The same request once more, without its body: there was none.
fn same(request: &Request<RequestBody>, progress: &Progress) -> Request<RequestBody> {
    let mut again = Request::new(RequestBody::none(progress.clone()));
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    *again.extensions_mut() = request.extensions().clone();
    again
}
