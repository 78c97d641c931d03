//! What must hold for every packet an end receives on one connection, migrated or not.
//!
//! * It comes from the address the client connected to, to the port it connected from; at the server's end, from the
//!   client's very address and port to the server's.
//! * Timestamps are there if and only if they were agreed on; they never go back (RFC 7323, section 5.3), and what they
//!   echo was sent.
//! * The acknowledgement number never goes back and is of something that was sent. The network here keeps the order.
//! * The right edge of the promised window never moves back by more than rounding, while there is anything to send.
//! * Data said twice is the same data; none lies outside the window that was given, and no segment is longer than the
//!   maximum that was named.
//! * After the handshake there is no SYN; one said twice is the same.

use super::wire::{Packet, Segment, flag};
use std::collections::HashSet;
use std::net::SocketAddr;

/// How much older than the newest packet an overtaken one may be, ms: the unit of Linux's timestamps.
const OVERTAKEN_MS: u32 = 100;

/// How much older than a server's first timestamp an echo may be that the client has of the intermediate, ms.
const FROM_BEFORE_MS: u32 = 1000;

/// `a` before `b` on the circle of sequence numbers.
pub fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) >= 1 << 31
}

/// The later of two.
fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

/// Whether a timestamp's echo may be 0, which says that there is none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoEcho {
    Never,
    Allowed,
    /// It was: the next echo ends it.
    Seen,
}

/// One connection's memory of what was sent and received.
#[derive(Debug)]
pub struct Watch {
    ours: SocketAddr,
    theirs: SocketAddr,
    /// Our SYN, for what it asked or answered; a called one's is not yet there at first.
    syn: Segment,
    /// The other end's, once it is there.
    their_syn: Option<Segment>,
    /// The other end called; its SYN acknowledges nothing.
    called: bool,
    /// Highest sequence number sent plus length.
    sent_end: u32,
    /// The number behind our FIN, once it is sent.
    fin_end: Option<u32>,
    tsvals_sent: HashSet<u32>,
    /// Right edge of the window given, and the newest acknowledgement.
    given: u32,
    told: u32,
    /// Newest acknowledgement received, and the newest echo that came with it.
    acked: u32,
    echoed: Option<u32>,
    /// Farthest right edge of the windows promised by the other end, and the newest.
    farthest_edge: u32,
    promised: u32,
    /// Whether the edge may move back.
    may_shrink: bool,
    /// Whether packets may overtake each other a little.
    may_overtake: bool,
    /// Whether one byte may come past the window.
    may_probe: bool,
    /// Whether segments may be longer than the maximum named.
    may_be_long: bool,
    /// Newest timestamp received.
    tsval: Option<u32>,
    /// The highest sequence number it came with.
    tsval_at: Option<u32>,
    /// If a pure acknowledgement came with it first, that one's sequence number.
    tsval_acked_at: Option<u32>,
    /// Whether the echo may be 0.
    no_echo: NoEcho,
    /// What was received, from the first byte of data on; `None` where there is a gap.
    stream: Vec<Option<u8>>,
    /// How many bytes of it are there without a gap, from the first.
    whole: usize,
    /// Where the stream ends, in bytes, once a FIN was seen.
    end: Option<usize>,
}

impl Watch {
    /// For a connection that begins with this SYN.
    pub fn new(ours: SocketAddr, theirs: SocketAddr, syn: &Segment) -> Self {
        let mut watch = Watch {
            ours,
            theirs,
            syn: syn.clone(),
            their_syn: None,
            called: false,
            sent_end: syn.seq,
            fin_end: None,
            tsvals_sent: HashSet::new(),
            given: 0,
            told: 0,
            acked: syn.seq,
            echoed: None,
            farthest_edge: syn.seq,
            promised: syn.seq,
            may_shrink: false,
            may_overtake: false,
            may_probe: false,
            may_be_long: false,
            tsval: None,
            tsval_at: None,
            tsval_acked_at: None,
            no_echo: NoEcho::Never,
            stream: Vec::new(),
            whole: 0,
            end: None,
        };
        watch.sent(syn);
        watch
    }

    /// For a connection that begins with this SYN of the other end.
    pub fn called(ours: SocketAddr, theirs: SocketAddr, syn: &Segment) -> Self {
        let mut watch = Watch::new(ours, theirs, &Segment::default());
        watch.called = true;
        watch.tsval = syn.options.timestamps.map(|(value, _)| value);
        watch.their_syn = Some(syn.clone());
        watch
    }

    /// Whether both ends agreed on timestamps.
    pub fn timestamps(&self) -> bool {
        let theirs = self.their_syn.as_ref().is_some_and(|s| s.options.timestamps.is_some());
        theirs && self.syn.options.timestamps.is_some()
    }

    /// The two window scales, ours and the other's; 0 unless both sent one.
    pub fn scales(&self) -> (u8, u8) {
        let theirs = self.their_syn.as_ref().and_then(|s| s.options.window_scale);
        self.syn.options.window_scale.zip(theirs).unwrap_or_default()
    }

    /// The other end's initial sequence number.
    pub fn peer_isn(&self) -> Option<u32> {
        self.their_syn.as_ref().map(|s| s.seq)
    }

    /// Right edge of the window the other end last promised: the first number it does not take.
    pub fn promised(&self) -> u32 {
        self.promised
    }

    /// From here on the promised window may shrink: the server's buffer is smaller than the intermediate's.
    pub fn allow_shrinking(&mut self) {
        self.may_shrink = true;
    }

    /// From here on packets may overtake each other: the server reads on one CPU, and says how much, while its kernel
    /// receives on another.
    pub fn allow_overtaking(&mut self) {
        self.may_overtake = true;
    }

    /// From here on they may not.
    pub fn forbid_overtaking(&mut self) {
        self.may_overtake = false;
    }

    /// From here on the other end may send one byte past the window, to ask whether it has opened (RFC 9293, section
    /// 3.8.6.1).
    pub fn allow_probes(&mut self) {
        self.may_probe = true;
    }

    /// From here on segments may be longer than the maximum named: the client has the VIP's.
    pub fn allow_long(&mut self) {
        self.may_be_long = true;
    }

    /// From here on the other end need not echo a timestamp, until it does: a server that was not told the client's clock.
    pub fn allow_no_echo(&mut self) {
        self.no_echo = NoEcho::Allowed;
    }

    /// The other end's SYN, once it is there.
    pub fn their_syn(&self) -> Option<&Segment> {
        self.their_syn.as_ref()
    }

    /// The newest acknowledgement number received.
    pub fn acked(&self) -> u32 {
        self.acked
    }

    /// The bytes received without a gap, from the first.
    pub fn received(&self) -> Vec<u8> {
        self.stream.iter().map_while(|b| *b).collect()
    }

    /// How many bytes were received without a gap.
    pub fn contiguous(&self) -> usize {
        self.whole
    }

    /// Whether the other end's FIN and all before it has come.
    pub fn finished(&self) -> bool {
        self.end == Some(self.whole)
    }

    /// The next sequence number expected.
    pub fn next_expected(&self) -> u32 {
        let bytes = u32::try_from(self.contiguous()).unwrap_or(u32::MAX);
        let first = self.peer_isn().unwrap_or(0).wrapping_add(1);
        first.wrapping_add(bytes).wrapping_add(u32::from(self.finished()))
    }

    /// This end has sent this.
    pub fn sent(&mut self, segment: &Segment) {
        if self.called && segment.flags & flag::SYN != 0 && self.syn.flags & flag::SYN == 0 {
            self.syn = segment.clone();
            (self.sent_end, self.acked) = (segment.seq, segment.seq);
            let theirs = self.their_syn.as_ref().map_or(0, |s| u32::from(s.window));
            // The window of a SYN counts from behind it (RFC 7323, section 2.2).
            self.farthest_edge = segment.seq.wrapping_add(1).wrapping_add(theirs);
            self.promised = self.farthest_edge;
            (self.given, self.told) = (segment.ack, segment.ack);
        }
        let payload = u32::try_from(segment.payload.len()).unwrap_or(u32::MAX);
        let fin_syn = u32::from(segment.flags & flag::FIN != 0) + u32::from(segment.flags & flag::SYN != 0);
        let end = segment.seq.wrapping_add(payload).wrapping_add(fin_syn);
        self.sent_end = later(self.sent_end, end);
        if segment.flags & flag::FIN != 0 {
            self.fin_end = Some(end);
        }
        if let Some((value, _)) = segment.options.timestamps {
            self.tsvals_sent.insert(value);
        }
        if segment.flags & flag::ACK != 0 && segment.flags & flag::RST == 0 {
            let shift = if segment.flags & flag::SYN != 0 { 0 } else { self.scales().0 };
            let edge = segment.ack.wrapping_add(u32::from(segment.window) << shift);
            self.given = later(self.given, edge);
            self.told = later(self.told, segment.ack);
        }
    }

    /// This end has received this.
    ///
    /// # Errors
    /// What does not hold.
    pub fn received_packet(&mut self, packet: &Packet) -> Result<(), String> {
        let wrong = |what: String| Err(format!("{what}: {packet:?}"));
        let segment = &packet.segment;
        if packet.from != self.theirs || packet.to != self.ours {
            return wrong(format!("not from {} to {}", self.theirs, self.ours));
        }
        let first = self.their_syn.is_none();
        if first && packet.has(flag::SYN | flag::ACK) {
            self.their_syn = Some(segment.clone());
            self.given = segment.seq.wrapping_add(1).wrapping_add(u32::from(self.syn.window));
        } else if packet.has(flag::SYN) && Some(segment.seq) != self.peer_isn() {
            return wrong("a SYN after the handshake".into());
        }
        if self.called && packet.has(flag::SYN) && packet.lacks(flag::ACK | flag::RST) {
            // Said again: nothing was acknowledged yet.
            return Ok(());
        }
        if packet.lacks(flag::RST) && !self.is_fed_again(packet) {
            self.times(packet)?;
            if !first && packet.has(flag::SYN) {
                self.syn_again(packet)?;
            } else {
                self.acknowledgement(packet)?;
            }
        }
        if packet.lacks(flag::SYN) { self.data(packet) } else { Ok(()) }
    }

    fn times(&mut self, packet: &Packet) -> Result<(), String> {
        match (self.timestamps(), packet.segment.options.timestamps) {
            (false, None) => Ok(()),
            (true, None) => Err(format!("no timestamps: {packet:?}")),
            (false, Some(_)) => Err(format!("timestamps nobody agreed on: {packet:?}")),
            (true, Some((value, echo))) => {
                let newest = self.tsval.unwrap_or(value);
                // Another CPU was quicker with what follows: what it overtook is older by its number, too. By data only what
                // comes for the first time was overtaken: what is sent again is sent later.
                let behind = |at: Option<u32>| at.is_some_and(|at| before(packet.segment.seq, at));
                let overtaken =
                    behind(self.tsval_acked_at) || (behind(self.tsval_at) && self.is_new(&packet.segment));
                let leeway = if self.may_overtake || overtaken { OVERTAKEN_MS } else { 0 };
                if before(value.wrapping_add(leeway), newest) {
                    return Err(format!("timestamp before {newest}: {packet:?}"));
                }
                let seq = packet.segment.seq;
                if self.tsval.is_none() || before(newest, value) {
                    self.tsval_at = Some(seq);
                    self.tsval_acked_at = (packet.length() == 0).then_some(seq);
                } else if value == newest {
                    self.tsval_at = self.tsval_at.map(|at| later(at, seq));
                }
                self.tsval = Some(later(newest, value));
                if !self.may_be_no_echo(echo)
                    && !self.tsvals_sent.contains(&echo)
                    && !self.is_from_before(echo)
                {
                    return Err(format!("echo of a timestamp that was not sent: {packet:?}"));
                }
                Ok(())
            }
        }
    }

    /// Whether nothing of this data was received before.
    fn is_new(&self, segment: &Segment) -> bool {
        let first = self.peer_isn().map_or(0, |isn| isn.wrapping_add(1));
        let from = usize::try_from(segment.seq.wrapping_sub(first)).unwrap_or(usize::MAX);
        let mut known = self.stream.iter().skip(from).take(segment.payload.len());
        !segment.payload.is_empty() && known.all(Option::is_none)
    }

    /// Whether this is no echo yet, and may be.
    fn may_be_no_echo(&mut self, echo: u32) -> bool {
        self.no_echo = match (self.no_echo, echo) {
            (NoEcho::Never, _) => NoEcho::Never,
            (_, 0) => NoEcho::Seen,
            (NoEcho::Seen, _) => NoEcho::Never,
            (now, _) => now,
        };
        self.no_echo == NoEcho::Seen
    }

    /// Whether a server has acknowledged all of this: the agent says the request again, as it was, if it learns late that it
    /// has arrived; the client may have gone on meanwhile.
    fn is_fed_again(&self, packet: &Packet) -> bool {
        let end = packet.segment.seq.wrapping_add(packet.length());
        self.called && packet.length() > 0 && !before(self.told, end)
    }

    /// Whether a server may hear this echo of what it did not send: until the client has heard the server, it echoes what it
    /// last had of the intermediate, which is somewhat older than the handoff.
    fn is_from_before(&self, echo: u32) -> bool {
        let first = self.syn.options.timestamps.map_or(0, |(value, _)| value);
        self.called && first.wrapping_sub(echo) < FROM_BEFORE_MS
    }

    /// A SYN-ACK that is said again, because the handshake's last segment was late, is the same: it knows of nothing that came
    /// after it.
    fn syn_again(&self, packet: &Packet) -> Result<(), String> {
        let said = self.their_syn.as_ref().map(|syn| (syn.ack, syn.window));
        if said != Some((packet.segment.ack, packet.segment.window)) {
            return Err(format!("a SYN-ACK again, and not as before {said:?}: {packet:?}"));
        }
        Ok(())
    }

    fn acknowledgement(&mut self, packet: &Packet) -> Result<(), String> {
        let segment = &packet.segment;
        if packet.lacks(flag::ACK) {
            return Err(format!("no acknowledgement: {packet:?}"));
        }
        let echo = segment.options.timestamps.map(|(_, echo)| echo);
        // It was sent before the newest one, and another CPU's was quicker.
        let overtaken = self.echoed.zip(echo).is_some_and(|(newest, echo)| before(echo, newest));
        if before(segment.ack, self.acked) && (self.may_overtake || overtaken) {
            return Ok(());
        }
        if before(segment.ack, self.acked) {
            return Err(format!("acknowledgement before {}: {packet:?}", self.acked));
        }
        if before(self.sent_end, segment.ack) {
            return Err(format!("acknowledges what was not sent (up to {}): {packet:?}", self.sent_end));
        }
        let newer_echo = echo.zip(self.echoed).is_some_and(|(echo, newest)| before(newest, echo));
        let nothing_newer = segment.ack == self.acked && !newer_echo;
        self.acked = segment.ack;
        self.echoed = echo.map(|echo| self.echoed.map_or(echo, |newest| later(newest, echo)));
        if Some(segment.ack) == self.fin_end {
            // There is nothing left to send; TIME_WAIT says some old window.
            return Ok(());
        }
        // What a SYN says is never scaled (RFC 7323, section 2.2).
        let shift = if packet.has(flag::SYN) { 0 } else { self.scales().1 };
        let edge = segment.ack.wrapping_add(u32::from(segment.window) << shift);
        let rounding = 1u32 << shift;
        if self.may_overtake && nothing_newer && packet.length() == 0 && before(edge, self.farthest_edge) {
            // The reader's CPU and the receiving one each said how far the window is open: the wider one was said later.
            return Ok(());
        }
        self.promised = edge;
        if !self.may_shrink && before(edge.wrapping_add(rounding), self.farthest_edge) {
            return Err(format!(
                "the window's right edge {edge} moved back from {}: {packet:?}",
                self.farthest_edge
            ));
        }
        self.farthest_edge = later(self.farthest_edge, edge);
        Ok(())
    }

    fn data(&mut self, packet: &Packet) -> Result<(), String> {
        let segment = &packet.segment;
        let (Some(isn), false) = (self.peer_isn(), segment.payload.is_empty() && packet.lacks(flag::FIN))
        else {
            return Ok(());
        };
        let first = isn.wrapping_add(1);
        let from = usize::try_from(segment.seq.wrapping_sub(first)).unwrap_or(usize::MAX);
        if before(segment.seq, first) {
            return Err(format!("data before the first byte {first}: {packet:?}"));
        }
        // What a peer that names no maximum takes: RFC 9293, section 3.7.1.
        let unnamed = if self.ours.is_ipv4() { 536 } else { 1220 };
        let mss = usize::from(self.syn.options.mss.unwrap_or(unnamed));
        let options = if self.timestamps() { 12 } else { 0 };
        // A few bytes must always fit, however small the client's maximum (Linux: `tcp_min_snd_mss` 48).
        if segment.payload.len() > mss.max(48) - options && !self.may_be_long {
            return Err(format!("longer than {mss} - {options} bytes: {packet:?}"));
        }
        let end = segment.seq.wrapping_add(u32::try_from(segment.payload.len()).unwrap_or(u32::MAX));
        let probe = self.may_probe && end == self.given.wrapping_add(1);
        if before(self.given, end) && !probe {
            return Err(format!("outside the window, which ends at {}: {packet:?}", self.given));
        }
        let to = from + segment.payload.len();
        if self.stream.len() < to {
            self.stream.resize(to, None);
        }
        for (old, new) in self.stream.iter_mut().skip(from).zip(&segment.payload) {
            if old.is_some_and(|old| old != *new) {
                return Err(format!("other data than before: {packet:?}"));
            }
            *old = Some(*new);
        }
        while self.stream.get(self.whole).is_some_and(Option::is_some) {
            self.whole += 1;
        }
        if packet.has(flag::FIN) && self.end.is_some_and(|end| end != to) {
            return Err(format!("a second end: {packet:?}"));
        }
        if packet.has(flag::FIN) {
            self.end = Some(to);
        }
        if self.end.is_some_and(|end| end < self.stream.len()) {
            return Err(format!("data behind the end: {packet:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
