//! One handoff through the engine, adopted: the kernel makes the server's socket from one packet. What is to be done is
//! said by [`Adopt`]; here it is done.

use super::engine::Engine;
use super::handoff::key;
use super::packet::Ends;
use crate::flows::table::{Flow, Table, Who};
use crate::sock_diag::destroy::Cookie;
use baton_daemon::hashed_key::HashedKey;
use baton_loader::monotonic_ns;
use baton_shared::addr::{IpWords, PortWord};
use baton_shared::control::{Handoff, RefusedAnswer};
use baton_shared::reason::Refusal;
use baton_shared::record::{FLAG_FED, FlowRecord};
use baton_shared::seq::Seq;
use baton_shared::state::adopt::{Adopt, Cause, Phase};
use baton_shared::state::ending::SocketState;
use baton_shared::state::replay::{Answer, Phase as Feeding};
use baton_shared::state::responses::Responses;
use std::io;
use std::sync::Arc;

impl Engine {
    /// Offers the connection to the kernel: record, keys, first packet. `ends` are client and server.
    pub(super) fn begin_adopting(
        &mut self,
        table: &mut Table,
        who: Who,
        handoff: Box<Handoff>,
        ends: Ends,
        own_scale: u8,
        now: u64,
    ) -> Result<(), Refusal> {
        let (server, vip) = (handoff.server, handoff.connection.vip);
        // The socket's own address is the VIP.
        let local = Ends::new(ends.client(), vip).ok_or(Refusal::Unsupported)?;
        let (key, arrival) = (HashedKey::from(key(local)), HashedKey::from(key(ends)));
        // Both sides count alike, so the first response begins where the client expects it.
        let first = Seq::new(handoff.connection.snd_nxt.raw());
        let responses = handoff.tracked.map(|request| Box::new(Responses::new(first, request.head)));
        let mut adopt = Box::new(Adopt::new(handoff, own_scale, now));
        let slot = self.slot(table, now).ok_or(Refusal::TableFull)?;
        let mut record = FlowRecord {
            flow_id: who.1.flow_id,
            generation: who.1.generation,
            deadline_ns: now,
            key: *key.key(),
            new_addr: IpWords::from(server.ip()),
            new_port: PortWord::new(server.port()),
            last_seen_ns: now,
            ..FlowRecord::default()
        };
        adopt.fill(&mut record);
        record.requests = responses.as_ref().map_or(0, |responses| responses.mark());
        self.shared.plane.slots().write(slot, &record);
        let before = self.put(table, &[arrival, key], slot, now).inspect_err(|_| {
            self.shared.plane.slots().free(slot);
        })?;
        // The socket that the flow before has left has the same 4-tuple.
        let remains = before.filter(|before| before.ends == local).and_then(|before| before.remains);
        if remains.is_some() {
            adopt.expect_time_wait();
        }
        let mut flow = Flow::under(key, who, local, vip, now);
        flow.server = server;
        flow.arrival = Some(arrival);
        flow.remains = remains;
        flow.adopt = Some(adopt);
        flow.responses = responses;
        table.insert(slot, Box::new(flow));
        self.active.push(slot);
        self.drive_adopting(table, slot);
        Ok(())
    }

    /// Does what an adoption asks for now: sends, answers, and looks at what came of it.
    pub(super) fn drive_adopting(&mut self, table: &mut Table, slot: u32) {
        let Some(flow) = table.get_mut(slot) else { return };
        let ends = flow.ends;
        let Some(mut adopt) = flow.adopt.take() else { return };
        let mut remains = flow.remains.take();
        let plane = Arc::clone(&self.shared.plane);
        loop {
            // Locally the socket has mostly acknowledged before the write below returned.
            let mut record = plane.slots().read(slot);
            let mut now = monotonic_ns();
            adopt.on_notes(&record, now);
            if adopt.wants_probe() {
                match self.diag.socket(ends.server(), ends.client()) {
                    Ok(socket) => adopt.on_probe(socket, now),
                    Err(e) => tracing::error!("sock_diag: {e}"),
                }
            }
            if adopt.poll_destroy()
                && let Err(e) = self.make_room(ends, remains.take())
            {
                tracing::warn!(client = %ends.client(), vip = %ends.server(), "cannot end a socket in TIME_WAIT: {e}");
            }
            if adopt.update(&mut record) {
                plane.slots().write(slot, &record);
            }
            let mut sent = false;
            while let Some(segment) = adopt.poll_segment(now) {
                sent = true;
                let is_sent = self.sends(ends, &segment, adopt.payload(&segment));
                now = monotonic_ns();
                if !is_sent {
                    adopt.withdraw(Refusal::Internal, now);
                    break;
                }
            }
            self.answer_once(table, slot, adopt.answer(), now);
            if !sent {
                break;
            }
        }
        match adopt.phase() {
            Phase::Unadopted(cause) => self.on_unadopted(table, slot, cause, *adopt),
            Phase::Refused(_) => self.dispose(table, slot),
            Phase::Taken(Feeding::Fed | Feeding::Stopped) => {
                plane.slots().change_flags(slot, 0, FLAG_FED);
                self.active.retain(|s| *s != slot);
                self.shared.ways.on_adopted();
            }
            Phase::Taken(_) | Phase::Offered | Phase::Fencing => {
                if let Some(flow) = table.get_mut(slot) {
                    flow.adopt = Some(adopt);
                }
            }
        }
    }

    /// Ends the 4-tuple's socket in TIME_WAIT, by its name if that is known.
    fn make_room(&mut self, ends: Ends, remains: Option<Cookie>) -> io::Result<()> {
        match remains {
            Some(name) => self.diag.order_destroy(ends.server(), ends.client(), name),
            // One that waits for the client's FIN in a TIME_WAIT socket's place is told as FIN_WAIT2.
            None => {
                let standing = [SocketState::TimeWait, SocketState::Alive];
                self.diag.destroy(ends.server(), ends.client(), &standing)
            }
        }
    }

    /// The kernel made no socket and will make none: the handshake is replayed, if the configuration lets.
    fn on_unadopted(&mut self, table: &mut Table, slot: u32, cause: Cause, adopt: Adopt) {
        let now = monotonic_ns();
        let Some(flow) = table.get(slot) else { return };
        let (who, vip, server) = (flow.who, flow.vip, flow.server);
        let ends = Ends::new(flow.ends.client(), server);
        tracing::warn!(client = %flow.ends.client(), %vip, %server, ?cause, "connection not adopted");
        self.shared.ways.on_unadopted(vip, server, cause, now);
        let received = adopt.received_ns();
        self.dispose(table, slot);
        let replayed = match ends {
            Some(ends) if self.shared.ways.falls_back() => {
                self.begin_replay(table, who, adopt.into_handoff(), ends, received)
            }
            _ => Err(cause.refusal()),
        };
        if let Err(reason) = replayed {
            let answer = Answer::Refused(RefusedAnswer { flow: who.1, reason });
            table.memory.keep(who, answer, now);
            if let Some(session) = table.session_for(who) {
                self.refuse_at_once(session, who.1, reason);
            }
        }
    }
}
