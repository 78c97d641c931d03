//! The flows of this host: what the agent knows beside the map's records.

use super::ageing::QUIET_NS;
use super::index::{Index, Short, short};
use super::memory::{Memory, Reports};
use super::slot_set::{Round, SlotSet};
use super::way::Way;
use crate::load::{Loads, Sampled};
use crate::serve::handoff::key;
use crate::serve::packet::Ends;
use crate::serve::recall::Waiting;
use crate::sock_diag::destroy::Cookie;
use baton_daemon::admin::events::{self, Kind};
use baton_daemon::hashed_key::HashedKey;
use baton_shared::control::{FlowRef, RecalledAnswer, channel_of, flow_id_text};
use baton_shared::reason::{EndReason, Refusal};
use baton_shared::record::FlowKey;
use baton_shared::state::adopt::Adopt;
use baton_shared::state::replay::{Answer, Replay};
use baton_shared::state::responses::Responses;
use serde_json::json;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::SocketAddr;

/// An intermediate named in the configuration, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerId(pub(crate) u16);

/// One handoff of one intermediate.
pub(crate) type Who = (PeerId, FlowRef);

/// By handoffs. Only intermediates that the configuration names choose their numbers: their hash need not withstand anybody.
pub(crate) type ByWho<T> = HashMap<Who, T, foldhash::fast::RandomState>;

/// How many recent handoffs `/v1/migrations` shows.
const RECENT: usize = 256;

/// One flow, from its handoff until its slot is freed.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Whose, and which handoff.
    pub(crate) who: Who,
    /// Client and server; of an adopted flow client and VIP, the addresses of the server's socket.
    pub(crate) ends: Ends,
    /// The address the client connected to.
    pub(crate) vip: SocketAddr,
    /// The server's address and port.
    pub(crate) server: SocketAddr,
    /// Its key in the map.
    pub(crate) key: HashedKey,
    /// Its second key there, if it is adopted.
    pub(crate) arrival: Option<HashedKey>,
    /// CLOCK_MONOTONIC, ns: when the handoff was received.
    pub(crate) received_ns: u64,
    /// The handshake or the feeding, while there is one.
    pub(crate) replay: Option<Box<Replay>>,
    /// The same of an adopted flow.
    pub(crate) adopt: Option<Box<Adopt>>,
    /// What the intermediate was told.
    pub(crate) answer: Option<Answer>,
    /// When the kernel is next asked for the server's socket, CLOCK_MONOTONIC, ns.
    pub(crate) ask_at_ns: u64,
    /// How long after that again, ns.
    pub(crate) ask_again_ns: u64,
    /// One of `NOTE_CLOSING` was seen; the socket is asked for often from then on.
    pub(crate) closing: bool,
    /// Low half of the record's time of the last packet when a scan last looked, once it closes.
    pub(crate) last_seen: u32,
    /// What the kernel told of its way to the client.
    pub(crate) way: Way,
    /// How it ended; lingers since.
    pub(crate) end: Option<EndReason>,
    /// The socket in TIME_WAIT that its server's socket has become; before it has one, that of the flow before.
    pub(crate) remains: Option<Cookie>,
    /// What its socket had counted when it was last looked at.
    pub(crate) sampled: Sampled,
    /// Of a tracked flow: what the server has answered.
    pub(crate) responses: Option<Box<Responses>>,
    /// The intermediate wants it back.
    pub(crate) recall: Option<Waiting>,
    /// It was given back.
    pub(crate) recalled: Option<RecalledAnswer>,
}

impl Flow {
    /// A flow of which nothing is known yet but whose it is; handed over now.
    pub(crate) fn new(who: Who, ends: Ends, vip: SocketAddr, now_ns: u64) -> Self {
        Self::under(key(ends).into(), who, ends, vip, now_ns)
    }

    /// The same, whose key is known.
    pub(crate) fn under(key: HashedKey, who: Who, ends: Ends, vip: SocketAddr, now_ns: u64) -> Self {
        Flow {
            who,
            ends,
            vip,
            server: ends.server(),
            key,
            arrival: None,
            received_ns: now_ns,
            replay: None,
            adopt: None,
            answer: None,
            ask_at_ns: now_ns.saturating_add(QUIET_NS),
            ask_again_ns: QUIET_NS,
            closing: false,
            last_seen: 0,
            way: Way::default(),
            end: None,
            remains: None,
            sampled: Sampled::default(),
            responses: None,
            recall: None,
            recalled: None,
        }
    }

    /// Its keys in the map.
    pub(crate) fn keys(&self) -> impl Iterator<Item = HashedKey> + use<> {
        [Some(self.key), self.arrival].into_iter().flatten()
    }

    /// The same without those that lead to another slot by now.
    pub(crate) fn keys_left(&self, taken: &[HashedKey]) -> Vec<FlowKey> {
        self.keys().filter(|key| !taken.contains(key)).map(|key| *key.key()).collect()
    }

    /// Where its handoff stands while it is under way.
    pub(crate) fn handoff_phase(&self) -> Option<&'static str> {
        let replay = self.replay.as_deref().map(|replay| replay.phase().name());
        replay.or_else(|| self.adopt.as_deref().map(|adopt| adopt.phase().name()))
    }

    /// Whether its server's socket is there as far as is known, and its end may be asked for.
    pub(crate) fn is_open(&self) -> bool {
        self.end.is_none() && !self.is_in_hand()
    }

    /// Whether its handoff is under way or its request being fed.
    pub(crate) fn is_in_hand(&self) -> bool {
        self.replay.is_some() || self.adopt.is_some()
    }
}

/// One line of `/v1/migrations`.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    pub(crate) who: Who,
    pub(crate) ends: Ends,
    pub(crate) vip: SocketAddr,
    pub(crate) received_ns: u64,
    pub(crate) handshake_us: u32,
    pub(crate) total_us: u32,
    pub(crate) refused: Option<Refusal>,
}

/// A connected intermediate.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// `None` if the configuration does not name it.
    pub(crate) peer: Option<PeerId>,
    pub(crate) name: String,
    /// Its process, and which of its channels it is.
    pub(crate) instance: u64,
    pub(crate) software: String,
    pub(crate) since_ns: u64,
}

fn flow_at(flows: &[Option<Box<Flow>>], slot: u32) -> Option<&Flow> {
    flows.get(usize::try_from(slot).ok()?)?.as_deref()
}

fn has_key(flows: &[Option<Box<Flow>>], slot: u32, key: &HashedKey) -> bool {
    flow_at(flows, slot).is_some_and(|flow| flow.keys().any(|of| of == *key))
}

/// All of it. The engine changes it; the admin endpoint reads it, each under the lock for a short time.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// By slot number.
    flows: Vec<Option<Box<Flow>>>,
    /// The slots of flows that have not ended.
    live: SlotSet,
    /// Of those, the ones whose server's socket may be gone, or go soon.
    closing: SlotSet,
    /// How many of the live ones are of which intermediate on which server.
    live_of: BTreeMap<(PeerId, SocketAddr), u32>,
    by_key: Index,
    by_who: Index,
    /// For the latter; see [`ByWho`].
    hash_of_who: foldhash::fast::RandomState,
    /// Slots of ended flows, when each may be freed, in this order, and whose it is: one freed before its time stays
    /// here until then.
    lingering: VecDeque<(u64, u32, Who)>,
    /// Answers for handoffs that hold no slot any more.
    pub(crate) memory: Memory,
    /// Ends the intermediates have not yet noted.
    pub(crate) reports: Reports,
    /// The newest last.
    pub(crate) recent: VecDeque<Recent>,
    /// How the servers fare.
    pub(crate) loads: Loads,
    /// By session number.
    pub(crate) sessions: BTreeMap<u64, Session>,
}

impl Table {
    /// For so many slots.
    pub(crate) fn new(slots: u32, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let slots = usize::try_from(slots).unwrap_or(0);
        Table {
            flows: std::iter::repeat_with(|| None).take(slots).collect(),
            live: SlotSet::new(slots),
            closing: SlotSet::new(slots),
            loads: Loads::new(servers),
            ..Table::default()
        }
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Flow> {
        flow_at(&self.flows, slot)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Flow> {
        self.flows.get_mut(usize::try_from(slot).ok()?)?.as_deref_mut()
    }

    pub(crate) fn slot_of(&self, who: &Who) -> Option<u32> {
        self.by_who.find(self.hash_of(who), |slot| self.get(slot).is_some_and(|flow| flow.who == *who))
    }

    pub(crate) fn slot_under(&self, key: &HashedKey) -> Option<u32> {
        self.by_key.find(short(key.hash()), |slot| has_key(&self.flows, slot, key))
    }

    fn hash_of(&self, who: &Who) -> Short {
        short(self.hash_of_who.hash_one(who))
    }

    pub(crate) fn insert(&mut self, slot: u32, flow: Box<Flow>) {
        if usize::try_from(slot).ok().is_none_or(|slot| slot >= self.flows.len()) {
            return;
        }
        self.remove(slot);
        for key in flow.keys() {
            self.by_key.insert(short(key.hash()), slot, |other| has_key(&self.flows, other, &key));
        }
        let who = self.hash_of(&flow.who);
        let is_it = |other| flow_at(&self.flows, other).is_some_and(|other| other.who == flow.who);
        self.by_who.insert(who, slot, is_it);
        let of = (flow.who.0, flow.server);
        let Some(place) = usize::try_from(slot).ok().and_then(|s| self.flows.get_mut(s)) else { return };
        *place = Some(flow);
        self.live.insert(slot);
        *self.live_of.entry(of).or_default() += 1;
    }

    /// The flow of this intermediate on this server in this slot is none of the live ones any more, if it was one.
    fn leave_live(&mut self, slot: u32, of: (PeerId, SocketAddr)) {
        if !self.live.contains(slot) {
            return;
        }
        self.live.remove(slot);
        self.closing.remove(slot);
        if let Entry::Occupied(mut count) = self.live_of.entry(of) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// How many flows that have not ended each intermediate has on each server, where there are any.
    pub(crate) fn live_of(&self) -> impl Iterator<Item = (PeerId, SocketAddr, u32)> {
        self.live_of.iter().map(|((peer, server), count)| (*peer, *server, *count))
    }

    /// The program tells, or the record shows, that a flow's server's socket may be gone, or go soon. Of one that has ended it
    /// is known.
    pub(crate) fn note_closing(&mut self, slot: u32) {
        if self.live.contains(slot) {
            self.closing.insert(slot);
        }
    }

    /// The slot of the next flow that closes, on a walk round all of them.
    pub(crate) fn next_closing(&self, round: &mut Round) -> Option<u32> {
        self.closing.next(round)
    }

    /// How many flows have not ended.
    pub(crate) fn live(&self) -> u32 {
        self.live.members()
    }

    /// The slot of the next flow that has not ended, on a walk round all of them.
    pub(crate) fn next_live(&self, round: &mut Round) -> Option<u32> {
        self.live.next(round)
    }

    /// A flow has ended; it keeps its slot until then, CLOCK_MONOTONIC, ns.
    pub(crate) fn linger(&mut self, slot: u32, who: Who, until_ns: u64) {
        if let Some(of) = self.get(slot).map(|flow| (flow.who.0, flow.server)) {
            self.leave_live(slot, of);
        }
        self.lingering.push_back((until_ns, slot, who));
    }

    /// The slot of the flow that ended longest ago, if its time is over by `now_ns`; without that, whether it is or not.
    pub(crate) fn pop_lingering(&mut self, now_ns: Option<u64>) -> Option<u32> {
        loop {
            let (until, slot, who) = *self.lingering.front()?;
            if now_ns.is_some_and(|now| until > now) {
                return None;
            }
            self.lingering.pop_front();
            if self.get(slot).is_some_and(|flow| flow.who == who) {
                return Some(slot);
            }
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Box<Flow>> {
        let flow = self.flows.get_mut(usize::try_from(slot).ok()?)?.take()?;
        self.leave_live(slot, (flow.who.0, flow.server));
        // Another flow may stand under the key by now.
        for key in flow.keys() {
            self.by_key.remove(short(key.hash()), slot);
        }
        self.by_who.remove(self.hash_of(&flow.who), slot);
        Some(flow)
    }

    pub(crate) fn note_recent(&mut self, entry: Recent) {
        let kind = if entry.refused.is_some() { Kind::Refusal } else { Kind::Handoff };
        events::publish(kind, || {
            json!({
                "flow": flow_id_text(entry.who.1.flow_id),
                "generation": entry.who.1.generation,
                "client": entry.ends.client(),
                "vip": entry.vip,
                "server": entry.ends.server(),
                "refusal": entry.refused.map(Refusal::name),
                "handshake_us": entry.handshake_us,
                "total_us": entry.total_us,
            })
        });
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(entry);
    }

    /// The sessions of an intermediate with their instances, the newest first.
    fn sessions_of(&self, peer: PeerId) -> impl Iterator<Item = (u64, u64)> {
        let all = self.sessions.iter().rev();
        all.filter(move |(_, s)| s.peer == Some(peer)).map(|(number, s)| (*number, s.instance))
    }

    /// The newest session of an intermediate.
    pub(crate) fn session_of(&self, peer: PeerId) -> Option<u64> {
        self.sessions_of(peer).next().map(|(number, _)| number)
    }

    /// The session for what concerns a flow.
    pub(crate) fn session_for(&self, (peer, flow): Who) -> Option<u64> {
        channel_of(flow, self.sessions_of(peer))
    }
}

#[cfg(test)]
mod tests;
