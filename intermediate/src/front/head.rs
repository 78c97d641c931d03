//! Reading a connection's first request head.

use super::Stop;
use super::waiting::Place;
use crate::socket::Socket;
use baton_shared::http::{
    BodyScanner, GateRule, HeadLimits, HeadScanner, HeadStatus, RequestHead, Verdict, parse,
};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

/// What came of it.
#[derive(Debug)]
pub(super) enum FirstHead {
    /// A head that passed the gate, at the start of the bytes read so far.
    Complete(Vec<u8>, RequestHead),
    /// To be answered.
    Refused(Verdict),
    /// The time was up.
    Timeout {
        /// Something had arrived.
        partial: bool,
    },
    /// The client closed or reset.
    Gone,
    /// There are too many connections, and no other had waited as long.
    GivenUp,
    /// The intermediate stops and nothing had arrived.
    Stopped,
}

/// What [`FirstHead::Complete`] has, if a whole head is there without waiting; else all bytes there are. `bytes` have been
/// read before.
pub(super) fn read_at_once(
    socket: &Socket,
    mut bytes: Vec<u8>,
    limits: &HeadLimits,
) -> Result<(Vec<u8>, RequestHead), Vec<u8>> {
    // An end or an error is found again by who waits for more.
    if socket.read_at_once(&mut bytes).unwrap_or(0) == 0 && bytes.is_empty() {
        return Err(bytes);
    }
    match HeadScanner::new().status(&bytes, limits) {
        HeadStatus::Complete(head) if head.start == 0 && with_body_begun(&bytes, &head).is_ok() => {
            Ok((bytes, head))
        }
        _ => Err(bytes),
    }
}

/// Reads until a head is complete, refused, or `limit` is over. `bytes` have been read before.
pub(super) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    mut bytes: Vec<u8>,
    limits: &HeadLimits,
    limit: Duration,
    stop: &mut Stop,
    place: &mut Place,
) -> FirstHead {
    let deadline = Instant::now() + limit;
    bytes.reserve(4096);
    let mut scanner = HeadScanner::new();
    loop {
        match scanner.status(&bytes, limits) {
            HeadStatus::Complete(head) => return without_empty_line(bytes, head, limits),
            HeadStatus::Bad(verdict) => return FirstHead::Refused(verdict),
            HeadStatus::Incomplete => {}
        }
        let nothing_yet = bytes.is_empty();
        let read = timeout_at(deadline, stream.read_buf(&mut bytes));
        let read = tokio::select! {
            biased;
            read = read => read,
            () = place.given_up() => return FirstHead::GivenUp,
            () = stop.wait_for_first_bytes(), if nothing_yet => return FirstHead::Stopped,
        };
        match read {
            Err(_) => return FirstHead::Timeout { partial: !bytes.is_empty() },
            Ok(Ok(0) | Err(_)) => return FirstHead::Gone,
            Ok(Ok(_)) => {}
        }
    }
}

/// A server need not know that a client sent an empty line before its request.
fn without_empty_line(mut bytes: Vec<u8>, head: RequestHead, limits: &HeadLimits) -> FirstHead {
    if head.start == 0 {
        return complete(bytes, head);
    }
    bytes.drain(..head.start);
    match parse(&bytes, limits) {
        HeadStatus::Complete(head) => complete(bytes, head),
        HeadStatus::Bad(verdict) => FirstHead::Refused(verdict),
        HeadStatus::Incomplete => FirstHead::Gone,
    }
}

/// What has arrived of the body is judged before a server sees anything of the request.
fn with_body_begun(bytes: &[u8], head: &RequestHead) -> Result<(), GateRule> {
    let body = bytes.get(head.head_len..).unwrap_or_default();
    BodyScanner::new(head.framing).advance(body).map(drop)
}

fn complete(bytes: Vec<u8>, head: RequestHead) -> FirstHead {
    match with_body_begun(&bytes, &head) {
        Ok(()) => FirstHead::Complete(bytes, head),
        Err(rule) => FirstHead::Refused(rule.into()),
    }
}
