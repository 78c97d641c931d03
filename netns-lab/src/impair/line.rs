//! One direction of a box: packets in, packets out when their time has come.

use super::{Direction, Impairment, Lot};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// A reordered packet that nobody overtakes leaves after this time all the same.
const OVERTAKEN_WITHIN: Duration = Duration::from_millis(5);
/// How long the queue before a limited rate may be, in time; what comes to a longer one is dropped.
const RATE_QUEUE: Duration = Duration::from_millis(100);
/// Packets a direction holds at most: ten seconds of delay at 50 Mbit/s.
const MOST_HELD: usize = 1 << 16;
/// Length of an Ethernet header, bytes.
const ETHERNET: usize = 14;

/// What one direction of a box has done since its impairment was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Packets that came and have a lot: all but those of the link itself.
    pub packets: u64,
    /// ARP, neighbour discovery and the like.
    pub link_local: u64,
    /// Lost by lot.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Held back so that others overtake them.
    pub reordered: u64,
    /// With a flipped bit.
    pub corrupted: u64,
    /// Dropped because the queue was full.
    pub overflowed: u64,
    /// Written to the other side, duplicates and all.
    pub sent: u64,
}

#[derive(Debug)]
struct Due {
    at: u64,
    frame: Vec<u8>,
}

#[derive(Debug)]
struct Overtaken {
    by: u8,
    latest: u64,
    frame: Vec<u8>,
}

/// One direction. Times are nanoseconds of a clock the caller has and that never goes back.
#[derive(Debug)]
pub struct Line {
    it: Impairment,
    direction: Direction,
    counts: Counts,
    /// When the last bit of what was accepted has left, under a limited rate.
    busy_until: u64,
    /// In the order in which they leave: `at` never falls.
    queue: VecDeque<Due>,
    last_due: u64,
    overtaken: Vec<Overtaken>,
    spare: Vec<Vec<u8>>,
}

impl Line {
    /// An empty line.
    pub fn new(it: Impairment, direction: Direction) -> Self {
        Self {
            it,
            direction,
            counts: Counts::default(),
            busy_until: 0,
            queue: VecDeque::new(),
            last_due: 0,
            overtaken: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// From now on another impairment. Packets are numbered and counted from 0 again; those on their way stay on it.
    pub fn change(&mut self, it: Impairment) {
        self.it = it;
        self.counts = Counts::default();
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// An Ethernet frame came.
    pub fn push(&mut self, now: u64, frame: &[u8]) {
        if is_link_local(frame) {
            self.counts.link_local += 1;
            let at = now.saturating_add(nanos(self.it.delay));
            return self.enqueue(at, frame.to_vec());
        }
        let lot = Lot::draw(&self.it, self.direction, self.counts.packets);
        self.counts.packets += 1;
        if lot.lost {
            self.counts.lost += 1;
            return;
        }
        let Some(left) = self.leaves_the_rate(now, frame.len()) else {
            self.counts.overflowed += 1;
            return;
        };
        let at = left.saturating_add(nanos(lot.delay));
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        if let Some(word) = lot.flip
            && flip(&mut copy, word)
        {
            self.counts.corrupted += 1;
        }
        let twin = lot.twice.then(|| copy.clone());
        if lot.overtaken_by > 0 {
            self.counts.reordered += 1;
            let latest = at.saturating_add(nanos(OVERTAKEN_WITHIN));
            self.overtaken.push(Overtaken { by: lot.overtaken_by, latest, frame: copy });
        } else {
            self.enqueue(at, copy);
            self.overtake();
        }
        if let Some(twin) = twin {
            self.counts.duplicated += 1;
            self.enqueue(at, twin);
        }
    }

    /// The next frame whose time has come. Give its memory back by [`Line::recycle`].
    pub fn pop(&mut self, now: u64) -> Option<Vec<u8>> {
        while let Some(place) = self.overtaken.iter().position(|o| o.latest <= now) {
            let late = self.overtaken.remove(place);
            self.enqueue(late.latest, late.frame);
        }
        self.queue.front().filter(|due| due.at <= now)?;
        self.counts.sent += 1;
        self.queue.pop_front().map(|due| due.frame)
    }

    /// When [`Line::pop`] will next give something, if nothing else comes.
    pub fn next_due(&self) -> Option<u64> {
        let queued = self.queue.front().map(|due| due.at);
        queued.into_iter().chain(self.overtaken.iter().map(|o| o.latest)).min()
    }

    /// Keeps the memory of a frame for the next one.
    pub fn recycle(&mut self, frame: Vec<u8>) {
        if self.spare.len() < 256 {
            self.spare.push(frame);
        }
    }

    /// When the last bit of a packet has left the interface; none if the queue before it is too long.
    fn leaves_the_rate(&mut self, now: u64, length: usize) -> Option<u64> {
        if self.queue.len() + self.overtaken.len() >= MOST_HELD {
            return None;
        }
        let Some(rate) = self.it.rate else { return Some(now) };
        let begins = self.busy_until.max(now);
        if begins - now > nanos(RATE_QUEUE) {
            return None;
        }
        let bits = u64::try_from(length).unwrap_or(u64::MAX).saturating_mul(8);
        self.busy_until = begins.saturating_add(bits.saturating_mul(1_000_000_000) / rate.0.max(1));
        Some(self.busy_until)
    }

    /// Behind all that is queued, however much sooner its own time is: only `reorder` reorders.
    fn enqueue(&mut self, at: u64, frame: Vec<u8>) {
        self.last_due = self.last_due.max(at);
        self.queue.push_back(Due { at: self.last_due, frame });
    }

    /// One packet has overtaken those that are held back.
    fn overtake(&mut self) {
        self.overtaken.iter_mut().for_each(|o| o.by = o.by.saturating_sub(1));
        while let Some(place) = self.overtaken.iter().position(|o| o.by == 0) {
            let next = self.overtaken.remove(place);
            // It was due before the one that has just gone in: they leave together.
            self.enqueue(0, next.frame);
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Flips one bit behind the Ethernet header.
fn flip(frame: &mut [u8], word: u64) -> bool {
    let bits = u64::try_from(frame.len().saturating_sub(ETHERNET)).unwrap_or(0) * 8;
    let Some(bit) = word.checked_rem(bits) else { return false };
    let place = usize::try_from(bit / 8).ok().and_then(|at| frame.get_mut(ETHERNET + at));
    place.map(|byte| *byte ^= 1 << (bit % 8)).is_some()
}

/// What belongs to the link itself: ARP and whatever is not IP, IPv6 multicast of link-local scope (RFC 4291 section 2.7),
/// and ICMPv6 types 133 to 137 (RFC 4861 section 4).
fn is_link_local(frame: &[u8]) -> bool {
    match frame.get(12..ETHERNET) {
        Some([0x08, 0x00]) => false,
        Some([0x86, 0xdd]) => {
            const ICMPV6: u8 = 58;
            let discovery = || frame.get(54).is_some_and(|kind| (133..=137).contains(kind));
            let multicast = matches!(frame.get(38..40), Some([0xff, 0x02]));
            multicast || (frame.get(20) == Some(&ICMPV6) && discovery())
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// An IPv4 frame that carries its number.
    fn frame(number: u32, length: usize) -> Vec<u8> {
        let mut frame = vec![0; length.max(20)];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14..18].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn number(frame: &[u8]) -> u32 {
        u32::from_be_bytes(frame[14..18].try_into().unwrap())
    }

    fn line(text: &str) -> Line {
        Line::new(text.parse().unwrap(), Direction::ToNode)
    }

    /// Pushes `count` frames a millisecond apart and gives back (time, number) of what comes out.
    fn run(line: &mut Line, count: u32) -> Vec<(u64, u32)> {
        let mut out = Vec::new();
        let mut drain = |line: &mut Line, until: u64| {
            while let Some(at) = line.next_due().filter(|at| *at <= until) {
                assert!(at == 0 || line.pop(at - 1).is_none(), "not before its time");
                let frame = line.pop(at).unwrap();
                out.push((at, number(&frame)));
                line.recycle(frame);
            }
        };
        for n in 0..count {
            let now = u64::from(n) * MS;
            drain(line, now.saturating_sub(1));
            line.push(now, &frame(n, 100));
        }
        drain(line, u64::MAX);
        out
    }

    #[test]
    fn with_nothing_ordered_everything_leaves_at_once_and_in_order() {
        let mut line = line("seed=1");
        let want: Vec<_> = (0..1000).map(|n| (u64::from(n) * MS, n)).collect();
        assert_eq!(run(&mut line, 1000), want);
        assert_eq!(line.counts(), Counts { packets: 1000, sent: 1000, ..Counts::default() });
    }

    #[test]
    fn what_is_lost_and_doubled_is_counted_and_nothing_else_is_missing() {
        let mut line = line("loss=5%,dup=5%,seed=2");
        let out = run(&mut line, 10_000);
        let counts = line.counts();
        assert!((400..600).contains(&counts.lost) && (400..600).contains(&counts.duplicated));
        assert_eq!(counts.sent, 10_000 - counts.lost + counts.duplicated);
        assert_eq!(out.len() as u64, counts.sent);
        assert!(out.windows(2).all(|w| w[0].1 <= w[1].1), "and in order");
    }

    #[test]
    fn delay_and_jitter_reorder_nothing() {
        let mut line = line("delay=20ms,jitter=15ms,seed=3");
        let out = run(&mut line, 1000);
        assert!(out.iter().map(|(_, n)| *n).eq(0..1000));
        for (at, n) in out {
            let came = u64::from(n) * MS;
            assert!((came + 5 * MS..=came + 35 * MS + 35 * MS).contains(&at), "{n} at {at}");
        }
    }

    #[test]
    fn reordered_packets_are_overtaken_by_one_to_six_and_none_is_lost() {
        let mut line = line("reorder=5%,seed=4");
        let out = run(&mut line, 2000);
        let mut numbers: Vec<u32> = out.iter().map(|(_, n)| *n).collect();
        // A packet is late by as many as left before it and were sent after it.
        let late = |at: usize| numbers[..at].iter().filter(|n| **n > numbers[at]).count();
        let distances: Vec<usize> = (0..numbers.len()).map(late).filter(|d| *d > 0).collect();
        let reordered = usize::try_from(line.counts().reordered).unwrap();
        assert!((70..140).contains(&reordered), "{reordered}");
        assert!(distances.len() <= reordered && distances.len() * 10 > reordered * 9, "{}", distances.len());
        // 5 ms, a packet each: no more than five come in time.
        assert!(distances.iter().all(|d| *d <= 5) && distances.contains(&4));
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..2000));
    }

    #[test]
    fn one_that_nobody_overtakes_leaves_after_five_milliseconds() {
        let mut line = line("reorder=100%,delay=10ms,seed=1");
        line.push(0, &frame(0, 60));
        assert_eq!(line.next_due(), Some(15 * MS));
        assert!(line.pop(15 * MS - 1).is_none());
        assert!(line.pop(15 * MS).is_some());
        assert_eq!(line.next_due(), None);
    }

    #[test]
    fn one_bit_is_flipped_and_never_in_the_ethernet_header() {
        let mut line = line("corrupt=100%,seed=5");
        for n in 0..1000 {
            let sent = frame(n, 60);
            line.push(0, &sent);
            let came = line.pop(0).unwrap();
            let flipped: u32 = sent.iter().zip(&came).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!((flipped, &came[..14], came.len()), (1, &sent[..14], 60));
        }
        assert_eq!(line.counts().corrupted, 1000);
    }

    #[test]
    fn a_rate_spaces_packets_and_drops_what_would_wait_too_long() {
        // 1000 bytes at 8 Mbit/s: a millisecond each, a hundred of them in the queue.
        let mut line = line("rate=8mbit,seed=1");
        for n in 0..150 {
            line.push(0, &frame(n, 1000));
        }
        assert_eq!(line.counts().overflowed, 49);
        for n in 0..101 {
            let at = line.next_due().unwrap();
            assert_eq!((at, number(&line.pop(at).unwrap())), (u64::from(n + 1) * MS, n));
        }
        assert!(line.next_due().is_none());
    }

    #[test]
    fn arp_and_neighbour_discovery_are_not_touched_nor_numbered() {
        let mut line = line("loss=100%,seed=1");
        let mut arp = frame(0, 60);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let mut solicitation = vec![0; 86];
        solicitation[12..14].copy_from_slice(&[0x86, 0xdd]);
        solicitation[20] = 58;
        solicitation[54] = 135;
        line.push(0, &arp);
        line.push(0, &solicitation);
        assert_eq!((line.pop(0), line.pop(0)), (Some(arp), Some(solicitation.clone())));
        solicitation[54] = 2;
        line.push(0, &solicitation);
        assert_eq!(line.pop(u64::MAX), None, "packet too big is a packet like any other");
        assert_eq!(
            line.counts(),
            Counts { packets: 1, link_local: 2, lost: 1, sent: 2, ..Counts::default() }
        );
    }

    #[test]
    fn a_change_numbers_anew_and_loses_nothing_on_its_way() {
        let mut line = line("delay=10ms,seed=1");
        line.push(0, &frame(0, 60));
        line.change("loss=100%,seed=1".parse().unwrap());
        line.push(0, &frame(1, 60));
        assert_eq!(line.counts().packets, 1);
        assert_eq!(number(&line.pop(10 * MS).unwrap()), 0);
        assert_eq!(line.pop(u64::MAX), None);
    }
}
