//! The front: accepts connections, reads their first request, and gives them to the migrator or to the proxy.

mod answer;
mod aside;
mod connection;
mod departed;
mod drain;
mod give;
mod head;
mod https;
mod later;
mod listen;
mod opening;
mod passthrough;
mod probed;
mod stop;
mod sys;
mod waiting;

pub use answer::{answer_and_close, close_lingering, text};
pub use aside::Aside;
pub use departed::Departed;
pub use drain::Drains;
pub use later::LaterRouter;
pub use listen::{ListenOptions, listen, listen_shared};
pub use stop::{Busy, Stop, StopControl};
pub use waiting::Waiting;
pub(crate) use waiting::{Place, SourcePlace, StreamPlace};

use crate::access_log::AccessLog;
use crate::config::{Protocol, StreamTimes};
use crate::handoff::{History, Migrator};
use crate::metrics::{Metrics, OpenConnection};
use crate::proxy::{Peer, Upstreams};
use crate::ruling;
use crate::site::Site;
use crate::socket::Socket;
use crate::targets::Targets;
use arc_swap::ArcSwap;
use baton_shared::admission::SourceLimits;
use baton_shared::http::HeadLimits;
use baton_shared::pace::MinRate;
use baton_shared::route::RequestLimits;
use drain::Door;
use std::net::{SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What the front allows.
#[derive(Clone, Copy, Debug)]
pub struct FrontLimits {
    /// Of a request head.
    pub head: HeadLimits,
    /// From accept to the complete first head; of later ones, from their first byte.
    pub head_timeout: Duration,
    /// How slow a client may be.
    pub slow: SlowLimits,
    /// How many connections a source may have.
    pub sources: SourceLimits,
    /// Connections of our own sockets at a time.
    pub connections: usize,
    /// What is asked of requests, and of their servers, where a route says nothing else.
    pub request: RequestLimits,
    /// For which a client of a proxied response may take in nothing.
    pub client_timeout: Duration,
}

/// How slow a client may be whose requests are proxied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowLimits {
    /// Between requests.
    pub idle: Duration,
    /// With a response.
    pub response: MinRate,
}

/// All a connection needs to know of the rest.
pub struct Front {
    /// Where requests can go.
    pub targets: Arc<Targets>,
    /// What is counted.
    pub metrics: Metrics,
    /// Who gives connections away, or, if no listener migrates, the history there is without him. Then there is
    /// no data plane either.
    pub migration: Migration,
    /// The site as it is served now.
    pub site: ArcSwap<Site>,
    /// Listeners that have left it.
    pub departed: Departed,
    /// Connections whose first head is awaited.
    pub waiting: Waiting,
    /// What takes no new connections.
    pub drains: Drains,
    /// Kept connections to the servers.
    pub upstreams: Upstreams,
    /// A line for each request.
    pub access_log: AccessLog,
    /// Where what is proxied is served.
    pub aside: Aside,
}

/// The handoff half, if there is one.
#[derive(Clone, Debug)]
pub enum Migration {
    /// Some listener migrates.
    On(Arc<Migrator>),
    /// All requests are proxied.
    Off(Arc<History>),
}

impl Migration {
    /// What went how.
    pub fn history(&self) -> &History {
        match self {
            Migration::On(migrator) => migrator.history(),
            Migration::Off(history) => history,
        }
    }

    /// Who gives connections away.
    pub fn migrator(&self) -> Option<&Arc<Migrator>> {
        match self {
            Migration::On(migrator) => Some(migrator),
            Migration::Off(_) => None,
        }
    }
}

/// What is held as long as a connection's socket is ours.
pub(crate) type Guards = (OpenConnection, Busy, Option<SourcePlace>);

/// What is left to do of a connection. Boxed, so that no way it may go takes room in the others: most go one that needs
/// little of it, and spawning copies a future a few times.
type Rest<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The snapshot that says what becomes of a connection, and its listener's place in it.
pub type Seat = (Arc<Site>, usize);

/// A connection that was just accepted.
struct Accepted<S = Socket> {
    stream: S,
    client: SocketAddr,
    at: Instant,
    started: SystemTime,
    /// The site as it was at that moment, and the listener's place in it.
    site: Arc<Site>,
    listener: usize,
    vip: SocketAddr,
    /// What was received before: of a connection that was taken back from a target.
    bytes: Vec<u8>,
}

impl Accepted {
    /// With its socket in the current runtime's reactor.
    fn watched(self) -> std::io::Result<Accepted<tokio::net::TcpStream>> {
        let (accepted, socket) = self.take();
        Ok(accepted.with(socket.watched()?))
    }
}

impl<S> Accepted<S> {
    /// Without its stream, and that.
    fn take(self) -> (Accepted<()>, S) {
        let Accepted { stream, client, at, started, site, listener, vip, bytes } = self;
        (Accepted { stream: (), client, at, started, site, listener, vip, bytes }, stream)
    }

    /// With another stream.
    fn with<T>(self, stream: T) -> Accepted<T> {
        let Accepted { client, at, started, site, listener, vip, bytes, .. } = self;
        Accepted { stream, client, at, started, site, listener, vip, bytes }
    }

    fn peer(&self) -> Peer {
        Peer { client: self.client, vip: self.vip, listener: self.listener, started: self.started }
    }

    /// Those of the listener.
    fn limits(&self) -> &FrontLimits {
        self.site.limits(self.listener)
    }

    /// What is spoken there, and its times.
    fn spoken(&self) -> (Protocol, StreamTimes) {
        let listener = self.site.listeners.get(self.listener);
        listener.map_or_else(Default::default, |l| (l.protocol, l.times))
    }
}

impl Front {
    /// Takes a new snapshot of the site into service. Connections under way finish with the one they began with.
    pub fn install(&self, site: Site) {
        let before = self.site.load_full();
        let gone = |vip: &SocketAddr| site.listener(*vip).is_none();
        let gone: Vec<SocketAddr> = before.listeners.iter().map(|l| l.vip).filter(gone).collect();
        // First: whoever finds a listener gone from the new one looks there.
        self.departed.note(&gone, &before);
        let here: Vec<SocketAddr> = site.listeners.iter().map(|l| l.vip).collect();
        self.site.store(Arc::new(site));
        ruling::change();
        self.departed.forget(&here);
    }

    /// The snapshot that says what becomes of a VIP's connections, and the listener's place in it: the one that is
    /// served, or, of a listener that has left it, the last it was a part of.
    pub(crate) fn site_of(&self, vip: SocketAddr) -> Option<Seat> {
        let now = self.site.load_full();
        let place = now.listener(vip).map(|(place, _)| place);
        place.map(|place| (now, place)).or_else(|| self.departed.site_of(vip))
    }

    /// Lets snapshots go that are kept for listeners of which no connection is left. Now and then.
    pub fn sweep_departed(&self) {
        let migrator = self.migration.migrator();
        self.departed.sweep(|vip| migrator.is_some_and(|migrator| migrator.flows().is_read_of(vip)));
    }

    /// Accepts on `listener` until told to stop; each connection gets its own task.
    pub async fn run(self: Arc<Self>, listener: TcpListener, vip: SocketAddr, stop: Stop) {
        self.run_until(listener, vip, stop, std::future::pending()).await;
    }

    /// As [`Front::run`], or until the listener has to `leave`: then what waits in its queue is served yet.
    pub async fn run_until(
        self: Arc<Self>,
        listener: TcpListener,
        vip: SocketAddr,
        stop: Stop,
        leave: impl Future<Output = ()>,
    ) {
        let mut door = match Door::new(listener) {
            Ok(door) => door,
            Err(e) => return tracing::error!(%vip, "cannot listen: {e}"),
        };
        let mut leave = pin!(leave);
        let mut stop = stop;
        // What waits in the queue at the stop is still served: the stop waits for this.
        let _busy = stop.busy();
        let mut drains = self.drains.watch();
        loop {
            drains.borrow_and_update();
            let drained = self.drains.listener(vip).is_some();
            let moved = match (drained, &door) {
                (true, Door::Open(_)) => {
                    tracing::warn!(%vip, "drained: listens no more");
                    door.close(|stream, client| self.on_accepted(stream, client, vip, &stop)).await
                }
                (false, Door::Closed(_)) => {
                    tracing::warn!(%vip, "listens again");
                    door.open()
                }
                _ => Ok(door),
            };
            door = match moved {
                Ok(door) => door,
                Err(e) => return tracing::error!(%vip, drained, "the listening socket is lost: {e}"),
            };
            let accepted = tokio::select! {
                accepted = door.accept() => accepted,
                // The front has the other end: it is there.
                _ = drains.changed() => continue,
                () = &mut leave => {
                    let closed = door.close(|stream, client| self.on_accepted(stream, client, vip, &stop)).await;
                    if let Err(e) = closed {
                        tracing::error!(%vip, "what waited on a listener that left may have been lost: {e}");
                    }
                    return;
                }
                () = stop.wait() => {
                    return door.take_waiting(|stream, client| self.on_accepted(stream, client, vip, &stop));
                }
            };
            match accepted {
                Ok((stream, client)) => self.on_accepted(stream, client, vip, &stop),
                Err(e) => {
                    // Out of file descriptors or memory.
                    tracing::warn!(%vip, "accept: {e}");
                    tokio::time::sleep(drain::RETRY).await;
                }
            }
        }
    }

    fn on_accepted(self: &Arc<Self>, stream: Socket, client: SocketAddr, vip: SocketAddr, stop: &Stop) {
        if let Some(migrator) = self.migration.migrator() {
            // Before anything is read: the ended flow's record must not catch the new connection's packets.
            migrator.forget_superseded(client, vip);
        }
        // Nobody listened there, ever.
        let Some(seat) = self.site_of(vip) else { return };
        self.begin(stream, client, vip, seat, Vec::new(), stop);
    }

    /// A connection is ours: one just accepted, or one that a target gave back, with the bytes received before.
    fn begin(
        self: &Arc<Self>,
        stream: Socket,
        client: SocketAddr,
        vip: SocketAddr,
        (site, listener): Seat,
        bytes: Vec<u8>,
        stop: &Stop,
    ) {
        let open = self.metrics.connection();
        let exempt = site.source_exempt.iter().any(|network| network.contains(client.ip().to_canonical()));
        let of_source = if exempt {
            Ok(None)
        } else {
            let apart = site.listeners.get(listener).is_some_and(|l| l.counts_sources_apart).then_some(vip);
            self.waiting.enter_source(client.ip(), apart, &site.limits(listener).sources).map(Some)
        };
        let count = usize::try_from(self.metrics.open_connections()).unwrap_or(0);
        let places = of_source.and_then(|of_source| {
            let place = self.waiting.enter(count, site.limits.connections)?;
            Ok((of_source, place))
        });
        let (of_source, place) = match places {
            Ok(places) => places,
            // Nothing but a count: whoever opens thousands shall not write thousands of lines.
            Err(reason) => return self.metrics.on_closed(reason),
        };
        let accepted = Accepted {
            stream,
            client,
            at: Instant::now(),
            started: SystemTime::now(),
            site,
            listener,
            vip,
            bytes,
        };
        let front = Arc::clone(self);
        let mut stop = stop.clone();
        let guards = (open, stop.busy(), of_source);
        // Boxed as well: spawning copies it a few times.
        let begun = Box::new((accepted, guards, place));
        tokio::spawn(async move {
            let (accepted, guards, place) = *begun;
            front.on_connection(accepted, &mut stop, guards, place).await;
        });
    }
}
