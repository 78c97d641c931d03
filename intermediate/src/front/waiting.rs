//! Connections and their places: who waits for its first request head, which source has how many. Who gets a place is
//! judged by [`baton_shared::admission`]; here is what it is told, and what comes of it.

use baton_shared::admission::{Admission, Network, OpenStreams, SourceLimits, Sources, Waiting as ByAge};
use baton_shared::reason::CloseReason;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

#[derive(Debug, Default)]
struct Inner {
    by_age: ByAge<oneshot::Sender<()>>,
    /// Of all listeners but those that count their own apart.
    sources: Sources,
    /// By the listener that counts its own apart.
    apart: HashMap<SocketAddr, Sources>,
    streams: OpenStreams,
}

/// All of them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<Mutex<Inner>>);

/// One connection's place among those that wait, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    waiting: Waiting,
    number: u64,
    given_up: oneshot::Receiver<()>,
}

/// One connection's place among those of its source, until it is dropped.
#[derive(Debug)]
pub(crate) struct SourcePlace {
    waiting: Waiting,
    apart: Option<SocketAddr>,
    source: Network,
}

/// One stream's place among those of all connections, until it is dropped.
#[derive(Debug)]
pub(crate) struct StreamPlace(Waiting);

impl Waiting {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that was just accepted, as the last of `open`, of which there may be `limit`: behind
    /// all others that wait. One of those may have to go for it.
    pub(super) fn enter(&self, open: usize, limit: usize) -> Result<Place, CloseReason> {
        let mut inner = self.inner();
        loop {
            match inner.by_age.admit(open, limit) {
                Admission::Admitted => break,
                Admission::InPlaceOf(oldest) => {
                    if oldest.send(()).is_ok() {
                        break;
                    }
                    // It was gone by itself.
                }
                Admission::Refused(reason) => return Err(reason),
            }
        }
        let (give_up, given_up) = oneshot::channel();
        let number = inner.by_age.enter(give_up);
        drop(inner);
        Ok(Place { waiting: self.clone(), number, given_up })
    }

    /// A place among the connections of a client's source: among those of all listeners, or of the one that counts
    /// its own apart.
    pub(super) fn enter_source(
        &self,
        client: IpAddr,
        apart: Option<SocketAddr>,
        limits: &SourceLimits,
    ) -> Result<SourcePlace, CloseReason> {
        let source = limits.source(client);
        let mut inner = self.inner();
        let sources = match apart {
            Some(listener) => inner.apart.entry(listener).or_default(),
            None => &mut inner.sources,
        };
        if sources.enter(source, limits) {
            Ok(SourcePlace { waiting: self.clone(), apart, source })
        } else {
            Err(CloseReason::SourceLimit)
        }
    }

    /// A place for a stream of HTTP/2, of which there may be `limit`.
    pub(crate) fn enter_stream(&self, limit: usize) -> Result<StreamPlace, CloseReason> {
        self.inner().streams.enter(limit).map(|()| StreamPlace(self.clone()))
    }

    /// How many streams of HTTP/2 are under way.
    pub fn streams(&self) -> usize {
        self.inner().streams.len()
    }

    /// How many sources have connections.
    pub fn sources(&self) -> usize {
        let inner = self.inner();
        inner.sources.len() + inner.apart.values().map(Sources::len).sum::<usize>()
    }
}

impl Place {
    /// Until the connection is given up.
    pub(crate) async fn given_up(&mut self) {
        // The sender goes only after it was used, or with this place.
        let _ = (&mut self.given_up).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.inner().by_age.leave(self.number);
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.inner().streams.leave();
    }
}

impl Drop for SourcePlace {
    fn drop(&mut self) {
        let mut inner = self.waiting.inner();
        let Some(listener) = self.apart else { return inner.sources.leave(self.source) };
        let Some(sources) = inner.apart.get_mut(&listener) else { return };
        sources.leave(self.source);
        if sources.is_empty() {
            inner.apart.remove(&listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_still_waits_is_given_up() {
        let waiting = Waiting::default();
        let enter = |open| waiting.enter(open, 3);
        let (first, mut second, third) = (enter(1).unwrap(), enter(2).unwrap(), enter(3).unwrap());
        drop(first);
        let fourth = enter(4).unwrap();
        second.given_up().await;
        drop((third, fourth));
        assert_eq!(enter(4).unwrap_err(), CloseReason::ConnectionLimit);
        drop(second);
        assert!(waiting.inner().by_age.is_empty());
    }

    #[test]
    fn a_source_gives_its_places_back() {
        let waiting = Waiting::default();
        let limits = SourceLimits { connections: 1, ..SourceLimits::default() };
        let enter = |client: &str| waiting.enter_source(client.parse().unwrap(), None, &limits);
        let one = enter("2001:db8::1").unwrap();
        assert_eq!(enter("2001:db8::2").unwrap_err(), CloseReason::SourceLimit);
        let other = enter("192.0.2.1").unwrap();
        assert_eq!(waiting.sources(), 2);
        let apart = "192.0.2.100:81".parse().ok();
        let enter_apart = || waiting.enter_source("2001:db8::1".parse().unwrap(), apart, &limits);
        let third = enter_apart().unwrap();
        assert_eq!(enter_apart().unwrap_err(), CloseReason::SourceLimit);
        assert_eq!(waiting.sources(), 3);
        drop((one, other, third));
        assert_eq!(waiting.sources(), 0);
    }
}
