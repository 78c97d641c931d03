//! A connection that is HTTP no more: bytes both ways.

use crate::front::Stop;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

/// Joins both ends once both have changed protocol, until one ends. `held` is dropped then.
pub(super) fn join<H: Send + 'static>(client: OnUpgrade, server: OnUpgrade, mut stop: Stop, held: H) {
    tokio::spawn(async move {
        let _held = held;
        let (client, server) = match tokio::try_join!(client, server) {
            Ok(ends) => ends,
            Err(e) => return tracing::debug!("tunnel: {e}"),
        };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        tokio::select! {
            ended = copy_bidirectional(&mut client, &mut server) => {
                if let Err(e) = ended {
                    tracing::debug!("tunnel: {e}");
                }
            }
            () = stop.wait() => {}
        }
    });
}
