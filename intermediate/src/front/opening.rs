//! The first bytes of a connection on a listener that reads no requests: a ClientHello, or anything.

use super::Stop;
use super::waiting::Place;
use baton_shared::reason::CloseReason;
use baton_shared::tls::{ClientHello, HelloFault, HelloReader, HelloStatus};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// What a ClientHello may take with its records' headers, bytes. Those of today's browsers take two thousand.
const HELLO_BYTES: usize = 16 * 1024;

/// What came of reading a ClientHello.
#[derive(Debug)]
pub(super) enum Opening {
    /// All bytes read so far, and what they begin with.
    Hello(Vec<u8>, ClientHello),
    /// Nothing to go by.
    Bad(HelloFault),
    /// To be closed.
    Over(CloseReason),
}

/// What came of waiting for a client's first bytes.
#[derive(Debug)]
pub(super) enum FirstBytes {
    /// They are there.
    Some(Vec<u8>),
    /// None came in time.
    Silent,
    /// To be closed.
    Over(CloseReason),
}

enum More {
    Read,
    Timeout,
    Over(CloseReason),
}

/// Reads what is there, or waits for it.
async fn more(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    deadline: Instant,
    stop: &mut Stop,
    place: &mut Place,
) -> More {
    let nothing_yet = bytes.is_empty();
    let read = timeout_at(deadline, stream.read_buf(bytes));
    let read = tokio::select! {
        biased;
        read = read => read,
        () = place.given_up() => return More::Over(CloseReason::ConnectionLimit),
        () = stop.wait_for_first_bytes(), if nothing_yet => return More::Over(CloseReason::Shutdown),
    };
    match read {
        Err(_) => More::Timeout,
        Ok(Ok(0) | Err(_)) => More::Over(CloseReason::ClientGone),
        Ok(Ok(_)) => More::Read,
    }
}

/// Reads until a ClientHello is complete, refused, or `limit` is over.
pub(super) async fn read_hello(
    stream: &mut TcpStream,
    limit: Duration,
    stop: &mut Stop,
    place: &mut Place,
) -> Opening {
    let deadline = Instant::now() + limit;
    let mut bytes = Vec::with_capacity(4096);
    let mut reader = HelloReader::new();
    loop {
        match reader.status(&bytes, HELLO_BYTES) {
            HelloStatus::Complete(hello) => return Opening::Hello(bytes, hello),
            HelloStatus::Bad(fault) => return Opening::Bad(fault),
            HelloStatus::Incomplete => {}
        }
        match more(stream, &mut bytes, deadline, stop, place).await {
            More::Read => {}
            More::Timeout => return Opening::Over(CloseReason::HeadTimeout),
            More::Over(reason) => return Opening::Over(reason),
        }
    }
}

/// Waits for the client's first bytes, at most for `limit`.
pub(super) async fn read_first(
    stream: &mut TcpStream,
    limit: Duration,
    stop: &mut Stop,
    place: &mut Place,
) -> FirstBytes {
    let mut bytes = Vec::with_capacity(4096);
    match more(stream, &mut bytes, Instant::now() + limit, stop, place).await {
        More::Read => FirstBytes::Some(bytes),
        More::Timeout => FirstBytes::Silent,
        More::Over(reason) => FirstBytes::Over(reason),
    }
}
