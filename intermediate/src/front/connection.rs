//! One connection, from accept to migration, proxy or close.

use super::aside::Moved;
use super::give::Gift;
use super::head::{FirstHead, read_at_once, read_head};
use super::waiting::Place;
use super::{Accepted, Front, Guards, Rest, Stop, answer_and_close};
use crate::access_log::{Asked, ClosedRecord, Placed, RequestText};
use crate::config::Protocol;
use crate::handoff::{Migrator, Subject, TrackedCandidate};
use crate::pools::PickFacts;
use crate::proxy::{ClientStream, Entry, Peer, ProxyJob};
use crate::site::{Decision, Denial, Site};
use crate::socket::Socket;
use crate::targets::TargetId;
use crate::trace::{self, Trace};
use baton_shared::balance::{ClientFacts, judge_client};
use baton_shared::http::{Edits, GateRule, Origin, RequestHead, Tunnel, UPGRADE_LINES, canonical};
use baton_shared::reason::{CloseReason, ProxyReason};
use baton_shared::route::{HeadLines, KeepAlive, Mode, RequestFacts};
use baton_shared::state::behind::Behind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

impl<S> Accepted<S> {
    /// For the access log: who asks, and what was understood of it.
    pub(super) fn asked(&self, request: Option<RequestText>) -> Asked {
        Asked {
            client: self.client,
            vip: self.vip,
            listener: self.site.listener_name(self.listener),
            at: if request.is_some() { SystemTime::now() } else { self.started },
            request,
            request_no: 1,
        }
    }
}

/// For a record of a connection that no target got.
fn subject<S>(accepted: &Accepted<S>, request: String) -> Subject {
    Subject {
        flow_id: None,
        client: accepted.client,
        vip: accepted.vip,
        target: String::new(),
        request,
        started: accepted.started,
        trace: None,
    }
}

/// Who asks, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) client: SocketAddr,
    /// Its place in the site.
    pub(super) listener: usize,
}

/// The head to feed to a target's server; with `close` it is the connection's last.
pub(super) fn as_the_server_sees_it(
    asker: Asker,
    decision: &Decision,
    bytes: &[u8],
    head: &RequestHead,
    close: bool,
    trace: Option<Trace>,
) -> Vec<u8> {
    let mut edits = if decision.headers.is_empty() {
        Edits::default()
    } else {
        let lines = HeadLines::new(bytes, head);
        let facts = RequestFacts::of_head(asker.listener, head, bytes, &lines);
        let origin =
            Origin { client: asker.client.ip(), secure: decision.secure, authority: facts.authority };
        decision.headers.edits(&lines, &origin, trace::ids_of(trace))
    };
    if decision.tunnel == Tunnel::Ignored {
        edits.remove.extend(UPGRADE_LINES.map(str::to_owned));
    }
    canonical(bytes, head, &edits, close)
}

impl Front {
    /// Does at once what needs no waiting: of most connections all up to the handoff's answer.
    pub(super) fn on_connection<'a>(
        self: &'a Arc<Self>,
        accepted: Accepted,
        stop: &'a mut Stop,
        guards: Guards,
        place: Place,
    ) -> Rest<'a> {
        let protocol = accepted.spoken().0;
        if protocol == Protocol::Http {
            return self.on_http(accepted, stop, guards, place);
        }
        let Some(accepted) = self.watched(accepted) else { return Box::pin(async {}) };
        match protocol {
            Protocol::Http => Box::pin(async {}),
            Protocol::Https => Box::pin(self.on_https(accepted, stop, guards, place)),
            Protocol::Tls => Box::pin(self.on_tls(accepted, stop, guards, place)),
            Protocol::Tcp => Box::pin(self.on_tcp(accepted, stop, guards, place)),
        }
    }

    fn on_http<'a>(
        self: &'a Arc<Self>,
        mut accepted: Accepted,
        stop: &'a mut Stop,
        guards: Guards,
        place: Place,
    ) -> Rest<'a> {
        let bytes = std::mem::take(&mut accepted.bytes);
        match read_at_once(&accepted.stream, bytes, &accepted.limits().head) {
            Ok((bytes, head)) => {
                drop(place);
                self.on_request(accepted, stop, guards, bytes, head)
            }
            Err(bytes) => Box::pin(self.await_request(accepted, stop, guards, place, bytes)),
        }
    }

    /// Of a connection whose first head is not there yet; `bytes` are all there are.
    async fn await_request(
        self: &Arc<Self>,
        accepted: Accepted,
        stop: &mut Stop,
        guards: Guards,
        mut place: Place,
        bytes: Vec<u8>,
    ) {
        let limits = *accepted.limits();
        let Some(mut accepted) = self.watched(accepted) else { return };
        let (stream, timeout) = (&mut accepted.stream, limits.head_timeout);
        let head = read_head(stream, bytes, &limits.head, timeout, stop, &mut place).await;
        drop(place);
        match head {
            FirstHead::Complete(bytes, head) => {
                let (accepted, stream) = accepted.take();
                self.on_request(accepted.with(stream.into()), stop, guards, bytes, head).await;
            }
            other => self.on_no_request(accepted, other).await,
        }
    }

    /// With its socket in the reactor, which lacks the memory for it only if it gives `None`.
    fn watched(&self, accepted: Accepted) -> Option<Accepted<TcpStream>> {
        let (client, vip) = (accepted.client, accepted.vip);
        let watched = accepted.watched();
        watched.inspect_err(|e| tracing::error!(%client, %vip, "a connection was lost: {e}")).ok()
    }

    /// There is nothing to route.
    pub(super) async fn on_no_request<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        accepted: Accepted<S>,
        head: FirstHead,
    ) {
        match head {
            FirstHead::Complete(..) => {}
            FirstHead::Refused(verdict) => {
                tracing::debug!(client = %accepted.client, rule = verdict.rule.name(), "{}", verdict.detail);
                self.metrics.on_gate_refused(&verdict);
                self.migration.history().record_refused(subject(&accepted, String::new()), &verdict);
                self.log_closed(&accepted, None, verdict.reason, Some(verdict.rule), Some(verdict.status));
                answer_and_close(accepted.stream, verdict.status, verdict.detail).await;
            }
            FirstHead::Timeout { partial } => {
                self.count_closed(&accepted, String::new(), CloseReason::HeadTimeout);
                self.log_closed(&accepted, None, CloseReason::HeadTimeout, None, partial.then_some(408));
                if partial {
                    answer_and_close(accepted.stream, 408, "no complete request head in time").await;
                }
            }
            FirstHead::Gone => self.close(&accepted, String::new(), CloseReason::ClientGone),
            FirstHead::GivenUp => self.close(&accepted, String::new(), CloseReason::ConnectionLimit),
            FirstHead::Stopped => self.close(&accepted, String::new(), CloseReason::Shutdown),
        }
    }

    fn on_request<'a>(
        self: &'a Arc<Self>,
        accepted: Accepted,
        stop: &'a mut Stop,
        guards: Guards,
        bytes: Vec<u8>,
        head: RequestHead,
    ) -> Rest<'a> {
        let (bytes, head, probed) = self.take_probe(&accepted, bytes, head);
        let peer = accepted.peer();
        let lines = HeadLines::new(&bytes, &head);
        let facts = RequestFacts::of_head(peer.listener, &head, &bytes, &lines);
        let mut decision = match accepted.site.decide(&facts, &head, &bytes) {
            Ok(decision) => decision,
            Err(denial) => {
                let request_line = head.request_line(&bytes);
                let text = RequestText::of_head(&head, &bytes);
                let status = Some(denial.status);
                self.log_closed(&accepted, Some(text), denial.reason, None, status);
                return Box::pin(async move {
                    self.deny(accepted, denial, request_line).await;
                    drop(guards);
                });
            }
        };
        if probed.is_some() {
            decision.keepalive = KeepAlive::Single;
        }
        let behind = Behind::of(&head, decision.keepalive, decision.tunnel);
        let chosen = head.migration().and_then(|()| decision.migration(&head)).and_then(|()| match probed {
            Some(target) => self.choose_probed(target, &peer),
            None => self.choose(&decision, &peer, facts),
        });
        let cut = behind.is_cut(&head, &bytes);
        let chosen = chosen.and_then(|chosen| if cut { Err(ProxyReason::Pipelined) } else { Ok(chosen) });
        let site = Arc::clone(&accepted.site);
        match chosen {
            Err(reason) => {
                let mut entry = Entry::decided_by_front(reason);
                if probed.is_some() {
                    // Not once a server is found: a probe of which nothing is recorded is taken for one that an agent has.
                    let subject = subject(&accepted, head.request_line(&bytes));
                    self.migration.history().record_proxied(subject, reason, None);
                    entry.recorded = true;
                }
                self.proxy((peer, site), stop, guards, (accepted.stream, bytes, entry))
            }
            Ok((migrator, target)) => {
                let label = head.request_line(&bytes);
                let noted = self.access_log.is_on().then(|| {
                    let asked = accepted.asked(Some(RequestText::of_head(&head, &bytes)));
                    Box::new((asked, decision.placed()))
                });
                let trace = trace::begin(&lines);
                let asker = Asker { client: peer.client, listener: peer.listener };
                let mut request =
                    as_the_server_sees_it(asker, &decision, &bytes, &head, behind.closes(), trace);
                let tracked = behind.is_watched().then(|| TrackedCandidate {
                    head_bytes: request.len(),
                    framing: head.framing,
                    head: head.is_head(&bytes),
                    last: behind == Behind::Nothing,
                });
                let announced = head.framing.announced(request.len());
                request.extend_from_slice(bytes.get(head.head_len..).unwrap_or_default());
                let pool = decision.pool;
                let (accepted, stream) = accepted.take();
                let mut gift = Gift {
                    migrator,
                    peer,
                    at: accepted.at,
                    first: target,
                    request,
                    announced,
                    tracked,
                    // The proxy makes its own changes: it gets the request as it came.
                    original: Some(bytes),
                    label,
                    trace,
                    noted,
                };
                Box::pin(async move {
                    let another = |peer: &Peer, bytes: &[u8], tried: &[TargetId]| {
                        if probed.is_some() {
                            return None;
                        }
                        let lines = HeadLines::new(bytes, &head);
                        let request = RequestFacts::of_head(peer.listener, &head, bytes, &lines);
                        pool.pick(&PickFacts { client: peer.client, vip: peer.vip, request }, tried).ok()
                    };
                    if let Some(to_proxy) = self.give(stream, &mut gift, &pool, another).await {
                        self.proxy((gift.peer, site), stop, guards, to_proxy).await;
                    }
                })
            }
        }
    }

    /// What is not given away is proxied, on another thread if there are any.
    fn proxy<'a>(
        self: &Arc<Self>,
        (peer, site): (Peer, Arc<Site>),
        stop: &Stop,
        guards: Guards,
        (stream, bytes, entry): (Socket, Vec<u8>, Entry),
    ) -> Rest<'a> {
        let (front, stop) = (Arc::clone(self), stop.clone());
        let job = move |stream| ProxyJob { front, site, stop, peer, stream, bytes, entry };
        let Some(runtime) = self.aside.next() else {
            return match stream.watched() {
                Ok(stream) => Box::pin(crate::proxy::serve(job(ClientStream::Plain(stream)), guards)),
                Err(e) => {
                    tracing::error!(client = %peer.client, "a connection was lost: {e}");
                    Box::pin(async {})
                }
            };
        };
        let moved = Moved::leave(stream);
        runtime.spawn(async move {
            match moved.and_then(Moved::arrive) {
                Ok(stream) => crate::proxy::serve(job(stream), guards).await,
                Err(e) => {
                    tracing::error!(client = %peer.client, "a connection changed threads and was lost: {e}")
                }
            }
        });
        Box::pin(async {})
    }

    /// Who hands a connection off; or why its request is proxied, whatever its pool is.
    pub(super) fn migratable(&self, migrates: bool, peer: &Peer) -> Result<&Arc<Migrator>, ProxyReason> {
        let migrator = self.migration.migrator().ok_or(ProxyReason::Disabled)?;
        let (client, own) = (peer.client.ip(), migrator.is_own(peer.client));
        judge_client(&ClientFacts { migrates, client, own }).map(|()| migrator)
    }

    /// The target to migrate to, or why the request is proxied.
    pub(super) fn choose(
        &self,
        decision: &Decision,
        peer: &Peer,
        request: RequestFacts<'_>,
    ) -> Result<(&Arc<Migrator>, TargetId), ProxyReason> {
        let migrator = self.migratable(decision.mode == Mode::Migrate, peer)?;
        let target = self.pick(decision, peer.client, peer.vip, request)?;
        Ok((migrator, target))
    }

    /// The target of a decision's pool to migrate to.
    #[expect(clippy::unused_self, reason = "the choice will rest on what is known of the targets")]
    pub(super) fn pick(
        &self,
        decision: &Decision,
        client: SocketAddr,
        vip: SocketAddr,
        request: RequestFacts<'_>,
    ) -> Result<TargetId, ProxyReason> {
        decision.pool.pick(&PickFacts { client, vip, request }, &[])
    }

    async fn deny(&self, accepted: Accepted, denial: Denial, request_line: String) {
        tracing::debug!(client = %accepted.client, reason = denial.reason.name(), "{}", denial.detail);
        self.count_closed(&accepted, request_line, denial.reason);
        if let Some(accepted) = self.watched(accepted) {
            answer_and_close(accepted.stream, denial.status, denial.detail).await;
        }
    }

    /// Nothing was answered.
    pub(super) fn close<S>(&self, accepted: &Accepted<S>, request: String, reason: CloseReason) {
        // Nor is it worth a line.
        if !matches!(reason, CloseReason::ClientGone | CloseReason::Shutdown) {
            self.log_closed(accepted, None, reason, None, None);
        }
        self.count_closed(accepted, request, reason);
    }

    fn log_closed<S>(
        &self,
        accepted: &Accepted<S>,
        request: Option<RequestText>,
        reason: CloseReason,
        rule: Option<GateRule>,
        status: Option<u16>,
    ) {
        if self.access_log.is_on() {
            let asked = accepted.asked(request);
            let placed = Placed::default();
            self.access_log.closed(ClosedRecord { asked, placed, reason, rule, status, flow_id: None });
        }
    }

    fn count_closed<S>(&self, accepted: &Accepted<S>, request: String, reason: CloseReason) {
        self.metrics.on_closed(reason);
        // A client that connects and leaves says nothing worth a place in the history.
        if !matches!(reason, CloseReason::ClientGone | CloseReason::Shutdown) {
            self.migration.history().record_closed(subject(accepted, request), reason);
        }
    }
}
