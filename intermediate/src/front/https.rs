//! Listeners where TLS ends: the handshake, then HTTP/1.1 or HTTP/2, whichever was agreed on. Nothing here migrates: the
//! keys could not go with the connection.

use super::head::{FirstHead, read_head};
use super::waiting::Place;
use super::{Accepted, Front, Guards, Stop};
use crate::proxy::{ClientStream, Entry, ProxyJob};
use crate::tls::H2;
use baton_shared::reason::{CloseReason, ProxyReason};
use rustls::server::ServerConfig;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Why there is no TLS connection.
fn reason(error: &io::Error) -> CloseReason {
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => CloseReason::NotTls,
        _ => CloseReason::TlsHandshake,
    }
}

/// Shakes hands, at most for `limit`.
async fn shake_hands(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    limit: Duration,
    stop: &mut Stop,
    place: &mut Place,
) -> Result<TlsStream<TcpStream>, CloseReason> {
    let accepting = timeout(limit, TlsAcceptor::from(config).accept(stream));
    tokio::select! {
        biased;
        accepted = accepting => match accepted {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(e)) => {
                tracing::debug!("TLS handshake: {e}");
                Err(reason(&e))
            }
            Err(_) => Err(CloseReason::TlsHandshake),
        },
        () = place.given_up() => Err(CloseReason::ConnectionLimit),
        () = stop.wait() => Err(CloseReason::Shutdown),
    }
}

impl Front {
    pub(super) async fn on_https(
        self: &Arc<Self>,
        accepted: Accepted<TcpStream>,
        stop: &mut Stop,
        guards: Guards,
        mut place: Place,
    ) {
        let listener = accepted.site.listeners.get(accepted.listener);
        let Some(config) = listener.and_then(|l| l.tls.clone()) else {
            return tracing::error!(vip = %accepted.vip, "a listener of protocol https without certificates");
        };
        let limit = accepted.limits().head_timeout;
        let (accepted, stream) = accepted.take();
        let stream = match shake_hands(config, stream, limit, stop, &mut place).await {
            Ok(stream) => stream,
            Err(reason) => return self.close(&accepted, String::new(), reason),
        };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        let stream = ClientStream::Tls(Box::new(stream));
        let mut job = ProxyJob {
            front: Arc::clone(self),
            site: Arc::clone(&accepted.site),
            stop: stop.clone(),
            peer: accepted.peer(),
            stream,
            bytes: Vec::new(),
            entry: Entry::decided_by_front(ProxyReason::TlsTerminated),
        };
        if http2 {
            return crate::proxy::serve_http2(job, guards, place).await;
        }
        let limits = job.site.limits(job.peer.listener);
        let head =
            read_head(&mut job.stream, Vec::new(), &limits.head, limits.head_timeout, stop, &mut place).await;
        drop(place);
        match head {
            FirstHead::Complete(bytes, _) => {
                job.bytes = bytes;
                crate::proxy::serve(job, guards).await;
            }
            other => self.on_no_request(accepted.with(job.stream), other).await,
        }
    }
}
