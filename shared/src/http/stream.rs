//! A whole connection's requests, one after the other: which bytes may be passed on.

use super::{BodyScanner, HeadLimits, HeadScanner, HeadStatus, RequestHead, Verdict};

/// What to do with the bytes in hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be said without more bytes.
    NeedMore,
    /// Throw so many away: an empty line between requests.
    Skip(usize),
    /// A head that passed the gate: pass its `head_len` bytes on.
    Head(RequestHead),
    /// Pass so many bytes on.
    Pass(usize),
    /// Nothing more may pass until [`RequestStream::on_switch`] says what the protocol is now.
    Wait,
    /// Nothing more may pass at all; answer this.
    Refuse(Verdict),
}

/// What came of a request that could change the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// The server stayed with HTTP/1.
    Stayed,
    /// It is a tunnel now.
    Tunnel,
}

#[derive(Debug)]
enum State {
    Head(HeadScanner),
    Body { body: BodyScanner, may_switch: bool },
    Undecided,
    Tunnel,
    Refused { verdict: Verdict, in_body: bool },
}

/// Follows the client's bytes of a connection. No byte of a request passes before its head passed the gate.
#[derive(Debug)]
pub struct RequestStream {
    state: State,
    limits: HeadLimits,
}

impl RequestStream {
    /// At the start of a request.
    pub fn new(limits: HeadLimits) -> Self {
        RequestStream { state: State::Head(HeadScanner::new()), limits }
    }

    /// Judges `bytes`, the ones that have not been passed or skipped. They must begin where the last step left
    /// off: what a step passes or skips is gone from them at the next call.
    pub fn step(&mut self, bytes: &[u8]) -> Step {
        match &mut self.state {
            State::Tunnel if bytes.is_empty() => Step::NeedMore,
            State::Tunnel => Step::Pass(bytes.len()),
            State::Undecided => Step::Wait,
            State::Refused { verdict, .. } => Step::Refuse(*verdict),
            State::Head(scanner) => match scanner.status(bytes, &self.limits) {
                HeadStatus::Incomplete => Step::NeedMore,
                HeadStatus::Bad(verdict) => self.refuse(verdict),
                HeadStatus::Complete(head) if head.start > 0 => {
                    // The head is judged again without the empty line, so that its places are right.
                    let start = head.start;
                    *scanner = HeadScanner::new();
                    Step::Skip(start)
                }
                HeadStatus::Complete(head) => {
                    let body = BodyScanner::new(head.framing);
                    self.after(body, head.may_switch());
                    Step::Head(head)
                }
            },
            State::Body { .. } if bytes.is_empty() => Step::NeedMore,
            State::Body { body, may_switch } => match body.advance(bytes) {
                Err(rule) => self.refuse(rule.into()),
                Ok(taken) => {
                    if body.is_done() {
                        let may_switch = *may_switch;
                        self.after(BodyScanner::new(super::Framing::None), may_switch);
                    }
                    Step::Pass(taken)
                }
            },
        }
    }

    /// The answer has told what the protocol is. Without effect if nothing was undecided.
    pub fn on_switch(&mut self, switch: Switch) {
        match (&mut self.state, switch) {
            (State::Undecided, Switch::Stayed) => self.state = State::Head(HeadScanner::new()),
            (State::Undecided, Switch::Tunnel) => self.state = State::Tunnel,
            (State::Body { may_switch, .. }, Switch::Stayed) => *may_switch = false,
            _ => {}
        }
    }

    /// Whether a head has begun and is not complete.
    pub fn in_head(&self) -> bool {
        matches!(&self.state, State::Head(scanner) if scanner.has_begun())
    }

    /// Whether what was refused stood within a body, so that its request is under way already.
    pub fn refused_in_body(&self) -> bool {
        matches!(self.state, State::Refused { in_body: true, .. })
    }

    fn after(&mut self, body: BodyScanner, may_switch: bool) {
        self.state = if !body.is_done() {
            State::Body { body, may_switch }
        } else if may_switch {
            State::Undecided
        } else {
            State::Head(HeadScanner::new())
        };
    }

    fn refuse(&mut self, verdict: Verdict) -> Step {
        let in_body = matches!(self.state, State::Body { .. });
        self.state = State::Refused { verdict, in_body };
        Step::Refuse(verdict)
    }
}
