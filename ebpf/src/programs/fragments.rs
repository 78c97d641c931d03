//! Fragments: what became of a packet's first one becomes of those behind it.

use super::{NEXT, SHOT};
use crate::maps::{FRAGMENTS, Scratch, count};
use crate::skb;
use baton_shared::translate::Action;
use baton_shared::translate::fragments::{is_remembered, judge_later_fragment};
use baton_shared::wire::Fragment;

/// The packet in hand passes: if it is a first fragment, so do those behind it.
#[inline(always)]
pub(super) fn passes(scratch: &mut Scratch) {
    judged(scratch, Action::Pass, 0);
}

/// What becomes of the packet in hand, if it is a first fragment, for those behind it. `now`: CLOCK_MONOTONIC, ns.
#[inline(always)]
pub(super) fn judged(scratch: &mut Scratch, action: Action, now: u64) {
    if scratch.ip.fragment() != Fragment::First {
        return;
    }
    scratch.fragment.load(&scratch.ip);
    if is_remembered(action) {
        // If the kernel has no place for it the others pass, and wait there in vain.
        let _ = FRAGMENTS.insert(&scratch.fragment, &now, 0);
    } else {
        let _ = FRAGMENTS.remove(&scratch.fragment);
    }
}

/// The packet in hand is a later fragment: the verdict to return.
#[inline(always)]
pub(super) fn later(scratch: &mut Scratch) -> i32 {
    scratch.fragment.load(&scratch.ip);
    // SAFETY: a word, which another CPU may set anew meanwhile: to the time of a first fragment just the same.
    let dropped = unsafe { FRAGMENTS.get(&scratch.fragment) }.copied();
    let verdict = judge_later_fragment(dropped, skb::now_ns());
    match verdict.counter {
        Some(counter) if verdict.action == Action::Drop => {
            count(counter.code());
            SHOT
        }
        _ => NEXT,
    }
}
