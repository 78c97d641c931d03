//! Requests over a Unix socket, for the daemons' admin endpoints.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The status code and the body of a GET, with the header that the daemons ask for.
///
/// # Errors
/// When nobody listens there, the answer takes longer than twenty seconds, or is not HTTP.
pub fn get(socket: &Path, path: &str) -> Result<(u16, String)> {
    ask(socket, "GET", path, Duration::from_secs(20))
}

/// The status code and the body of a POST without a body, with the header that the daemons ask for.
///
/// # Errors
/// When nobody listens there, the answer takes longer than a minute, or is not HTTP.
pub fn post(socket: &Path, path: &str) -> Result<(u16, String)> {
    ask(socket, "POST", path, Duration::from_secs(60))
}

/// HTTP/1.0, so that the body ends where the connection does.
fn ask(socket: &Path, method: &str, path: &str, limit: Duration) -> Result<(u16, String)> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: baton\r\nX-Baton-CSRF: 1\r\n{length}\r\n")?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("no answer to {method} {path} on {}", socket.display()))?;
    parse(&String::from_utf8_lossy(&answer))
        .with_context(|| format!("{method} {path} on {}", socket.display()))
}

fn parse(answer: &str) -> Result<(u16, String)> {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("the answer has no head: {answer:?}")
    };
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.with_context(|| format!("the answer has no status: {head:?}"))?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_status_and_body() {
        assert_eq!(parse("HTTP/1.0 200 OK\r\na: b\r\n\r\n{}").unwrap(), (200, "{}".to_owned()));
        assert!(parse("").is_err());
        assert!(parse("nonsense\r\n\r\n").is_err());
    }
}
