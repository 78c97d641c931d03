//! The machines' transitions against the golden table, and what must hold whatever happens.

use super::*;
use proptest::prelude::*;
use std::fmt::Write;

const CHECKS: CheckThresholds = CheckThresholds { rise: 2, fall: 3 };
const SIGNALS: PassiveThresholds = PassiveThresholds { failures: 3, strains: 2, eject_ns: 10 };

/// All transitions, by walking from the start state until nothing new comes up.
fn transitions() -> String {
    let mut text = String::from(
        "# Every transition of the health machines, as they are walked through by a test (rise 2, fall 3, three\n\
         # failures or two strained reports eject). Unchanged states are left out where nothing is counted.\n",
    );
    checks(&mut text);
    signals(&mut text);
    text.push_str("\n[admin]\n");
    for from in [Admin::Ready, Admin::Draining, Admin::Down] {
        for order in AdminOrder::ALL {
            writeln!(text, "{} + {order:?} -> {}", from.name(), from.on(order).name()).unwrap();
        }
    }
    text.push_str("\n[agent]\n");
    for from in [Agent::Gone, Agent::Up, Agent::Stopping] {
        for event in AgentEvent::ALL {
            writeln!(text, "{} + {event:?} -> {}", from.name(), from.on(event).name()).unwrap();
        }
    }
    text.push_str("\n[standing] admin, checked, passive: standing, takes requests, takes them in a panic\n");
    for admin in [Admin::Ready, Admin::Draining, Admin::Down] {
        for checked in [Checked::Unchecked, Checked::Up, Checked::Down] {
            for passive in [Passive::Clear, Passive::Suspect, Passive::Ejected] {
                let is = Standing::of(admin, checked, passive);
                let (ordinary, panic) = (is.takes_requests(false), is.takes_requests(true));
                let names = (admin.name(), checked.name(), passive.name());
                writeln!(text, "{}, {}, {}: {}, {ordinary}, {panic}", names.0, names.1, names.2, is.name())
                    .unwrap();
            }
        }
    }
    text
}

fn checks(text: &mut String) {
    text.push_str("\n[checked]\n");
    let (mut known, mut next) = (vec![CheckState::default()], 0);
    while let Some(from) = known.get(next).copied() {
        next += 1;
        for result in CheckResult::ALL {
            let mut to = from;
            let change = to.on_result(result, CHECKS);
            assert_eq!(change.is_some(), from.state() != to.state());
            let show = |s: CheckState| format!("{} ({} against)", s.state().name(), s.against());
            writeln!(text, "{} + {} -> {}", show(from), result.name(), show(to)).unwrap();
            if !known.contains(&to) {
                known.push(to);
            }
        }
    }
}

/// What a signal does to each of the three states, by the counts that matter.
fn signals(text: &mut String) {
    text.push_str("\n[passive]\n");
    let after = |signals: &[Signal]| {
        let mut state = PassiveState::default();
        for signal in signals {
            state.on_signal(*signal, SIGNALS, 0);
        }
        state
    };
    use Signal::{Failed, Strained};
    let probation = {
        let mut state = after(&[Failed; 3]);
        state.on_time(SIGNALS, 10);
        state
    };
    let starts = [
        ("clear", after(&[])),
        ("suspect (1 failure)", after(&[Failed])),
        ("suspect (2 failures)", after(&[Failed, Failed])),
        ("suspect (1 strained report)", after(&[Strained])),
        ("suspect (1 failure, 1 strained report)", after(&[Failed, Strained])),
        ("suspect (on probation)", probation),
        ("ejected", after(&[Failed; 3])),
    ];
    for (name, from) in starts {
        for signal in Signal::ALL {
            let mut to = from;
            to.on_signal(signal, SIGNALS, 100);
            let until = to.until_ns().map(|until| format!(" until {until}")).unwrap_or_default();
            writeln!(text, "{name} + {signal:?} at 100 -> {}{until}", to.state().name()).unwrap();
        }
        for now in [9, 10] {
            let mut to = from;
            to.on_time(SIGNALS, now);
            writeln!(text, "{name} + time {now} -> {}", to.state().name()).unwrap();
        }
    }
}

#[test]
fn transitions_are_those_of_the_golden_table() {
    let is = transitions();
    let golden = include_str!("transitions.txt");
    for (n, (is, golden)) in is.lines().zip(golden.lines()).enumerate() {
        assert_eq!(is, golden, "line {} of transitions.txt", n + 1);
    }
    assert_eq!(is.lines().count(), golden.lines().count(), "the table is:\n{is}");
}

#[test]
fn ejections_in_a_row_last_longer_and_a_success_ends_the_row() {
    let mut state = PassiveState::default();
    let mut now = 0;
    let mut lasted = Vec::new();
    for _ in 0..6 {
        while state.on_signal(Signal::Failed, SIGNALS, now).is_none_or(|c| c.to != Passive::Ejected) {}
        let until = state.until_ns().unwrap();
        lasted.push(until - now);
        now = until;
        assert_eq!(state.on_time(SIGNALS, now - 1), None);
        assert_eq!(state.on_time(SIGNALS, now).map(|c| c.to), Some(Passive::Suspect));
    }
    assert_eq!(lasted, [10, 20, 40, 80, 80, 80]);
    assert_eq!(state.on_signal(Signal::Served, SIGNALS, now).map(|c| c.to), Some(Passive::Clear));
    state.on_signal(Signal::Failed, SIGNALS, now);
    assert_eq!(state.state(), Passive::Suspect, "not on probation any more");
}

#[test]
fn strain_does_not_hide_behind_the_requests_that_are_served() {
    let mut state = PassiveState::default();
    state.on_signal(Signal::Strained, SIGNALS, 0);
    state.on_signal(Signal::Served, SIGNALS, 0);
    assert_eq!(state.state(), Passive::Suspect);
    state.on_signal(Signal::Strained, SIGNALS, 0);
    assert_eq!(state.state(), Passive::Ejected);
    let never = PassiveThresholds { failures: 0, strains: 0, ..SIGNALS };
    let mut state = PassiveState::default();
    for _ in 0..100 {
        state.on_signal(Signal::Strained, never, 0);
        state.on_signal(Signal::Failed, never, 0);
    }
    assert_eq!(state.state(), Passive::Suspect, "thresholds of 0 eject nobody");
}

#[test]
fn panic_begins_below_the_threshold_and_always_without_a_healthy_member() {
    let table = [
        ((0, 0, 20), false),
        ((0, 1, 0), true),
        ((1, 2, 50), false),
        ((1, 3, 50), true),
        ((1, 5, 20), false),
        ((1, 6, 20), true),
        ((6, 6, 100), false),
        ((5, 6, 100), true),
    ];
    for ((healthy, wanted, percent), expected) in table {
        assert_eq!(in_panic(healthy, wanted, percent), expected, "{healthy} of {wanted}, {percent}%");
    }
}

#[test]
fn slow_start_counts_from_the_return_not_from_the_first_look() {
    let mut serving = Serving::default();
    serving.note(Standing::Up, 5);
    assert_eq!(serving.for_ms(9_000_000), None, "well from the start");
    serving.note(Standing::Failing, 6);
    serving.note(Standing::Up, 10_000_000);
    serving.note(Standing::Suspect, 11_000_000);
    assert_eq!(serving.for_ms(15_000_000), Some(5));
    let mut began_down = Serving::default();
    began_down.note(Standing::Failing, 0);
    began_down.note(Standing::Up, 0);
    assert_eq!(began_down.for_ms(2_000_000), Some(2));
}

proptest! {
    #[test]
    fn a_member_goes_down_only_after_fall_failures_in_a_row_and_up_after_rise(
        results in proptest::collection::vec(any::<bool>(), 0..60), rise in 1u32..5, fall in 1u32..5
    ) {
        let mut state = CheckState::default();
        for n in 0..results.len() {
            let result = if results[n] { CheckResult::Passed } else { CheckResult::Failed };
            let change = state.on_result(result, CheckThresholds { rise, fall });
            prop_assert_eq!(state.on_result(CheckResult::Untold, CheckThresholds { rise, fall }), None);
            let row = results[..=n].iter().rev().take_while(|r| **r == results[n]).count();
            if let Some(change) = change {
                prop_assert_eq!(change.to == Checked::Up, results[n]);
                let needed = if results[n] { rise } else { fall };
                prop_assert!(change.from == Checked::Unchecked || row >= needed as usize);
            }
            if row >= rise.max(fall) as usize {
                prop_assert_eq!(state.state() == Checked::Up, results[n]);
            }
        }
    }

    #[test]
    fn no_ejection_lasts_for_ever(signals in proptest::collection::vec(0usize..4, 0..60)) {
        let mut state = PassiveState::default();
        for (now, n) in signals.iter().enumerate() {
            state.on_signal(Signal::ALL[*n], SIGNALS, now as u64);
        }
        state.on_time(SIGNALS, 60 + 80);
        prop_assert!(state.state() != Passive::Ejected);
    }
}
