//! A connection between its freeze and the word who answers it: what is to be undone or done if it goes one way or
//! the other, and how long its stages take.

use super::repair::{Captured, Late};
use super::{Migrator, late};
use crate::flows::Place;
use crate::hold::HeldFlow;
use crate::socket::Socket;
use baton_shared::capture::CapturedConnection;
use baton_shared::http::BodyScanner;
use baton_shared::reason::{ProxyReason, Refusal};
use baton_shared::seq::{Client, Seq};
use baton_shared::state::later::{LaterRequests, pass_content};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection in flight: frozen, captured, its handoff sent. Dropped before it is resolved (its task was
/// cancelled) it ends without a word: the request may be running, so nobody else may answer.
pub(super) struct Flight<'a> {
    pub(super) migrator: &'a Migrator,
    pub(super) place: Place,
    pub(super) held: Arc<HeldFlow>,
    pub(super) captured: Option<Captured>,
    /// If later requests are to be read.
    pub(super) tracked: Option<TrackedFlight>,
    /// Not all of the request was there.
    pub(super) more: bool,
}

/// What a flight leaves to be read once it is committed.
pub(super) struct TrackedFlight {
    /// Where the first request ends, or its body's next byte must be read.
    pub(super) end: Seq<Client>,
    /// The rest of its body from there on.
    pub(super) body: BodyScanner,
    /// What had been received behind it.
    pub(super) extra: Vec<u8>,
    /// That, and all that follows, is nobody's.
    pub(super) last: bool,
}

impl TrackedFlight {
    /// What is read from here on, and packets with what the captured socket has received since of the first request.
    /// `captured` is the connection as it was captured.
    pub(super) fn later(
        mut self,
        captured: &CapturedConnection,
        late: Option<Late>,
        most: usize,
    ) -> (LaterRequests, Vec<Vec<u8>>) {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let fin = captured.client_fin;
        if self.extra.is_empty() && fin {
            // All the client has to say was given along.
            return (LaterRequests::new(captured.rcv_nxt, most), Vec::new());
        }
        let Some(mut late) = late else { return (self.following(&[], fin, most), Vec::new()) };
        let content = if captured.rcv_nxt.before(self.end) { self.end.since(captured.rcv_nxt) } else { 0 };
        let mut beyond =
            late.bytes.split_off(usize::try_from(content).unwrap_or(usize::MAX).min(late.bytes.len()));
        // One that cannot be read on is found out with what comes next.
        if let Ok(taken) = self.body.clone().advance(&beyond)
            && taken > 0
        {
            let _ = self.body.advance(&beyond);
            let behind = beyond.split_off(taken);
            late.bytes.append(&mut beyond);
            beyond = behind;
            let taken = u32::try_from(taken).unwrap_or(u32::MAX);
            self.end = self.end.plus(taken.wrapping_add(pass_content(&mut self.body)));
        }
        if beyond.is_empty() && self.extra.is_empty() {
            let has_fin = late.fin;
            let packets = late::packets(captured, &late);
            if has_fin {
                // The server gets the end with the bytes.
                let end = captured.rcv_nxt.plus(u32::try_from(late.bytes.len()).unwrap_or(0));
                return (LaterRequests::new(end.plus(1), most), packets);
            }
            return (self.following(&[], false, most), packets);
        }
        let later = self.following(&beyond, fin || late.fin, most);
        // What lies behind the last request is nobody's; but that the client has closed is its server's to know, and no
        // packet will say it again.
        late.fin &= self.last && self.body.is_done();
        if late.bytes.is_empty() && !late.fin {
            return (later, Vec::new());
        }
        let mut from = captured.clone();
        if late.bytes.is_empty() {
            from.rcv_nxt = self.end;
        }
        (later, late::packets(&from, &late))
    }

    /// Behind `end`, with what this kernel has acknowledged of it.
    fn following(&self, beyond: &[u8], fin: bool, most: u32) -> LaterRequests {
        let mut later = LaterRequests::new(self.end, most).within(self.body.clone());
        later.on_acknowledged(&[&self.extra, beyond].concat(), fin);
        later
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if let Some(captured) = self.captured.take() {
            captured.release();
            self.migrator.unfreeze(&self.place, &self.held);
        }
    }
}

/// A connection that stays here.
pub(super) struct Kept {
    pub(super) stream: Option<Socket>,
    pub(super) reason: ProxyReason,
    pub(super) refusal: Option<Refusal>,
    /// What had been received behind the request.
    pub(super) extra: Vec<u8>,
}

/// Measures stages that follow each other.
pub(super) struct Lap(Instant);

impl Lap {
    pub(super) fn new() -> Self {
        Lap(Instant::now())
    }

    /// The first began at this time.
    pub(super) fn since(start: Instant) -> Self {
        Lap(start)
    }

    /// When the last one ended.
    pub(super) fn at(&self) -> Instant {
        self.0
    }

    pub(super) fn lap(&mut self) -> Duration {
        self.lap_at(Instant::now())
    }

    /// One that ended at this time.
    pub(super) fn lap_at(&mut self, now: Instant) -> Duration {
        let took = now.duration_since(self.0);
        self.0 = now;
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::sample::captured;
    use baton_shared::http::Framing;
    use etherparse::{SlicedPacket, TransportSlice};

    const END: Seq<Client> = Seq::new(u32::MAX - 1);

    /// Number, bytes and FIN of the packets that the server gets.
    fn given(flight: TrackedFlight, rcv_nxt: Seq<Client>, late: Late) -> Vec<(u32, Vec<u8>, bool)> {
        let (_, packets) = flight.later(&captured("10.0.0.1:1000", "10.0.0.2:80", rcv_nxt), Some(late), 1000);
        let read = |bytes: &Vec<u8>| {
            let packet = SlicedPacket::from_ip(bytes).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
            (tcp.sequence_number(), tcp.payload().to_vec(), tcp.fin())
        };
        packets.iter().map(read).collect()
    }

    #[test]
    fn the_end_behind_bytes_that_are_nobodys_is_told_to_the_server_of_the_last_request() {
        let flight = |last, extra: &[u8]| TrackedFlight {
            end: END,
            body: BodyScanner::new(Framing::None),
            extra: extra.to_vec(),
            last,
        };
        let late = |bytes: &[u8]| Late { bytes: bytes.to_vec(), fin: true };
        let only_the_end = [(END.raw(), Vec::new(), true)];
        assert_eq!(given(flight(true, b"GET /"), END.plus(5), late(b"2 HTTP")), only_the_end);
        assert_eq!(given(flight(true, b""), END, late(b"GET /2")), only_the_end);
        assert_eq!(given(flight(true, b""), END, late(b"")), only_the_end, "nothing lies before it");
        // Behind a request that another may follow the end is read, and passed on with it or answered.
        assert!(given(flight(false, b""), END, late(b"GET /2")).is_empty());
        assert!(given(flight(true, b""), END, Late { bytes: b"GET /2".to_vec(), fin: false }).is_empty());
    }

    #[test]
    fn the_rest_of_the_last_request_and_the_end_behind_more_go_together() {
        let begun = || {
            let mut body = BodyScanner::new(Framing::Chunked);
            assert_eq!(body.advance(b"2\r\nab\r\n"), Ok(7));
            TrackedFlight { end: END, body, extra: Vec::new(), last: true }
        };
        let rest = b"0\r\n\r\n".to_vec();
        let more = [&rest[..], b"GET /2"].concat();
        for bytes in [more, rest.clone()] {
            assert_eq!(given(begun(), END, Late { bytes, fin: true }), [(END.raw(), rest.clone(), true)]);
        }
        // Its sender broke off within it.
        let half = Late { bytes: b"5\r\nx".to_vec(), fin: true };
        assert_eq!(given(begun(), END, half), [(END.raw(), b"5\r\nx".to_vec(), true)]);
    }
}
