//! Random cases, biased to where the bugs live.

use crate::bench::RULING;
use crate::cases::Version;
use crate::host::NOW;
use crate::packet::Frame;
use crate::{Case, Hook, cases};
use baton_shared::record::{FLAG_ADOPTED, FLAG_FED, FLAG_OWN_SCALE, FLAG_TRACKED, FlowRecord};

/// xorshift64*: the same cases on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
    fn word(&mut self) -> u32 {
        match self.below(3) {
            0 => self.pick(&[
                0,
                1,
                2,
                0xffff,
                0x1_0000,
                0x7fff_ffff,
                0x8000_0000,
                0x8000_0001,
                0xffff_fffe,
                0xffff_ffff,
            ]),
            _ => self.next() as u32,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
    fn half(&mut self) -> u16 {
        self.word() as u16
    }

    fn byte_below(&mut self, end: u64) -> u8 {
        u8::try_from(self.below(end)).unwrap()
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| self.byte_below(256)).collect()
    }

    /// Option bytes, a multiple of four: mostly what stacks send, sometimes anything.
    fn options(&mut self) -> Vec<u8> {
        let mut raw = Vec::new();
        if self.chance(10) {
            let count = self.below(11) * 4;
            return self.bytes(count);
        }
        for _ in 0..self.below(4) {
            let mut option = match self.below(5) {
                0 => vec![1],
                1 | 2 => {
                    let mut o = vec![8, 10];
                    o.extend(self.word().to_be_bytes());
                    o.extend(self.word().to_be_bytes());
                    o
                }
                3 => {
                    let blocks = 1 + self.byte_below(4);
                    let mut o = vec![5, 2 + 8 * blocks];
                    for _ in 0..2 * blocks {
                        o.extend(self.word().to_be_bytes());
                    }
                    o
                }
                _ => vec![2, 4, 5, 0xb4],
            };
            for _ in 0..self.below(3) {
                option.insert(0, 1);
            }
            if raw.len() + option.len() <= 40 {
                raw.extend(option);
            }
        }
        let end = self.pick(&[0u8, 1]);
        raw.resize(raw.len().next_multiple_of(4), end);
        raw
    }

    fn record(&mut self, hook: Hook, version: Version) -> FlowRecord {
        let state = if self.chance(3) { self.pick(&[0, 1, 3, 4, 5, 6, 7, 0xffff_ffff]) } else { 2 };
        let diverted = self.word();
        FlowRecord {
            state,
            deadline_ns: self.pick(&[0, u64::MAX]),
            new_port: baton_shared::addr::PortWord(self.half()),
            window_shift_in: self.byte_below(16),
            window_shift_out: self.byte_below(16),
            seq_delta: self.word(),
            ack_delta: self.word(),
            tsval_delta: self.word(),
            tsecr_delta: self.word(),
            ack_floor: self.word(),
            out_ifindex: 1,
            drain_end: diverted.wrapping_add(self.pick(&[0, 1, u32::MAX])),
            flags: match hook {
                Hook::Egress if self.chance(4) => FLAG_ADOPTED | FLAG_OWN_SCALE,
                _ if self.chance(3) => FLAG_TRACKED,
                _ => self.pick(&[0, FLAG_FED]),
            },
            read_from: self.word(),
            leg_mtu: self.pick(&[0, 0, 100, 150, 0xffff_ffff]),
            diverted,
            released: if self.chance(4) { self.word() } else { diverted },
            note_ack: self.word(),
            note_window: self.word(),
            note_tsval: self.word(),
            note_seq_end: self.word(),
            note_flags: self.byte_below(64).into(),
            packets: self.below(2),
            bytes: self.word().into(),
            ..cases::record(hook, version)
        }
    }

    /// Makes the packet a request that is judged by the program, nearly or in full.
    fn plain(&mut self, record: &mut FlowRecord, frame: &mut Frame) {
        record.note_flags = RULING;
        record.requests = self.word();
        frame.tcp.sequence_number = record.read_from;
        frame.tcp.acknowledgment_number =
            record.note_ack.wrapping_add(self.pick(&[0, 1, 100, 0u32.wrapping_sub(1), 1 << 31]));
        let tail = usize::try_from(self.below(1000)).unwrap();
        let head =
            format!("GET /{} HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", self.below(1000), "y".repeat(tail));
        frame.payload = head.into_bytes();
        if self.chance(2) {
            (frame.tcp.ack, frame.tcp.syn, frame.tcp.fin, frame.tcp.rst) = (true, false, false, false);
            frame.tcp.ece = false;
        }
        if self.chance(4) {
            let at = usize::try_from(self.below(frame.payload.len() as u64)).unwrap();
            frame.payload[at] = self.byte_below(128);
        }
    }

    /// Makes the packet the start of a large response, whose end the program sees, nearly or in full.
    fn response(&mut self, record: &mut FlowRecord, frame: &mut Frame) {
        record.requests = self.pick(&[0, 1, 7, u32::MAX]);
        frame.tcp.sequence_number = record.read_from.wrapping_sub(self.pick(&[0, 0, 0, 1]));
        let line = "x".repeat(usize::try_from(self.below(900)).unwrap());
        let (there, content) = (self.pick(&[0, 1, 1500, 2200]), self.pick(&[0, 1, 1499, 1500, 1 << 20]));
        let head = format!("HTTP/1.1 206 \r\nX: {line}\r\nContent-Length: {content}\r\nY:\r\n\r\n");
        frame.payload = [head.into_bytes(), vec![b'c'; there]].concat();
        if self.chance(4) {
            let at = usize::try_from(self.below(50)).unwrap();
            frame.payload[at] = self.byte_below(128);
        }
    }

    /// An ICMP error, now and then a broken one.
    fn error(&mut self, n: u64, record: FlowRecord, version: Version) -> Case {
        let mut error = cases::error(version);
        if self.chance(8) {
            error.header[0] = self.byte_below(16);
        }
        error.hops = if self.chance(8) { self.byte_below(3) } else { self.byte_below(256) };
        error.about.tcp.sequence_number = self.word();
        error.about.ttl(self.byte_below(256));
        if self.chance(8) {
            let count = self.below(11) * 4;
            let options = self.bytes(count);
            error.about.ip_options(&options);
        }
        error.quoted = usize::try_from(self.pick(&[28, 48, 100, 576]) + self.below(30)).unwrap();
        error.padding = usize::try_from(self.below(20)).unwrap();
        if self.chance(16) {
            error.fragment = Some((0, self.chance(2)));
        }
        let mut frame = error.bytes();
        // What makes the error, or the quote, foreign or none: versions, protocols, addresses, ports.
        let (quoted_at, places): (usize, &[usize]) = match version {
            Version::V4 => (42, &[14, 23, 42, 51, 54, 58]),
            Version::V6 => (62, &[14, 20, 62, 68, 70, 86, 102]),
        };
        if self.chance(10) && error.fragment.is_none() {
            let at = self.pick(places);
            // Not the quoted header's length, which would move all behind it.
            let bits = if at == quoted_at { 4u8 } else { 0 };
            let bit = bits + self.byte_below(u64::from(8 - bits));
            frame.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
        }
        if self.chance(20) {
            let cut = usize::try_from(self.below(100)).unwrap();
            let keep = frame.len().saturating_sub(cut).max(54);
            frame.truncate(keep);
        }
        Case::new(format!("random ICMP error {n}"), Hook::Ingress, record, frame)
    }

    pub(crate) fn case(&mut self, n: u64) -> Case {
        let hook = self.pick(&[Hook::Ingress, Hook::Egress]);
        let version = self.pick(&[Version::V4, Version::V6]);
        let mut record = self.record(hook, version);
        if hook == Hook::Ingress && self.chance(4) {
            return self.error(n, record, version);
        }
        let mut frame: Frame = cases::frame(hook, version);
        frame.ttl(if self.chance(8) { self.byte_below(3) } else { self.byte_below(256) });
        let identification = self.half();
        frame.v4(|ip| ip.identification = identification);
        frame.tcp.sequence_number = self.word();
        // Around the floor as often as anywhere.
        frame.tcp.acknowledgment_number = if self.chance(2) {
            let around = self.pick(&[0, 1, 2, 1000, 100_000]);
            record.ack_floor.wrapping_sub(record.ack_delta).wrapping_sub(around)
        } else {
            self.word()
        };
        // Around the end of the request, or of what was read of a response, as often as anywhere.
        if record.flags != 0 && self.chance(2) {
            let around = self.pick(&[0, 1, 2, 3, 99, 100, 101, 1400]);
            frame.tcp.sequence_number = record.read_from.wrapping_sub(around);
        }
        frame.tcp.window_size = self.half();
        frame.tcp.urgent_pointer = self.half();
        frame.tcp.ack = !self.chance(8);
        frame.tcp.syn = self.chance(8);
        frame.tcp.fin = self.chance(8);
        frame.tcp.rst = self.chance(8);
        frame.tcp.psh = self.chance(2);
        frame.tcp.ece = self.chance(4);
        let count = self.pick(&[0, 0, 1, 2, 3, 100, 1400]);
        frame.payload = self.bytes(count);
        if hook == Hook::Ingress && record.flags & FLAG_TRACKED != 0 && self.chance(2) {
            self.plain(&mut record, &mut frame);
        }
        if hook == Hook::Egress && record.flags & FLAG_TRACKED != 0 && self.chance(2) {
            self.response(&mut record, &mut frame);
        }
        let options = self.options();
        frame = frame.options(&options);
        if self.chance(8) {
            let count = self.below(11) * 4;
            let options = self.bytes(count);
            frame.ip_options(&options);
        }
        if self.chance(3) {
            for _ in 0..self.below(10) {
                let kind = self.pick(&[0, 43, 44, 60, 60, 60]);
                let more = self.pick(&[0, 0, 1, 2, 9]);
                let mut bytes = self.bytes(7 + 8 * u64::from(more));
                bytes[0] = more;
                match kind {
                    43 => bytes[2] = u8::from(self.chance(8)),
                    // Mostly a whole packet's; the reserved bits may be anything.
                    44 => {
                        bytes.truncate(7);
                        let more = u8::from(self.chance(8));
                        let offset = if self.chance(8) { self.byte_below(256) } else { 0 };
                        (bytes[1], bytes[2]) = (offset, bytes[2] & 6 | more);
                    }
                    _ => {}
                }
                frame.extension(kind, bytes);
            }
        }
        if self.chance(16) {
            let offset = self.pick(&[0, 0, 1, 100]);
            frame.fragment(offset, offset == 0 || self.chance(2));
        }
        if self.chance(4) {
            frame.padding = usize::try_from(self.below(20)).unwrap();
        }
        let mut bytes = frame.bytes();
        // Now and then a broken or foreign packet: one byte of the headers changed, or cut short.
        let (mut keep, header_end) = match version {
            Version::V4 => (34, 54),
            Version::V6 => (54, frame.tcp_at()),
        };
        if self.chance(20) {
            let at = usize::try_from(12 + self.below(header_end - 12)).unwrap();
            let bit = self.below(8);
            // Only what makes the packet foreign or unreadable: elsewhere a wrong checksum must stay wrong, which
            // etherparse would mend (of IPv4's fragment word only the offset's bits, therefore).
            let may = match version {
                Version::V4 => matches!(at, 12 | 13 | 20 | 21 | 23 | 26..=33) && (at != 20 || bit < 5),
                Version::V6 => !matches!(at, 18 | 19),
            };
            if may {
                bytes[at] ^= 1 << bit;
            }
        }
        if self.chance(20) {
            let cut = usize::try_from(self.below(50)).unwrap();
            // A test run wants an IP header behind the Ethernet header.
            keep = bytes.len().saturating_sub(cut).max(keep);
            bytes.truncate(keep);
        }
        let dropped_first = self.chance(4).then(|| self.pick(&[0, NOW]));
        let marked = self.chance(4);
        Case { marked, dropped_first, ..Case::new(format!("random packet {n}"), hook, record, bytes) }
    }
}
