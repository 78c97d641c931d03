//! Listeners that read no requests: TLS that passes through to the target, by the name in its ClientHello, and plain TCP.
//! The whole connection goes to a target with the bytes that have come; what cannot is relayed.

use super::give::Gift;
use super::opening::{FirstBytes, Opening, read_first, read_hello};
use super::waiting::Place;
use super::{Accepted, Front, Guards, Stop};
use crate::access_log::{Asked, RequestText};
use crate::pools::{PickFacts, servers, tries};
use crate::proxy::{Entry, Peer, Recorder, TooSlow};
use crate::relay::{self, RelayEnd};
use crate::site::Decision;
use crate::socket::Socket;
use crate::targets::{TargetId, UnderWay};
use baton_shared::health::Signal;
use baton_shared::reason::{CloseReason, ProxyReason};
use baton_shared::route::{NoHeaders, RequestFacts};
use baton_shared::termination::ProxiedEnd;
use baton_shared::tls::{Alert, ClientHello};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What is known of a connection that is no request.
struct Known<'a> {
    /// What the records call it.
    label: String,
    server_name: Option<&'a str>,
    alpn: &'a [&'a str],
}

impl Known<'_> {
    /// For the access log: the host, if the client named one.
    fn text(&self) -> Option<RequestText> {
        let host = self.server_name?.as_bytes().to_vec();
        Some(RequestText { host, version: "", ..RequestText::default() })
    }

    fn facts(&self, listener: usize) -> RequestFacts<'_> {
        RequestFacts {
            host: self.server_name,
            path: "",
            alpn: self.alpn,
            ..RequestFacts::new(listener, "", "", &NoHeaders)
        }
    }
}

impl Front {
    pub(super) async fn on_tls(
        self: &Arc<Self>,
        mut accepted: Accepted<TcpStream>,
        stop: &mut Stop,
        guards: Guards,
        mut place: Place,
    ) {
        let limit = accepted.limits().head_timeout;
        let opening = read_hello(&mut accepted.stream, limit, stop, &mut place).await;
        drop(place);
        match opening {
            Opening::Hello(bytes, hello) => self.on_hello(accepted, stop, guards, bytes, &hello).await,
            Opening::Bad(fault) => {
                tracing::debug!(client = %accepted.client, "{}", fault.detail());
                let alert = fault.alert();
                let reason = if alert.is_none() { CloseReason::NotTls } else { CloseReason::BadClientHello };
                self.close(&accepted, String::new(), reason);
                if let Some(alert) = alert {
                    say(accepted.stream, alert).await;
                }
            }
            Opening::Over(reason) => self.close(&accepted, String::new(), reason),
        }
    }

    async fn on_hello(
        self: &Arc<Self>,
        accepted: Accepted<TcpStream>,
        stop: &mut Stop,
        guards: Guards,
        bytes: Vec<u8>,
        hello: &ClientHello,
    ) {
        let server_name = hello.server_name.as_deref();
        let alpn: Vec<&str> = hello.alpn.iter().filter_map(|p| std::str::from_utf8(p).ok()).collect();
        let label = format!("TLS {}", server_name.unwrap_or("-"));
        let known = Known { label, server_name, alpn: &alpn };
        match accepted.site.decide_on(&known.facts(accepted.listener)) {
            Ok(decision) => self.pass(accepted, &known, &decision, bytes, stop, guards).await,
            Err(denial) => {
                self.close(&accepted, known.label, denial.reason);
                say(accepted.stream, Alert::UnrecognizedName).await;
            }
        }
    }

    pub(super) async fn on_tcp(
        self: &Arc<Self>,
        mut accepted: Accepted<TcpStream>,
        stop: &mut Stop,
        guards: Guards,
        mut place: Place,
    ) {
        let known = Known { label: "TCP".to_owned(), server_name: None, alpn: &[] };
        let decision = match accepted.site.decide_on(&known.facts(accepted.listener)) {
            Ok(decision) => decision,
            Err(denial) => return self.close(&accepted, known.label, denial.reason),
        };
        let silence = accepted.spoken().1.silence;
        let first = read_first(&mut accepted.stream, silence, stop, &mut place).await;
        drop(place);
        match first {
            FirstBytes::Some(bytes) => self.pass(accepted, &known, &decision, bytes, stop, guards).await,
            FirstBytes::Silent => {
                // The server may be the one that speaks first.
                let entry = Entry::decided_by_front(ProxyReason::ClientSilent);
                let peer = accepted.peer();
                let site = Arc::clone(&accepted.site);
                let job = Relaying { front: self, peer, known: &known, decision: &decision, site: &site };
                job.relay(accepted.stream, Vec::new(), entry, stop, guards).await;
            }
            FirstBytes::Over(reason) => self.close(&accepted, known.label, reason),
        }
    }

    /// To a target, by migration or by relay.
    async fn pass(
        self: &Arc<Self>,
        accepted: Accepted<TcpStream>,
        known: &Known<'_>,
        decision: &Decision,
        bytes: Vec<u8>,
        stop: &mut Stop,
        guards: Guards,
    ) {
        let (peer, site) = (accepted.peer(), Arc::clone(&accepted.site));
        let noted =
            self.access_log.is_on().then(|| Box::new((accepted.asked(known.text()), decision.placed())));
        let (stream, bytes, entry) = match self.choose(decision, &peer, known.facts(peer.listener)) {
            Err(reason) => (accepted.stream.into(), bytes, Entry::decided_by_front(reason)),
            Ok((migrator, target)) => {
                let pool = &decision.pool;
                let another = |_: &Peer, _: &[u8], tried: &[TargetId]| {
                    let request = known.facts(peer.listener);
                    pool.pick(&PickFacts { client: peer.client, vip: peer.vip, request }, tried).ok()
                };
                let label = known.label.clone();
                let mut gift = Gift {
                    migrator,
                    peer,
                    at: accepted.at,
                    first: target,
                    request: bytes,
                    announced: 0,
                    tracked: None,
                    original: None,
                    label,
                    // Nobody reads what passes.
                    trace: None,
                    noted,
                };
                match self.give(accepted.stream.into(), &mut gift, pool, another).await {
                    Some(to_relay) => to_relay,
                    None => return,
                }
            }
        };
        let job = Relaying { front: self, peer, known, decision, site: &site };
        match Socket::watched(stream) {
            Ok(stream) => job.relay(stream, bytes, entry, stop, guards).await,
            Err(e) => tracing::error!(client = %job.peer.client, "a connection was lost: {e}"),
        }
    }
}

/// A connection to relay.
struct Relaying<'a> {
    front: &'a Front,
    peer: Peer,
    known: &'a Known<'a>,
    decision: &'a Decision,
    site: &'a crate::site::Site,
}

impl Relaying<'_> {
    async fn relay(self, client: TcpStream, bytes: Vec<u8>, entry: Entry, stop: &mut Stop, _guards: Guards) {
        let Entry { reason, refusal, target, recorded } = entry;
        let (front, peer) = (self.front, self.peer);
        front.metrics.on_proxied(reason, refusal);
        let asked = || Asked {
            client: peer.client,
            vip: peer.vip,
            listener: self.site.listener_name(peer.listener),
            at: SystemTime::now(),
            request: self.known.text(),
            request_no: 1,
        };
        let placed = || self.decision.placed();
        let mut recorder =
            Recorder::begin(&front.access_log, asked, placed, reason, refusal, TooSlow::default());
        let request = self.known.facts(peer.listener);
        let facts = PickFacts { client: peer.client, vip: peer.vip, request };
        let mut server = None;
        let limits = self.decision.limits;
        for (id, address) in tries(servers(&self.decision.pool, &facts, target), limits.connect_retries) {
            let target = front.targets.get(id);
            let under_way = target.as_ref().map(UnderWay::at);
            match relay::connect(address, limits.connect_timeout).await {
                Ok(stream) => {
                    server = Some((target, under_way, stream));
                    break;
                }
                Err(e) => {
                    tracing::debug!(server = %address, "cannot reach the server: {e}");
                    self.decision.pool.report(id, Signal::Failed);
                }
            }
        }
        let target = server.as_ref().and_then(|(target, ..)| target.as_ref());
        let name = target.map(|t| t.spec.name.clone()).unwrap_or_default();
        let subject = || peer.subject(name.clone(), self.known.label.clone());
        if !recorded {
            front.migration.history().record_proxied(subject(), reason, refusal);
        }
        let Some((_, _under_way, server)) = server else {
            recorder.end(ProxiedEnd::Closed(CloseReason::NoTarget));
            front.metrics.on_closed(CloseReason::NoTarget);
            return front.migration.history().record_closed(subject(), CloseReason::NoTarget);
        };
        recorder.on_connected(|| name.clone());
        let idle = self.site.listeners.get(peer.listener).map_or(relay::IDLE, |l| l.times.idle);
        let relayed = relay::relay(client, &bytes, server, idle, stop).await;
        tracing::debug!(client = %peer.client, target = name, ?relayed, "relayed");
        recorder.on_tunnelled((relayed.from_client, relayed.to_client));
        recorder.end(match relayed.end {
            RelayEnd::Closed => ProxiedEnd::Finished,
            RelayEnd::Broken => ProxiedEnd::Broken,
            RelayEnd::Idle => ProxiedEnd::Closed(CloseReason::RelayIdle),
            RelayEnd::Stopped => ProxiedEnd::Closed(CloseReason::Shutdown),
        });
        if relayed.end == RelayEnd::Idle {
            front.metrics.on_closed(CloseReason::RelayIdle);
        }
    }
}

/// Tells the client why it is closed.
async fn say(mut stream: TcpStream, alert: Alert) {
    if stream.write_all(&alert.record()).await.is_ok() {
        super::close_lingering(stream).await;
    }
}
