//! One connection of the peer, segment by segment.

use super::between;
use super::device::Host;
use super::fragments;
use super::watch::{Watch, before};
use super::wire::{Options, Packet, Segment, Shown, flag};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a packet that must come is waited for: longer than a busy machine may stand still.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How a connection begins.
#[derive(Debug, Clone)]
pub struct Start {
    /// The client's port.
    pub port: u16,
    /// The initial sequence number.
    pub isn: u32,
    /// The window in the SYN, bytes; afterwards the window field as it is, see [`Peer::window`].
    pub window: u16,
    /// The SYN's options; its timestamp is where the client's clock starts.
    pub options: Options,
    /// Ask for explicit congestion notification (RFC 3168, section 6.1.1).
    pub ecn: bool,
    /// What a client's SYN carries (RFC 7413); a server's end has no use for it.
    pub data: Vec<u8>,
}

impl Default for Start {
    /// As an ordinary client begins: MSS 1460, SACK, timestamps, window scale 7.
    fn default() -> Self {
        Start {
            port: 40_000,
            isn: 1_000_000,
            window: 64_240,
            options: Options {
                mss: Some(1460),
                sack_permitted: true,
                timestamps: Some((1_000, 0)),
                window_scale: Some(7),
                ..Options::default()
            },
            ecn: false,
            data: Vec::new(),
        }
    }
}

/// One end of a TCP connection. It sends what it is told to and nothing else.
#[derive(Debug)]
pub struct Peer {
    pub(super) host: Host,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) watch: Watch,
    /// The next sequence number to send.
    pub seq: u32,
    /// What is acknowledged in the next segment.
    pub ack: u32,
    /// The window field of the next segment, not scaled.
    pub window: u16,
    /// The next segment's timestamp value; goes up by one with every segment made.
    pub clock: u32,
    /// The newest timestamp received.
    pub(super) echo: u32,
    /// Bytes of messages already read by [`Peer::response`] and [`Peer::head`].
    pub(super) taken: usize,
    pub(super) log: Vec<String>,
    pub(super) started: Instant,
}

impl Peer {
    /// Sends a SYN.
    pub fn dial(host: Host, to: SocketAddr, start: &Start) -> Self {
        let flags = if start.ecn { flag::SYN | flag::ECE | flag::CWR } else { flag::SYN };
        let syn = Segment {
            seq: start.isn,
            flags,
            window: start.window,
            options: start.options.clone(),
            payload: start.data.clone(),
            ..Segment::default()
        };
        let data = u32::try_from(start.data.len()).unwrap_or(u32::MAX);
        let from = SocketAddr::new(host.address, start.port);
        let mut peer = Peer {
            watch: Watch::new(from, to, &syn),
            host,
            from,
            to,
            seq: start.isn.wrapping_add(1).wrapping_add(data),
            ack: 0,
            window: start.window,
            clock: start.options.timestamps.map_or(0, |(value, _)| value.wrapping_add(1)),
            echo: 0,
            taken: 0,
            log: Vec::new(),
            started: Instant::now(),
        };
        peer.send(&syn);
        peer
    }

    /// The whole handshake.
    pub fn open(host: Host, to: SocketAddr, start: &Start) -> Self {
        let mut peer = Self::dial(host, to, start);
        peer.syn_ack();
        peer.acknowledge();
        peer
    }

    /// Waits for the SYN-ACK, without acknowledging it.
    pub fn syn_ack(&mut self) -> Packet {
        let packet = self.wait("a SYN-ACK", |p| p.has(flag::SYN | flag::ACK));
        self.ack = packet.segment.seq.wrapping_add(1);
        packet
    }

    /// The SYN-ACK if it comes in time; what is left of an older connection before it is passed over.
    pub fn try_syn_ack(&mut self, within: Duration) -> Option<Packet> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let packet = self.host.inbox.recv_timeout(left).ok()?.unwrap_or_else(|e| self.fail(&e));
            self.note('<', &Shown(&packet.segment));
            if packet.has(flag::SYN | flag::ACK) && packet.segment.ack == self.seq {
                if let Err(e) = self.watch.received_packet(&packet) {
                    self.fail(&e);
                }
                self.echo = packet.segment.options.timestamps.map_or(0, |(value, _)| value);
                self.ack = packet.segment.seq.wrapping_add(1);
                return Some(packet);
            }
        }
    }

    /// Sends the SYN again.
    pub fn repeat_syn(&mut self, start: &Start) {
        let syn = Segment {
            seq: start.isn,
            flags: flag::SYN,
            window: start.window,
            options: start.options.clone(),
            ..Segment::default()
        };
        self.send(&syn);
    }

    /// The host again, for another connection, from the same port if it likes. What was not yet looked at is lost.
    pub fn into_host(self) -> Host {
        while self.host.inbox.try_recv().is_ok() {}
        self.host
    }

    /// What was seen of this connection so far.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The same, to change what is demanded.
    pub fn watch_mut(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// This end's address and port.
    pub fn from(&self) -> SocketAddr {
        self.from
    }

    /// The other end's, as this one sees it.
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    // --- sending ---

    /// An acknowledgement as it would be sent now, to be changed and given to [`Peer::send`].
    pub fn segment(&mut self) -> Segment {
        let timestamps = self.watch.timestamps().then_some((self.clock, self.echo));
        self.clock = self.clock.wrapping_add(1);
        Segment {
            seq: self.seq,
            ack: self.ack,
            flags: flag::ACK,
            window: self.window,
            options: Options { timestamps, ..Options::default() },
            ..Segment::default()
        }
    }

    /// Sends exactly this; [`Peer::seq`] stays.
    pub fn send(&mut self, segment: &Segment) {
        self.note('>', &Shown(segment));
        self.watch.sent(segment);
        self.host.send(&segment.packet(self.from, self.to));
    }

    /// Sends a segment that is not this client's word: the watch does not count it, but for the timestamp an answer
    /// may echo.
    pub fn forge(&mut self, segment: &Segment) {
        self.note('!', &Shown(segment));
        self.host.send(&segment.packet(self.from, self.to));
    }

    /// Sends a segment with a wrong TCP checksum.
    ///
    /// # Panics
    /// Never: a packet has a checksum.
    #[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
    pub fn corrupt(&mut self, segment: &Segment) {
        self.note('!', &Shown(segment));
        let mut packet = segment.packet(self.from, self.to);
        let header = if self.to.is_ipv4() { 20 } else { 40 };
        *packet.get_mut(header + 16).unwrap() ^= 1;
        self.host.send(&packet);
    }

    /// Sends a segment behind IPv4 options or IPv6 extension headers: number and bytes behind "next header" of each.
    pub fn send_behind(&mut self, segment: &Segment, options: &[u8], extensions: &[(u8, Vec<u8>)]) {
        self.note('>', &Shown(segment));
        self.watch.sent(segment);
        self.host.send(&between::insert(&segment.packet(self.from, self.to), options, extensions));
    }

    /// Sends a segment in IP fragments of `piece` bytes, a multiple of eight: how many there are.
    pub fn fragments(&mut self, segment: &Segment, piece: usize, last_first: bool) -> usize {
        self.note('/', &Shown(segment));
        self.watch.sent(segment);
        // One identification for each packet, as the sequence number has one.
        let [.., high, low] = self.clock.to_be_bytes();
        self.clock = self.clock.wrapping_add(1);
        let id = u16::from_be_bytes([high, low]);
        let mut pieces = fragments::cut(&segment.packet(self.from, self.to), piece, id);
        if last_first {
            pieces.reverse();
        }
        pieces.iter().for_each(|piece| self.host.send(piece));
        pieces.len()
    }

    /// Sends an acknowledgement.
    pub fn acknowledge(&mut self) {
        let segment = self.segment();
        self.send(&segment);
    }

    /// The segment with the next data; [`Peer::seq`] goes on. To be changed, sent, or kept back.
    pub fn data_segment(&mut self, bytes: &[u8]) -> Segment {
        let segment = Segment { flags: flag::ACK | flag::PSH, payload: bytes.to_vec(), ..self.segment() };
        self.seq = self.seq.wrapping_add(u32::try_from(bytes.len()).unwrap_or(0));
        segment
    }

    /// Sends data in one segment.
    pub fn data(&mut self, bytes: &[u8]) {
        let segment = self.data_segment(bytes);
        self.send(&segment);
    }

    /// The segment with the next data and the FIN.
    pub fn fin_segment(&mut self, bytes: &[u8]) -> Segment {
        let mut segment = self.data_segment(bytes);
        segment.flags |= flag::FIN;
        self.seq = self.seq.wrapping_add(1);
        segment
    }

    /// Sends data, or none, with the FIN.
    pub fn fin(&mut self, bytes: &[u8]) {
        let segment = self.fin_segment(bytes);
        self.send(&segment);
    }

    /// Sends a reset with the right number.
    pub fn reset(&mut self) {
        let mut segment = self.segment();
        segment.flags = flag::RST | flag::ACK;
        self.send(&segment);
    }

    /// Sends a GET in one segment.
    pub fn get(&mut self, path: &str) {
        self.data(request(path).as_bytes());
    }

    /// Sends data in full segments within the promised window, taking in acknowledgements as they come.
    ///
    /// # Panics
    /// If the window does not open again.
    pub fn upload(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(1400) {
            let size = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            while self.watch.promised().wrapping_sub(self.seq).wrapping_sub(size) >= 1 << 31 {
                self.wait("the window to open", |_| true);
            }
            self.data(piece);
        }
    }

    // --- receiving ---

    /// The next packet, checked but not answered; `None` if none comes in time.
    ///
    /// # Panics
    /// If the packet is not as it must be.
    pub fn next(&mut self, within: Duration) -> Option<Packet> {
        let arrival = self.host.inbox.recv_timeout(within).ok()?;
        let packet = arrival.unwrap_or_else(|e| self.fail(&e));
        self.note('<', &Shown(&packet.segment));
        if let Err(e) = self.watch.received_packet(&packet) {
            self.fail(&e);
        }
        if let Some((value, _)) = packet.segment.options.timestamps {
            self.echo = value;
        }
        Some(packet)
    }

    /// Waits for a packet; others before it are looked at and not answered.
    ///
    /// # Panics
    /// If it does not come, with all that was sent and received.
    pub fn wait(&mut self, what: &str, mut wanted: impl FnMut(&Packet) -> bool) -> Packet {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.next(left) {
                Some(packet) if wanted(&packet) => return packet,
                Some(_) => {}
                None => self.fail(&format!("waited in vain for {what}")),
            }
        }
    }

    /// Waits until all that was sent is acknowledged.
    ///
    /// # Panics
    /// If it is not.
    pub fn wait_acknowledged(&mut self) {
        let seq = self.seq;
        if self.watch.acked() != seq {
            self.wait("everything to be acknowledged", |p| p.has(flag::ACK) && p.segment.ack == seq);
        }
    }

    /// Looks at what comes in this time, without answering.
    pub fn listen(&mut self, time: Duration) -> Vec<Packet> {
        let until = Instant::now() + time;
        let mut heard = Vec::new();
        while let Some(packet) = self.next(until.saturating_duration_since(Instant::now())) {
            heard.push(packet);
        }
        heard
    }

    /// The same without repetitions of what is acknowledged: an acknowledgement may have been slow.
    pub fn listen_for_news(&mut self, time: Duration) -> Vec<Packet> {
        let mut heard = self.listen(time);
        heard.retain(is_news(self.ack));
        heard
    }

    /// Waits for a packet that is no repetition of what is acknowledged.
    ///
    /// # Panics
    /// If none comes, with all that was sent and received.
    pub fn wait_for_news(&mut self, what: &str) -> Packet {
        self.wait(what, is_news(self.ack))
    }

    /// Listens until nothing comes any more: the last acknowledgement has arrived, and so has what the other end sent
    /// again because it was slow.
    pub fn settle(&mut self) {
        while !self.listen(Duration::from_millis(40)).is_empty() {}
    }

    /// Receives, and acknowledges whatever comes in order, until so many bytes are there from the first on.
    ///
    /// # Panics
    /// If they do not come.
    pub fn receive(&mut self, bytes: usize) {
        while self.watch.contiguous() < bytes {
            let before = self.watch.next_expected();
            self.wait("more data", |p| p.length() > 0);
            if self.watch.next_expected() != before {
                self.ack = self.watch.next_expected();
                self.acknowledge();
            }
        }
    }

    /// Receives and acknowledges until the other end's FIN.
    ///
    /// # Panics
    /// If it does not come.
    pub fn receive_end(&mut self) {
        while !self.watch.finished() {
            self.wait("the server's FIN", |p| p.length() > 0);
            self.ack = self.watch.next_expected();
            self.acknowledge();
        }
    }

    /// One whole response with Content-Length: its status and body.
    ///
    /// # Panics
    /// If it does not come, or is none.
    pub fn response(&mut self) -> (u16, Vec<u8>) {
        let head = self.head();
        let length = head.lines().find_map(|l| {
            let (name, value) = l.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        let (Some(length), Some(status)) = (length, status) else {
            self.fail(&format!("no response with a length: {head}"))
        };
        (status, self.body(length))
    }

    /// The head of the next message, received and acknowledged.
    ///
    /// # Panics
    /// If it does not come.
    pub fn head(&mut self) -> String {
        let from = self.taken;
        loop {
            let here = self.watch.received();
            let fresh = here.get(from..).unwrap_or_default();
            if let Some(at) = fresh.windows(4).position(|w| w == b"\r\n\r\n") {
                self.taken = from + at + 4;
                return String::from_utf8_lossy(fresh.get(..at + 4).unwrap_or_default()).into_owned();
            }
            self.receive(here.len() + 1);
        }
    }

    /// So many bytes behind what was taken as a message's head or body, received and acknowledged.
    ///
    /// # Panics
    /// If they do not come.
    pub fn body(&mut self, length: usize) -> Vec<u8> {
        let from = self.taken;
        self.taken = from + length;
        self.receive(self.taken);
        self.watch.received().get(from..self.taken).unwrap_or_default().to_vec()
    }

    pub(super) fn note(&mut self, way: char, what: &Shown<'_>) {
        let ms = self.started.elapsed().as_micros() / 100;
        self.log.push(format!("{:5}.{} {way} {what}", ms / 10, ms % 10));
    }

    /// Ends the test with all that was sent and received.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, what: &str) -> ! {
        let skip = self.log.len().saturating_sub(60);
        let log = self.log.get(skip..).unwrap_or_default().join("\n");
        panic!("{} to {}: {what}\n(ms, way, what)\n{log}", self.from, self.to)
    }
}

/// Whether a packet is more than a repetition of what lies before this acknowledgement.
fn is_news(ack: u32) -> impl Fn(&Packet) -> bool {
    move |p| p.length() == 0 || before(ack, p.segment.seq.wrapping_add(p.length()))
}

/// A GET as the peer sends it.
pub fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: lab\r\nUser-Agent: peer\r\n\r\n")
}
