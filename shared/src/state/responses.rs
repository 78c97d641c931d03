//! What the server has answered on a tracked flow, as the agent follows it: from copies of the packets that reach
//! beyond [`Responses::read_from`], so that bodies of known length pass unseen; and the verdict on a recall.

use crate::http::{ResponseStream, Standing, Statuses};
use crate::reason::Refusal;
use crate::record::{FLAG_TRACKED, FlowRecord, NOTE_FIN, NOTE_RST};
use crate::seq::{Client, Seq, Server, before};

/// How far ahead of what was read the next byte to read may lie: numbers further apart cannot be compared.
const STEP: u64 = 1 << 30;
/// Copied payload of one response, bytes, after which its end is unknown: the copies cost more than they are worth.
const COPIED_BYTES: u64 = 16 << 20;
/// Copies that came before those in front of them: bytes kept for them, and how many.
const EARLY_BYTES: usize = 256 * 1024;
const EARLY: usize = 64;
/// How long a server whose stream cannot be read must have been silent, with everything acknowledged, before the
/// connection is given up, ns.
pub const SILENCE_NS: u64 = 5_000_000_000;

/// Follows one handoff's server.
#[derive(Clone, Debug)]
pub struct Responses {
    stream: ResponseStream,
    position: Seq<Server>,
    early: Vec<(Seq<Server>, Vec<u8>)>,
    copied: u64,
}

impl Responses {
    /// The first response begins at `start`; it answers a HEAD request if `head`.
    pub const fn new(start: Seq<Server>, head: bool) -> Self {
        Responses { stream: ResponseStream::new(head), position: start, early: Vec::new(), copied: 0 }
    }

    /// What [`FlowRecord::requests`] is to say on the target beside [`Responses::read_from`]: one more than the final responses
    /// that are complete before that, or 0 if another process could not go on from there.
    pub fn mark(&self) -> u32 {
        self.stream.left_at().and_then(|responses| responses.checked_add(1)).unwrap_or(0)
    }

    /// Goes on where another process stopped to follow, by a target's record: behind a response, none of whose successors has
    /// begun to be sent. `None` if it was followed no further than into one, or not at all, or if the server has said
    /// meanwhile what nobody read.
    pub fn resume(record: &FlowRecord) -> Option<Self> {
        let responses = record.requests.checked_sub(1)?;
        let unread = before(record.read_from, record.note_seq_end);
        (record.flags & FLAG_TRACKED != 0 && !unread).then(|| Responses {
            stream: ResponseStream::behind(responses),
            position: Seq::new(record.read_from),
            early: Vec::new(),
            copied: 0,
        })
    }

    /// The number of the next byte that must be shown; with [`Responses::is_settled`] none must be.
    pub fn read_from(&self) -> Seq<Server> {
        self.position
    }

    /// Whether the record's `read_from` is to be stored anew. A program that sees by itself where a response ends
    /// (`translate::judge_head`) is ahead of who reads the head later; told the former number again, it would copy content.
    pub fn is_news(&self, read_from: u32) -> bool {
        !before(self.position.raw(), read_from)
    }

    /// Whether nothing need be shown any more.
    pub fn is_settled(&self) -> bool {
        self.stream.is_settled()
    }

    /// Where the stream stands.
    pub fn standing(&self) -> Standing {
        self.stream.standing()
    }

    /// Whether nothing is under way: what comes next is the first of another response, and only a recall wants it read
    /// soon. In mid-response it is to be read at once, so that content need not be copied.
    pub fn may_wait(&self) -> bool {
        matches!(self.stream.standing(), Standing::Between { .. })
    }

    /// The status codes of the last responses.
    pub fn statuses(&self) -> Statuses {
        self.stream.statuses()
    }

    /// A recall was refused. If that binds the flow to its server, its requests go by without a word from there on, HEAD too,
    /// so nothing that is read can be trusted.
    pub fn on_refused(&mut self, reason: Refusal) {
        if !reason.is_end_of_flow() {
            self.stream.lose("the flow was refused to its intermediate before");
            self.early = Vec::new();
        }
    }

    /// A packet of the server was copied: again, or out of order, as it may be.
    pub fn on_copy(&mut self, seq: Seq<Server>, payload: &[u8]) {
        if self.is_settled() {
            return;
        }
        self.copied = self.copied.saturating_add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        self.take(seq, payload);
        // Each pass takes at least one or ends.
        while let Some(at) = self.early.iter().position(|(seq, _)| !self.position.before(*seq)) {
            let (seq, payload) = self.early.swap_remove(at);
            self.take(seq, &payload);
        }
        match self.stream.standing() {
            Standing::Between { .. } => self.copied = 0,
            _ if self.copied > COPIED_BYTES => self.stream.lose("a response came in too many small chunks"),
            _ => {}
        }
        if self.is_settled() {
            self.early = Vec::new();
        }
    }

    fn take(&mut self, seq: Seq<Server>, payload: &[u8]) {
        let Ok(length) = u32::try_from(payload.len()) else { return };
        loop {
            let behind = seq.plus(length);
            if !self.position.before(behind) {
                return;
            }
            if !self.position.before(seq) {
                let seen = usize::try_from(self.position.since(seq)).unwrap_or(usize::MAX);
                self.stream.advance(payload.get(seen..).unwrap_or_default());
                self.position = behind;
                self.pass_content();
                return;
            }
            // Content of a long body, which is passed over in steps.
            if !self.pass_content() {
                break;
            }
        }
        let kept: usize = self.early.iter().map(|(_, payload)| payload.len()).sum();
        // What is shown of one large packet in several pieces counts once.
        let follows = |(start, part): &(Seq<Server>, Vec<u8>)| {
            u32::try_from(part.len()).is_ok_and(|length| start.plus(length) == seq)
        };
        let before = self.early.iter().position(follows);
        if (self.early.len() >= EARLY && before.is_none()) || kept.saturating_add(payload.len()) > EARLY_BYTES
        {
            return self.stream.lose("a part of a response was not seen");
        }
        match before.and_then(|at| self.early.get_mut(at)) {
            Some((_, part)) => part.extend_from_slice(payload),
            None => self.early.push((seq, payload.to_vec())),
        }
    }

    /// Passes over content that need not be shown; whether there was any.
    fn pass_content(&mut self) -> bool {
        let step = self.stream.skippable().min(STEP);
        self.stream.skip(step);
        self.position = self.position.plus(u32::try_from(step).unwrap_or(0));
        step > 0
    }
}

/// What the agent knows when a flow is to be recalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecallFacts {
    /// Requests the server was given.
    pub requests: u32,
    /// The client's number after the last of them.
    pub request_end: Seq<Client>,
    /// The server's newest acknowledgement.
    pub server_ack: Seq<Client>,
    /// The end of what the server has sent.
    pub sent_end: Seq<Server>,
    /// `NOTE_*`.
    pub note_flags: u32,
    /// The client has acknowledged everything before `sent_end`, and the server's kernel has nothing more to send as
    /// far as is known.
    pub acknowledged: bool,
    /// How long the server has sent nothing, ns.
    pub silent_ns: u64,
}

/// What to do with a recall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecallVerdict {
    /// The last response is complete and the client has it: the flow can be taken.
    Take,
    /// Not yet, perhaps later.
    Wait,
    /// It never can.
    Refuse(Refusal),
}

/// Whether a flow can be taken from its server. `responses` is `None` if nobody followed them.
pub fn judge_recall(responses: Option<&Responses>, facts: &RecallFacts) -> RecallVerdict {
    if facts.note_flags & (NOTE_FIN | NOTE_RST) != 0 {
        return RecallVerdict::Refuse(Refusal::ServerClosed);
    }
    let given_up = |reason| {
        if facts.acknowledged && facts.silent_ns >= SILENCE_NS {
            RecallVerdict::Refuse(reason)
        } else {
            RecallVerdict::Wait
        }
    };
    let Some(responses) = responses else { return given_up(Refusal::NotTracked) };
    match responses.standing() {
        Standing::Unknown(_) => given_up(Refusal::FramingUnknown),
        // The last part could not be handed over: nobody sends it again, or anything behind it by which it would be missed.
        Standing::Between { .. } | Standing::Within if responses.read_from().before(facts.sent_end) => {
            given_up(Refusal::FramingUnknown)
        }
        Standing::Between { responses: complete } if complete == facts.requests => {
            let all_seen = responses.read_from() == facts.sent_end;
            let all_read = facts.server_ack == facts.request_end;
            if all_seen && all_read && facts.acknowledged { RecallVerdict::Take } else { RecallVerdict::Wait }
        }
        // More answers than requests: what the server thinks it answers is not known.
        Standing::Between { responses: complete } if complete > facts.requests => {
            given_up(Refusal::FramingUnknown)
        }
        // A server that says it closes will; one in mid-response goes on.
        Standing::Between { .. } | Standing::Within | Standing::UntilClose => RecallVerdict::Wait,
    }
}

#[cfg(test)]
mod tests;
