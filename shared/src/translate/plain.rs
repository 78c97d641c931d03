//! Plain later requests: those that the program on the intermediate judges by itself.
//!
//! Where one route takes whatever comes, and everybody who judges is of the same mind as when the daemon judged a
//! connection's last request (the *ruling* has not changed), the daemon would let a request go on as it came if it is of
//! the kind that [`PlainScanner`] takes. Such a request goes on in the kernel. Everything else of a later request is
//! diverted to the daemon, as is what might be one but cannot be told from a single segment.
//!
//! The record's `read_from` is whose turn it is. The program moves it only while the hold accounts agree, so while nothing
//! of the flow is in the daemon's hands; the daemon only while they do not. What an attacker would have to guess is the exact
//! next number of the client's, and an acknowledgement within its window: more than a server's kernel asks for (RFC 5961).

use super::Account;
use super::judge::{Action, Verdict, exceeds_leg, goes_on};
use crate::plain::{PLAIN_BYTES, PlainScanner};
use crate::reason::PacketCounter;
use crate::record::{FLAG_LAST, FLAG_OWED, FLAG_TRACKED, FLAG_WITHIN_BODY, FlowKey, FlowRecord};
use crate::seq::are_near;
use crate::wire::{ACK, HeaderChecksum, PROTOCOL_TCP, PSH, Segment, Sum};

/// Whether the segment that [`judge_ingress`](super::judge_ingress) diverts as a later request may be a plain one: then its
/// bytes are to be read. `ruling` is the one in force; 0: none is.
#[inline(always)]
pub fn may_be_plain(verdict: Verdict, record: &FlowRecord, segment: &Segment, ruling: u32) -> bool {
    const FOLLOWED: u32 = FLAG_TRACKED | FLAG_LAST | FLAG_OWED | FLAG_WITHIN_BODY;
    let later = matches!(verdict.counter, Some(PacketCounter::LaterRequest));
    let ruled = ruling != 0 && record.ruling() == ruling && record.flags & FOLLOWED == FLAG_TRACKED;
    let whole = segment.seq == record.read_from
        && record.released == record.diverted
        && segment.flags & !PSH == ACK
        && segment.payload.wrapping_sub(1) < PLAIN_BYTES;
    // The client can have got what the segment acknowledges, or had (`state::acceptable`).
    later
        && ruled
        && whole
        && are_near(segment.ack, record.note_ack, record.note_window)
        && !exceeds_leg(record, segment)
}

/// The verdict on a plain request.
#[inline(always)]
pub fn judge_plain(record: &FlowRecord, segment: &Segment, account: &mut Account) -> Verdict {
    *account = Account::default();
    let verdict = goes_on(record, segment, account);
    if matches!(verdict.action, Action::Translate) {
        account.plain = 1;
        account.read_from = segment.seq.wrapping_add(segment.payload);
        account.requests = record.requests.wrapping_add(1);
        account.also = PacketCounter::LaterPlain.code();
    }
    verdict
}

/// A segment's bytes as they are read: whether they are a plain request, and came as they were sent.
#[derive(Clone, Copy, Debug)]
pub struct PlainReading {
    /// The pseudo-header's sum.
    pseudo: Sum,
    /// The segment's, without it.
    sum: Sum,
    scanner: PlainScanner,
}

impl PlainReading {
    /// Nothing is read yet but the header of a segment of `length` bytes with it; `header` is its sum, in memory order.
    #[inline(always)]
    pub fn new(key: &FlowKey, length: u32, header: u32) -> Self {
        // A v4-mapped address sums up as the four bytes of it: the rest is zeros and 0xffff, which is zero too (RFC 1071).
        let ([a, b, c, d], [e, f, g, h]) = (key.remote.0, key.local.0);
        let addresses = Sum::ZERO.with(a).with(b).with(c).with(d).with(e).with(f).with(g).with(h);
        let pseudo = addresses.with(u32::from(PROTOCOL_TCP).to_be()).with(length.to_be());
        PlainReading { pseudo, sum: Sum::ZERO.with(header), scanner: PlainScanner::new() }
    }

    /// With the payload's byte at this offset.
    #[inline(always)]
    #[must_use]
    pub fn byte(mut self, offset: u32, byte: u8) -> Self {
        self.sum = self.sum.with_byte(offset, byte);
        self.scanner = self.scanner.advance(byte);
        self
    }

    /// Whether it is no plain request, whatever follows.
    #[inline(always)]
    pub fn is_over(&self) -> bool {
        self.scanner.is_over()
    }

    /// Whether all of it was a plain request, and its checksum, as it stands in the header, says that it came as it was
    /// sent: it is right, or there is only the pseudo-header's sum in its place, which a kernel on this machine left to whoever
    /// sends it (`CHECKSUM_PARTIAL`). Of what was corrupted on its way one in 65536 looks so.
    #[inline(always)]
    pub fn is_plain(&self, checksum: HeaderChecksum) -> bool {
        let right = self.pseudo.plus(self.sum).folded() == u16::MAX;
        let unfinished = self.pseudo.folded() == checksum.0;
        self.scanner.is_plain() && (right || unfinished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortWord;
    use crate::record::FlowState;
    use crate::translate::{Patch, judge_ingress};
    use crate::wire::{FIN, RST, SYN};
    use core::net::IpAddr;
    use etherparse::TcpHeader;
    use proptest::prelude::*;

    const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: lab\r\n\r\n";
    const RULING: u32 = 7;

    fn record() -> FlowRecord {
        FlowRecord {
            state: FlowState::Committed as u32,
            flags: FLAG_TRACKED,
            read_from: u32::MAX - 9,
            note_flags: RULING,
            requests: 4,
            note_ack: 50,
            note_window: 1000,
            diverted: 9,
            released: 9,
            ..FlowRecord::default()
        }
    }

    fn segment() -> Segment {
        let payload = u32::try_from(REQUEST.len()).unwrap();
        Segment {
            seq: u32::MAX - 9,
            ack: 60,
            payload,
            flags: ACK | PSH,
            ttl: 9,
            window: 5,
            ..Segment::default()
        }
    }

    fn judged(record: &FlowRecord, segment: &Segment, ruling: u32) -> bool {
        let verdict = judge_ingress(record, segment, false, 0, &mut Patch::default());
        may_be_plain(verdict, record, segment, ruling)
    }

    #[test]
    fn a_plain_request_goes_on_and_moves_the_end_and_the_count() {
        assert!(judged(&record(), &segment(), RULING));
        let mut patch = Patch::default();
        let before = judge_ingress(&record(), &segment(), false, 0, &mut patch);
        assert_eq!((before.action, patch.account.diverted != 0), (Action::Divert, true));
        let verdict = judge_plain(&record(), &segment(), &mut patch.account);
        assert_eq!(verdict.action, Action::Translate);
        let account = patch.account;
        assert_eq!((account.diverted, account.plain, account.requests), (0, 1, 5));
        assert_eq!(account.read_from, segment().seq.wrapping_add(segment().payload));
        assert_eq!(
            (account.noted, account.note_ack, account.also),
            (1, 60, PacketCounter::LaterPlain.code())
        );
        // Behind it the record says: it is the request under way.
        let behind = FlowRecord { read_from: account.read_from, requests: account.requests, ..record() };
        let again = judge_ingress(&behind, &segment(), false, 0, &mut patch);
        assert_eq!(again.action, Action::Translate, "sent again");
        let worn = judge_plain(&record(), &Segment { ttl: 1, ..segment() }, &mut patch.account);
        assert_eq!((worn.action, patch.account.plain), (Action::Drop, 0), "it has not gone on");
    }

    #[test]
    fn whatever_is_not_as_the_daemon_left_it_is_read() {
        assert!(!judged(&record(), &segment(), 0), "no ruling");
        assert!(!judged(&record(), &segment(), RULING + 1), "another");
        let unruled = FlowRecord { note_flags: 0, ..record() };
        assert!(!judged(&unruled, &segment(), 0), "none is not the same as none");
        let records = [
            FlowRecord { flags: 0, ..record() },
            FlowRecord { flags: FLAG_TRACKED | FLAG_LAST, ..record() },
            FlowRecord { flags: FLAG_TRACKED | FLAG_OWED, ..record() },
            FlowRecord { flags: FLAG_TRACKED | FLAG_WITHIN_BODY, ..record() },
            FlowRecord { released: 8, ..record() },
            FlowRecord { read_from: u32::MAX - 10, ..record() },
            FlowRecord { read_from: u32::MAX - 8, ..record() },
            FlowRecord { state: FlowState::Frozen as u32, deadline_ns: 9, ..record() },
            FlowRecord { state: FlowState::Ended as u32, ..record() },
            FlowRecord { state: FlowState::Superseded as u32, ..record() },
            FlowRecord { leg_mtu: 40, ..record() },
        ];
        for record in records {
            let large = Segment { packet: 41, ..segment() };
            assert!(!judged(&record, &large, RULING), "{record:?}");
        }
        let segments = [
            Segment { payload: 0, ..segment() },
            Segment { payload: PLAIN_BYTES + 1, ..segment() },
            Segment { flags: ACK | FIN, ..segment() },
            Segment { flags: ACK | SYN, ..segment() },
            Segment { flags: ACK | RST, ..segment() },
            Segment { flags: PSH, ..segment() },
            Segment { ack: 1051, ..segment() },
            Segment { ack: 50u32.wrapping_sub(1001), ..segment() },
        ];
        for segment in segments {
            assert!(!judged(&record(), &segment, RULING), "{segment:?}");
        }
        assert!(judged(&record(), &Segment { ack: 1050, ..segment() }, RULING));
        assert!(judged(
            &FlowRecord { note_window: 0, ..record() },
            &Segment { ack: 9999, ..segment() },
            RULING
        ));
    }

    /// A segment between these addresses as a program reads it; the checksum in its header is replaced.
    fn read(ends: [IpAddr; 2], payload: &[u8], checksum: impl FnOnce(u16, u16) -> u16) -> bool {
        let mut tcp = TcpHeader::new(1000, 80, 5, 100);
        tcp.ack = true;
        let right = match ends {
            [IpAddr::V4(from), IpAddr::V4(to)] => {
                tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload)
            }
            [IpAddr::V6(from), IpAddr::V6(to)] => {
                tcp.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload)
            }
            _ => panic!("of one version"),
        };
        // What a kernel puts there that leaves the rest to a device: the pseudo-header's sum.
        let (mut pseudo, length) = (0u32, u32::try_from(20 + payload.len()).unwrap());
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        for pair in [octets(ends[0]), octets(ends[1])].concat().chunks(2) {
            pseudo += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        pseudo += 6 + length;
        pseudo = (pseudo >> 16) + (pseudo & 0xffff);
        pseudo = (pseudo >> 16) + (pseudo & 0xffff);
        tcp.checksum = checksum(right.unwrap(), u16::try_from(pseudo).unwrap());

        let key = FlowKey {
            remote: ends[0].into(),
            local: ends[1].into(),
            remote_port: PortWord::new(1000),
            local_port: PortWord::new(80),
        };
        let header = tcp.to_bytes();
        let words = header.as_chunks::<4>().0;
        let sum = words.iter().fold(Sum::ZERO, |sum, word| sum.with(u32::from_ne_bytes(*word)));
        let mut reading = PlainReading::new(&key, length, sum.folded().into());
        for (at, byte) in (0..).zip(payload) {
            reading = reading.byte(at, *byte);
        }
        reading.is_plain(HeaderChecksum(tcp.checksum.to_be()))
    }

    fn ends(v6: bool, low: u16) -> [IpAddr; 2] {
        if v6 {
            [[0x2001, 0xdb8, 0, 0, 0, 0, 0xffff, low].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()]
        } else {
            let [a, b] = low.to_be_bytes();
            [[10, 0, a, b].into(), [192, 0, 2, 1].into()]
        }
    }

    proptest! {
        #[test]
        fn only_what_came_as_it_was_sent_or_is_not_finished_yet_is_plain(
            v6: bool, low: u16, name in "[a-z]{1,9}", wrong in 1..=u16::MAX,
        ) {
            let (ends, payload) = (ends(v6, low), format!("GET /{name} HTTP/1.1\r\nHost: {name}\r\n\r\n"));
            prop_assert!(read(ends, payload.as_bytes(), |right, _| right));
            prop_assert!(read(ends, payload.as_bytes(), |_, pseudo| pseudo));
            let (mut finished, mut unfinished) = (0, 0);
            let corrupt = read(ends, payload.as_bytes(), |right, pseudo| {
                (finished, unfinished) = (right, pseudo);
                right ^ wrong
            });
            // The two zeros of one's complement are one number.
            let is = |other: u16| (finished ^ wrong) % u16::MAX == other % u16::MAX;
            prop_assert_eq!(corrupt, is(finished) || is(unfinished));
            prop_assert!(!read(ends, b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n", |right, _| right));
        }
    }
}
