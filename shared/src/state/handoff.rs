//! One handoff on the intermediate: from the moment its message was given to the control channel until it is
//! known who answers the client.
//!
//! There must be one responder. Once the message may have reached the agent, only the agent's answer tells where the
//! request runs; without it nobody else may run it, and the client gets a reset.
//!
//! | from | event | to | what follows |
//! |---|---|---|---|
//! | (new) | | `Sent` | |
//! | any live | migrated | `Committed` | commit |
//! | any live | refused, the request was not and will not be run | `Proxied` | proxy |
//! | `Sent` after a reconnection | refused `never_seen` | `Cancelling` | ask `Cancel`: the handoff might still come |
//! | any live, another agent process since | refused `lost_in_feeding` | `Unresolved` | reset |
//! | any live, the same agent process all along | refused `lost_in_feeding` | as refused `never_seen` | |
//! | `Sent` | deadline | `Cancelling` | ask `Cancel` |
//! | `Cancelling`, `Severed` | deadline | same | |
//! | any live, never known as delivered | channel down, not one byte was written | `Proxied` | proxy |
//! | any live | channel down otherwise | `Severed` | |
//! | `Severed`, `Sent` | channel up, same agent process, before the deadline | `Sent` | ask `Status` |
//! | any live | channel up otherwise | `Cancelling` | ask `Cancel` |
//! | any live | give up | `Unresolved` | reset |
//! | `Committed`, `Proxied`, `Unresolved` | anything | same | |
//!
//! Why `never_seen` in answer to `Status` is not the end: what the broken connection carried may still lie in the
//! agent's receive buffer. `Cancel` forbids it for good; `Status` only asks.
//!
//! Why `lost_in_feeding` may mean `never_seen`: soon after its start an agent does not know what the process before it fed, and
//! says so of every handoff that it has not seen. One that was sent to this process the one before cannot have fed.

use crate::reason::{ProxyReason, Refusal};

/// Where the handoff stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandoffState {
    /// With the channel or the agent; its answer is awaited.
    Sent,
    /// Asked back; the agent's word is awaited.
    Cancelling,
    /// The channel broke after the message may have been delivered; the agent's return is awaited.
    Severed,
    /// The target has the connection. Final.
    Committed,
    /// The request has not run on the target and will not. Final.
    Proxied,
    /// Where the request runs is not known. Final.
    Unresolved,
}

impl HandoffState {
    /// Whether nothing more can change it.
    pub const fn is_final(self) -> bool {
        matches!(self, HandoffState::Committed | HandoffState::Proxied | HandoffState::Unresolved)
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandoffEvent {
    /// The agent says the server has it.
    Migrated,
    /// The agent says it did not take it.
    Refused(Refusal),
    /// The time the agent was given is over.
    Deadline,
    /// The control channel broke.
    ChannelDown {
        /// Whether the handoff may have reached the agent: at least one byte of it was written.
        delivered: bool,
    },
    /// The control channel is there again.
    ChannelUp {
        /// Whether it is the agent's same process.
        same_instance: bool,
    },
    /// The time to wait for the agent's word is over.
    GiveUp,
}

/// What to ask the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// `Message::Cancel`.
    Cancel,
    /// `Message::Status`.
    Status,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandoffAction {
    /// Wait on.
    Wait,
    /// Put the translation in force, release the held packets, close the socket.
    Commit,
    /// Resume the socket and proxy (or try another target).
    Proxy(ProxyReason, Option<Refusal>),
    /// Ask the agent; if the message cannot be sent, the next [`HandoffEvent::ChannelUp`] asks again.
    Ask(Question),
    /// End the client's connection by a reset: `CloseReason::Unresolved`.
    Reset,
}

/// One handoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handoff {
    state: HandoffState,
    /// A byte of it was surely written; what a later break says about deliveries is not about this.
    delivered: bool,
    /// The deadline is past.
    late: bool,
    /// The last question was `Status`.
    status_asked: bool,
    /// The agent is another process than the one it was first sent to.
    other_process: bool,
}

impl Default for Handoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Handoff {
    /// The handoff's message was given to the channel.
    pub const fn new() -> Self {
        Handoff {
            state: HandoffState::Sent,
            delivered: false,
            late: false,
            status_asked: false,
            other_process: false,
        }
    }

    /// Where it stands.
    pub const fn state(&self) -> HandoffState {
        self.state
    }

    /// Takes an event in; what to do now.
    pub fn on(&mut self, event: HandoffEvent) -> HandoffAction {
        use HandoffAction as Do;
        use HandoffState as State;
        if self.state.is_final() {
            return Do::Wait;
        }
        let event = match event {
            HandoffEvent::Refused(Refusal::LostInFeeding) if !self.other_process => {
                HandoffEvent::Refused(Refusal::NeverSeen)
            }
            other => other,
        };
        let (to, action) = match event {
            HandoffEvent::Migrated => (State::Committed, Do::Commit),
            HandoffEvent::Refused(Refusal::NeverSeen) if self.status_asked => self.cancel(),
            HandoffEvent::Refused(reason) if reason.request_not_run() => {
                (State::Proxied, Do::Proxy(ProxyReason::Refused, Some(reason)))
            }
            HandoffEvent::Refused(_) | HandoffEvent::GiveUp => (State::Unresolved, Do::Reset),
            HandoffEvent::Deadline => {
                self.late = true;
                if self.state == State::Sent { self.cancel() } else { (self.state, Do::Wait) }
            }
            HandoffEvent::ChannelDown { delivered: false } if !self.delivered => {
                (State::Proxied, Do::Proxy(ProxyReason::Undelivered, None))
            }
            HandoffEvent::ChannelDown { .. } => {
                self.delivered = true;
                (State::Severed, Do::Wait)
            }
            HandoffEvent::ChannelUp { same_instance } => {
                self.other_process |= !same_instance;
                if same_instance && !self.late && self.state != State::Cancelling {
                    self.status_asked = true;
                    (State::Sent, Do::Ask(Question::Status))
                } else {
                    self.cancel()
                }
            }
        };
        self.state = to;
        action
    }

    fn cancel(&mut self) -> (HandoffState, HandoffAction) {
        self.status_asked = false;
        (HandoffState::Cancelling, HandoffAction::Ask(Question::Cancel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HandoffAction as Do;
    use HandoffEvent as On;
    use HandoffState as State;

    const EVENTS: [HandoffEvent; 10] = [
        On::Migrated,
        On::Refused(Refusal::Draining),
        On::Refused(Refusal::NeverSeen),
        On::Refused(Refusal::LostInFeeding),
        On::Deadline,
        On::ChannelDown { delivered: false },
        On::ChannelDown { delivered: true },
        On::ChannelUp { same_instance: true },
        On::ChannelUp { same_instance: false },
        On::GiveUp,
    ];

    type Step = (HandoffEvent, HandoffAction);

    /// Calls `check` with every sequence of events of this length, and the actions they gave.
    fn every_sequence(length: usize, check: &mut dyn FnMut(&[Step])) {
        fn go(left: usize, machine: Handoff, path: &mut Vec<Step>, check: &mut dyn FnMut(&[Step])) {
            if left == 0 {
                check(path);
                return;
            }
            for event in EVENTS {
                let mut next = machine;
                let action = next.on(event);
                path.push((event, action));
                go(left - 1, next, path, check);
                path.pop();
            }
        }
        go(length, Handoff::new(), &mut Vec::new(), check);
    }

    fn is_end(action: HandoffAction) -> bool {
        matches!(action, Do::Commit | Do::Proxy(..) | Do::Reset)
    }

    #[test]
    fn in_no_order_of_events_are_there_two_responders() {
        let mut sequences = 0u32;
        every_sequence(6, &mut |path| {
            sequences += 1;
            assert!(path.iter().filter(|(_, a)| is_end(*a)).count() <= 1, "{path:?}");
            for (n, (event, action)) in path.iter().enumerate() {
                let before = &path[..n];
                match action {
                    Do::Commit => assert_eq!(*event, On::Migrated),
                    Do::Proxy(ProxyReason::Refused, Some(reason)) => {
                        let other = before.iter().any(|(e, _)| *e == On::ChannelUp { same_instance: false });
                        let lost = *event == On::Refused(Refusal::LostInFeeding);
                        assert!(*event == On::Refused(*reason) || (lost && !other), "{path:?}");
                        assert!(reason.request_not_run());
                    }
                    Do::Proxy(reason, refusal) => {
                        assert_eq!((*reason, *refusal), (ProxyReason::Undelivered, None));
                        assert_eq!(*event, On::ChannelDown { delivered: false });
                        // Never once a byte was written.
                        assert!(
                            !before.iter().any(|(e, _)| matches!(e, On::ChannelDown { delivered: true })),
                            "{path:?}"
                        );
                    }
                    Do::Reset => assert!(matches!(event, On::GiveUp | On::Refused(Refusal::LostInFeeding))),
                    Do::Wait | Do::Ask(_) => {}
                }
            }
        });
        assert_eq!(sequences, 1_000_000);
    }

    #[test]
    fn never_seen_ends_it_only_if_the_last_question_forbade_the_handoff() {
        every_sequence(5, &mut |path| {
            let mut last = None;
            for (event, action) in path {
                if *event == On::Refused(Refusal::NeverSeen) && last == Some(Question::Status) {
                    assert!(!matches!(action, Do::Proxy(..)), "{path:?}");
                }
                if let Do::Ask(question) = action {
                    last = Some(*question);
                }
            }
        });
    }

    #[test]
    fn every_live_state_can_be_brought_to_an_end() {
        every_sequence(4, &mut |path| {
            let mut machine = Handoff::new();
            for (event, _) in path {
                machine.on(*event);
            }
            machine.on(On::GiveUp);
            assert!(machine.state().is_final(), "{path:?}");
        });
    }

    #[test]
    fn a_silent_agent_is_asked_back_and_its_word_decides() {
        let mut handoff = Handoff::new();
        assert_eq!(handoff.on(On::Deadline), Do::Ask(Question::Cancel));
        assert_eq!(handoff.state(), State::Cancelling);
        let refused = Refusal::Cancelled;
        assert_eq!(
            handoff.on(On::Refused(refused)),
            Do::Proxy(ProxyReason::Refused, Some(Refusal::Cancelled))
        );
        let mut too_late = Handoff::new();
        too_late.on(On::Deadline);
        assert_eq!(too_late.on(On::Migrated), Do::Commit);
    }

    #[test]
    fn a_broken_channel_that_comes_back_asks_and_goes_on() {
        let mut handoff = Handoff::new();
        assert_eq!(handoff.on(On::ChannelDown { delivered: true }), Do::Wait);
        assert_eq!(handoff.state(), State::Severed);
        assert_eq!(handoff.on(On::ChannelUp { same_instance: true }), Do::Ask(Question::Status));
        assert_eq!(handoff.on(On::Refused(Refusal::NeverSeen)), Do::Ask(Question::Cancel));
        assert_eq!(
            handoff.on(On::Refused(Refusal::NeverSeen)),
            Do::Proxy(ProxyReason::Refused, Some(Refusal::NeverSeen))
        );
    }

    #[test]
    fn an_agent_that_knows_nothing_of_the_process_before_it_is_believed_about_what_it_was_sent_itself() {
        let (lost, same) = (On::Refused(Refusal::LostInFeeding), On::ChannelUp { same_instance: true });
        let proxied = Do::Proxy(ProxyReason::Refused, Some(Refusal::NeverSeen));
        let mut late = Handoff::new();
        for event in [On::Deadline, On::ChannelDown { delivered: true }, same] {
            late.on(event);
        }
        assert_eq!(late.on(lost), proxied);
        let mut in_time = Handoff::new();
        in_time.on(On::ChannelDown { delivered: true });
        assert_eq!(in_time.on(same), Do::Ask(Question::Status));
        // Asked only: it might still come.
        assert_eq!(in_time.on(lost), Do::Ask(Question::Cancel));
        assert_eq!(in_time.on(lost), proxied);
    }

    #[test]
    fn a_restarted_agent_is_asked_back_at_once() {
        let mut handoff = Handoff::new();
        handoff.on(On::ChannelDown { delivered: true });
        assert_eq!(handoff.on(On::ChannelUp { same_instance: false }), Do::Ask(Question::Cancel));
        assert_eq!(handoff.on(On::Refused(Refusal::LostInFeeding)), Do::Reset);
        assert_eq!(handoff.state(), State::Unresolved);
    }
}
