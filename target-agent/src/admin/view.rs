//! What the admin endpoint shows, gathered from table and maps. The table is locked for a few flows at a time, so
//! that handoffs need not wait for a reader.

use crate::flows::table::{Flow, PeerId, Session};
use crate::serve::engine::Shared;
use crate::serve::inspect::map_report;
use crate::serve::ways::Choice;
use baton_daemon::admin::events;
use baton_loader::monotonic_ns;
use baton_shared::control::{Lane, PROTOCOL_VERSION, ServerLoad, flow_id, flow_id_text};
use baton_shared::record::{ABI_VERSION, FlowRecord, FlowState, NOTE_FIN, NOTE_RST};
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

/// How many slots are looked at under one lock.
const CHUNK: u32 = 256;

/// A flow.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FlowView {
    /// 16 hexadecimal digits.
    pub(crate) id: String,
    generation: u32,
    pub(crate) state: &'static str,
    pub(crate) client: SocketAddr,
    vip: SocketAddr,
    pub(crate) server: SocketAddr,
    /// Whether the kernel made the server's socket from a packet; else the handshake was replayed.
    adopted: bool,
    intermediate: String,
    /// Unix time, ms.
    started: u64,
    age_ms: u64,
    packets: u64,
    bytes: u64,
    /// Where the handoff stands while it is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    handoff: Option<&'static str>,
    /// How it ended, if it lingers.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
    last_seen_ms_ago: u64,
    /// What the server's kernel last sent, its own numbers.
    notes: Notes,
}

#[derive(Clone, Debug, Serialize)]
struct Notes {
    ack: u32,
    window: u32,
    seq_end: u32,
    tsval: u32,
    fin: bool,
    rst: bool,
}

/// Turns CLOCK_MONOTONIC into Unix time.
struct Clock {
    now_ns: u64,
    unix_ms: u64,
}

impl Clock {
    fn read() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { now_ns: monotonic_ns(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
    }

    fn ms_since(&self, at_ns: u64) -> u64 {
        self.now_ns.saturating_sub(at_ns) / 1_000_000
    }

    fn unix_ms(&self, at_ns: u64) -> u64 {
        self.unix_ms.saturating_sub(self.ms_since(at_ns))
    }
}

fn intermediate(shared: &Shared, peer: PeerId) -> String {
    shared.policy.name(peer).unwrap_or("?").to_owned()
}

fn view(shared: &Shared, clock: &Clock, flow: &Flow, record: &FlowRecord) -> FlowView {
    FlowView {
        id: flow_id_text(flow.who.1.flow_id),
        generation: flow.who.1.generation,
        state: FlowState::from_raw(record.state).name(),
        client: flow.ends.client(),
        vip: flow.vip,
        server: flow.server,
        adopted: flow.arrival.is_some(),
        intermediate: intermediate(shared, flow.who.0),
        started: clock.unix_ms(flow.received_ns),
        age_ms: clock.ms_since(flow.received_ns),
        packets: record.packets,
        bytes: record.bytes,
        handoff: flow.handoff_phase(),
        end: flow.end.map(|reason| reason.name()),
        last_seen_ms_ago: clock.ms_since(record.last_seen_ns),
        notes: Notes {
            ack: record.note_ack,
            window: record.note_window,
            seq_end: record.note_seq_end,
            tsval: record.note_tsval,
            fin: record.note_flags & NOTE_FIN != 0,
            rst: record.note_flags & NOTE_RST != 0,
        },
    }
}

/// The flows that are wanted, in pieces. One that comes or goes meanwhile may be in them or not.
pub(crate) fn flows(
    shared: impl Borrow<Shared>,
    wanted: impl Fn(&FlowView) -> bool,
) -> impl Iterator<Item = Vec<FlowView>> {
    let clock = Clock::read();
    let mut chunks = chunks(shared.borrow());
    std::iter::from_fn(move || {
        let shared: &Shared = shared.borrow();
        let slots = chunks.next()?;
        let table = shared.table();
        let held = slots.filter_map(|slot| Some((slot, table.get(slot)?)));
        let views = held.map(|(slot, flow)| view(shared, &clock, flow, &shared.plane.slots().read(slot)));
        Some(views.filter(|view| wanted(view)).collect())
    })
}

/// All slots, so many at a time as are looked at under one lock.
fn chunks(shared: &Shared) -> impl Iterator<Item = Range<u32>> + use<> {
    let capacity = shared.plane.slots().capacity();
    (0..capacity).step_by(CHUNK as usize).map(move |from| from..capacity.min(from.saturating_add(CHUNK)))
}

/// One flow, with its keys in the map and its record.
pub(crate) fn one(shared: &Shared, id: &str) -> Option<Value> {
    let id = flow_id(id)?;
    let clock = Clock::read();
    let (found, map) = chunks(shared).find_map(|mut slots| {
        let table = shared.table();
        slots.find_map(|slot| {
            let flow = table.get(slot).filter(|flow| flow.who.1.flow_id == id)?;
            let record = shared.plane.slots().read(slot);
            Some((view(shared, &clock, flow, &record), map_report(&shared.plane, slot, flow, clock.now_ns)))
        })
    })?;
    let mut shown = json!(found);
    if let Some(object) = shown.as_object_mut() {
        object.insert("map".to_owned(), json!(map));
    }
    Some(shown)
}

/// The slots of the flows of the clients at an address, of each client the newest.
pub(crate) fn slots_of(shared: &Shared, ip: IpAddr) -> HashMap<SocketAddr, u32> {
    let mut newest: HashMap<SocketAddr, (u64, u32)> = HashMap::new();
    for slots in chunks(shared) {
        let table = shared.table();
        let of = slots.filter_map(|slot| table.get(slot).map(|flow| (slot, flow)));
        for (slot, flow) in of.filter(|(_, flow)| flow.ends.client().ip() == ip) {
            let this = (flow.received_ns, slot);
            newest.entry(flow.ends.client()).and_modify(|other| *other = this.max(*other)).or_insert(this);
        }
    }
    newest.into_iter().map(|(client, (_, slot))| (client, slot)).collect()
}

/// Clients whose connections were handed over last, a few.
pub(crate) fn clients(shared: &Shared) -> Vec<IpAddr> {
    let mut clients = Vec::new();
    for recent in shared.table().recent.iter().rev() {
        let client = recent.ends.client().ip();
        if !clients.contains(&client) {
            clients.push(client);
        }
        if clients.len() == 8 {
            break;
        }
    }
    clients
}

/// How the agent is, in short.
pub(crate) fn status(shared: &Shared) -> Value {
    let clock = Clock::read();
    let slots = shared.plane.slots();
    let sessions = sessions(shared, &clock);
    let live = shared.table().live();
    json!({
        "daemon": "target-agent",
        "name": shared.policy.node,
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": PROTOCOL_VERSION,
        "abi": ABI_VERSION,
        "pid": std::process::id(),
        "started": clock.unix_ms(shared.metrics.started_ns()),
        "state": "ready",
        "data_plane": format!("{:?}", shared.plane.hook()).to_lowercase(),
        "sessions": sessions,
        "handoffs": { "migrated": shared.metrics.migrated_count() },
        "flows": { "live": live, "slots_used": slots.in_use(), "slots": slots.capacity() },
        "events": { "subscribers": events::subscribers(), "missed": events::missed() },
        "now": clock.unix_ms,
    })
}

/// Who is connected.
fn sessions(shared: &Shared, clock: &Clock) -> Vec<Value> {
    let table = shared.table();
    let session = |s: &Session| {
        json!({
            "intermediate": s.name,
            "allowed": s.peer.is_some(),
            "lane": Lane::of_number(s.instance).place(),
            "software": s.software,
            "since": clock.unix_ms(s.since_ns),
        })
    };
    table.sessions.values().map(session).collect()
}

/// What the configuration allows, with the flows there are, and who is connected.
pub(crate) fn targets(shared: &Shared) -> Value {
    let clock = Clock::read();
    let live: Vec<FlowView> = flows(shared, |flow| flow.state != FlowState::Ended.name()).flatten().collect();
    let loads: Vec<ServerLoad> = shared.table().loads.all().cloned().collect();
    let targets: Vec<Value> = shared
        .policy
        .allowed()
        .map(|(peer, vip, server)| {
            let name = intermediate(shared, peer);
            let count =
                live.iter().filter(|f| f.vip == vip && f.server == server && f.intermediate == name).count();
            let load = loads.iter().find(|load| load.server == server).map(load_view);
            json!({
                "name": shared.policy.node,
                "server": server,
                "vip": vip,
                "intermediate": name,
                "flows": count,
                "load": load,
                "serve": serve_view(shared, vip, server),
            })
        })
        .collect();
    json!({ "targets": targets, "sessions": sessions(shared, &clock) })
}

/// How the server's next connection is given to it, and what keeps it from being adopted.
fn serve_view(shared: &Shared, vip: SocketAddr, server: SocketAddr) -> Value {
    let now = monotonic_ns();
    let (way, scale) = match shared.ways.choose(vip, server, now) {
        Choice::Adopt { own_scale } => ("adopt", Some(own_scale)),
        Choice::Translate => ("translate", None),
        Choice::Unavailable => ("none", None),
    };
    let lacks: Vec<Value> = shared
        .ways
        .lacks(vip, server, now)
        .into_iter()
        .map(|need| json!({ "name": need.name(), "mend": need.explanation() }))
        .collect();
    let configured = shared.ways.configured().name();
    json!({ "configured": configured, "way": way, "window_scale": scale, "missing": lacks })
}

fn load_view(load: &ServerLoad) -> Value {
    json!({
        "listening": load.listening,
        "bytes": load.bytes,
        "accept_queue": load.accept_queue,
        "accept_limit": load.accept_limit,
        "listen_drops": load.listen_drops,
        "refused": load.refused,
        "ended": load.ended,
        "resets": load.resets,
        "segments": load.segments,
        "retransmitted": load.retransmitted,
        "responses": load.responses,
        "response_us": load.response_us.checked_div(load.responses),
        "rtt_us": load.rtt_us,
    })
}

/// The most recent handoffs of the clients that are wanted, the newest first.
pub(crate) fn migrations(shared: &Shared, wanted: impl Fn(SocketAddr) -> bool) -> Vec<Value> {
    let clock = Clock::read();
    let recent = shared.table().recent.clone();
    recent
        .iter()
        .rev()
        .filter(|entry| wanted(entry.ends.client()))
        .map(|entry| {
            json!({
                "id": flow_id_text(entry.who.1.flow_id),
                "generation": entry.who.1.generation,
                "client": entry.ends.client(),
                "vip": entry.vip,
                "server": entry.ends.server(),
                "intermediate": intermediate(shared, entry.who.0),
                "at": clock.unix_ms(entry.received_ns),
                "outcome": if entry.refused.is_some() { "refused" } else { "migrated" },
                "refused": entry.refused.map(|reason| reason.name()),
                "stages_us": { "handshake": entry.handshake_us, "total": entry.total_us },
            })
        })
        .collect()
}
