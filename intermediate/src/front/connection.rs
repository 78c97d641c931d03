//! One connection, from accept to migration, proxy or close.

use super::head::{FirstHead, read_head};
use super::waiting::Place;
use super::{Accepted, Front, Guards, KeepAlive, ListenerSettings, Mode, Stop, answer_and_close};
use crate::handoff::{Candidate, Migrator, Outcome, Subject};
use crate::proxy::{ClientStream, Entry, Peer, ProxyJob};
use crate::targets::TargetId;
use baton_shared::http::{RequestHead, with_connection_close};
use baton_shared::reason::{CloseReason, ProxyReason};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpStream;

/// An address that means nothing without a link's name: the target could not answer it.
fn is_link_local(client: SocketAddr) -> bool {
    matches!(client.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// A connection of which no request is known.
fn unheard(accepted: &Accepted, listener: &ListenerSettings) -> Subject {
    Subject {
        flow_id: None,
        client: accepted.client,
        vip: listener.vip,
        target: String::new(),
        request: String::new(),
        started: accepted.started,
    }
}

impl Front {
    pub(super) async fn on_connection(
        self: &Arc<Self>,
        mut accepted: Accepted,
        listener: ListenerSettings,
        stop: &mut Stop,
        guards: Guards,
        mut place: Place,
    ) {
        let limits = &self.limits;
        let head = read_head(&mut accepted.stream, &limits.head, limits.head_timeout, stop, &mut place).await;
        drop(place);
        match head {
            FirstHead::Complete(bytes, head) => {
                self.on_request(accepted, listener, stop, guards, bytes, head).await;
            }
            FirstHead::Refused(verdict) => {
                tracing::debug!(client = %accepted.client, rule = verdict.rule.name(), "{}", verdict.detail);
                self.metrics.on_gate_refused(&verdict);
                self.migration.history().record_refused(unheard(&accepted, &listener), &verdict);
                answer_and_close(accepted.stream, verdict.status, verdict.detail).await;
            }
            FirstHead::Timeout { partial } => {
                self.close(&accepted, listener, CloseReason::HeadTimeout);
                if partial {
                    answer_and_close(accepted.stream, 408, "no complete request head in time").await;
                }
            }
            FirstHead::Gone => self.close(&accepted, listener, CloseReason::ClientGone),
            FirstHead::GivenUp => self.close(&accepted, listener, CloseReason::ConnectionLimit),
            FirstHead::Stopped => self.close(&accepted, listener, CloseReason::Shutdown),
        }
    }

    async fn on_request(
        self: &Arc<Self>,
        accepted: Accepted,
        listener: ListenerSettings,
        stop: &mut Stop,
        guards: Guards,
        bytes: Vec<u8>,
        head: RequestHead,
    ) {
        let peer = Peer { client: accepted.client, vip: listener.vip, started: accepted.started };
        let (stream, bytes, entry) = match self.choose(&listener, peer.client, &head) {
            Err(reason) => (accepted.stream, bytes, Entry::decided_by_front(reason)),
            Ok((migrator, target)) => {
                match self.migrate(migrator, target, accepted, listener, bytes, &head).await {
                    Some(to_proxy) => to_proxy,
                    None => return,
                }
            }
        };
        let front = Arc::clone(self);
        let stream = ClientStream::Plain(stream);
        crate::proxy::serve(ProxyJob { front, stop: stop.clone(), peer, stream, bytes, entry }, guards).await;
    }

    /// `None` if nothing is left to do; else what the proxy needs.
    async fn migrate(
        &self,
        migrator: &Migrator,
        target: TargetId,
        accepted: Accepted,
        listener: ListenerSettings,
        bytes: Vec<u8>,
        head: &RequestHead,
    ) -> Option<(TcpStream, Vec<u8>, Entry)> {
        let request_line = head.request_line(&bytes);
        // The proxy decides for itself what `Connection` says to the server: it gets the head as it came.
        let (request, original) = match listener.keepalive {
            KeepAlive::Pinned => (bytes, None),
            KeepAlive::Single => {
                let mut request = with_connection_close(&bytes, head);
                request.extend_from_slice(bytes.get(head.head_len..).unwrap_or_default());
                (request, Some(bytes))
            }
        };
        let candidate = Candidate {
            stream: accepted.stream,
            client: accepted.client,
            vip: listener.vip,
            target,
            request,
            request_line,
            accepted_at: accepted.at,
            head_at: Instant::now(),
        };
        match migrator.migrate(candidate).await {
            Outcome::Migrated(times) => {
                self.metrics.on_migrated(&times);
                None
            }
            Outcome::Closed(reason) => {
                self.metrics.on_closed(reason);
                None
            }
            Outcome::NotMigrated { stream, extra, request, reason, refusal } => {
                let mut bytes = original.unwrap_or(request);
                bytes.extend_from_slice(&extra);
                Some((stream, bytes, Entry { reason, refusal, target: Some(target), recorded: true }))
            }
        }
    }

    /// The target to migrate to, or why the request is proxied.
    fn choose(
        &self,
        listener: &ListenerSettings,
        client: SocketAddr,
        head: &RequestHead,
    ) -> Result<(&Migrator, TargetId), ProxyReason> {
        let migrator = match (self.migration.migrator(), listener.mode) {
            (Some(migrator), Mode::Migrate) => migrator,
            _ => return Err(ProxyReason::Disabled),
        };
        if is_link_local(client) {
            return Err(ProxyReason::AddressFamily);
        }
        head.migration()?;
        let target = self.targets.pick_connected(listener.vip)?;
        Ok((migrator, target))
    }

    fn close(&self, accepted: &Accepted, listener: ListenerSettings, reason: CloseReason) {
        self.metrics.on_closed(reason);
        // A client that connects and leaves says nothing worth a place in the history.
        if !matches!(reason, CloseReason::ClientGone | CloseReason::Shutdown) {
            self.migration.history().record_closed(unheard(accepted, &listener), reason);
        }
    }
}
