//! One recall on the intermediate: from the question to the agent until it is known whose the flow is.
//!
//! Until the agent says `Recalled` the flow is the target's, and whatever belongs elsewhere is held. After it nobody
//! else can answer the client. The question may be put any number of times: the agent remembers its answer.
//!
//! | from | event | to | what follows |
//! |---|---|---|---|
//! | (new) | | `Asked` | the caller asks |
//! | any live | recalled | `Recalled` | the flow is ours: hand it off, or take it back |
//! | any live | refused: server closed, or flow gone | `Closed` | the client sees it too; what is held is dropped |
//! | any live | refused otherwise | `Refused` | reset the client |
//! | any live | channel down | `Severed` | |
//! | any live | channel up | `Asked` | ask again |
//! | any live | flow ended, or cut | `Closed` | what is held is dropped |
//! | `Recalled`, `Closed`, `Refused` | anything | same | |

use crate::reason::Refusal;

/// Where a recall stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecallState {
    /// The agent's word is awaited.
    Asked,
    /// The channel is down.
    Severed,
    /// The flow is ours. Final.
    Recalled,
    /// The flow ends by itself. Final.
    Closed,
    /// The flow cannot be had and must not go on. Final.
    Refused,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecallEvent {
    /// The agent gave it.
    Recalled,
    /// The agent did not.
    Refused(Refusal),
    /// The control channel broke.
    ChannelDown,
    /// The control channel is there (again).
    ChannelUp,
    /// The flow is not there any more.
    FlowGone,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecallAction {
    /// Wait on.
    Wait,
    /// Put the question.
    Ask,
    /// The flow is ours.
    Proceed,
    /// Drop what is held, and what comes.
    Drop,
    /// Reset the client.
    Reset(Refusal),
}

/// One recall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recall {
    state: RecallState,
}

impl Default for Recall {
    fn default() -> Self {
        Self::new()
    }
}

impl Recall {
    /// The question is about to be put.
    pub const fn new() -> Self {
        Recall { state: RecallState::Asked }
    }

    /// Where it stands.
    pub const fn state(&self) -> RecallState {
        self.state
    }

    /// Takes an event in; what to do now.
    pub fn on(&mut self, event: RecallEvent) -> RecallAction {
        if matches!(self.state, RecallState::Recalled | RecallState::Closed | RecallState::Refused) {
            return RecallAction::Wait;
        }
        let (to, action) = match event {
            RecallEvent::Recalled => (RecallState::Recalled, RecallAction::Proceed),
            RecallEvent::FlowGone => (RecallState::Closed, RecallAction::Drop),
            RecallEvent::Refused(reason) if reason.is_end_of_flow() => {
                (RecallState::Closed, RecallAction::Drop)
            }
            RecallEvent::Refused(reason) => (RecallState::Refused, RecallAction::Reset(reason)),
            RecallEvent::ChannelDown => (RecallState::Severed, RecallAction::Wait),
            RecallEvent::ChannelUp => (RecallState::Asked, RecallAction::Ask),
        };
        self.state = to;
        action
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecallAction as Do;
    use RecallEvent as Event;
    use RecallState as State;

    const EVENTS: [Event; 8] = [
        Event::Recalled,
        Event::Refused(Refusal::ServerClosed),
        Event::Refused(Refusal::FlowGone),
        Event::Refused(Refusal::FramingUnknown),
        Event::Refused(Refusal::NotTracked),
        Event::ChannelDown,
        Event::ChannelUp,
        Event::FlowGone,
    ];

    /// The table of the module, spelled out: it must be changed here to be changed at all.
    #[test]
    fn golden_transitions() {
        for from in [State::Asked, State::Severed] {
            let expected = [
                (State::Recalled, Do::Proceed),
                (State::Closed, Do::Drop),
                (State::Closed, Do::Drop),
                (State::Refused, Do::Reset(Refusal::FramingUnknown)),
                (State::Refused, Do::Reset(Refusal::NotTracked)),
                (State::Severed, Do::Wait),
                (State::Asked, Do::Ask),
                (State::Closed, Do::Drop),
            ];
            for (event, (to, action)) in EVENTS.into_iter().zip(expected) {
                let mut recall = Recall { state: from };
                assert_eq!((recall.on(event), recall.state()), (action, to), "{from:?} {event:?}");
            }
        }
        for last in [State::Recalled, State::Closed, State::Refused] {
            for event in EVENTS {
                let mut recall = Recall { state: last };
                assert_eq!((recall.on(event), recall.state()), (Do::Wait, last));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn the_flow_becomes_ours_at_most_once_and_only_by_the_agents_word(
            events in proptest::collection::vec(proptest::sample::select(EVENTS.to_vec()), 0..30),
        ) {
            let mut recall = Recall::new();
            let mut ended = 0;
            for event in events {
                let action = recall.on(event);
                if action == Do::Proceed {
                    proptest::prop_assert_eq!(event, Event::Recalled);
                }
                ended += u32::from(matches!(action, Do::Proceed | Do::Drop | Do::Reset(_)));
            }
            proptest::prop_assert!(ended <= 1);
        }
    }
}
