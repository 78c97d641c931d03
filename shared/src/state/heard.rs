//! What a client said last of what it has and of what it takes: SND.UNA, SND.WND and SND.WL1 of whoever sends to it (RFC 9293,
//! section 3.3.1). The intermediate keeps it for the server that gets a connection next; the program notes it of packets that
//! go on by themselves, the daemon of those it holds.

use crate::capture::NegotiatedOptions;
use crate::packet::held::HeldFacts;
use crate::record::FlowRecord;
use crate::seq::{Client, Seq, before};

/// It, in the client's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The highest number it has acknowledged.
    pub ack: Seq<Client>,
    /// Its window, bytes.
    pub window: u32,
    /// The number at which the segment that said so ended.
    pub said_at: Seq<Client>,
}

/// A window field as bytes.
fn bytes(field: u32, options: Option<&NegotiatedOptions>) -> u32 {
    field
        << options.and_then(|options| options.window_scale).map_or(0, |scales| u32::from(scales.client & 15))
}

impl Heard {
    /// What the intermediate's record of a flow says.
    pub fn of_record(record: &FlowRecord, options: Option<&NegotiatedOptions>) -> Heard {
        let field = record.note_tsval & u32::from(u16::MAX);
        Heard {
            ack: Seq::new(record.note_ack),
            window: bytes(field, options),
            said_at: Seq::new(record.note_seq_end),
        }
    }

    /// What a segment of the client's says, if it acknowledges anything.
    pub fn of_segment(facts: &HeldFacts<'_>, options: Option<&NegotiatedOptions>) -> Option<Heard> {
        Some(Heard {
            ack: Seq::new(facts.ack?),
            window: bytes(facts.window.into(), options),
            said_at: Seq::new(facts.seq.wrapping_add(facts.segment.sequence_length())),
        })
    }

    /// What is known by now: from the `program`, which sees packets that go on by themselves, and from packets that are `held`, if
    /// any are. Of those no more than a window (`reach`, bytes; 0: not known) can be known beyond what the program saw: further
    /// apart it is the program that is ahead, by a response of any length.
    pub fn by_now(held: Option<Heard>, program: Heard, reach: u32) -> Heard {
        match held {
            Some(mut held) if reach == 0 || held.ack.since(program.ack) <= reach => {
                held.hear(program);
                held
            }
            _ => program,
        }
    }

    /// Takes what was said later, or at the same number: nothing of the stream tells which came first then, and what is heard
    /// of is what came last.
    pub fn hear(&mut self, other: Heard) {
        let (acks, says) = (self.ack.before(other.ack), !before(other.said_at.raw(), self.said_at.raw()));
        if acks || (other.ack == self.ack && says) {
            self.window = other.window;
            self.said_at = if says { other.said_at } else { self.said_at };
        }
        if acks {
            self.ack = other.ack;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::WindowScales;
    use proptest::prelude::*;

    fn heard(ack: u32, window: u32, said_at: u32) -> Heard {
        Heard { ack: Seq::new(ack), window, said_at: Seq::new(said_at) }
    }

    #[test]
    fn a_window_said_again_behind_held_data_is_the_newest_and_one_said_before_it_is_not() {
        // Held: 50 bytes from 100 on, with a window of 0.
        let held = heard(7, 0, 150);
        let mut state = held;
        state.hear(heard(7, 500, 150));
        assert_eq!(state, heard(7, 500, 150), "a window update by itself");
        let mut state = held;
        state.hear(heard(7, 300, 100));
        assert_eq!(state, held, "said before the data were sent");
        let mut state = held;
        state.hear(heard(8, 300, 100));
        assert_eq!((state.ack.raw(), state.window), (8, 300), "who has more has said it later");
    }

    #[test]
    fn windows_are_scaled_as_the_client_said() {
        let options = NegotiatedOptions {
            client_mss: 1460,
            sack: true,
            timestamps: false,
            window_scale: Some(WindowScales { client: 3, promised: 7 }),
            ecn: false,
        };
        let record = FlowRecord { note_ack: 1, note_tsval: 10, note_seq_end: 2, ..FlowRecord::default() };
        assert_eq!(Heard::of_record(&record, Some(&options)), heard(1, 80, 2));
        assert_eq!(Heard::of_record(&record, None), heard(1, 10, 2));
    }

    proptest! {
        #[test]
        fn however_long_a_response_was_its_client_is_known(
            from: u32, length: u64, lead in 0..=65_535u32, reach in 65_535..1u32 << 30,
        ) {
            let length = u32::try_from(length & u64::from(u32::MAX)).unwrap();
            let program = heard(from.wrapping_add(length), 1, 9);
            let by_now = |held| Heard::by_now(held, program, reach);
            prop_assert_eq!(by_now(None), program, "there is nothing that the program has not seen");
            // One that is held was said behind all the program has seen.
            let held = heard(program.ack.raw().wrapping_add(lead), 2, 12);
            prop_assert_eq!(by_now(Some(held)), held);
            // Or the response went on behind it.
            if length > 0 && length < u32::MAX - reach {
                prop_assert_eq!(by_now(Some(heard(from, 2, 5))), program);
            }
        }

        #[test]
        fn what_is_acknowledged_never_goes_back(
            from: u32, steps in proptest::collection::vec((-1000i32..1000, 0..9000u32, -1000i32..1000), 0..20),
        ) {
            let mut state = heard(from, 1, from);
            let mut highest = 0;
            for (ack, window, at) in steps {
                let before_at = state.said_at;
                state.hear(heard(from.wrapping_add_signed(ack), window, from.wrapping_add_signed(at)));
                highest = highest.max(ack);
                prop_assert_eq!(state.ack.raw(), from.wrapping_add_signed(highest));
                prop_assert!(!before(state.said_at.raw(), before_at.raw()));
            }
        }
    }
}
