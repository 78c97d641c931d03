//! The admin endpoint: HTTP on a Unix socket, and on a loopback port if the configuration asks for it.
//!
//! What a peer may do on the Unix socket its credentials say (`baton_shared::access`); on TCP all may do what
//! `admin.tcp_level` says. On TCP the `Host` header must name this machine's loopback, so that a web page that rebinds
//! its name to 127.0.0.1 reads nothing. What changes something is a `POST`. Every `POST`, and every route that needs more than
//! the level `view`, must have the header `X-Baton-CSRF: 1`, which no web page can send to another site without being asked
//! first, and the asking is refused.

pub mod events;
pub mod list;
mod places;
pub mod reasons;
mod routes;
mod while_read;

pub use routes::{Route, Routes, differences};

use crate::config::AdminSettings;
use crate::{metrics, sys};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use baton_shared::access::{Access, Level, Peer};
use hyper_util::rt::{TokioIo, TokioTimer};
use places::Places;
use prometheus_client::registry::Registry;
use serde_json::json;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tower_service::Service;
use while_read::WhileRead;

/// Time for a request's head, and between requests on one connection.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may wait for a peer that does not read.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Why the admin endpoint could not be started.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The Unix socket.
    #[error("cannot listen on admin socket {}: {source}", path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process answers on the socket.
    #[error("admin socket {} is in use by a running process", .0.display())]
    InUse(PathBuf),
    /// The TCP port.
    #[error("cannot listen on admin address {addr}: {source}")]
    Tcp {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// `admin.tcp` is not a loopback address.
    #[error("admin.tcp must be a loopback address, is {0}")]
    NotLoopback(SocketAddr),
}

/// The running endpoint. Dropping it stops listening and removes the Unix socket.
#[derive(Debug)]
pub struct AdminServer {
    tasks: Vec<JoinHandle<()>>,
    /// Path, device and inode of our socket: a successor's is not to be removed.
    unix: Option<(PathBuf, (u64, u64))>,
    tcp: Option<SocketAddr>,
}

impl AdminServer {
    /// The TCP address listened on, if any.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if let Some((path, id)) = &self.unix
            && identify(path).is_ok_and(|found| found == *id)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// `/healthz` (200 while the process runs), `/readyz` (200, or 503 with the reason `ready` gives) and `/metrics`;
/// merge the daemon's own routes into it.
pub fn common_routes(
    registry: Arc<Registry>,
    ready: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
) -> Routes {
    Routes::new()
        .get("/healthz", async || "ok\n")
        .get("/readyz", move || {
            let answer = match ready() {
                Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
            };
            std::future::ready(answer)
        })
        .get("/metrics", move || {
            let text = metrics::encode(&registry);
            std::future::ready(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
        })
}

/// Listens where the settings say and serves the router, in tasks of the current tokio runtime.
pub async fn serve(settings: &AdminSettings, router: Router) -> Result<AdminServer, AdminError> {
    let router = router.fallback(unknown).layer(from_fn(guard_method));
    let mut server = AdminServer { tasks: Vec::new(), unix: None, tcp: None };
    if let Some(tcp) = &settings.tcp {
        let addr = *tcp.get_ref();
        if !addr.ip().is_loopback() {
            return Err(AdminError::NotLoopback(addr));
        }
        let fail = |source| AdminError::Tcp { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(fail)?;
        server.tcp = Some(listener.local_addr().map_err(fail)?);
        let router = router.clone().layer(from_fn(only_loopback_host));
        let level = Some(settings.tcp_level);
        server.tasks.push(tokio::spawn(accept(router, Places::default(), READ_LIMIT, async move || {
            listener.accept().await.map(|(stream, _)| (stream, level))
        })));
    }
    if let Some(unix) = &settings.unix {
        let path = unix.get_ref();
        let access = settings.access(sys::effective_uid());
        let listener = bind_unix(path, if access.is_open() { 0o660 } else { 0o666 }).await?;
        server.unix = identify(path).ok().map(|id| (path.clone(), id));
        server.tasks.push(tokio::spawn(accept(router, Places::default(), READ_LIMIT, async move || {
            listener.accept().await.map(|(stream, _)| {
                let level = level_of(&access, &stream);
                (stream, level)
            })
        })));
    }
    Ok(server)
}

/// What the process at the other end may do. One whose credentials cannot be read may do nothing.
fn level_of(access: &Access, stream: &UnixStream) -> Option<Level> {
    let credentials = stream.peer_cred().ok()?;
    let mut gids = sys::peer_groups(stream).unwrap_or_default();
    gids.push(credentials.gid());
    access.level(&Peer { uid: credentials.uid(), gids })
}

fn identify(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

async fn bind_unix(path: &Path, mode: u32) -> Result<UnixListener, AdminError> {
    let fail = |source| AdminError::Unix { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(fail(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is there",
            )));
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => return Err(AdminError::InUse(path.to_owned())),
            // Only this says that nobody listens; anything else may be a socket in use that we may not open.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(fail)?,
            Err(e) => return Err(fail(e)),
        },
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fail)?;
    Ok(listener)
}

/// To a connection for which there is no place.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 57\r\n\r\n\
      {\"error\":\"there are as many connections as there may be\"}";

async fn accept<S, F>(router: Router, places: Places, read_limit: Duration, mut next: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: AsyncFnMut() -> io::Result<(S, Option<Level>)>,
{
    // Dropped with this task: connections end with the endpoint.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = next().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((mut stream, level)) => {
                let Some(place) = places.take(level) else {
                    // What a new connection's buffer takes; nobody waits for it.
                    let _ = tokio::time::timeout(Duration::ZERO, stream.write_all(BUSY)).await;
                    continue;
                };
                let router = router.clone();
                let service = hyper::service::service_fn(move |mut request: hyper::Request<_>| {
                    request.extensions_mut().insert(Granted(level));
                    router.clone().call(request.map(Body::new))
                });
                connections.spawn(async move {
                    let served = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_LIMIT)
                        .serve_connection(TokioIo::new(WhileRead::new(stream, read_limit)), service)
                        .await;
                    if let Err(e) = served {
                        tracing::debug!("admin connection: {e}");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                tracing::warn!("admin endpoint cannot accept: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What the peer of a request's connection may do.
#[derive(Clone, Copy, Debug)]
struct Granted(Option<Level>);

/// The header that a request must have, with the value `1`, if it changes something or needs more than the level `view`.
pub const CSRF_HEADER: &str = "x-baton-csrf";

async fn guard_method(request: Request, next: Next) -> Response {
    match *request.method() {
        Method::GET | Method::HEAD | Method::POST => next.run(request).await,
        _ => {
            let allow = [(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"))];
            (StatusCode::METHOD_NOT_ALLOWED, allow, "only GET and POST\n").into_response()
        }
    }
}

async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "error": "no such path" }))).into_response()
}

async fn only_loopback_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if is_loopback_host(host) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "the Host header must be localhost, 127.0.0.1 or [::1]\n").into_response()
}

fn is_loopback_host(host: &str) -> bool {
    let bare = if let Some(rest) = host.strip_prefix('[') {
        rest.split_once(']').map_or("", |(ip, _)| ip)
    } else {
        host.rsplit_once(':').map_or(host, |(name, _)| name)
    };
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
