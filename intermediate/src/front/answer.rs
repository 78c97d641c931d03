//! Answers the intermediate gives by itself, and a close after which the client can still read them.

use http::StatusCode;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// How long what a client still sends is read and thrown away after an answer.
const LINGER: Duration = Duration::from_secs(2);
/// How much of it at most, bytes.
const LINGER_BYTES: usize = 1 << 20;

/// The body of an answer with this status.
pub fn text(status: u16, detail: &str) -> String {
    format!("{} {}: {detail}\n", status, phrase(status))
}

fn phrase(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error")
}

/// Writes the answer and closes.
pub async fn answer_and_close(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: u16, detail: &str) {
    let body = text(status, detail);
    let answer = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        phrase(status),
        body.len()
    );
    let deadline = Instant::now() + LINGER;
    if let Ok(Ok(())) = timeout_at(deadline, stream.write_all(answer.as_bytes())).await {
        close_lingering(stream).await;
    }
}

/// Closes our direction, then reads what the client still sends: a socket closed with unread bytes sends a
/// reset, which makes the client's kernel throw the answer away (RFC 9112, section 9.6).
pub async fn close_lingering(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let deadline = Instant::now() + LINGER;
    if stream.shutdown().await.is_err() {
        return;
    }
    // Not in the future itself: all connections' would be larger by it.
    let mut waste = vec![0u8; 4096];
    let mut taken = 0;
    while taken < LINGER_BYTES {
        match timeout_at(deadline, stream.read(&mut waste)).await {
            Ok(Ok(n)) if n > 0 => taken += n,
            _ => return,
        }
    }
}
