//! One check of one server, from this host to the server directly.

use super::{CheckKind, CheckSpec};
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Method, Request};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why a check failed.
#[derive(Debug, Error)]
pub enum CheckFailure {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The answer is no HTTP, or broke off.
    #[error("no response: {0}")]
    Response(String),
    /// Another status code than those expected.
    #[error("status {0}")]
    Status(u16),
}

impl CheckFailure {
    /// Its name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            CheckFailure::Connect(_) => "connect",
            CheckFailure::Timeout => "timeout",
            CheckFailure::Response(_) => "response",
            CheckFailure::Status(_) => "status",
        }
    }
}

/// Checks a server.
pub async fn check(server: SocketAddr, spec: &CheckSpec) -> Result<(), CheckFailure> {
    let addr = SocketAddr::new(server.ip(), spec.port.unwrap_or(server.port()));
    let done = timeout(spec.timeout, async {
        let stream = TcpStream::connect(addr).await.map_err(CheckFailure::Connect)?;
        let CheckKind::Http { method, path, host, expect } = &spec.kind else { return Ok(()) };
        let host = host.clone().unwrap_or_else(|| addr.to_string());
        http(stream, method, path, &host, expect).await
    });
    done.await.unwrap_or(Err(CheckFailure::Timeout))
}

async fn http(
    stream: TcpStream,
    method: &Method,
    path: &str,
    host: &str,
    expect: &[RangeInclusive<u16>],
) -> Result<(), CheckFailure> {
    let failed = |e: &dyn std::fmt::Display| CheckFailure::Response(e.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host)
        .header(USER_AGENT, "baton-health")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(&e))?;
    // Both ends of the connection in one task: it ends with the answer's head.
    let mut sending = std::pin::pin!(sender.send_request(request));
    let answered = tokio::select! {
        answered = &mut sending => answered,
        // It may have ended right after the answer, which is there then.
        _ = connection => sending.await,
    };
    let response = answered.map_err(|e| failed(&e))?;
    let status = response.status().as_u16();
    if expect.iter().any(|range| range.contains(&status)) {
        Ok(())
    } else {
        Err(CheckFailure::Status(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::health::CheckThresholds;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn spec(kind: CheckKind) -> CheckSpec {
        CheckSpec {
            kind,
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(1500),
            thresholds: CheckThresholds { rise: 1, fall: 1 },
        }
    }

    fn http_spec() -> CheckSpec {
        spec(CheckKind::Http {
            method: Method::GET,
            path: "/health?full=1".to_owned(),
            host: Some("site.example".to_owned()),
            expect: vec![200..=299, 304..=304],
        })
    }

    /// A server that answers one connection with these bytes, and gives what it read.
    async fn answering(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.is_empty() {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            String::from_utf8(request[..length].to_vec()).unwrap()
        });
        (addr, task)
    }

    #[tokio::test]
    async fn status_codes_decide_and_the_request_is_as_configured() {
        for (answer, passes) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\n\r\nhello", true),
            ("HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n", false),
            ("SSH-2.0-OpenSSH\r\n", false),
        ] {
            let (addr, task) = answering(answer).await;
            let result = check(addr, &http_spec()).await;
            assert_eq!(result.is_ok(), passes, "{answer:?}: {result:?}");
            let request = task.await.unwrap();
            assert!(request.starts_with("GET /health?full=1 HTTP/1.1\r\n"), "{request}");
            assert!(request.contains("host: site.example\r\n"), "{request}");
        }
    }

    #[tokio::test]
    async fn a_silent_server_and_none_at_all_fail_each_in_its_way() {
        let (addr, _task) = answering("").await;
        assert!(matches!(check(addr, &http_spec()).await, Err(CheckFailure::Timeout)));
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(matches!(check(nobody, &http_spec()).await, Err(CheckFailure::Connect(_))));
        assert!(matches!(check(nobody, &spec(CheckKind::Tcp)).await, Err(CheckFailure::Connect(_))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(check(listener.local_addr().unwrap(), &spec(CheckKind::Tcp)).await.is_ok());
    }
}
