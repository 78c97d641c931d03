//! Whether a flow gives its place, its slot or its 4-tuple, to a new one on the target.

/// What is known of the flow that has the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its handoff is under way, or its request is being fed.
    pub in_hand: bool,
    /// It has ended, and lingers.
    pub ended: bool,
    /// The kernel has been asked just now whether it has ended.
    pub asked: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It gives the place up.
    Given,
    /// Its end may not have been noticed yet: the kernel is to be asked.
    Ask,
    /// It keeps the place: it is alive.
    Kept,
}

/// Only a flow that has ended gives its place up: what a live one has sent would be lost otherwise, or sent untranslated.
pub const fn judge_room(holder: Holder) -> Room {
    match holder {
        Holder { in_hand: true, .. } => Room::Kept,
        Holder { ended: true, .. } => Room::Given,
        Holder { asked: false, .. } => Room::Ask,
        _ => Room::Kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ended_flow_gives_its_place_and_the_kernel_is_asked_once() {
        for bits in 0..8u8 {
            let holder = Holder { in_hand: bits & 1 != 0, ended: bits & 2 != 0, asked: bits & 4 != 0 };
            let room = judge_room(holder);
            assert_eq!(room == Room::Given, holder.ended && !holder.in_hand, "{holder:?}");
            assert_eq!(room == Room::Ask, bits == 0, "{holder:?}");
        }
    }
}
