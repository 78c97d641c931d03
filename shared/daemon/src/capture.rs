//! `/v1/capture`: the packets of one client on this host's devices, each with the verdict on it, as they pass.
//!
//! A tap sees a packet that comes in before the data plane does, and one that goes out after it. So on the
//! intermediate both sides of a rewrite are there by themselves. On a target what the server's kernel had sent is made
//! again from what went out (`baton_shared::translate::inverse`), and told apart as such.

mod explain;
mod filter;
mod known;

pub use explain::Moment;
pub use known::Records;

use crate::sys;
use crate::tun::interface_index;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use baton_shared::translate::Direction;
use explain::Explained;
use filter::{Client, attach};
use futures_util::stream;
use known::Known;
use serde::Deserialize;
use serde_json::json;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// Captures at a time.
static PLACES: Semaphore = Semaphore::const_new(4);
/// Room for the largest packet.
const PACKET_BYTES: usize = 1 << 16;
/// Room for packets that are not read yet, bytes; as much of it as net.core.rmem_max allows.
const QUEUE_BYTES: usize = 8 << 20;
/// Seconds, if the request names none, and the most.
const SECONDS: (u64, u64) = (10, 600);
/// Packets.
const PACKETS: (u64, u64) = (10_000, 1_000_000);
/// Packets taken from a tap before anything else has its turn: the other tap, the end, the reader, other connections.
const AT_ONCE: u64 = 64;
/// Bytes of a packet.
const SNAP: (usize, usize) = (256, PACKET_BYTES);

/// Query of `/v1/capture`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureQuery {
    /// `ADDRESS` or `ADDRESS:PORT`.
    client: String,
    seconds: Option<u64>,
    packets: Option<u64>,
    snap: Option<usize>,
}

/// What is captured where.
#[derive(Clone, Debug)]
pub struct Place {
    /// The device on which clients' packets arrive, or the server's leave.
    pub uplink: String,
    /// The daemon's own device: held packets, replayed handshakes.
    pub tun: String,
    /// Which way the host's program translates.
    pub direction: Direction,
}

/// A device's tap.
struct Tap {
    device: String,
    is_uplink: bool,
    fd: AsyncFd<OwnedFd>,
}

impl Tap {
    fn open(device: &str, is_uplink: bool, client: &Client) -> io::Result<Self> {
        let fd = sys::tap(interface_index(device)?)?;
        attach(&fd, client)?;
        // More is better, and less will do.
        let _ = socket2::SockRef::from(&fd).set_recv_buffer_size(QUEUE_BYTES);
        Ok(Tap { device: device.to_owned(), is_uplink, fd: sys::watch(fd)? })
    }
}

/// `GET /v1/capture`: a JSON object in each line. The first says that the capture has begun, the last how it ended.
pub fn capture(
    place: &Place,
    records: impl Records + 'static,
    query: Result<Query<CaptureQuery>, QueryRejection>,
) -> Response {
    let wrong = |status, text: &str| (status, Json(json!({ "error": text }))).into_response();
    let Ok(Query(query)) = query else {
        let text = "the query must name client, and may name seconds, packets and snap";
        return wrong(StatusCode::BAD_REQUEST, text);
    };
    let Some(client) = Client::parse(&query.client) else {
        return wrong(StatusCode::BAD_REQUEST, "client is ADDRESS or ADDRESS:PORT");
    };
    let (seconds, packets) = (query.seconds.unwrap_or(SECONDS.0), query.packets.unwrap_or(PACKETS.0));
    let snap = query.snap.unwrap_or(SNAP.0);
    if seconds > SECONDS.1 || packets > PACKETS.1 || snap > SNAP.1 {
        let text = "at most 600 seconds, 1000000 packets, 65536 bytes of each";
        return wrong(StatusCode::BAD_REQUEST, text);
    }
    let Ok(place_in_line) = PLACES.try_acquire() else {
        return wrong(StatusCode::SERVICE_UNAVAILABLE, "there are as many captures as there may be");
    };
    let open = |device, is_uplink| Tap::open(device, is_uplink, &client);
    let taps = match (open(&place.uplink, true), open(&place.tun, false)) {
        (Ok(uplink), Ok(tun)) => [uplink, tun],
        (Err(e), _) => return wrong(StatusCode::CONFLICT, &format!("{}: {e}", place.uplink)),
        (_, Err(e)) => return wrong(StatusCode::CONFLICT, &format!("{}: {e}", place.tun)),
    };
    let devices = [&place.uplink, &place.tun];
    let running = Running {
        taps,
        client,
        direction: place.direction,
        records: Known::new(records),
        until: Instant::now() + Duration::from_secs(seconds),
        left: packets,
        snap,
        buffer: vec![0; PACKET_BYTES],
        ready: VecDeque::from([format!("{}\n", json!({ "begin": { "devices": devices } }))]),
        over: false,
        _place: place_in_line,
    };
    let lines = stream::unfold(running, async |mut running| {
        let line = running.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(line)), running))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

struct Running<R> {
    taps: [Tap; 2],
    client: Client,
    direction: Direction,
    records: Known<R>,
    until: Instant,
    left: u64,
    snap: usize,
    buffer: Vec<u8>,
    ready: VecDeque<String>,
    over: bool,
    _place: SemaphorePermit<'static>,
}

impl<R: Records> Running<R> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            // Asked here too: below, a tap that is always ready may come first.
            if self.left == 0 || Instant::now() >= self.until {
                self.end();
                continue;
            }
            let [uplink, tun] = &self.taps;
            let which = tokio::select! {
                () = sleep_until(self.until) => None,
                ready = uplink.fd.readable() => ready.ok().map(|_| 0),
                ready = tun.fd.readable() => ready.ok().map(|_| 1),
            };
            match which {
                Some(tap) => {
                    self.read(tap);
                    // Of what was read, nothing may be the client's.
                    tokio::task::yield_now().await;
                }
                None => self.end(),
            }
        }
    }

    fn end(&mut self) {
        self.over = true;
        let missed: u64 =
            self.taps.iter().filter_map(|tap| sys::tap_drops(&tap.fd).ok()).map(u64::from).sum();
        self.ready.push_back(format!("{}\n", json!({ "end": { "missed": missed } })));
    }

    /// Takes some of what a tap has by now. Finding nothing more marks it as not ready.
    fn read(&mut self, tap: usize) {
        let Some(tap) = self.taps.get(tap) else { return };
        for _ in 0..AT_ONCE.min(self.left) {
            let next = tap.fd.try_io(Interest::READABLE, |fd| sys::tapped(fd, &mut self.buffer));
            let Ok(tapped) = next else { return };
            let packet = self.buffer.get(..tapped.length.min(PACKET_BYTES)).unwrap_or_default();
            if !self.client.has(packet) {
                continue;
            }
            self.left -= 1;
            let about = if tap.is_uplink {
                explain::uplink(&self.records, self.direction, &self.client, packet, tapped.leaving)
            } else {
                vec![explain::tun(&self.records, self.direction, packet, tapped.leaving)]
            };
            for Explained { moment, packet, comment } in about {
                let line = json!({
                    "at_ns": tapped.at_ns,
                    "device": tap.device,
                    "leaving": tapped.leaving,
                    "moment": moment.name(),
                    "length": packet.len(),
                    "data": hex(packet.get(..self.snap).unwrap_or(&packet)),
                    "comment": comment,
                });
                self.ready.push_back(format!("{line}\n"));
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::record::{FlowKey, FlowRecord};
    use std::collections::HashMap;
    use std::net::{IpAddr, SocketAddr, UdpSocket};

    struct Nothing;

    impl Records for Nothing {
        fn lookup(&self, _: &FlowKey) -> Option<u32> {
            None
        }

        fn read(&self, _: u32) -> FlowRecord {
            FlowRecord::default()
        }

        fn slots_of(&self, _: IpAddr) -> HashMap<SocketAddr, u32> {
            HashMap::new()
        }

        fn now_ns(&self) -> u64 {
            1
        }
    }

    /// An address of this host that no other test has packets of.
    const ADDRESS: &str = "127.9.8.7";

    fn running(seconds: u64) -> Running<Nothing> {
        let client = Client::parse(ADDRESS).unwrap();
        let tap = |is_uplink| Tap::open("lo", is_uplink, &client).unwrap();
        Running {
            taps: [tap(true), tap(false)],
            client,
            direction: Direction::FromClient,
            records: Known::new(Nothing),
            until: Instant::now() + Duration::from_secs(seconds),
            left: 1_000_000,
            snap: 64,
            buffer: vec![0; PACKET_BYTES],
            ready: VecDeque::new(),
            over: false,
            _place: PLACES.try_acquire().unwrap(),
        }
    }

    /// Packets to and from the address, each of which a tap sees twice. The loopback device delivers them later, maybe on
    /// another processor: what arrived at the socket the taps have seen.
    fn send(count: u64) {
        let socket = UdpSocket::bind((ADDRESS, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for _ in 0..count {
            socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
            assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_tap_that_always_has_packets_is_left_for_the_others_and_at_the_end() {
        if sys::effective_uid() != 0 {
            return crate::skipped("only root can tap a device");
        }
        let mut capture = running(600);
        send(AT_ONCE);
        let _ = capture.taps[0].fd.readable().await.unwrap();
        capture.read(0);
        let mut buffer = [0; 64];
        for _ in 0..AT_ONCE {
            sys::tapped(&capture.taps[0].fd, &mut buffer).expect("the second half is there still");
        }
        let rest = sys::tapped(&capture.taps[0].fd, &mut buffer).unwrap_err();
        assert_eq!(rest.kind(), io::ErrorKind::WouldBlock);
        drop(capture);

        let mut capture = running(0);
        send(AT_ONCE);
        assert!(capture.next().await.unwrap().contains("\"end\""), "its time is over, whatever there is");
        assert_eq!(capture.next().await, None);
    }
}
