//! What happens to flows without anybody asking: taken over at start, swept while they last.

use super::entry::Entry;
use super::table::Table;
use super::{Flows, nanos, now_ms};
use crate::handoff::LaterFlow;
use crate::ruling;
use baton_loader::monotonic_ns;
use baton_shared::control::{EndReport, FlowRef, Lane};
use baton_shared::reason::EndReason;
use baton_shared::record::{FLAG_TRACKED, FLAG_WITHIN_BODY, FlowKey, FlowRecord, FlowState};
use baton_shared::state::accounts::{AccountFacts, Accounts, judge_accounts};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a committed flow's hold accounts are watched at least: a packet on another CPU may be diverted for
/// the last time a moment after the commit.
const WATCH: Duration = Duration::from_secs(1);
/// Settled accounts are looked at in every so-manieth sweep.
const LOOKED_AT_IN_TURN: u64 = 4;

impl Flows {
    /// Takes over what an earlier run left in the plane: committed flows go on, frozen ones are removed (their
    /// sockets died with their process). Returns how many of each.
    pub fn recover(&self) -> (usize, usize) {
        let (mut taken, mut removed) = (0, 0);
        for (slot, record) in self.plane.recovered() {
            self.next_id
                .fetch_max(Lane::without(record.flow_id).wrapping_add(Lane::APART), Ordering::Relaxed);
            match FlowState::from_raw(record.state) {
                FlowState::Committed | FlowState::Ended => {
                    self.take_over(slot, &record);
                    taken += 1;
                }
                _ => {
                    self.remove_from_plane(&record.key, slot);
                    removed += 1;
                }
            }
        }
        ruling::begin(&self.plane);
        (taken, removed)
    }

    fn take_over(&self, slot: u32, record: &FlowRecord) {
        let server = record.rewritten_addr();
        let target = self.targets.by_server(server);
        let ended = FlowState::from_raw(record.state) == FlowState::Ended;
        // How far a body had been read nobody knows any more: the rest of the connection is its server's, which was told
        // to close.
        let lost_track = record.flags & FLAG_WITHIN_BODY != 0;
        // That of an earlier run; the programs have none in force yet.
        self.plane.slots().set_ruling(slot, 0);
        if lost_track {
            self.plane.slots().change_flags(slot, FLAG_TRACKED | FLAG_WITHIN_BODY, 0);
        }
        let flow = FlowRef { flow_id: record.flow_id, generation: record.generation };
        let mut entry = Entry::new(slot, flow.generation, now_ms());
        entry.target = target;
        entry.committed = true;
        if record.flags & FLAG_TRACKED != 0 && !lost_track {
            entry.later = Some(Arc::new(LaterFlow::taken_over(record, slot, target)));
        }
        if let Some(target) = target.filter(|_| !ended).and_then(|t| self.targets.get(t)) {
            target.flow_began(false);
        }
        let mut table = self.table();
        let now = Instant::now();
        if ended {
            table.lingering.push_back((now + self.linger, record.flow_id));
        } else {
            table.watched.push(Watch::new(record.flow_id, (record.diverted, record.released), now));
        }
        table.insert(entry, &record.key.into());
        if ended {
            // How was told to the process before this one.
            table.set_end(EndReport::unreported(flow, EndReason::AgentLost));
        }
    }

    /// Removes flows whose linger time is over and reconciles hold accounts that stand still. Every 50 ms or so.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut table = self.table();
        let mut over = Vec::new();
        while let Some((due, id)) = table.lingering.front().copied() {
            if due > now {
                break;
            }
            table.lingering.pop_front();
            over.extend(self.take_out(&mut table, id));
        }
        self.remove_all_from_plane(over);
        table.left.sweep(now, self.access_log());
        let mut watched = std::mem::take(&mut table.watched);
        table.looks = table.looks.wrapping_add(1);
        let turn = table.looks % LOOKED_AT_IN_TURN;
        // Nearly all are settled: of those a part is looked at each time.
        let is_due = |watch: &Watch| watch.open || watch.flow_id / Lane::APART % LOOKED_AT_IN_TURN == turn;
        watched.retain_mut(|watch| !is_due(watch) || self.check_accounts(&table, watch, now));
        table.watched = watched;
    }

    /// One call for all keys.
    fn remove_all_from_plane(&self, flows: Vec<(FlowKey, u32)>) {
        let (keys, slots): (Vec<_>, Vec<_>) = flows.into_iter().unzip();
        if let Err(e) = self.plane.remove_all(&keys) {
            tracing::error!(error = %e, "the keys of flows that are over could not be removed from the map");
        }
        for slot in slots {
            self.plane.slots().free(slot);
        }
    }

    /// Whether the accounts are to be watched on.
    fn check_accounts(&self, table: &Table, watch: &mut Watch, now: Instant) -> bool {
        let Some(entry) = table.get(watch.flow_id) else { return false };
        let in_hands = self.in_hands.lock();
        let accounts = self.plane.slots().accounts(entry.slot);
        let verdict = judge_accounts(&AccountFacts {
            accounts,
            before: watch.accounts,
            still_for: now.duration_since(watch.since),
            holding: !entry.committed
                || in_hands.contains_key(&watch.flow_id)
                || entry.later.as_ref().is_some_and(|later| later.holds()),
            watched_enough: now >= watch.until,
            ended: entry.ended,
        });
        watch.open = !matches!(verdict, Accounts::Over | Accounts::Settled);
        match verdict {
            Accounts::Over => return false,
            Accounts::Settled | Accounts::Still => {}
            Accounts::Moving => (watch.accounts, watch.since) = (accounts, now),
            Accounts::Lost => {
                self.plane.slots().set_released(entry.slot, accounts.0);
                self.reconciled.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }

    /// Gives up flows on which nothing was seen for the idle time.
    ///
    /// Of all flows those whose turn it is: with a million each costs some lines of memory, and nothing else gets the table
    /// meanwhile.
    pub fn sweep_idle(&self, turn: usize, turns: usize) {
        let oldest = monotonic_ns().saturating_sub(nanos(self.idle));
        let mut table = self.table();
        let idle = |e: &&Entry| {
            e.is_at_target() && self.plane.slots().last_seen_ns(e.slot).max(self.since_ns) < oldest
        };
        let idle: Vec<FlowRef> = table.entries_of(turn, turns).filter(idle).map(|e| table.flow(e)).collect();
        self.watch_tracked(&mut table, turn, turns);
        drop(table);
        for flow in idle {
            self.end_unreported(flow, EndReason::Idle);
        }
    }
}

impl Flows {
    /// What a tracked client sends goes through the hold queue again and again, and a packet may be lost there.
    fn watch_tracked(&self, table: &mut Table, turn: usize, turns: usize) {
        let accounts = |e: &Entry| self.plane.slots().accounts(e.slot);
        let differs = |e: &&Entry| {
            let (diverted, released) = accounts(e);
            e.later.is_some() && e.committed && diverted != released
        };
        let now = Instant::now();
        let found: Vec<_> =
            table.entries_of(turn, turns).filter(differs).map(|e| (table.number(e), accounts(e))).collect();
        for (flow_id, accounts) in found {
            if !table.watched.iter().any(|watch| watch.flow_id == flow_id) {
                table.watched.push(Watch::new(flow_id, accounts, now));
            }
        }
    }
}

/// Hold accounts under watch after a commit.
#[derive(Debug)]
pub(super) struct Watch {
    /// They differed when they were last looked at.
    open: bool,
    flow_id: u64,
    until: Instant,
    accounts: (u32, u32),
    since: Instant,
}

impl Watch {
    /// Over the hold accounts of a flow committed, or taken over, now.
    pub(super) fn new(flow_id: u64, accounts: (u32, u32), now: Instant) -> Self {
        Watch { open: false, flow_id, until: now + WATCH, accounts, since: now }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

    use super::*;
    use crate::flows::{FlowIdentity, Place, flow_key};
    use crate::targets::{TargetId, Targets};
    use baton_loader::{Plane, Side, UserspaceConfig};
    use baton_shared::state::accounts::STALLED;

    /// Flows on which nothing was seen for a millisecond are idle; ended ones go at once. Nothing is led through any device.
    fn flows() -> Flows {
        let config = UserspaceConfig {
            side: Side::Intermediate,
            uplink: "lo".into(),
            flows: 4,
            addresses: Vec::new(),
        };
        let plane = Arc::new(Plane::open_userspace(&config).unwrap());
        let targets = Arc::new(Targets::new([]));
        // As if for long, whatever this machine's clock says.
        Flows { since_ns: 0, ..Flows::new(plane, targets, Duration::ZERO, Duration::from_millis(1)) }
    }

    fn begin(flows: &Flows, client: &str) -> Place {
        let identity = FlowIdentity {
            key: flow_key(client.parse().unwrap(), "192.0.2.1:80".parse().unwrap()).into(),
            target: TargetId::new(0),
            server: "198.51.100.1:80".parse().unwrap(),
            request: "GET /",
            lane: Lane::FIRST,
        };
        flows.begin(identity, Duration::from_secs(60)).unwrap()
    }

    /// Given to a target; packets of it were seen last at `last_seen_ns`.
    fn commit(flows: &Flows, place: &Place, last_seen_ns: u64) {
        flows.commit(&place.record, place.slot, false);
        let slots = flows.plane.slots();
        let record = FlowRecord { last_seen_ns, ..slots.read(place.slot) };
        // Statistics are written into free slots only.
        slots.change_state(place.slot, FlowState::Committed, FlowState::Free);
        slots.write(place.slot, &record);
    }

    fn end(flows: &Flows, place: &Place) -> Option<EndReason> {
        let table = flows.table();
        table.end(table.get(place.flow.flow_id)?).map(|end| end.reason)
    }

    #[test]
    fn only_flows_on_which_nothing_was_seen_are_given_up_as_idle() {
        let flows = flows();
        let [silent, seen, frozen] =
            ["203.0.113.1:1", "203.0.113.1:2", "203.0.113.1:3"].map(|client| begin(&flows, client));
        commit(&flows, &silent, 1);
        commit(&flows, &seen, u64::MAX);
        std::thread::sleep(Duration::from_millis(2));
        flows.sweep_idle(0, 1);
        assert_eq!(end(&flows, &silent), Some(EndReason::Idle));
        assert_eq!((end(&flows, &seen), end(&flows, &frozen)), (None, None));
        let state = |place: &Place| flows.plane.slots().state(place.slot);
        assert_eq!(state(&silent), FlowState::Ended);
        assert_eq!((state(&seen), state(&frozen)), (FlowState::Committed, FlowState::Frozen));
    }

    #[test]
    fn accounts_are_reconciled_only_while_nothing_of_the_flow_is_in_hand() {
        let flows = flows();
        let place = begin(&flows, "203.0.113.1:1");
        commit(&flows, &place, u64::MAX);
        let (slot, flow_id) = (place.slot, place.flow.flow_id);
        let check = |stalled: bool| {
            let now = Instant::now();
            let since = now.checked_sub(if stalled { STALLED } else { Duration::ZERO }).unwrap();
            let mut watch = Watch::new(flow_id, flows.plane.slots().accounts(slot), since);
            flows.check_accounts(&flows.table(), &mut watch, now);
            (flows.plane.slots().accounts(slot), flows.reconciled())
        };
        let apart = u32::MAX;
        let (first, second) = (flows.in_hand(slot), flows.in_hand(slot));
        assert_eq!(check(true), ((0, apart - 1), 0));
        drop(first);
        assert_eq!(check(true), ((0, apart), 0), "the other lives on");
        drop(second);
        assert_eq!(check(true), ((0, 0), 0), "they are as if nothing had been");
        // Lost: by an earlier run, say.
        flows.add_released(slot, apart);
        assert_eq!(check(false), ((0, apart), 0));
        // Between two owners everything is held.
        let frozen = flows.refreeze(place.flow, Duration::from_secs(60)).unwrap();
        assert_eq!(check(true), ((0, apart), 0));
        flows.commit(&frozen.record, slot, false);
        assert_eq!(check(true), ((0, 0), 1));
        assert!(flows.in_hands.lock().is_empty());
    }

    #[test]
    fn what_was_given_up_makes_room() {
        let flows = flows();
        let places: Vec<Place> = (1..=4).map(|port| begin(&flows, &format!("203.0.113.1:{port}"))).collect();
        assert_eq!(flows.plane.slots().allocate(), None);
        commit(&flows, &places[2], 1);
        std::thread::sleep(Duration::from_millis(2));
        flows.sweep_idle(0, 1);
        flows.sweep();
        assert!(flows.table().get(places[2].flow.flow_id).is_none());
        assert!(!flows.plane.remove(&places[2].record.key).unwrap(), "its key is still there");
        assert_eq!(flows.plane.slots().allocate(), Some(places[2].slot));
    }
}
