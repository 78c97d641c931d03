//! What has come of later requests is read: each goes on, or the flow begins to turn. And heads and gaps that stay open.

use super::state::{LaterFlow, Phase, State};
use super::turn::Plan;
use super::{GAP, Migrator, Next};
use baton_shared::http::RequestHead;
use baton_shared::state::later::Later;
use std::sync::Arc;
use std::time::Instant;

impl Migrator {
    /// Reads what has come: passes requests on, or begins to turn the flow.
    pub(super) fn read_on(self: &Arc<Self>, flow: &Arc<LaterFlow>, state: &mut State) {
        self.read(flow, state);
        self.watch_gap(flow, state);
        flow.settle(state);
    }

    /// Whoever leaves a gap has until [`GAP`] to fill it.
    fn watch_gap(&self, flow: &Arc<LaterFlow>, state: &mut State) {
        let gap = state.later.gap().filter(|_| state.phase == Phase::Following);
        let before = state.waiting.unfinished();
        let since = match (gap, before.gap) {
            (None, _) => None,
            (Some(at), Some((before, since))) if at == before => Some((at, since)),
            (Some(at), _) => {
                let now = Instant::now();
                if !before.gap_noted {
                    self.laters.gaps.note(now, flow);
                }
                Some((at, now))
            }
        };
        state.waiting.change_unfinished(|unfinished| {
            unfinished.gap = since;
            unfinished.gap_noted |= since.is_some();
        });
    }

    /// A gap's time may be over; there may be a younger one by now.
    pub(super) fn look_at_gap(&self, flow: &Arc<LaterFlow>, state: &mut State) {
        let gap = state.waiting.unfinished().gap;
        state.waiting.change_unfinished(|unfinished| unfinished.gap_noted = false);
        match gap {
            Some((_, since)) if since.elapsed() >= GAP => self.drop_beyond_gap(flow, state),
            Some((_, since)) => {
                state.waiting.change_unfinished(|unfinished| unfinished.gap_noted = true);
                self.laters.gaps.note(since, flow);
            }
            None => {}
        }
    }

    /// What lies beyond a gap that was not filled in time is let go: nobody was told that it came, so the client still has it.
    fn drop_beyond_gap(&self, flow: &LaterFlow, state: &mut State) {
        let Some(gap) = state.later.forget_beyond_gap() else { return };
        for held in state.waiting.take() {
            if gap.before(held.seq) {
                self.drop_held(flow, &held);
            } else {
                state.waiting.put(held);
            }
        }
        state.waiting.change_unfinished(|unfinished| unfinished.gap = None);
        flow.settle(state);
    }

    fn read(self: &Arc<Self>, flow: &Arc<LaterFlow>, state: &mut State) {
        let Some(router) = self.laters.router.get() else { return };
        // Of most flows nothing is there to be read.
        let mut limits = None;
        while state.phase == Phase::Following {
            if state.last && !state.later.is_within_body() {
                // The server closes after its answer, and gets nothing more.
                self.flows.set_last(flow.slot);
                return self.drop_all(flow, state);
            }
            let limits = limits.get_or_insert_with(|| router.limits(flow.vip()));
            let later = state.later.next(limits);
            if later != Later::Partial {
                state.waiting.change_unfinished(|unfinished| unfinished.partial_since = None);
            }
            match later {
                Later::Nothing => break,
                Later::Partial if state.waiting.unfinished().partial_since.is_none() => {
                    let now = Instant::now();
                    state.waiting.change_unfinished(|unfinished| unfinished.partial_since = Some(now));
                    self.laters.partial.note(now, flow);
                    break;
                }
                Later::Partial => break,
                Later::Fin => {
                    let end = state.later.pass_fin();
                    self.pass_to(flow, state, end);
                }
                Later::Body => {
                    let end = state.later.end();
                    self.pass_to(flow, state, end);
                }
                Later::BadBody(rule) => return self.break_off(flow, state, rule),
                // Its sender is to be answered.
                Later::CutShort | Later::Bad(_) => return self.turn_back(flow, state, None, false),
                Later::Request(head) => self.on_request(flow, state, &head),
            }
        }
    }

    fn on_request(self: &Arc<Self>, flow: &Arc<LaterFlow>, state: &mut State, head: &RequestHead) {
        let Some(router) = self.laters.router.get() else { return };
        let bytes = state.later.bytes();
        let now = flow.now(state);
        match router.route(&now, head, bytes) {
            Next::Stay { noted, ruling } => {
                let Some(end) = state.later.pass(head) else {
                    return self.turn_back(flow, state, Some(head), false);
                };
                state.requests = state.requests.saturating_add(1);
                state.all_requests = now.request_no;
                self.flows.set_requests(flow.slot, state.requests);
                self.log_later(noted, state.target, state.flow(), state.requests, None);
                Self::count(&self.laters.counts.stayed);
                // Before it goes on: its client may ask again as soon as it has. While anything is held the program has no say.
                if let Some(ruling) = ruling.filter(|_| state.is_idle()) {
                    self.flows.set_ruling(flow.slot, ruling);
                }
                self.pass_to(flow, state, end);
            }
            Next::Move { target, head: fed, noted, or_stay } => {
                let plan = Plan::Move { target, head: Box::new(head.clone()), fed, noted: Box::new(noted) };
                self.turn_to(flow, state, plan, or_stay);
            }
            Next::Return { or_stay } => self.turn_back(flow, state, Some(head), or_stay),
        }
    }
}
