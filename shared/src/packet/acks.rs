//! Acknowledgements that need not go on, since the next packet of the connection, which goes on right behind them, says all
//! that they say.
//!
//! While a connection changes hands its server answers already, and the client's acknowledgements are held. TCP's
//! acknowledgements are cumulative (RFC 9293, section 3.4), and of two windows the newer one holds (section 3.10.7.4), so of those
//! that are let go at once the last is enough. Each that is left out is one packet less through both hosts. Duplicate
//! acknowledgements are not: a sender counts them (RFC 5681, section 3.2). Nor are those with selective ones (RFC 2018) or with
//! congestion's echo (RFC 3168): what they tell besides may be told by them alone.

use super::held::HeldFacts;
use crate::seq::before;
use crate::wire::{ACK, FIN, PSH};

/// What a held packet of the client's says of the stream to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledging {
    seq: u32,
    /// Client's space.
    ack: u32,
    timestamps: bool,
    kind: Kind,
    /// It acknowledges more than all that were held before it, of which there are some.
    advances: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing but an acknowledgement, no options but timestamps.
    Bare,
    /// With selective acknowledgements, or options that are not known.
    WithMore,
    /// The end of the client's stream, and no payload.
    End,
}

impl Acknowledging {
    /// Of a packet whose checksum is right. `newest` is the newest acknowledgement held before it. `None`: it has payload,
    /// acknowledges nothing, or says what no other can say for it or it for no other.
    pub fn of(facts: &HeldFacts<'_>, newest: Option<u32>) -> Option<Self> {
        if !facts.payload.is_empty() {
            return None;
        }
        let kind = match facts.segment.flags {
            ACK if facts.plain_options => Kind::Bare,
            ACK => Kind::WithMore,
            flags if flags & !PSH == ACK | FIN => Kind::End,
            _ => return None,
        };
        let ack = facts.ack?;
        let advances = newest.is_some_and(|newest| before(newest, ack));
        Some(Acknowledging { seq: facts.seq, ack, timestamps: facts.tsval.is_some(), kind, advances })
    }

    /// Whether `next`, the packet that goes on right behind this one, says all that this one does.
    pub fn is_said_again_by(&self, next: &Acknowledging) -> bool {
        let alike = self.seq == next.seq && self.timestamps == next.timestamps;
        // A second one with the same number is a duplicate; what is none itself may stand for the first.
        let further = before(self.ack, next.ack)
            || self.ack == next.ack && self.advances && matches!(next.kind, Kind::End);
        matches!(self.kind, Kind::Bare) && alike && further
    }

    /// Where the client's stream ends, if this is the end.
    pub fn is_end(&self) -> bool {
        matches!(self.kind, Kind::End)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::held::facts;
    use etherparse::{PacketBuilder, TcpOptionElement};
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    struct Made {
        seq: u32,
        ack: u32,
        fin: bool,
        psh: bool,
        ece: bool,
        timestamps: bool,
        sack: bool,
        payload: &'static [u8],
    }

    const PLAIN: Made = Made {
        seq: 7,
        ack: 100,
        fin: false,
        psh: false,
        ece: false,
        timestamps: true,
        sack: false,
        payload: b"",
    };

    fn made(of: Made) -> Vec<u8> {
        let mut tcp =
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1000, 80, of.seq, 500).ack(of.ack);
        if of.fin {
            tcp = tcp.fin();
        }
        if of.psh {
            tcp = tcp.psh();
        }
        if of.ece {
            tcp = tcp.ece();
        }
        let (noop, stamp) = (TcpOptionElement::Noop, TcpOptionElement::Timestamp(1, 2));
        let sack = TcpOptionElement::SelectiveAcknowledgement((1, 2), [None; 3]);
        let options: &[TcpOptionElement] = match (of.timestamps, of.sack) {
            (true, true) => &[noop.clone(), noop.clone(), stamp, noop.clone(), noop, sack],
            (true, false) => &[noop.clone(), noop, stamp],
            (false, true) => &[noop.clone(), noop, sack],
            (false, false) => &[],
        };
        let mut bytes = Vec::new();
        tcp.options(options).unwrap().write(&mut bytes, of.payload).unwrap();
        bytes
    }

    fn read(of: Made, newest: Option<u32>) -> Option<Acknowledging> {
        Acknowledging::of(&facts(&made(of)).unwrap(), newest)
    }

    /// Whether the first is left out, where all before `newest` was acknowledged by those held before.
    fn left_out(first: Made, next: Made, newest: Option<u32>) -> bool {
        let (first, next) = (read(first, newest), read(next, Some(first.ack)));
        first.zip(next).is_some_and(|(first, next)| first.is_said_again_by(&next))
    }

    #[test]
    fn an_acknowledgement_before_one_of_more_is_left_out() {
        let next = Made { ack: 101, ..PLAIN };
        for newest in [None, Some(50), Some(100), Some(200)] {
            assert!(left_out(PLAIN, next, newest));
            assert!(left_out(PLAIN, Made { fin: true, ..next }, newest), "the end says it too");
            assert!(left_out(PLAIN, Made { sack: true, ..next }, newest), "more may be said");
        }
        let wrapped = Made { ack: u32::MAX, ..PLAIN };
        assert!(left_out(wrapped, Made { ack: 0, ..PLAIN }, None));
        let bare = Made { timestamps: false, ..PLAIN };
        assert!(left_out(bare, Made { ack: 101, ..bare }, None));
    }

    #[test]
    fn what_a_sender_counts_or_what_tells_more_goes_on() {
        let next = Made { ack: 101, ..PLAIN };
        assert!(!left_out(PLAIN, PLAIN, Some(50)), "the second is a duplicate, and none without the first");
        assert!(!left_out(PLAIN, Made { ack: 99, ..PLAIN }, Some(50)), "overtaken");
        assert!(!left_out(Made { sack: true, ..PLAIN }, next, None));
        assert!(!left_out(Made { ece: true, ..PLAIN }, next, None));
        assert!(!left_out(Made { psh: true, ..PLAIN }, next, None));
        assert!(!left_out(Made { payload: b"x", ..PLAIN }, next, None));
        assert!(!left_out(PLAIN, Made { payload: b"x", ..next }, None), "that may wait for longer");
        assert!(!left_out(PLAIN, Made { ece: true, ..next }, None));
        assert!(!left_out(PLAIN, Made { seq: 8, ..next }, None));
        assert!(!left_out(PLAIN, Made { timestamps: false, ..next }, None), "PAWS may refuse it");
    }

    #[test]
    fn the_end_stands_for_the_acknowledgement_before_it_unless_that_may_be_a_duplicate() {
        let end = Made { fin: true, ..PLAIN };
        assert!(left_out(PLAIN, end, Some(99)));
        assert!(left_out(PLAIN, Made { psh: true, ..end }, Some(99)));
        assert!(!left_out(PLAIN, end, Some(100)), "a duplicate");
        assert!(!left_out(PLAIN, end, None), "nobody knows");
        assert!(!left_out(end, Made { ack: 101, ..end }, Some(99)), "an end is never left out");
    }

    proptest! {
        /// What goes on of any row of acknowledgements has the same newest number and the last window, and as many duplicates.
        #[test]
        fn what_goes_on_says_what_all_said(acks in proptest::collection::vec(90u32..96, 1..12)) {
            let mut newest = None;
            let mut all = Vec::new();
            for ack in acks {
                let said = read(Made { ack, ..PLAIN }, newest).unwrap();
                newest = Some(newest.map_or(ack, |newest: u32| newest.max(ack)));
                all.push(said);
            }
            let gone: Vec<u32> = all
                .iter()
                .enumerate()
                .filter(|(n, said)| !all.get(n + 1).is_some_and(|next| said.is_said_again_by(next)))
                .map(|(_, said)| said.ack)
                .collect();
            let before: Vec<u32> = all.iter().map(|said| said.ack).collect();
            prop_assert_eq!(gone.iter().max(), before.iter().max());
            prop_assert_eq!(gone.last(), before.last());
            let duplicates = |row: &[u32]| {
                let most = row.iter().max().copied();
                row.iter().filter(|ack| Some(**ack) == most).count()
            };
            prop_assert_eq!(duplicates(&gone), duplicates(&before));
        }
    }
}
