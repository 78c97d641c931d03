//! A front in mode "proxy" on loopback, a server behind it, and a client that sends bytes as it likes.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's panic is its report"
)]

pub mod tls;

use arc_swap::ArcSwap;
use baton_shared::admission::SourceLimits;
use baton_shared::http::Tunnels;
use baton_shared::pace::MinRate;
use baton_shared::reason::CloseReason;
use baton_shared::route::{KeepAlive, Mode, PoolId, RequestLimits, Route, RouteTable};
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use intermediate::access_log::AccessLog;
use intermediate::config::{Protocol, StreamTimes};
use intermediate::front::{
    Aside, Departed, Drains, Front, FrontLimits, Migration, SlowLimits, StopControl, Waiting, listen,
};
use intermediate::handoff::History;
use intermediate::metrics::Metrics;
use intermediate::pools::{Member, Pool};
use intermediate::proxy::Upstreams;
use intermediate::site::{Site, SiteListener};
use intermediate::targets::{Servers, TargetSpec, Targets};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Limits with a short head timeout and a short upstream timeout.
pub fn limits() -> FrontLimits {
    FrontLimits {
        head: baton_shared::http::HeadLimits::default(),
        head_timeout: Duration::from_millis(300),
        slow: SlowLimits {
            idle: Duration::from_millis(400),
            response: MinRate { bytes_per_second: 1000, grace_ns: 1_000_000_000 },
        },
        sources: SourceLimits::default(),
        connections: 1000,
        request: RequestLimits {
            body_bytes: 0,
            body_rate: MinRate { bytes_per_second: 1000, grace_ns: 1_000_000_000 },
            connect_timeout: Duration::from_millis(600),
            connect_retries: 10,
            upstream_timeout: Duration::from_millis(600),
        },
        client_timeout: Duration::from_millis(500),
    }
}

/// A front with its servers.
pub struct Bed {
    pub front: Arc<Front>,
    pub vip: SocketAddr,
    pub control: StopControl,
}

impl Bed {
    /// All servers in one pool.
    pub fn start(limits: FrontLimits, servers: &[SocketAddr]) -> Bed {
        Bed::with_routes(limits, &[servers], Vec::new())
    }

    /// A pool of each list of servers, the first for what no route takes.
    pub fn with_routes(limits: FrontLimits, pools: &[&[SocketAddr]], routes: Vec<Route>) -> Bed {
        Bed::with_listener(limits, pools, routes, |listener| listener)
    }

    /// As [`Bed::with_routes`], with another listener.
    pub fn with_listener(
        limits: FrontLimits,
        pools: &[&[SocketAddr]],
        routes: Vec<Route>,
        order: impl FnOnce(SiteListener) -> SiteListener,
    ) -> Bed {
        Bed::with_log(limits, pools, routes, order, AccessLog::off())
    }

    /// As [`Bed::with_listener`], with an access log.
    pub fn with_log(
        limits: FrontLimits,
        pools: &[&[SocketAddr]],
        routes: Vec<Route>,
        order: impl FnOnce(SiteListener) -> SiteListener,
        access_log: AccessLog,
    ) -> Bed {
        let spec = |(n, server): (usize, &SocketAddr)| TargetSpec {
            name: format!("target{n}"),
            servers: Servers::new([*server]),
            agent: "127.0.0.1:1".parse().unwrap(),
            agent_name: "host".into(),
            leg: baton_shared::translate::Leg::Rewrite,
        };
        let targets = Arc::new(Targets::new(pools.iter().copied().flatten().enumerate().map(spec)));
        let mut all = targets.iter();
        let pool = |(n, servers): (usize, &&[SocketAddr])| {
            let members = all.by_ref().take(servers.len()).map(|target| Member::new(target, 1));
            Arc::new(Pool::new(&format!("pool{n}"), members.collect()))
        };
        let pools = pools.iter().enumerate().map(pool).collect();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let vip = listener.local_addr().unwrap();
        let listeners = vec![order(SiteListener {
            name: "web".into(),
            vip,
            protocol: Protocol::Http,
            keepalive: KeepAlive::Pinned,
            mode: Mode::Proxy,
            pool: Some(PoolId(0)),
            limits,
            counts_sources_apart: false,
            times: StreamTimes::default(),
            tls: None,
            tunnels: Tunnels { upgrade: Arc::new(["websocket".to_owned()]), connect: false },
        })];
        let source_exempt = Vec::new();
        let site = Site { listeners, pools, table: RouteTable::new(routes), limits, source_exempt };
        let front = Arc::new(Front {
            targets,
            metrics: Metrics::default(),
            migration: Migration::Off(Arc::new(History::new(100))),
            site: ArcSwap::from_pointee(site),
            departed: Departed::default(),
            waiting: Waiting::default(),
            upstreams: Upstreams::default(),
            drains: Drains::default(),
            access_log,
            aside: Aside::default(),
        });
        let control = StopControl::default();
        tokio::spawn(Arc::clone(&front).run(listener, vip, control.stop()));
        Bed { front, vip, control }
    }

    /// Waits until this many connections were closed for a reason: the client may see it before it is counted.
    pub async fn closed_becomes(&self, reason: CloseReason, count: u64) {
        let counted = async {
            while self.front.metrics.closed(reason) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(30), counted).await;
        assert_eq!(self.front.metrics.closed(reason), count, "closed for {}", reason.name());
    }

    pub async fn client(&self) -> Client {
        Client(TcpStream::connect(self.vip).await.unwrap())
    }

    /// Sends `request`, returns all that comes until the connection's end.
    pub async fn exchange(&self, request: &[u8]) -> String {
        let mut client = self.client().await;
        client.send(request).await;
        client.rest().await
    }
}

/// An address on which nothing listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A client's end of a connection.
pub struct Client(pub TcpStream);

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// All that comes until the end.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.0.read_to_end(&mut bytes);
        tokio::time::timeout(Duration::from_secs(30), read).await.expect("the end").expect("no reset");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads until what came ends in `end`.
    pub async fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        let read = async {
            while !bytes.ends_with(end.as_bytes()) {
                bytes.push(
                    self.0
                        .read_u8()
                        .await
                        .unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&bytes))),
                );
            }
        };
        tokio::time::timeout(Duration::from_secs(30), read).await.expect("an answer");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// More than all buffers between server and client take.
pub const LARGE: usize = 64 << 20;

/// Once, however many ask for it.
static LARGE_BODY: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![b'x'; LARGE]));

/// How many connections a server took.
pub type Taken = Arc<AtomicUsize>;

/// A small server: `/echo` gives the body back, `/headers` the request head, `/silent` nothing for a while,
/// `/cut` half an answer; statuses `/204` and `/304`; `/ws` changes to a tunnel that echoes.
pub async fn server() -> (SocketAddr, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Taken::default();
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let connection = http1::Builder::new()
                .preserve_header_case(true)
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(connection.with_upgrades());
        }
    });
    (address, taken)
}

type Answer = Response<Either<Full<Bytes>, Incoming>>;

async fn answer(mut request: Request<Incoming>) -> Result<Answer, Infallible> {
    let text = |text: String| Response::new(Either::Left(Full::new(Bytes::from(text))));
    let status = |code: StatusCode| {
        let mut response = Response::new(Either::Left(Full::default()));
        *response.status_mut() = code;
        response
    };
    Ok(match request.uri().path() {
        "/echo" => Response::new(Either::Right(request.into_body())),
        "/count" => text(request.into_body().collect().await.map_or(0, |b| b.to_bytes().len()).to_string()),
        "/headers" => {
            let mut lines = vec![format!("{} {}", request.method(), request.uri())];
            let mut headers: Vec<_> =
                request.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
            headers.sort();
            lines.extend(headers);
            text(lines.join("\n") + "\n")
        }
        "/silent" => {
            tokio::time::sleep(Duration::from_secs(5)).await;
            text("late".into())
        }
        "/large" => Response::new(Either::Left(Full::new(LARGE_BODY.clone()))),
        "/204" => status(StatusCode::NO_CONTENT),
        "/304" => {
            let mut response = status(StatusCode::NOT_MODIFIED);
            response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"e\""));
            response
        }
        "/ws" if request.headers().contains_key(header::UPGRADE) => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let mut bytes = [0; 64];
                while let Ok(n) = io.read(&mut bytes).await
                    && n > 0
                {
                    io.write_all(&bytes[..n]).await.unwrap();
                }
            });
            let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            response
        }
        path if request.method() == Method::HEAD => {
            let mut response = text(String::new());
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("1234567"));
            let _ = path;
            response
        }
        path => text(format!("you asked for {path}\n")),
    })
}
