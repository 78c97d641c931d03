//! The server's end of a connection.

use super::connection::{PATIENCE, Peer, Start};
use super::device::Host;
use super::watch::Watch;
use super::wire::{Options, Segment, Shown, flag};
use std::time::Instant;

impl Peer {
    /// Waits for a SYN to this host, and does not answer it.
    ///
    /// # Panics
    /// If none comes, or something else does.
    pub fn called(host: Host) -> Self {
        let packet = match host.inbox.recv_timeout(PATIENCE) {
            Ok(Ok(packet)) => packet,
            Ok(Err(wrong)) => panic!("{}: {wrong}", host.address),
            Err(_) => panic!("{}: waited in vain for a SYN", host.address),
        };
        assert!(
            packet.has(flag::SYN) && packet.lacks(flag::ACK | flag::RST | flag::FIN),
            "no SYN: {packet:?}"
        );
        let (ours, theirs, syn) = (packet.to, packet.from, &packet.segment);
        assert_eq!(ours.ip(), host.address, "for another host: {packet:?}");
        let mut peer = Peer {
            watch: Watch::called(ours, theirs, syn),
            host,
            from: ours,
            to: theirs,
            seq: 0,
            ack: syn.seq.wrapping_add(1),
            window: 0,
            clock: 0,
            echo: syn.options.timestamps.map_or(0, |(value, _)| value),
            taken: 0,
            log: Vec::new(),
            started: Instant::now(),
        };
        peer.note('<', &Shown(syn));
        peer
    }

    /// The SYN-ACK with which such a server answers, to be changed and given to [`Peer::send`]. What it begins with counts
    /// from here on; the port is the one that was called.
    pub fn syn_ack_segment(&mut self, start: &Start) -> Segment {
        let ecn = if start.ecn { flag::ECE } else { 0 };
        self.seq = start.isn.wrapping_add(1);
        self.window = start.window;
        self.clock = start.options.timestamps.map_or(0, |(value, _)| value.wrapping_add(1));
        let timestamps = start.options.timestamps.map(|(value, _)| (value, self.echo));
        Segment {
            seq: start.isn,
            ack: self.ack,
            flags: flag::SYN | flag::ACK | ecn,
            window: start.window,
            options: Options { timestamps, ..start.options.clone() },
            ..Segment::default()
        }
    }

    /// Answers the SYN.
    pub fn accept(&mut self, start: &Start) {
        let syn_ack = self.syn_ack_segment(start);
        self.send(&syn_ack);
    }
}
