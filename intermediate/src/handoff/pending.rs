//! The handoffs whose answer is awaited, and who awaits it.

use crate::flows::NumberHash;
use crate::targets::TargetId;
use baton_shared::control::{FlowRef, MigratedAnswer};
use baton_shared::state::handoff::HandoffEvent;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// What a waiting handoff is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    /// The agent's answer with its numbers.
    Migrated(MigratedAnswer),
    /// Anything else.
    Event(HandoffEvent),
}

#[derive(Debug)]
struct Waiting {
    target: TargetId,
    /// Which of all that were ever registered.
    number: u64,
    /// What it was told and has not heard yet. A handoff is told one thing, as a rule.
    told: Option<Told>,
    more: VecDeque<Told>,
    waker: Option<Waker>,
}

impl Waiting {
    fn tell(&mut self, what: Told) {
        match &self.told {
            None => self.told = Some(what),
            Some(_) => self.more.push_back(what),
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn hear(&mut self) -> Option<Told> {
        std::mem::replace(&mut self.told, self.more.pop_front())
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// By handoff: what follows the window of one may be at work yet when the next is sent.
    by_handoff: Mutex<HashMap<FlowRef, Waiting, NumberHash>>,
    registered: AtomicU64,
}

/// Where one that waits hears what it is told; it waits no more when this is gone.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    pending: &'a Pending,
    flow: FlowRef,
    number: u64,
}

impl Answers<'_> {
    /// `None` once nobody can tell it anything any more.
    pub(super) async fn recv(&mut self) -> Option<Told> {
        poll_fn(|context| {
            let mut all = self.pending.all();
            let own = all.get_mut(&self.flow).filter(|waiting| waiting.number == self.number);
            let Some(waiting) = own else { return Poll::Ready(None) };
            let told = waiting.hear();
            if told.is_none() {
                waiting.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(told)
        })
        .await
    }
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        let mut all = self.pending.all();
        // Another one may wait for the same by now.
        if all.get(&self.flow).is_some_and(|waiting| waiting.number == self.number) {
            all.remove(&self.flow);
        }
    }
}

impl Pending {
    fn all(&self) -> MutexGuard<'_, HashMap<FlowRef, Waiting, NumberHash>> {
        self.by_handoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the handoff is given to the channel, so that no answer can miss it.
    pub(super) fn register(&self, flow: FlowRef, target: TargetId) -> Answers<'_> {
        let number = self.registered.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { target, number, told: None, more: VecDeque::new(), waker: None };
        if let Some(mut before) = self.all().insert(flow, waiting) {
            before.wake();
        }
        Answers { pending: self, flow, number }
    }

    /// Whether somebody waits for it.
    pub(super) fn tell(&self, flow: FlowRef, what: Told) -> bool {
        let mut all = self.all();
        let waiting = all.get_mut(&flow);
        waiting.map(|waiting| waiting.tell(what)).is_some()
    }

    /// Tells those that wait for the agent of these targets what of it is theirs.
    pub(super) fn tell_all(&self, targets: &[TargetId], what: impl Fn(FlowRef) -> Option<HandoffEvent>) {
        for (flow, waiting) in self.all().iter_mut().filter(|(_, w)| targets.contains(&w.target)) {
            if let Some(what) = what(*flow) {
                waiting.tell(Told::Event(what));
            }
        }
    }

    /// Whether the agent of one of these targets is waited for.
    pub(super) fn is_awaited(&self, targets: &[TargetId]) -> bool {
        self.all().values().any(|waiting| targets.contains(&waiting.target))
    }

    pub(super) fn count(&self) -> usize {
        self.all().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::reason::Refusal;
    use std::pin::pin;
    use std::task::Context;

    const TARGET: TargetId = TargetId::new(0);

    fn refused(reason: Refusal) -> Told {
        Told::Event(HandoffEvent::Refused(reason))
    }

    fn now(answers: &mut Answers<'_>) -> Poll<Option<String>> {
        let heard = pin!(answers.recv()).poll(&mut Context::from_waker(Waker::noop()));
        heard.map(|told| told.map(|told| format!("{told:?}")))
    }

    #[test]
    fn all_that_is_told_is_heard_in_its_order_and_then_waited_for() {
        let pending = Pending::default();
        let flow = FlowRef { flow_id: 1, generation: 1 };
        let mut answers = pending.register(flow, TARGET);
        assert_eq!(now(&mut answers), Poll::Pending);
        let all =
            [Refusal::Draining, Refusal::NotTracked, Refusal::Draining, Refusal::NotTracked].map(refused);
        assert!(all.iter().all(|told| pending.tell(flow, *told)));
        for told in all {
            assert_eq!(now(&mut answers), Poll::Ready(Some(format!("{told:?}"))));
        }
        assert_eq!(now(&mut answers), Poll::Pending);
        assert!(!pending.tell(FlowRef { generation: 2, ..flow }, all[0]), "another handoff's");
    }

    #[test]
    fn who_follows_the_window_of_a_handoff_takes_nothing_from_the_next_one_of_its_flow() {
        let pending = Pending::default();
        let [first, next] = [1, 2].map(|generation| FlowRef { flow_id: 1, generation });
        let mut handoff = pending.register(next, TARGET);
        // Its task began late.
        let mut window = pending.register(first, TARGET);
        assert!(pending.tell(next, refused(Refusal::Draining)));
        assert!(now(&mut handoff).is_ready());
        assert_eq!(now(&mut window), Poll::Pending);
        drop(window);
        assert_eq!((now(&mut handoff), pending.count()), (Poll::Pending, 1));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_word_and_by_its_end() {
        let pending = Pending::default();
        let flow = FlowRef { flow_id: 1, generation: 1 };
        let mut answers = pending.register(flow, TARGET);
        let tell = async { assert!(pending.tell(flow, refused(Refusal::NotTracked))) };
        assert!(tokio::join!(biased; answers.recv(), tell).0.is_some());
        let again = async { pending.register(flow, TARGET) };
        let (ended, mut again) = tokio::join!(biased; answers.recv(), again);
        assert!(ended.is_none(), "another one waits for it now");
        drop(answers);
        let tell = async { assert!(pending.tell(flow, refused(Refusal::NotTracked))) };
        assert!(
            tokio::join!(biased; again.recv(), tell).0.is_some(),
            "who waited before takes nothing with him"
        );
        drop(again);
        assert_eq!(pending.count(), 0);
    }
}
