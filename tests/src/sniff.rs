//! TCP segments as they pass a node's uplink, and what they tell of selective acknowledgements.

use crate::sys;
use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice};
use netns_lab::Lab;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// One segment with an acknowledgement, or the super-segment a kernel hands to its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
    /// Sequence number, as it was on the wire.
    pub seq: u32,
    /// Acknowledgement number, as it was on the wire.
    pub ack: u32,
    /// The numbers it takes up: payload and FIN; and SYN.
    pub length: u32,
    /// RST.
    pub reset: bool,
    /// The edges of its SACK blocks, in the option's order.
    pub sack: Vec<(u32, u32)>,
}

/// A capture that runs.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Segment>>,
}

impl Sniffer {
    /// Begins to capture what passes the Ethernet devices of a node: what comes before the programs see it, what goes
    /// after them (packet(7)).
    ///
    /// # Panics
    /// Without root.
    #[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
    pub fn at(lab: &Lab, node: &str) -> Self {
        let all = i32::from(u16::try_from(libc::ETH_P_ALL).unwrap().to_be());
        let open = move || Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all)));
        let mut socket = lab.inside(node, open).unwrap().unwrap();
        sys::large_receive_buffer(&socket, 128 << 20).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            let (mut segments, mut frame) = (Vec::new(), vec![0; 1 << 17]);
            loop {
                // Asked before, so that what has come until then is read.
                let last = stopped.load(Ordering::Relaxed);
                match socket.read(&mut frame) {
                    Ok(length) => segments.extend(parse(frame.get(..length).unwrap_or_default())),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && last => {
                        break;
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => panic!("{e}"),
                }
            }
            assert_eq!(sys::packets_dropped(&socket).unwrap(), 0, "the capture is not whole");
            segments
        });
        Sniffer { stop, reader }
    }

    /// All that was captured.
    ///
    /// # Panics
    /// If something was missed.
    #[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
    pub fn segments(self) -> Vec<Segment> {
        self.stop.store(true, Ordering::Relaxed);
        self.reader.join().unwrap()
    }
}

/// A frame's segment; none of a first SYN, nor of what is not TCP over Ethernet (packets of a TUN device begin with their IP
/// header).
fn parse(frame: &[u8]) -> Option<Segment> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (from, to): (IpAddr, IpAddr) = match packet.net? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let TransportSlice::Tcp(tcp) = packet.transport? else { return None };
    if !tcp.ack() {
        return None;
    }
    let mut sack = Vec::new();
    for option in tcp.options_iterator() {
        if let Ok(TcpOptionElement::SelectiveAcknowledgement(first, rest)) = option {
            sack.push(first);
            sack.extend(rest.into_iter().flatten());
        }
    }
    Some(Segment {
        from: SocketAddr::new(from, tcp.source_port()),
        to: SocketAddr::new(to, tcp.destination_port()),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        length: u32::try_from(tcp.payload().len()).ok()? + u32::from(tcp.fin()) + u32::from(tcp.syn()),
        reset: tcp.rst(),
        sack,
    })
}

/// What the selective acknowledgements of some connections were good for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sacks {
    /// Connections that were sent to and acknowledged whole.
    pub connections: u64,
    /// Blocks that came, without those that say that something came twice (RFC 2883).
    pub blocks: u64,
    /// Blocks of which an edge was not between what was acknowledged and what was sent, in the sender's numbers.
    pub outside: u64,
    /// Segments sent again.
    pub sent_again: u64,
    /// Those of them of which a byte had been acknowledged selectively when they were sent.
    pub in_vain: u64,
}

/// Judges what a server sent `as_from` to its clients, and what they acknowledged. Where a program on this host translates what
/// goes, the two are in different spaces; how far these are apart is known when all is sent and acknowledged.
pub fn sacks(segments: &[Segment], as_from: SocketAddr) -> Sacks {
    let mut clients: BTreeMap<SocketAddr, Vec<(bool, &Segment)>> = BTreeMap::new();
    for segment in segments {
        if segment.from == as_from {
            clients.entry(segment.to).or_default().push((true, segment));
        }
    }
    for segment in segments {
        // Only of the server's: the address it is under on its own host may be another.
        if let Some(of) = clients.get_mut(&segment.from) {
            of.push((false, segment));
        }
    }
    let mut found = Sacks::default();
    for of in clients.values_mut() {
        // As they were captured.
        of.sort_by_key(|(_, segment)| std::ptr::from_ref(*segment));
        judge(of, &mut found);
    }
    found
}

/// How far a number is from another one, as far as 2^31 either way.
fn from(number: u32, base: u32) -> i64 {
    i64::from(number.wrapping_sub(base).cast_signed())
}

fn judge(segments: &[(bool, &Segment)], found: &mut Sacks) {
    let sent = || segments.iter().filter(|(out, s)| *out && s.length > 0 && !s.reset).map(|(_, s)| *s);
    let came = || segments.iter().filter(|(out, s)| !*out && !s.reset).map(|(_, s)| *s);
    let Some(base) = sent().next().map(|s| s.seq) else { return };
    let Some(first) = came().next().map(|s| s.ack) else { return };
    let end = sent().map(|s| from(s.seq, base) + i64::from(s.length)).max().unwrap_or(0);
    let all = came().map(|s| from(s.ack, first)).max().unwrap_or(0);
    // The last acknowledgement is of the last byte.
    let number = |theirs: u32| end - (all - from(theirs, first));
    found.connections += 1;
    let (mut next, mut acknowledged, mut had) = (0i64, 0i64, Vec::<(i64, i64)>::new());
    for (out, segment) in segments.iter().filter(|(_, s)| !s.reset) {
        if *out {
            let (left, right) =
                (from(segment.seq, base), from(segment.seq, base) + i64::from(segment.length));
            if segment.length > 0 && left < next {
                found.sent_again += 1;
                let had_some = had.iter().any(|(l, r)| left < *r && right > *l);
                found.in_vain += u64::from(had_some || right <= acknowledged);
            }
            next = next.max(right);
            continue;
        }
        let ack = number(segment.ack);
        acknowledged = acknowledged.max(ack);
        let blocks: Vec<_> = segment.sack.iter().map(|(l, r)| (number(*l), number(*r))).collect();
        for (at, (left, right)) in blocks.iter().enumerate() {
            let within_second = blocks.get(1).is_some_and(|(l, r)| l <= left && right <= r);
            if at == 0 && (*right <= ack || within_second) {
                continue;
            }
            found.blocks += 1;
            if ack < *left && left < right && *right <= next {
                had.push((*left, *right));
            } else {
                found.outside += 1;
            }
        }
        had.retain(|(_, right)| *right > ack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(from: &str, to: &str, seq: u32, ack: u32, length: u32, sack: &[(u32, u32)]) -> Segment {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Segment { from, to, seq, ack, length, reset: false, sack: sack.to_vec() }
    }

    const VIP: &str = "10.0.0.1:80";
    const SERVER: &str = "10.0.1.1:80";
    const CLIENT: &str = "10.0.2.1:5000";

    /// Three segments of which the first is lost; client's numbers are 1000 behind the server's.
    fn lossy(edge: u32, again: u32) -> Sacks {
        let wrap = u32::MAX - 50;
        let out = |seq: u32| segment(VIP, CLIENT, wrap.wrapping_add(seq), 7, 100, &[]);
        let back = |ack: u32, sack: &[(u32, u32)]| {
            let theirs = |n: u32| wrap.wrapping_add(1000).wrapping_add(n);
            let sack: Vec<_> = sack.iter().map(|(l, r)| (theirs(*l), theirs(*r))).collect();
            segment(CLIENT, SERVER, 7, theirs(ack), 0, &sack)
        };
        let blocks = [(edge, 300)];
        let twice = back(300, &[(100, 200)]);
        let all = [out(0), out(100), out(200), back(0, &blocks), out(again), back(300, &[]), twice];
        sacks(&all, VIP.parse().unwrap())
    }

    #[test]
    fn blocks_within_what_was_sent_are_good_and_what_they_have_is_not_sent_again() {
        let good = Sacks { connections: 1, blocks: 1, outside: 0, sent_again: 1, in_vain: 0 };
        assert_eq!(lossy(100, 0), good);
    }

    #[test]
    fn a_block_out_of_place_and_a_segment_sent_in_vain_are_found() {
        assert_eq!(lossy(100, 100).in_vain, 1);
        assert_eq!(lossy(100, 200).in_vain, 1);
        // As if the acknowledgement were translated and the blocks were not.
        assert_eq!(lossy(0u32.wrapping_sub(1000), 0).outside, 1);
        assert_eq!(lossy(5_000, 0).outside, 1);
    }
}
