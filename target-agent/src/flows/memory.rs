//! What outlives a flow's slot: the answer to its handoff, so that a repeated or late message finds it again, and
//! the report of its end until the intermediate has noted it. Both are bounded; the oldest go first.

use super::table::{ByWho, Who};
use baton_shared::control::{EndReport, RecalledAnswer};
use baton_shared::state::replay::Answer;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;

/// How many answers and how many reports are kept.
const CAPACITY: usize = 131_072;
/// How long an answer is kept, ns: longer than any message can be under way.
const KEPT_NS: u64 = 300_000_000_000;

/// Answers of handoffs without a slot.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    answers: ByWho<Answer>,
    order: VecDeque<(u64, Who)>,
    recalled: ByWho<RecalledAnswer>,
    recalled_order: VecDeque<(u64, Who)>,
}

impl Memory {
    /// The answer this handoff had.
    pub(crate) fn answer(&self, who: &Who) -> Option<Answer> {
        self.answers.get(who).copied()
    }

    /// Keeps an answer; the first one stays.
    pub(crate) fn keep(&mut self, who: Who, answer: Answer, now_ns: u64) {
        if self.answers.len() >= CAPACITY {
            self.forget_oldest();
        }
        if let Entry::Vacant(place) = self.answers.entry(who) {
            place.insert(answer);
            self.order.push_back((now_ns.saturating_add(KEPT_NS), who));
        }
    }

    /// The answer to this handoff's recall, if it was given back.
    pub(crate) fn recalled(&self, who: &Who) -> Option<RecalledAnswer> {
        self.recalled.get(who).copied()
    }

    /// Keeps what a recall was answered.
    pub(crate) fn keep_recalled(&mut self, who: Who, answer: RecalledAnswer, now_ns: u64) {
        if self.recalled.len() >= CAPACITY {
            self.forget_oldest_recalled();
        }
        if self.recalled.insert(who, answer).is_none() {
            self.recalled_order.push_back((now_ns.saturating_add(KEPT_NS), who));
        }
    }

    fn forget_oldest_recalled(&mut self) {
        if let Some((_, who)) = self.recalled_order.pop_front() {
            self.recalled.remove(&who);
        }
    }

    /// Forgets what is old.
    pub(crate) fn on_time(&mut self, now_ns: u64) {
        while self.recalled_order.front().is_some_and(|(until, _)| *until <= now_ns) {
            self.forget_oldest_recalled();
        }
        while self.order.front().is_some_and(|(until, _)| *until <= now_ns) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, who)) = self.order.pop_front() {
            self.answers.remove(&who);
        }
    }
}

/// Ends not yet noted.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    unseen: ByWho<EndReport>,
    order: VecDeque<Who>,
}

impl Reports {
    pub(crate) fn keep(&mut self, who: Who, report: EndReport) {
        // Reports noted long ago leave their place in the order behind: it is cleared in passing.
        while self.order.front().is_some_and(|oldest| !self.unseen.contains_key(oldest)) {
            self.order.pop_front();
        }
        if self.order.len() >= CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.unseen.remove(&oldest);
        }
        if self.unseen.insert(who, report).is_none() {
            self.order.push_back(who);
        }
    }

    pub(crate) fn seen(&mut self, who: &Who) {
        self.unseen.remove(who);
    }

    pub(crate) fn unseen(&self) -> impl Iterator<Item = (&Who, &EndReport)> {
        self.unseen.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.unseen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::PeerId;
    use super::*;
    use baton_shared::control::{FlowRef, RefusedAnswer};
    use baton_shared::reason::{EndReason, Refusal};

    fn who(n: u64) -> Who {
        (PeerId(0), FlowRef { flow_id: n, generation: 1 })
    }

    #[test]
    fn answers_are_kept_for_a_while_and_bounded() {
        let mut memory = Memory::default();
        let answer = |n| Answer::Refused(RefusedAnswer { flow: who(n).1, reason: Refusal::NeverSeen });
        for n in 0..u64::try_from(CAPACITY).unwrap() + 5 {
            memory.keep(who(n), answer(n), n);
        }
        assert_eq!(memory.answers.len(), CAPACITY);
        assert!(memory.answer(&who(4)).is_none());
        assert_eq!(memory.answer(&who(5)), Some(answer(5)));
        memory.on_time(KEPT_NS + 10);
        assert!(memory.answer(&who(10)).is_none());
        assert!(memory.answer(&who(11)).is_some());
    }

    #[test]
    fn reports_go_when_seen_and_are_bounded() {
        let mut reports = Reports::default();
        let report = |n| EndReport { bytes: 2, ..EndReport::unreported(who(n).1, EndReason::Finished) };
        for n in 0..u64::try_from(CAPACITY).unwrap() * 3 {
            reports.keep(who(n), report(n));
            if n % 2 == 0 {
                reports.seen(&who(n));
            }
        }
        assert!(reports.len() <= CAPACITY);
        assert!(reports.order.len() <= CAPACITY);
    }
}
