//! One handoff through the engine: admission, the replayed handshake, the record, the feeding, the answer. What is
//! to be done is said by [`Replay`]; here it is done.

use super::engine::Engine;
use super::packet::Ends;
use super::recall::note_start;
use super::ways::Choice;
use crate::flows::table::{Flow, PeerId, Recent, Table, Who};
use baton_daemon::hashed_key::HashedKey;
use baton_loader::{InsertError, monotonic_ns};
use baton_shared::addr::{IpWords, PortWord};
use baton_shared::control::{Handoff, RefusedAnswer};
use baton_shared::reason::Refusal;
use baton_shared::record::{FLAG_FED, FlowKey, FlowRecord, FlowState, NOTE_RST};
use baton_shared::state::adopt::is_adoptable;
use baton_shared::state::ending::SocketState;
use baton_shared::state::replay::{Answer, Phase, Replay, ServerReply, flag};
use baton_shared::state::responses::Responses;
use baton_shared::state::room::{Holder, Room, judge_room};

/// The key of a flow in the target's map: as seen on the uplink's egress.
pub(crate) fn key(ends: Ends) -> FlowKey {
    FlowKey {
        remote: IpWords::from(ends.client().ip()),
        local: IpWords::from(ends.server().ip()),
        remote_port: PortWord::new(ends.client().port()),
        local_port: PortWord::new(ends.server().port()),
    }
}

impl Engine {
    /// A handoff has come. Said again, it gets the answer it had.
    pub(crate) fn on_handoff(
        &mut self,
        table: &mut Table,
        session: u64,
        peer: PeerId,
        handoff: Box<Handoff>,
    ) {
        let now = monotonic_ns();
        let who = (peer, handoff.flow);
        match self.known(table, &who) {
            Some(Some(answer)) => return self.say(session, answer),
            Some(None) => return,
            None => {}
        }
        self.shared.latency.on_handoff();
        let (ends, vip) = (Ends::new(handoff.connection.client, handoff.server), handoff.connection.vip);
        if let Err(reason) = self.begin(table, who, handoff, now) {
            if let Some(ends) = ends {
                let refused = Some(reason);
                let entry =
                    Recent { who, ends, vip, received_ns: now, handshake_us: 0, total_us: 0, refused };
                table.note_recent(entry);
            }
            let answer = Answer::Refused(RefusedAnswer { flow: who.1, reason });
            table.memory.keep(who, answer, now);
            self.refuse_at_once(session, who.1, reason);
        }
    }

    /// Admits a handoff and begins it the way its server is served.
    fn begin(&mut self, table: &mut Table, who: Who, handoff: Box<Handoff>, now: u64) -> Result<(), Refusal> {
        let connection = &handoff.connection;
        let (client, vip, server) = (connection.client, connection.vip, handoff.server);
        if !self.shared.policy.allows(who.0, vip, server) {
            tracing::warn!(%vip, %server, "handoff refused: no [[allow]] for it");
            return Err(Refusal::NotAllowed);
        }
        if self.draining {
            return Err(Refusal::Draining);
        }
        let one_family = vip.is_ipv4() == server.is_ipv4();
        let ends = Ends::new(client, server).filter(|_| one_family).ok_or(Refusal::Unsupported)?;
        match self.shared.ways.choose(vip, server, now) {
            Choice::Adopt { own_scale } if is_adoptable(connection) => {
                self.begin_adopting(table, who, handoff, ends, own_scale, now)
            }
            Choice::Unavailable => Err(Refusal::AdoptUnavailable),
            Choice::Adopt { .. } | Choice::Translate => self.begin_replay(table, who, handoff, ends, now),
        }
    }

    /// Sends the SYN.
    pub(super) fn begin_replay(
        &mut self,
        table: &mut Table,
        who: Who,
        handoff: Box<Handoff>,
        ends: Ends,
        now: u64,
    ) -> Result<(), Refusal> {
        let vip = handoff.connection.vip;
        let key = HashedKey::from(key(ends));
        let snd_nxt = handoff.connection.snd_nxt.raw();
        let mut replay = Box::new(Replay::new(handoff, now));
        if self.shared.ways.may_adopt() {
            replay.keep_apart();
        }
        let slot = self.slot(table, now).ok_or(Refusal::TableFull)?;
        let record = FlowRecord {
            flow_id: who.1.flow_id,
            generation: who.1.generation,
            deadline_ns: now,
            key: *key.key(),
            state: FlowState::Replaying as u32,
            new_addr: IpWords::from(vip.ip()),
            new_port: PortWord::new(vip.port()),
            diverted: snd_nxt,
            note_ack: replay.first_byte().raw(),
            last_seen_ns: now,
            ..FlowRecord::default()
        };
        self.shared.plane.slots().write(slot, &record);
        if let Err(reason) = self.put(table, &[key], slot, now) {
            self.shared.plane.slots().free(slot);
            return Err(reason);
        }
        let mut flow = Flow::under(key, who, ends, vip, now);
        flow.replay = Some(replay);
        table.insert(slot, Box::new(flow));
        self.active.push(slot);
        self.drive(table, slot, now);
        Ok(())
    }

    /// Puts a filled slot under its one or two keys, or under none; in the place of flows that have ended: the client may use its
    /// port again before the end of the flow before was noticed, or while that one lingers. Gives that flow, of two the one under
    /// the last key.
    pub(super) fn put(
        &mut self,
        table: &mut Table,
        keys: &[HashedKey],
        slot: u32,
        now: u64,
    ) -> Result<Option<Box<Flow>>, Refusal> {
        for key in keys {
            if let Some(old) = table.slot_under(key)
                && !self.gives_way(table, old, now)
            {
                return Err(Refusal::Duplicate);
            }
        }
        // A key without a flow was left by an earlier run.
        let plane = &self.shared.plane;
        let put = match keys {
            [arrival, key] if arrival != key => plane.replace_both(&[*arrival.key(), *key.key()], slot),
            [key, ..] => plane.replace(key.key(), slot),
            [] => Ok(()),
        };
        let put = put.map_err(|e| {
            self.forget_keys(&keys.iter().map(|key| *key.key()).collect::<Vec<_>>());
            match e {
                InsertError::Exists => Refusal::Duplicate,
                InsertError::Full => Refusal::TableFull,
                InsertError::Os(e) => {
                    tracing::error!("insert into FLOWS: {e}");
                    Refusal::Internal
                }
            }
        });
        let mut before = None;
        for key in keys {
            if let Some(old) = table.slot_under(key) {
                before = self.supersede(table, old, keys, now).or(before);
            }
        }
        put.map(|()| before)
    }

    /// A free slot, or that of the flow that ended longest ago.
    pub(super) fn slot(&mut self, table: &mut Table, now: u64) -> Option<u32> {
        if let Some(slot) = self.shared.plane.slots().allocate() {
            return Some(slot);
        }
        let oldest = table.pop_lingering(None)?;
        self.release(table, oldest, now);
        self.shared.plane.slots().allocate()
    }

    /// Whether a flow has ended, so that its key is free for another.
    fn gives_way(&mut self, table: &mut Table, old: u32, now: u64) -> bool {
        let mut asked = false;
        loop {
            let Some(flow) = table.get(old) else { return false };
            match judge_room(Holder { in_hand: flow.is_in_hand(), ended: flow.end.is_some(), asked }) {
                Room::Kept => return false,
                Room::Ask => self.look(table, old, now),
                Room::Given => return true,
            }
            asked = true;
        }
    }

    /// The server's kernel answered during the handshake.
    pub(crate) fn on_reply(&mut self, table: &mut Table, slot: u32, reply: &ServerReply) {
        let now = monotonic_ns();
        let Some(flow) = table.get_mut(slot) else { return };
        let (ends, vip) = (flow.ends, flow.vip);
        let Some(replay) = flow.replay.as_mut() else { return };
        let stranger = reply.flags & (flag::SYN | flag::RST) == 0;
        if stranger
            && replay.phase() == Phase::SynSent
            && matches!(self.diag.socket(ends.server(), ends.client()), Ok(SocketState::Alive))
        {
            // A connection of the client's past the VIP holds this 4-tuple: it is not ours to reset.
            tracing::warn!(client = %ends.client(), server = %ends.server(), %vip, "4-tuple in use past the VIP");
            replay.withdraw(Refusal::Duplicate, now);
        } else if let Some(translation) = replay.on_reply(reply, now) {
            let slots = self.shared.plane.slots();
            let mut record = slots.read(slot);
            translation.fill(&mut record);
            if replay.wants_request() {
                replay.on_request(self.diag.is_half_open(ends.server(), ends.client()).unwrap_or(false));
            }
            let head = replay.tracked().is_some_and(|request| request.head);
            flow.responses = translation.read_from.map(|start| Box::new(Responses::new(start, head)));
            if let Some(responses) = &flow.responses {
                // Not by the write below, which leaves what lies behind the accounts as it is.
                note_start(slots, slot, responses);
            }
            record.state = FlowState::Committed as u32;
            slots.write(slot, &record);
            replay.on_record_in_force(now);
        }
        self.drive(table, slot, now);
    }

    /// The handoff is withdrawn, if it still can be.
    pub(crate) fn withdraw(&mut self, table: &mut Table, slot: u32, reason: Refusal) {
        let now = monotonic_ns();
        let Some(flow) = table.get_mut(slot) else { return };
        if let Some(replay) = flow.replay.as_mut() {
            replay.withdraw(reason, now);
            self.drive(table, slot, now);
        } else if let Some(adopt) = flow.adopt.as_mut() {
            adopt.withdraw(reason, now);
            self.drive_adopting(table, slot);
        }
    }

    /// Looks at all handoffs under way: notes of the program, and time.
    pub(crate) fn drive_active(&mut self, table: &mut Table) {
        let active = std::mem::take(&mut self.active);
        for slot in active {
            let now = monotonic_ns();
            let Some(flow) = table.get_mut(slot) else { continue };
            if let Some(adopt) = flow.adopt.as_mut() {
                if adopt.next_timer_ns().is_some_and(|at| at <= now) {
                    adopt.on_time(now);
                }
                self.active.push(slot);
                self.drive_adopting(table, slot);
                continue;
            }
            let Some(replay) = flow.replay.as_mut() else { continue };
            // What was acknowledged meanwhile need not be sent again, however late this comes.
            let record = self.shared.plane.slots().read(slot);
            replay.on_notes(record.note_ack, record.note_window, record.note_flags & NOTE_RST != 0, now);
            if replay.next_timer_ns().is_some_and(|at| at <= now) {
                replay.on_time(now);
            }
            self.active.push(slot);
            self.drive(table, slot, now);
        }
    }

    /// Does what a handoff asks for now: sends, answers, and looks at what came of it.
    fn drive(&mut self, table: &mut Table, slot: u32, mut now: u64) {
        let Some(flow) = table.get_mut(slot) else { return };
        let ends = flow.ends;
        let Some(mut replay) = flow.replay.take() else { return };
        loop {
            let mut sent = false;
            while let Some(segment) = replay.poll_segment(now) {
                sent = true;
                let is_sent = self.sends(ends, &segment, replay.payload(&segment));
                // The kernel has done with the packet what is to be done, which takes its time.
                now = monotonic_ns();
                if !is_sent {
                    replay.withdraw(Refusal::Internal, now);
                    break;
                }
            }
            self.answer_once(table, slot, replay.answer(), now);
            if replay.phase() != Phase::Feeding {
                break;
            }
            // Locally the server has mostly acknowledged before the write returned.
            let record = self.shared.plane.slots().read(slot);
            let reset = record.note_flags & NOTE_RST != 0;
            replay.on_notes(record.note_ack, record.note_window, reset, now);
            if !sent || replay.phase() != Phase::Feeding {
                break;
            }
        }
        let phase = replay.phase();
        match phase {
            Phase::Refused(_) => self.dispose(table, slot),
            Phase::Fed | Phase::Stopped => {
                // A reset ends the feeding as well: nothing is lost with a restart of the agent.
                self.shared.plane.slots().change_flags(slot, 0, FLAG_FED);
                if self.active.last() == Some(&slot) {
                    self.active.pop();
                }
            }
            _ => {
                if let Some(flow) = table.get_mut(slot) {
                    flow.replay = Some(replay);
                }
            }
        }
    }

    /// The answer is known: into the counters, to the intermediate, and into the books. Whoever sees what comes of the answer
    /// finds it counted.
    pub(super) fn answered(&mut self, table: &mut Table, slot: u32, answer: Answer, now: u64) {
        let Some(flow) = table.get(slot) else { return };
        match answer {
            Answer::Migrated(m) => self.shared.metrics.migrated(m.total_us),
            Answer::Refused(r) => self.shared.metrics.refused(r.reason),
        }
        if let Some(session) = table.session_for(flow.who) {
            self.say(session, answer);
        }
        let mut recent = Recent {
            who: flow.who,
            ends: Ends::new(flow.ends.client(), flow.server).unwrap_or(flow.ends),
            vip: flow.vip,
            received_ns: flow.received_ns,
            handshake_us: 0,
            total_us: 0,
            refused: None,
        };
        let (server, received_ns) = (flow.server, flow.received_ns);
        match answer {
            Answer::Migrated(m) => {
                if table.loads.responses.await_from(slot, recent.who, now) {
                    self.begin_ticks();
                }
                (recent.handshake_us, recent.total_us) = (m.handshake_us, m.total_us);
            }
            Answer::Refused(r) => {
                table.loads.on_refused(server, r.reason);
                recent.refused = Some(r.reason);
                recent.total_us = u32::try_from(now.saturating_sub(received_ns) / 1000).unwrap_or(u32::MAX);
            }
        }
        table.note_recent(recent);
    }

    /// Takes a refused handoff out of map and table.
    pub(super) fn dispose(&mut self, table: &mut Table, slot: u32) {
        self.active.retain(|s| *s != slot);
        self.release(table, slot, monotonic_ns());
    }
}
