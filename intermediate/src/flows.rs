//! The table of flows given to targets: who they are, where their record is, when the record goes.
//!
//! A flow comes in at its freeze ([`Flows::begin`]), is taken over by [`Flows::commit`] or dropped by
//! [`Flows::abandon`], ends when its agent says so ([`Flows::on_end`]), lingers so that the connection's last
//! packets still find their way, and is then removed: key first, slot after.

mod by_key;
mod counts;
mod ends;
mod entry;
mod in_hand;
mod inspect;
mod later;
mod left;
mod lost;
mod rows;
mod table;
mod upkeep;
mod view;

pub(crate) use by_key::ByKey;
pub use by_key::HashedKey;
pub use counts::LiveCounts;
pub(crate) use in_hand::InHand;
pub use inspect::{Inspected, Shared};
pub use lost::Taken;
pub use view::{EndView, FlowFilter, FlowView};

use crate::access_log::AccessLog;
use crate::handoff::flow_id_text;
use crate::leg_mtu::LegMtus;
use crate::targets::{TargetId, Targets};
use baton_loader::{InsertError, Plane, monotonic_ns};
use baton_shared::control::{FlowRef, Lane};
use baton_shared::reason::EndReason;
use baton_shared::record::{DRAIN_BYTES, FLAG_AHEAD, FlowKey, FlowRecord, FlowState};
use baton_shared::translate::Leg;
use compact_str::CompactString;
use entry::Entry;
use in_hand::InHands;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use table::Table;
use upkeep::Watch;

/// What a flow is, for its entry.
#[derive(Clone, Debug)]
pub struct FlowIdentity<'a> {
    /// The client's address and port, and the VIP's.
    pub key: HashedKey,
    /// The target.
    pub target: TargetId,
    /// The server's address and port on it.
    pub server: SocketAddr,
    /// Method and path.
    pub request: &'a str,
    /// By which of the agent's channels its messages go.
    pub lane: Lane,
}

/// Why no record could be made for a flow.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// No slot or no room in the map.
    #[error("the flow table is full")]
    Full,
    /// A flow with the same addresses is alive.
    #[error("flow {} with the same addresses is alive", flow_id_text(*.0))]
    Alive(u64),
    /// The kernel refused.
    #[error("flow map: {0}")]
    Os(#[from] std::io::Error),
}

/// A frozen flow's place: what its owner needs to commit or abandon it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which flow and handoff.
    pub flow: FlowRef,
    /// Its slot.
    pub slot: u32,
    /// Its record as first written, state `Frozen`.
    pub record: FlowRecord,
    /// [`Flows::let_ahead`] was called: the record's notes are the program's.
    pub ahead: bool,
}

/// By flows' numbers. This process gives them out and nobody else chooses them: their hash need not withstand anybody.
pub(crate) type ByNumber<T> = HashMap<u64, T, NumberHash>;

/// See [`ByNumber`].
pub(crate) type NumberHash = foldhash::fast::RandomState;

/// All flows.
#[derive(Debug)]
pub struct Flows {
    table: Mutex<Table>,
    plane: Arc<Plane>,
    targets: Arc<Targets>,
    leg_mtus: LegMtus,
    linger: Duration,
    idle: Duration,
    /// Since when there is somebody to judge flows idle, CLOCK_MONOTONIC ns.
    since_ns: u64,
    next_id: AtomicU64,
    in_hands: InHands,
    reconciled: AtomicU64,
    cut: AtomicU64,
    access_log: OnceLock<AccessLog>,
}

/// Where flows' ends go if nobody wants them.
static NO_LOG: LazyLock<AccessLog> = LazyLock::new(AccessLog::off);

/// The map's key for a connection at the intermediate.
pub fn flow_key(client: SocketAddr, vip: SocketAddr) -> FlowKey {
    FlowKey {
        remote: client.ip().into(),
        local: vip.ip().into(),
        remote_port: baton_shared::addr::PortWord::new(client.port()),
        local_port: baton_shared::addr::PortWord::new(vip.port()),
    }
}

impl Flows {
    /// An empty table over `plane`. Ended flows stay for `linger`; flows on which nothing was seen for `idle`
    /// are given up, should their agent never report their end.
    pub fn new(plane: Arc<Plane>, targets: Arc<Targets>, linger: Duration, idle: Duration) -> Self {
        // Numbers must be unique across restarts: 4096 for each microsecond since 1970 are never overtaken, nor are 256 with
        // any lane in them.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX >> 12) << 12;
        Flows {
            table: Mutex::new(Table::new(Arc::clone(&plane))),
            plane,
            targets,
            leg_mtus: LegMtus::default(),
            linger,
            idle,
            since_ns: monotonic_ns(),
            next_id: AtomicU64::new(first),
            in_hands: InHands::default(),
            reconciled: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            access_log: OnceLock::new(),
        }
    }

    /// Where ends of flows are told from here on. The first call counts.
    pub fn tell_ends_to(&self, log: AccessLog) {
        let _ = self.access_log.set(log);
    }

    /// Where ends of flows are told.
    pub fn access_log(&self) -> &AccessLog {
        self.access_log.get().unwrap_or(&NO_LOG)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_from_plane(&self, key: &FlowKey, slot: u32) {
        if let Err(e) = self.plane.remove(key) {
            tracing::error!(slot, error = %e, "a flow's key could not be removed from the map");
        }
        self.plane.slots().free(slot);
    }

    /// Freezes a connection: its record filled, its key in the map; from here on the client's packets go to the
    /// hold TUN, until `deadline`. What an ended flow left under the same key is removed.
    pub fn begin(&self, identity: FlowIdentity<'_>, deadline: Duration) -> Result<Place, BeginError> {
        let key = &identity.key;
        let slot = self.plane.slots().allocate().ok_or(BeginError::Full)?;
        let number = self.next_id.fetch_add(Lane::APART, Ordering::Relaxed);
        let flow = FlowRef { flow_id: identity.lane.within(number), generation: 1 };
        let now_ns = monotonic_ns();
        let record = FlowRecord {
            flow_id: flow.flow_id,
            generation: flow.generation,
            key: *key.key(),
            deadline_ns: now_ns.saturating_add(nanos(deadline)),
            state: FlowState::Frozen as u32,
            new_addr: identity.server.ip().into(),
            new_port: baton_shared::addr::PortWord::new(identity.server.port()),
            // Not idle since before it was.
            last_seen_ns: now_ns,
            ..FlowRecord::default()
        };
        let mut entry = Entry::new(slot, flow.generation, now_ms());
        entry.target = Some(identity.target);
        entry.request = CompactString::from(identity.request);
        {
            let mut table = self.table();
            if let Some(alive) = self.clear_key(&mut table, key) {
                drop(table);
                self.plane.slots().free(slot);
                return Err(BeginError::Alive(alive));
            }
            self.plane.slots().write(slot, &record);
            table.insert(entry, key);
        }
        let key = key.key();
        let inserted = match self.plane.insert(key, slot) {
            // A key without an entry: left behind by a removal that failed. Nobody else can own it.
            Err(InsertError::Exists) => {
                self.plane.remove(key).map_err(InsertError::Os).and_then(|_| self.plane.insert(key, slot))
            }
            other => other,
        };
        inserted.map_err(|e| {
            self.table().remove(flow.flow_id);
            self.plane.slots().free(slot);
            match e {
                InsertError::Full | InsertError::Exists => BeginError::Full,
                InsertError::Os(e) => BeginError::Os(e),
            }
        })?;
        Ok(Place { flow, slot, record, ahead: false })
    }

    /// Removes an ended flow under `key`; or returns the number of the live one there.
    fn clear_key(&self, table: &mut Table, key: &HashedKey) -> Option<u64> {
        let entry = table.under(key)?;
        let id = table.number(entry);
        match self.plane.slots().state(entry.slot) {
            FlowState::Ended | FlowState::Superseded | FlowState::Free => {
                self.remove(table, id);
                None
            }
            _ => Some(id),
        }
    }

    /// Entry, key and slot gone.
    fn remove(&self, table: &mut Table, flow_id: u64) {
        if let Some((key, slot)) = self.take_out(table, flow_id) {
            self.remove_from_plane(&key, slot);
        }
    }

    /// The entry gone; key and slot are to be.
    fn take_out(&self, table: &mut Table, flow_id: u64) -> Option<(FlowKey, u32)> {
        let (key, entry) = table.remove(flow_id)?;
        if entry.is_at_target() {
            self.access_log().unreported(flow_id, EndReason::AgentLost);
            self.count_ended(entry.target);
        }
        if let Some(left) = table.leaving.remove(&flow_id) {
            table.left.keep(left, Instant::now());
        }
        Some((key, entry.slot))
    }

    fn count_ended(&self, target: Option<TargetId>) {
        if let Some(target) = target.and_then(|t| self.targets.get(t)) {
            target.flow_ended();
        }
    }

    /// The handoff is about to be sent to a target that is expected to adopt: packets that show its server's answer go on there
    /// from now on. `record` is the place's with what that takes, `state::commit::ahead`.
    pub(crate) fn let_ahead(&self, place: &mut Place, record: &FlowRecord) {
        let slots = self.plane.slots();
        slots.set_notes(place.slot, record);
        slots.write(place.slot, record);
        // Behind what it stands for.
        slots.change_flags(place.slot, 0, FLAG_AHEAD);
        place.ahead = true;
    }

    /// Lets a freeze bind until `deadline` from now on, and hold all packets.
    pub fn extend(&self, place: &mut Place, deadline: Duration) {
        if place.ahead {
            self.plane.slots().change_flags(place.slot, FLAG_AHEAD, 0);
        }
        place.record.deadline_ns = monotonic_ns().saturating_add(nanos(deadline));
        self.plane.slots().write(place.slot, &place.record);
    }

    /// A flow's record as it is now.
    pub fn record(&self, slot: u32) -> FlowRecord {
        self.plane.slots().read(slot)
    }

    /// Puts the translation in force: `record` is the place's record with the translation and both notes filled in; but the notes
    /// stand as they are if the program writes them already (`noted`). Its state becomes `Committed`, or `Ended` if the flow's end
    /// was reported meanwhile.
    pub fn commit(&self, record: &FlowRecord, slot: u32, noted: bool) {
        let mut table = self.table();
        let now = Instant::now();
        let mut committed = *record;
        committed.state = FlowState::Committed as u32;
        committed.drain_end = self.plane.slots().accounts(slot).0.wrapping_add(DRAIN_BYTES);
        committed.leg_mtu = self.leg_mtus.room(record.new_addr.into(), Leg::from_flags(record.flags));
        if !noted {
            self.plane.slots().set_notes(slot, record);
        }
        self.plane.slots().set_requests(slot, 1);
        self.plane.slots().write(slot, &committed);
        let Some(entry) = table.get_mut(record.flow_id) else { return };
        entry.committed = true;
        let ended = entry.ended;
        if let Some(target) = entry.target.and_then(|t| self.targets.get(t)) {
            target.flow_began(true);
            if ended {
                target.flow_ended();
            }
        }
        if ended {
            self.plane.slots().change_state(slot, FlowState::Committed, FlowState::Ended);
            table.lingering.push_back((now + self.linger, record.flow_id));
        }
        table.watched.push(Watch::new(record.flow_id, (0, 0), now));
    }

    /// A probe of the way to a server told its MTU, bytes: for flows to come and those under way.
    pub fn on_leg_probe(&self, server: IpAddr, told: u32) {
        let table = self.table();
        self.leg_mtus.on_probe(server, told);
        let slots = self.plane.slots();
        for entry in table.entries().filter(|e| e.committed) {
            let record = slots.read(entry.slot);
            if record.rewritten_addr().ip() == server {
                let room = self.leg_mtus.room(server, Leg::from_flags(record.flags));
                slots.set_leg_mtu(entry.slot, room);
            }
        }
    }

    /// As [`Flows::abandon`], of a recalled flow whose connection has a socket here.
    pub fn give_back(&self, flow: FlowRef) {
        let mut table = self.table();
        if let Some(left) = table.leaving.get_mut(&flow.flow_id) {
            left.given_back = true;
        }
        self.remove(&mut table, flow.flow_id);
    }

    /// Takes a frozen flow's record away: its packets pass to the ordinary stack again.
    pub fn abandon(&self, flow: FlowRef) {
        self.remove(&mut self.table(), flow.flow_id);
    }

    /// A connection was accepted on these addresses: what an ended flow left there goes.
    pub fn forget_superseded(&self, client: SocketAddr, vip: SocketAddr) {
        let key = HashedKey::from(flow_key(client, vip));
        let mut table = self.table();
        let _ = self.clear_key(&mut table, &key);
    }

    /// Whether this handoff is committed here.
    pub fn is_committed(&self, flow: FlowRef) -> bool {
        self.table().at(flow).is_some_and(|e| e.committed)
    }

    /// The target of a flow.
    pub fn target_of(&self, flow: FlowRef) -> Option<TargetId> {
        self.table().at(flow)?.target
    }

    /// The live flows on a target.
    pub fn live_on(&self, target: TargetId) -> Vec<FlowRef> {
        let table = self.table();
        let live = |e: &&Entry| e.target == Some(target) && e.is_at_target();
        table.entries().filter(live).map(|e| table.flow(e)).collect()
    }

    /// How many flows have an entry, lingering ones too.
    pub fn count(&self) -> usize {
        self.table().len()
    }

    /// How often hold accounts had to be reconciled: each time at least one held packet was lost.
    pub fn reconciled(&self) -> u64 {
        self.reconciled.load(Ordering::Relaxed)
    }
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
