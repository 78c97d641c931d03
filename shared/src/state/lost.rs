//! What becomes of the flows on a target whose agent is gone.
//!
//! Nobody reports their ends any more, yet most of them are well: the agent's death does not touch the data plane.
//! Those whose target host is gone are not, and their clients must not wait for ever. The intermediate sees only what
//! clients send, and a client that waits for a dead target is as silent as one that keeps an idle connection; so it
//! asks the target host whether it is there (it connects to the server's port: an answer of any kind, a refusal
//! too, comes from a live kernel, which has the sockets and their timers), and looks at each client's progress.

use crate::seq::before;

/// What an ingress record tells of a flow at one moment; numbers in the client's space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientMarks {
    /// Its newest acknowledgement.
    pub acked: u32,
    /// The end of what it has sent.
    pub sent: u32,
    /// Payload bytes it has sent, retransmissions too.
    pub bytes: u64,
}

/// What is to be done about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostVerdict {
    /// It goes on, or may do so.
    Keep,
    /// The target cannot answer it any more: reset the client.
    End,
}

/// One flow of a lost agent under watch. Times are nanoseconds of any one clock that does not go back.
#[derive(Clone, Copy, Debug)]
pub struct LostFlow {
    marks: ClientMarks,
    /// When the client last got on: acknowledged or sent something new; or when the watch began.
    progress_ns: u64,
    /// When it was first seen to send again what it had sent, since it last got on.
    repeats_ns: Option<u64>,
}

impl LostFlow {
    /// Begins to watch.
    pub fn new(marks: ClientMarks, now_ns: u64) -> Self {
        LostFlow { marks, progress_ns: now_ns, repeats_ns: None }
    }

    /// Looks again. `silent_since_ns` is when the target host stopped answering, `None` if its last answer was in
    /// time; `patience_ns` is `handoff.agent_lost_ms`.
    ///
    /// A host that answers keeps its flows, silent or not. An exception: the client repeats what it sent for the whole
    /// time and gets nothing for it. A live socket would have acknowledged; so the host answers but has no such socket
    /// or no translation (it was started anew), and will not say so in a way the client understands.
    pub fn on_look(
        &mut self,
        marks: ClientMarks,
        silent_since_ns: Option<u64>,
        now_ns: u64,
        patience_ns: u64,
    ) -> LostVerdict {
        let past = |since: u64| now_ns.saturating_sub(since) >= patience_ns;
        if before(self.marks.acked, marks.acked) || before(self.marks.sent, marks.sent) {
            *self = LostFlow::new(marks, now_ns);
            return LostVerdict::Keep;
        }
        if marks.bytes != self.marks.bytes && self.repeats_ns.is_none() {
            self.repeats_ns = Some(now_ns);
        }
        // Only what is sent again after the first look at it counts as still going on.
        let still_repeats = marks.bytes != self.marks.bytes;
        self.marks = marks;
        let unheard = still_repeats && self.repeats_ns.is_some_and(past);
        let host_gone = silent_since_ns.is_some_and(past) && past(self.progress_ns);
        if unheard || host_gone { LostVerdict::End } else { LostVerdict::Keep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LostVerdict::{End, Keep};

    const PATIENCE: u64 = 5;

    fn marks(acked: u32, sent: u32, bytes: u64) -> ClientMarks {
        ClientMarks { acked, sent, bytes }
    }

    /// Each step: time, marks, since when the host is silent, the verdict.
    fn check(steps: &[(u64, ClientMarks, Option<u64>, LostVerdict)]) {
        let mut flow = LostFlow::new(marks(u32::MAX, 100, 10), 0);
        for (n, (now, marks, silent, verdict)) in steps.iter().enumerate() {
            assert_eq!(flow.on_look(*marks, *silent, *now, PATIENCE), *verdict, "step {n}");
        }
    }

    #[test]
    fn an_idle_flow_stays_while_its_host_answers() {
        let same = marks(u32::MAX, 100, 10);
        check(&[(6, same, None, Keep), (1000, same, None, Keep)]);
    }

    #[test]
    fn a_download_goes_on_without_its_agent_even_if_the_host_does_not_answer_us() {
        check(&[
            (3, marks(5, 100, 10), Some(0), Keep),
            (6, marks(6, 100, 10), Some(0), Keep),
            (9, marks(7, 100, 10), Some(0), Keep),
        ]);
    }

    #[test]
    fn a_silent_host_and_a_silent_client_end_after_both_waited() {
        let same = marks(u32::MAX, 100, 10);
        check(&[(4, same, Some(0), Keep), (5, same, Some(0), End)]);
        check(&[(5, same, Some(1), Keep), (6, same, Some(1), End)]);
        check(&[(4, marks(9, 100, 10), Some(0), Keep), (8, marks(9, 100, 10), Some(0), Keep)]);
        check(&[(4, marks(9, 100, 10), Some(0), Keep), (9, marks(9, 100, 10), Some(0), End)]);
    }

    #[test]
    fn a_host_that_answers_again_begins_anew() {
        let same = marks(u32::MAX, 100, 10);
        check(&[(4, same, Some(0), Keep), (6, same, None, Keep), (9, same, Some(8), Keep)]);
    }

    #[test]
    fn a_client_that_repeats_itself_unheard_ends_though_the_host_answers() {
        check(&[
            (1, marks(u32::MAX, 100, 20), None, Keep),
            (3, marks(u32::MAX, 100, 30), None, Keep),
            (6, marks(u32::MAX, 100, 30), None, Keep),
            (7, marks(u32::MAX, 100, 40), None, End),
        ]);
        // One lost packet sent again and acknowledged is no such thing.
        check(&[
            (1, marks(u32::MAX, 100, 20), None, Keep),
            (3, marks(u32::MAX, 120, 40), None, Keep),
            (8, marks(u32::MAX, 120, 40), None, Keep),
            (9, marks(u32::MAX, 120, 50), None, Keep),
        ]);
    }

    #[test]
    fn progress_over_the_wrap_is_progress() {
        check(&[(4, marks(0, 100, 10), Some(0), Keep), (8, marks(0, 100, 10), Some(0), Keep)]);
    }
}
