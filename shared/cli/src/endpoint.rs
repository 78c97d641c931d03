//! An admin endpoint, and requests to it.

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// For a connection, and for an answer's head unless the request says that it waits longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most an answer is read of, bytes.
const ANSWER: usize = 256 << 20;

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

impl From<&str> for Endpoint {
    fn from(text: &str) -> Self {
        match text.strip_prefix("http://") {
            Some(rest) => Endpoint::Tcp(rest.trim_end_matches('/').to_owned()),
            None => Endpoint::Unix(text.strip_prefix("unix:").unwrap_or(text).into()),
        }
    }
}

impl From<String> for Endpoint {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => path.display().fmt(f),
            Endpoint::Tcp(at) => write!(f, "http://{at}"),
        }
    }
}

/// A daemon.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
}

/// All daemons that are asked.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    pub(crate) intermediate: Node,
    pub(crate) agents: Vec<Node>,
}

impl Nodes {
    /// The intermediate first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(&self.intermediate).chain(&self.agents)
    }
}

/// A path with a query of those that are there.
pub(crate) fn with_query(path: &str, query: &[(&str, Option<String>)]) -> String {
    let mut out = path.to_owned();
    let mut mark = '?';
    for (name, value) in query {
        if let Some(value) = value {
            out.push(mark);
            out.push_str(name);
            out.push('=');
            out.push_str(&escaped(value));
            mark = '&';
        }
    }
    out
}

/// For a part of a path or a query (RFC 3986, section 2.1).
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Node {
    async fn connect(&self) -> Result<Box<dyn Stream>> {
        let connect = async {
            Ok::<Box<dyn Stream>, std::io::Error>(match &self.endpoint {
                Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Endpoint::Tcp(at) => Box::new(TcpStream::connect(at).await?),
            })
        };
        let reached = timeout(PATIENCE, connect).await.map_err(|_| anyhow!("no answer"))?;
        reached.with_context(|| {
            format!(
                "cannot reach {} at {}: is it running, and does [admin] of its configuration say so?",
                self.name, self.endpoint
            )
        })
    }

    /// An answer whose head has come, whatever it says.
    async fn ask(&self, method: Method, path: &str, patience: Duration) -> Result<Response<Incoming>> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "localhost")
            .header("X-Baton-CSRF", "1")
            .body(Empty::<Bytes>::new())?;
        match timeout(patience, sender.send_request(request)).await {
            Ok(answer) => answer.with_context(|| format!("{} broke off", self.name)),
            Err(_) => bail!("{} did not answer in {} s", self.name, patience.as_secs()),
        }
    }

    /// The answer, if it is a success: what the daemon says with any other status is the error.
    pub(crate) async fn answer(
        &self,
        method: Method,
        path: &str,
        patience: Duration,
    ) -> Result<Response<Incoming>> {
        let answer = self.ask(method, path, patience).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        // A refusal is short; one that does not end is told without its words.
        let text = timeout(PATIENCE, self.body(answer)).await.unwrap_or_else(|_| Ok(String::new()))?;
        bail!("{} says {status}: {}", self.name, said(&text))
    }

    async fn body(&self, answer: Response<Incoming>) -> Result<String> {
        let body = http_body_util::Limited::new(answer.into_body(), ANSWER).collect().await;
        let body = body.map_err(|e| anyhow!("{} broke off: {e}", self.name))?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The body of [`Node::answer`].
    pub(crate) async fn text(&self, method: Method, path: &str, patience: Duration) -> Result<String> {
        let answer = self.answer(method, path, patience).await?;
        self.body(answer).await
    }

    /// The JSON of a GET.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.get_within(path, PATIENCE).await
    }

    /// The JSON of a GET for which the daemon must look at other hosts first.
    pub(crate) async fn get_within(&self, path: &str, patience: Duration) -> Result<Value> {
        let text = self.text(Method::GET, path, patience).await?;
        serde_json::from_str(&text).with_context(|| format!("{} answers no JSON to {path}", self.name))
    }

    /// The JSON of a POST that may take so long.
    pub(crate) async fn post(&self, path: &str, longest: Duration) -> Result<Value> {
        let text = self.text(Method::POST, path, longest + PATIENCE).await?;
        serde_json::from_str(&text).with_context(|| format!("{} answers no JSON to {path}", self.name))
    }
}

/// The daemon's reason, with its details.
fn said(text: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return text.trim().to_owned() };
    let Some(error) = value.get("error").and_then(Value::as_str) else { return text.trim().to_owned() };
    let problems = value.get("problems").and_then(Value::as_array).into_iter().flatten();
    problems.filter_map(Value::as_str).fold(error.to_owned(), |all, problem| format!("{all}\n  {problem}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn queries_have_what_is_there_and_nothing_breaks_out_of_them() {
        let query = [("a", Some("x&y=1 z".to_owned())), ("b", None), ("c", Some("[::1]:80".to_owned()))];
        assert_eq!(with_query("/p", &query), "/p?a=x%26y%3D1%20z&c=%5B::1%5D:80");
        assert_eq!(with_query("/p", &[]), "/p");
    }

    /// A daemon that gives one answer after another, each on a connection of its own, and lets the last one stay open.
    pub(crate) fn answering(name: &str, answers: Vec<&'static str>) -> Node {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
        listener.set_nonblocking(true).unwrap();
        tokio::spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut open = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0, "{request:?}");
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                open.push(stream);
            }
            std::future::pending::<()>().await;
        });
        Node { name: name.to_owned(), endpoint }
    }

    pub(crate) const FULL: &str =
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 21\r\n\r\n{\"error\":\"no place\"}\n";

    #[tokio::test]
    async fn a_refusal_is_told_in_the_daemons_words_at_the_first_asking() {
        // Asked again it would tell for ever.
        let endless = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let node = answering("front", vec![FULL, endless]);
        let error = node.answer(Method::GET, "/v1/events", PATIENCE).await.unwrap_err();
        assert_eq!(error.to_string(), "front says 503 Service Unavailable: no place");
    }

    #[test]
    fn an_error_is_told_with_its_problems() {
        assert_eq!(said(r#"{"error":"wrong","problems":["a:1","b:2"]}"#), "wrong\n  a:1\n  b:2");
        assert_eq!(said("no such path\n"), "no such path");
    }
}
