//! A connection relayed byte by byte: what a TLS or TCP listener does with one that cannot be migrated.
//!
//! Either end may close its direction and go on reading (half-close); the relay ends when both have, when either is
//! reset, or when nothing has moved in either direction for the time allowed.

mod watched;

use crate::front::Stop;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;
pub(crate) use watched::Watched;

/// For which nothing may pass on a connection, where no configuration says otherwise.
pub const IDLE: Duration = Duration::from_secs(3600);
/// For which nothing may pass once we are told to stop.
const STOP_IDLE: Duration = Duration::from_millis(300);

/// How a relayed connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEnd {
    /// Both ends closed.
    Closed,
    /// One end broke off.
    Broken,
    /// Nothing moved for the time allowed.
    Idle,
    /// We were told to stop.
    Stopped,
}

/// What passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// How it ended.
    pub end: RelayEnd,
    /// Bytes from the client to the server, those read before the relay began included.
    pub from_client: u64,
    /// Bytes from the server to the client.
    pub to_client: u64,
}

/// Connects to a server.
pub async fn connect(server: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = timeout(limit, TcpStream::connect(server)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Relays until the end. `bytes` were read from the client already.
pub async fn relay(
    client: TcpStream,
    bytes: &[u8],
    mut server: TcpStream,
    idle: Duration,
    stop: &mut Stop,
) -> Relayed {
    let read = bytes.len() as u64;
    let (mut client, watch) = Watched::new(client);
    let both = async {
        server.write_all(bytes).await?;
        copy_bidirectional(&mut client, &mut server).await
    };
    // Whatever passes, passes the client's end.
    let end = tokio::select! {
        ended = both => match ended {
            Ok(_) => RelayEnd::Closed,
            Err(e) => {
                tracing::debug!("relay: {e}");
                RelayEnd::Broken
            }
        },
        () = watch.idle(idle) => RelayEnd::Idle,
        () = async { stop.wait().await; watch.idle(STOP_IDLE).await } => RelayEnd::Stopped,
    };
    let moved = watch.moved();
    Relayed { end, from_client: read + moved.read, to_client: moved.written }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::StopControl;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn each_end_may_close_its_direction_and_read_on() {
        let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
        let control = StopControl::default();
        let mut stop = control.stop();
        let relaying =
            tokio::spawn(async move { relay(near, b"early ", far, Duration::from_secs(5), &mut stop).await });
        client.write_all(b"request").await.unwrap();
        client.shutdown().await.unwrap();
        let mut all = String::new();
        server.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "early request");
        server.write_all(&[b'x'; 300_000]).await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer.len(), 300_000);
        let expected = Relayed { end: RelayEnd::Closed, from_client: 13, to_client: 300_000 };
        assert_eq!(relaying.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn silence_ends_it_and_a_byte_now_and_then_does_not() {
        let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
        let limit = Duration::from_millis(2400);
        let control = StopControl::default();
        let mut stop = control.stop();
        let relaying = tokio::spawn(async move { relay(near, b"", far, limit, &mut stop).await });
        // Longer than the limit in all.
        for _ in 0..10 {
            tokio::time::sleep(limit / 8).await;
            server.write_all(b"x").await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'x');
        }
        let ended = relaying.await.unwrap();
        assert_eq!((ended.end, ended.to_client), (RelayEnd::Idle, 10));
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_reset_at_one_end_ends_the_other() {
        let ((mut client, near), (far, server)) = (pair().await, pair().await);
        let control = StopControl::default();
        let mut stop = control.stop();
        let relaying =
            tokio::spawn(async move { relay(near, b"", far, Duration::from_secs(5), &mut stop).await });
        client.write_all(b"x").await.unwrap();
        socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        assert_eq!(relaying.await.unwrap().end, RelayEnd::Broken);
    }
}
