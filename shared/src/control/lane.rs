//! Lanes: the channels of one intermediate to one agent, if it has more than one.
//!
//! Each thread of an intermediate that hands connections off has a channel of its own, so that no handoff waits for another
//! thread. Which lane the messages of a flow's first handoff take is said by its number, and which lane a channel is by the
//! instance in its [`Hello`](super::Hello): both have it in their lowest bits. Recalls and further handoffs take the first, whose
//! thread reads what the client sends. Who knows of no lanes has numbers of any kind there, and one channel, which is every
//! flow's.

use super::FlowRef;

/// A lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(u8);

impl Lane {
    /// How many there are at most.
    pub const MOST: usize = 16;
    /// The first, which there is always.
    pub const FIRST: Lane = Lane(0);

    /// Numbers so far apart leave room for each lane's.
    pub const APART: u64 = 16;

    const MASK: u64 = Self::APART - 1;

    /// The one that comes after so many others; the first again after [`Lane::MOST`].
    pub fn nth(n: usize) -> Self {
        Lane::of_number(u64::try_from(n).unwrap_or(0))
    }

    /// That of a handoff.
    pub fn of_handoff(flow: FlowRef) -> Self {
        if flow.generation > 1 { Lane::FIRST } else { Lane::of_number(flow.flow_id) }
    }

    /// That within a flow's number or a channel's instance.
    pub fn of_number(number: u64) -> Self {
        Lane(u8::try_from(number & Self::MASK).unwrap_or(0))
    }

    /// It, if it is one of so many that there are, else the first: a number of an earlier run may name one that there is not.
    pub fn among(self, lanes: usize) -> Self {
        if self.place() < lanes { self } else { Lane::FIRST }
    }

    /// How many come before it.
    pub fn place(self) -> usize {
        usize::from(self.0)
    }

    /// The number with this lane in it.
    pub fn within(self, number: u64) -> u64 {
        Lane::without(number) | u64::from(self.0)
    }

    /// What is left of a number without its lane: the same for all channels of a process.
    pub fn without(number: u64) -> u64 {
        number & !Self::MASK
    }
}

/// By which of an intermediate's channels a handoff's messages go: that of its lane, if the newest channel's process has one, else
/// the newest. `channels` are the names and instances of all there are, the newest first.
pub fn channel_of<N: Copy>(flow: FlowRef, channels: impl Iterator<Item = (N, u64)>) -> Option<N> {
    let mut channels = channels;
    let (newest, instance) = channels.next()?;
    let own = |of: u64| of == Lane::of_handoff(flow).within(instance);
    if own(instance) {
        return Some(newest);
    }
    Some(channels.find(|(_, of)| own(*of)).map_or(newest, |(name, _)| name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

    use super::*;

    #[test]
    fn a_number_has_one_lane_and_what_is_left_of_it_is_the_process() {
        for n in 0..Lane::MOST {
            let lane = Lane::nth(n);
            assert_eq!((lane.place(), Lane::of_number(lane.within(u64::MAX))), (n, lane));
            assert_eq!(Lane::without(lane.within(0xabc7)), 0xabc0);
        }
        assert_eq!(Lane::nth(Lane::MOST), Lane::FIRST);
        assert_eq!([3, 4, 5].map(|n| Lane::nth(n).among(5).place()), [3, 4, 0]);
    }

    #[test]
    fn a_flows_messages_go_by_its_lane_of_the_newest_process_or_by_its_newest_channel() {
        // The newest first: a process with two lanes, and one before it with three.
        let channels = [(9, 0x51), (8, 0x50), (7, 0x32), (6, 0x31), (5, 0x30)];
        let first = |flow_id| FlowRef { flow_id, generation: 1 };
        let of = |flow_id| channel_of(first(flow_id), channels.into_iter());
        assert_eq!((of(0x1000), of(0x1001)), (Some(8), Some(9)));
        assert_eq!(of(0x1002), Some(9), "the channel of the former process is none of this one's");
        let again = FlowRef { flow_id: 0x1001, generation: 2 };
        assert_eq!(channel_of(again, channels.into_iter()), Some(8), "a later handoff");
        let one = [(3, 0x77)];
        assert!((0..32).all(|id| channel_of(first(id), one.into_iter()) == Some(3)), "there are no lanes");
        assert_eq!(channel_of::<u64>(again, std::iter::empty()), None);
    }
}
