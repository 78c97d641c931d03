//! A connection that is HTTP no more: bytes both ways.

use super::recorder::Recorder;
use crate::front::Stop;
use baton_shared::reason::CloseReason;
use baton_shared::termination::ProxiedEnd;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

/// Joins both ends once both have changed protocol, until one ends. `held` is dropped then.
pub(super) fn join<H: Send + 'static>(
    client: OnUpgrade,
    server: OnUpgrade,
    mut stop: Stop,
    held: H,
    mut recorder: Recorder,
) {
    tokio::spawn(async move {
        let _held = held;
        let (client, server) = match tokio::try_join!(client, server) {
            Ok(ends) => ends,
            Err(e) => return tracing::debug!("tunnel: {e}"),
        };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        tokio::select! {
            ended = copy_bidirectional(&mut client, &mut server) => {
                match ended {
                    Ok(bytes) => {
                        recorder.on_tunnelled(bytes);
                        recorder.end(ProxiedEnd::Finished);
                    }
                    Err(e) => tracing::debug!("tunnel: {e}"),
                }
            }
            () = stop.wait() => recorder.end(ProxiedEnd::Closed(CloseReason::Shutdown)),
        }
    });
}
