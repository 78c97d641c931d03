//! A connection that is HTTP no more: bytes both ways.

use super::recorder::Recorder;
use crate::front::Stop;
use crate::metrics::Metrics;
use crate::relay::Watched;
use baton_shared::reason::CloseReason;
use baton_shared::termination::ProxiedEnd;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::copy_bidirectional;

/// What a tunnel needs besides its ends.
pub(super) struct Tunnelling<H> {
    pub(super) stop: Stop,
    /// Dropped at its end.
    pub(super) held: H,
    pub(super) recorder: Recorder,
    /// For which nothing may pass.
    pub(super) idle: Duration,
    pub(super) metrics: Metrics,
}

/// Joins both ends once both have changed protocol, until one ends or nothing passes for too long.
pub(super) fn join<H: Send + 'static>(client: OnUpgrade, server: OnUpgrade, tunnelling: Tunnelling<H>) {
    let Tunnelling { mut stop, held, mut recorder, idle, metrics } = tunnelling;
    tokio::spawn(async move {
        let _held = held;
        let (client, server) = match tokio::try_join!(client, server) {
            Ok(ends) => ends,
            Err(e) => return tracing::debug!("tunnel: {e}"),
        };
        let (mut client, watch) = Watched::new(TokioIo::new(client));
        let mut server = TokioIo::new(server);
        let end = tokio::select! {
            ended = copy_bidirectional(&mut client, &mut server) => match ended {
                Ok(_) => Some(ProxiedEnd::Finished),
                Err(e) => {
                    tracing::debug!("tunnel: {e}");
                    None
                }
            },
            () = watch.idle(idle) => {
                metrics.on_closed(CloseReason::RelayIdle);
                Some(ProxiedEnd::Closed(CloseReason::RelayIdle))
            }
            () = stop.wait() => Some(ProxiedEnd::Closed(CloseReason::Shutdown)),
        };
        let moved = watch.moved();
        recorder.on_tunnelled((moved.read, moved.written));
        // Without a word the client was the one that broke off.
        if let Some(end) = end {
            recorder.end(end);
        }
    });
}
