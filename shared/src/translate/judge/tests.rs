//! Verdicts, accounts and notes, spelled out by state.

use super::*;
use crate::record::FLAG_ADOPTED;

fn at(state: FlowState) -> FlowRecord {
    FlowRecord { state: state as u32, deadline_ns: 1000, ..FlowRecord::default() }
}

fn of(flags: u8, payload: u32) -> Segment {
    Segment { flags, payload, ttl: 64, ..Segment::default() }
}

#[test]
fn every_state_on_the_intermediate() {
    use Action::{Divert, Pass, Translate};
    use PacketCounter as C;
    let data = of(ACK, 10);
    for (state, segment, now, action, counter) in [
        (FlowState::Free, data, 0, Pass, None),
        (FlowState::Frozen, data, 999, Divert, Some(C::Diverted)),
        (FlowState::Frozen, data, 1000, Pass, Some(C::FreezeExpired)),
        (FlowState::Committed, data, 0, Translate, Some(C::Translated)),
        (FlowState::Committed, of(SYN, 0), 0, Divert, Some(C::SynAwaitsEnd)),
        (FlowState::Committed, of(SYN | ACK, 0), 0, Translate, Some(C::Translated)),
        (FlowState::Ended, data, 0, Translate, Some(C::Translated)),
        (FlowState::Ended, of(SYN, 0), 0, Pass, Some(C::SynToListener)),
        (FlowState::Ended, of(SYN | ACK, 0), 0, Translate, Some(C::Translated)),
        (FlowState::Ended, of(SYN | RST, 0), 0, Translate, Some(C::Translated)),
        (FlowState::Superseded, data, 0, Pass, Some(C::Superseded)),
        (FlowState::Replaying, data, 0, Pass, None),
        (FlowState::Fenced, data, 0, Pass, None),
    ] {
        let mut patch = Patch::default();
        let verdict = judge_ingress(&at(state), &segment, false, now, &mut patch);
        assert_eq!((verdict.action, verdict.counter), (action, counter), "{state:?} {segment:?}");
    }
}

/// Handed off to a target that is expected to adopt: what came before 7 was sent to the client here, it has sent all before 100.
fn ahead() -> FlowRecord {
    FlowRecord {
        flags: FLAG_AHEAD | FLAG_TRACKED,
        note_ack: 7,
        note_window: 5000,
        note_seq_end: 100,
        read_from: 100,
        ..at(FlowState::Frozen)
    }
}

fn says(flags: u8, seq: u32, ack: u32) -> Segment {
    Segment { seq, ack, window: 9, ..of(flags, 0) }
}

#[test]
fn what_shows_the_servers_answer_goes_on_before_the_agents_word_of_it_and_nothing_else_does() {
    let judged = |record: &FlowRecord, segment: &Segment, marked| {
        let mut patch = Patch::default();
        let verdict = judge_ingress(record, segment, marked, 0, &mut patch);
        let account = patch.account;
        let goes_on = verdict == Verdict::new(Action::Translate, PacketCounter::Translated)
            && account.also == PacketCounter::AheadOfAnswer.code()
            && (account.diverted, account.released, account.note_ack) == (0, 0, segment.ack);
        let length = segment.held_length();
        let held = verdict == Verdict::new(Action::Divert, PacketCounter::Diverted)
            && (account.diverted, account.also) == (length, 0);
        assert!(goes_on != held, "{record:?} {segment:?}");
        goes_on
    };
    let gone_on = FlowRecord { packets: 1, note_ack: 20, ..ahead() };
    for (record, segment, expected) in [
        (ahead(), says(ACK, 100, 8), true),
        (ahead(), says(ACK, 100, 5007), true),
        (ahead(), says(ACK | FIN, 100, 8), true),
        // What was sent here, older than that, and further than its window.
        (ahead(), says(ACK, 100, 7), false),
        (ahead(), says(ACK, 100, 6), false),
        (ahead(), says(ACK, 100, 5008), false),
        // One has gone on: what says no more may follow, what says less is held.
        (gone_on, says(ACK | FIN, 100, 20), true),
        (gone_on, says(ACK, 100, 19), false),
        // No acknowledgement, a connection's begin, its end at once; data.
        (ahead(), says(0, 100, 8), false),
        (ahead(), says(ACK | SYN, 100, 8), false),
        (ahead(), says(ACK | RST, 100, 8), false),
        (ahead(), Segment { payload: 1, ..says(ACK, 100, 8) }, false),
        // An end behind more than the server was given, or while something is held; without one it goes on.
        (ahead(), says(ACK | FIN, 101, 8), false),
        (FlowRecord { diverted: 5, ..ahead() }, says(ACK | FIN, 100, 8), false),
        (FlowRecord { diverted: 5, ..ahead() }, says(ACK, 105, 8), true),
        // A target that is not expected to adopt translates.
        (FlowRecord { flags: FLAG_TRACKED, ..ahead() }, says(ACK, 100, 8), false),
    ] {
        assert_eq!(judged(&record, &segment, false), expected, "{record:?} {segment:?}");
    }
    // What was held comes back: it is held again.
    let mut patch = Patch::default();
    let marked = judge_ingress(&ahead(), &says(ACK, 100, 8), true, 0, &mut patch);
    assert_eq!(marked.action, Action::Divert);
    // Nor do these states of the hop limit and the deadline change.
    let used_up = judge_ingress(&ahead(), &Segment { ttl: 1, ..says(ACK, 100, 8) }, false, 0, &mut patch);
    assert_eq!(used_up.counter, Some(PacketCounter::DropTtlExpired));
    let late = judge_ingress(&ahead(), &says(ACK, 100, 8), false, 1000, &mut patch);
    assert_eq!(late, Verdict::new(Action::Pass, PacketCounter::FreezeExpired));
}

#[test]
fn every_state_on_the_target() {
    use Action::{Divert, Drop, Pass, Translate};
    use PacketCounter as C;
    for (state, flags, action, counter) in [
        (FlowState::Free, ACK, Pass, None),
        (FlowState::Frozen, ACK, Pass, None),
        (FlowState::Superseded, ACK, Pass, None),
        (FlowState::Replaying, SYN | ACK, Divert, Some(C::ReplayDiverted)),
        (FlowState::Replaying, RST, Divert, Some(C::ReplayDiverted)),
        (FlowState::Fenced, ACK, Drop, Some(C::DropFenced)),
        (FlowState::Committed, ACK, Translate, Some(C::Translated)),
        (FlowState::Committed, SYN | ACK, Drop, Some(C::DropLateSynAck)),
        (FlowState::Ended, ACK, Translate, Some(C::Translated)),
    ] {
        let mut patch = Patch::default();
        let verdict = judge_egress(&at(state), &of(flags, 0), &mut patch);
        assert_eq!((verdict.action, verdict.counter), (action, counter), "{state:?} {flags:x}");
    }
}

#[test]
fn a_late_syn_ack_is_noted_and_changes_no_other_note() {
    let record = FlowRecord {
        note_ack: 1,
        note_window: 2,
        note_tsval: 3,
        note_seq_end: 4,
        ..at(FlowState::Committed)
    };
    let mut patch = Patch::default();
    judge_egress(&record, &of(SYN | ACK, 0), &mut patch);
    let account = patch.account;
    assert_eq!((account.noted, account.note_flags), (1, NOTE_LISTENER));
    assert_eq!(
        (account.note_ack, account.note_window, account.note_tsval, account.note_seq_end),
        (1, 2, 3, 4)
    );
}

#[test]
fn the_agent_is_told_of_the_first_sign_of_each_kind_that_a_flow_closes() {
    let told = |record: &FlowRecord, flags, payload| {
        // Whatever the packet before was.
        let mut patch = Patch { account: Account { closes: 1, ..Account::default() }, ..Patch::default() };
        judge_egress(record, &of(flags, payload), &mut patch);
        patch.account.closes == 1
    };
    let signs = [(ACK | FIN, NOTE_FIN), (RST, NOTE_RST), (RST | ACK, NOTE_RST), (SYN | ACK, NOTE_LISTENER)];
    let others = NOTE_SYN_ACK | NOTE_CAUGHT_UP | NOTE_ACTIVE_RST;
    for note_flags in [0, others] {
        let record = FlowRecord { note_flags, ..at(FlowState::Committed) };
        assert!(!told(&record, ACK, 0) && !told(&record, ACK, 10));
        for (flags, note) in signs {
            assert!(told(&record, flags, 0), "{flags:x}");
            let noted = |note| FlowRecord { note_flags: note_flags | note, ..record };
            assert!(!told(&noted(note), flags, 0), "{flags:x} again");
            assert!(told(&noted(NOTE_CLOSING & !note), flags, 0), "{flags:x} behind the others");
            assert!(!told(&noted(NOTE_CLOSING), ACK, 10), "no sign");
        }
    }
    for (state, of_adopted) in [
        (FlowState::Adopting, true),
        (FlowState::Replaying, false),
        (FlowState::Fenced, false),
        (FlowState::Ended, false),
        (FlowState::Free, false),
        (FlowState::Frozen, false),
        (FlowState::Superseded, false),
    ] {
        for (flags, _) in signs {
            // Not the stack's answer to what it has no socket for.
            let record = FlowRecord { flags: FLAG_ADOPTED, packets: 1, ..at(state) };
            assert_eq!(told(&record, flags, 0), of_adopted, "{state:?} {flags:x}");
            let mut patch = Patch::default();
            judge_ingress(&record, &of(flags, 0), false, 0, &mut patch);
            assert_eq!(patch.account.closes, 0, "{state:?}: what clients send is no sign");
        }
    }
}

#[test]
fn the_hold_accounts() {
    let mut patch = Patch::default();
    let mut record = at(FlowState::Frozen);
    judge_ingress(&record, &of(ACK | FIN, 10), false, 0, &mut patch);
    assert_eq!((patch.account.diverted, patch.account.released), (11, 0));
    // Released too early, it goes round again and the accounts stay even.
    judge_ingress(&record, &of(ACK, 10), true, 0, &mut patch);
    assert_eq!((patch.account.diverted, patch.account.released), (10, 10));
    record.state = FlowState::Committed as u32;
    (record.diverted, record.released, record.drain_end) = (3, u32::MAX, 4);
    let verdict = judge_ingress(&record, &of(ACK, 1), false, 0, &mut patch);
    assert_eq!((verdict.action, patch.account.diverted), (Action::Divert, 1));
    let verdict = judge_ingress(&record, &of(ACK, 0), false, 0, &mut patch);
    assert_eq!((verdict.action, patch.account.diverted), (Action::Translate, 0));
    let verdict = judge_ingress(&record, &of(ACK, 1), true, 0, &mut patch);
    assert_eq!((verdict.action, patch.account.released), (Action::Translate, 1));
    // Nothing on its way any more, or, after the daemon has reconciled, more come back than went.
    for released in [3, 4] {
        record.released = released;
        assert_eq!(judge_ingress(&record, &of(ACK, 1), false, 0, &mut patch).action, Action::Translate);
    }
}

#[test]
fn data_queues_behind_held_data_only_until_the_drains_end() {
    let mut patch = Patch::default();
    let mut record = at(FlowState::Committed);
    // However much is still on its way: on a fast path the hold queue need not run empty by itself.
    for (released, diverted, drain_end, action) in [
        (u32::MAX, 3, 4, Action::Divert),
        (u32::MAX, 3, 3, Action::Translate),
        (u32::MAX, 3, 2, Action::Translate),
        (u32::MAX - 9, u32::MAX - 1, 2, Action::Divert),
        (7, 7, 8, Action::Translate),
    ] {
        (record.released, record.diverted, record.drain_end) = (released, diverted, drain_end);
        let verdict = judge_ingress(&record, &of(ACK, 1), false, 0, &mut patch);
        assert_eq!(verdict.action, action, "{released} {diverted} {drain_end}");
        // What comes back is still accounted for.
        judge_ingress(&record, &of(ACK, 1), true, 0, &mut patch);
        assert_eq!((patch.account.released, patch.account.diverted), (1, 0));
    }
}

#[test]
fn acknowledgements_go_on_whatever_is_held_and_the_newest_window_is_noted() {
    let mut patch = Patch::default();
    let mut record = FlowRecord {
        flags: FLAG_TRACKED,
        read_from: 2000,
        note_ack: 500,
        note_seq_end: 1000,
        note_window: 65_535,
        note_tsval: 7,
        ..at(FlowState::Committed)
    };
    (record.diverted, record.released, record.drain_end) = (3, u32::MAX, 0);
    for (seq, ack, window, noted) in [
        (1000, 500, 0, 0),
        (1000, 501, 9, 9),
        // Older than what was noted, by either number; and further than the client can have got.
        (999, 501, 30, 7),
        (1000, 499, 30, 7),
        (1000, 500 + 70_000, 30, 7),
    ] {
        let segment = Segment { seq, ack, window, ..of(ACK, 0) };
        assert_eq!(judge_ingress(&record, &segment, false, 0, &mut patch).action, Action::Translate);
        assert_eq!(patch.account.note_tsval, noted, "{seq} {ack}");
    }
    assert_eq!(judge_ingress(&record, &of(ACK | RST, 0), false, 0, &mut patch).action, Action::Translate);
    assert_eq!(patch.account.note_tsval, 7, "a reset says nothing of a window");
}

#[test]
fn what_exceeds_the_leg_goes_to_the_daemon_and_ends_when_it_comes_back() {
    let mut patch = Patch::default();
    let record = FlowRecord { leg_mtu: 1400, ..at(FlowState::Committed) };
    let sized = |packet| Segment { packet, ..of(ACK, 1360) };
    let judge = |record: &FlowRecord, segment, marked, patch: &mut Patch| {
        let verdict = judge_ingress(record, &segment, marked, 0, patch);
        (
            verdict.action,
            verdict.counter.unwrap(),
            patch.account.diverted,
            patch.account.released,
            patch.account.also,
        )
    };
    use PacketCounter as C;
    assert_eq!(judge(&record, sized(1400), false, &mut patch).0, Action::Translate);
    // The accounts agree when it has come back, so that no later data waits for it.
    assert_eq!(judge(&record, sized(1401), false, &mut patch), (Action::Divert, C::TooBig, 1360, 0, 0));
    assert_eq!(judge(&record, sized(1401), true, &mut patch), (Action::Drop, C::DropTooBig, 0, 1360, 0));
    let ended = FlowRecord { state: FlowState::Ended as u32, ..record };
    assert_eq!(judge(&ended, sized(1401), false, &mut patch).0, Action::Divert);
    let any = FlowRecord { leg_mtu: 0, ..record };
    assert_eq!(judge(&any, sized(65_535), false, &mut patch).0, Action::Translate);
    let cut = Segment { may_fragment: 1, ..sized(1401) };
    assert_eq!(judge(&record, cut, false, &mut patch).1, C::TooBig, "an adopted socket gets no fragments");
    for translated in [FlowRecord { ack_delta: 1, ..record }, FlowRecord { tsecr_delta: 1, ..record }] {
        assert_eq!(judge(&translated, cut, false, &mut patch).0, Action::Translate);
        let wrapped = FlowRecord { flags: FLAG_LEG_IPIP, ..translated };
        assert_eq!(judge(&wrapped, cut, false, &mut patch).1, C::TooBig);
    }
}

#[test]
fn what_cannot_be_read_never_reaches_a_stack_that_does_not_know_it() {
    let reason = PacketCounter::DropMalformed;
    for (state, now, action) in [
        (FlowState::Free, 0, Action::Pass),
        (FlowState::Superseded, 0, Action::Pass),
        (FlowState::Frozen, 0, Action::Drop),
        (FlowState::Frozen, 1000, Action::Pass),
        (FlowState::Committed, 0, Action::Drop),
        (FlowState::Ended, 0, Action::Drop),
        (FlowState::Replaying, 0, Action::Drop),
    ] {
        assert_eq!(judge_unreadable(&at(state), now, reason).action, action, "{state:?}");
    }
}

#[test]
fn the_notes_of_a_flow() {
    let mut record = FlowRecord { window_shift_in: 7, ..at(FlowState::Replaying) };
    let mut patch = Patch::default();
    let mut see = |record: &mut FlowRecord, segment: Segment| {
        judge_egress(record, &segment, &mut patch);
        let a = patch.account;
        record.note_ack = a.note_ack;
        record.note_window = a.note_window;
        record.note_seq_end = a.note_seq_end;
        record.note_flags |= a.note_flags;
        (a.note_ack, a.note_window, a.note_seq_end, record.note_flags)
    };
    let server = |seq, ack, window, flags, payload| Segment { seq, ack, window, ..of(flags, payload) };
    let syn_ack = server(u32::MAX, 100, 60_000, SYN | ACK, 0);
    assert_eq!(see(&mut record, syn_ack), (100, 60_000, 0, NOTE_SYN_ACK), "a SYN's window is not scaled");
    record.state = FlowState::Committed as u32;
    assert_eq!(see(&mut record, server(0, 150, 500, ACK, 1000)), (150, 64_000, 1000, NOTE_SYN_ACK));
    // Sent again, older: nothing goes back.
    assert_eq!(see(&mut record, server(0, 120, 1, ACK, 500)), (150, 64_000, 1000, NOTE_SYN_ACK));
    assert_eq!(see(&mut record, server(1000, 150, 400, ACK | FIN, 0)).2, 1001);
    assert_eq!(
        see(&mut record, server(7, 0, 0, RST, 0)),
        (150, 51_200, 1001, NOTE_SYN_ACK | NOTE_FIN | NOTE_RST)
    );
    // A socket's own reset acknowledges; the kernel's answer to a segment that no socket wanted does not.
    assert_eq!(see(&mut record, server(7, 150, 0, RST | ACK, 0)).3 & NOTE_ACTIVE_RST, NOTE_ACTIVE_RST);
    // The request is fed, and the client was told of 30 bytes more.
    (record.flags, record.ack_floor) = (FLAG_FED, 180);
    assert_eq!(see(&mut record, server(1001, 179, 400, ACK, 0)).3 & NOTE_CAUGHT_UP, 0);
    assert_eq!(see(&mut record, server(1001, 180, 400, ACK, 0)).3 & NOTE_CAUGHT_UP, NOTE_CAUGHT_UP);
}

#[test]
fn a_segment_that_acknowledges_what_the_client_cannot_moves_no_note_of_it() {
    let record =
        FlowRecord { note_ack: 1000, note_window: 65_535, note_seq_end: 50, ..at(FlowState::Committed) };
    let noted = |flags, ack| {
        let mut patch = Patch::default();
        judge_ingress(&record, &Segment { seq: 60, ack, ..of(flags, 0) }, true, 0, &mut patch);
        patch.account.note_seq_end
    };
    for ack in [1000, 1000 + 65_535, 999, 1000u32.wrapping_sub(65_535)] {
        assert_eq!(noted(ACK, ack), 60, "{ack}");
    }
    for ack in [1000 + 65_536, 1000u32.wrapping_sub(65_536), 1 << 31] {
        assert_eq!(noted(ACK, ack), 50, "{ack}");
    }
    assert_eq!(
        [noted(SYN, 1000), noted(0, 1000), noted(RST | ACK, 1000)],
        [50; 3],
        "nothing is acknowledged"
    );
}

#[test]
fn a_clients_acknowledgement_is_noted_within_its_largest_window_only() {
    let record = FlowRecord { note_ack: 1000, note_window: 65_535, ..at(FlowState::Committed) };
    let noted = |ack| {
        let mut patch = Patch::default();
        judge_ingress(&record, &Segment { ack, ..of(ACK, 0) }, false, 0, &mut patch);
        patch.account.note_ack
    };
    assert_eq!([noted(999), noted(1001), noted(1000 + 65_535)], [1000, 1001, 1000 + 65_535]);
    assert_eq!(noted(1000 + 65_536), 1000, "nobody has a larger window: it is not the client's");
    let unbounded = FlowRecord { note_window: 0, ..record };
    let mut patch = Patch::default();
    judge_ingress(&unbounded, &Segment { ack: 1 << 30, ..of(ACK, 0) }, false, 0, &mut patch);
    assert_eq!(patch.account.note_ack, 1 << 30, "a record of an earlier version");
}
