//! The engine: owns the TUN device and the flow table and serves all handoffs, none of them waiting for another.

use super::copies::{Arrivals, Ring};
use super::packet::{self, Ends, FromServer};
use super::preflight::Preflight;
use super::probe::{self, Probes};
use super::ways::Ways;
use crate::config::Policy;
use crate::flows::table::{Flow, PeerId, Session, Table, Who};
use crate::load::RESPONSE_TICK;
use crate::metrics::Metrics;
use crate::sock_diag::SockDiag;
use baton_daemon::admin::events::{self, Kind};
use baton_daemon::control::{Server, ServerEvent};
use baton_daemon::cpu_latency::CpuLatency;
use baton_daemon::tun::Tun;
use baton_loader::{Plane, monotonic_ns};
use baton_shared::control::{FlowRef, Hello, Message, RefusedAnswer};
use baton_shared::reason::Refusal;
use baton_shared::seq::{Client, Seq};
use baton_shared::state::replay::{Answer, SegmentToSend, flag};
use serde_json::json;
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How often handoffs under way are looked at, if no packet does it.
const HANDOFF_TICK: Duration = Duration::from_millis(2);
/// In user space: for how long copies of small responses gather in the TUN before they are read, one wakeup for many of them.
const REST: Duration = Duration::from_millis(1);
/// How often flows are looked at for their end.
const AGEING_TICK: Duration = Duration::from_millis(50);
/// How soon a scan goes on that has asked the kernel as often as one may: a client that uses its port again must not find its
/// former flow still there.
const AGEING_GOES_ON: Duration = Duration::from_millis(1);
/// For so long after a start that did not find all records of the run before, ns, it is not known what that one fed: longer
/// than an intermediate waits for the word about a handoff (`handoff.agent_lost_ms` is at most 120 s).
const BLIND_NS: u64 = 125_000_000_000;
/// How often the host is looked at for what adopting needs, ns.
const PREFLIGHT_NS: u64 = 5_000_000_000;
/// Room for the largest IP packet.
const PACKET_BYTES: usize = 65_536;

/// What the engine and the admin endpoint share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Short locks only.
    pub(crate) table: Arc<Mutex<Table>>,
    pub(crate) plane: Arc<Plane>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) ways: Arc<Ways>,
    pub(crate) latency: Arc<CpuLatency>,
}

impl Shared {
    /// The table, locked.
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module. The control channel's reader calls [`Engine::on_event`] itself, which saves a task's wakeup;
/// [`run`] is for what the TUN and the clock bring.
pub(crate) struct Engine {
    pub(crate) shared: Shared,
    pub(crate) tun: Arc<Tun>,
    /// Where the program puts parts of responses; `None` in user space, where they come by the TUN.
    pub(crate) ring: Option<Ring>,
    pub(crate) server: Arc<OnceLock<Server>>,
    pub(crate) diag: SockDiag,
    /// What is looked at now and then.
    preflight: Preflight,
    /// When next, CLOCK_MONOTONIC ns.
    preflight_at_ns: u64,
    /// Slots with a handshake or a feeding under way.
    pub(crate) active: Vec<u32>,
    /// Slots whose recall waits for something.
    pub(crate) recalls: Vec<u32>,
    /// The agent is stopping.
    pub(crate) draining: bool,
    /// Sessions that were told so and have not answered.
    pub(super) leaving: HashSet<u64>,
    /// Until then a handoff that nobody here has seen may have been fed by the run before, CLOCK_MONOTONIC ns.
    blind_until_ns: u64,
    /// Where the next ageing scan begins, among the flows that close and among all.
    pub(crate) closing_from: u32,
    pub(crate) live_from: u32,
    probes: Probes,
    /// The packet being built.
    packet: Vec<u8>,
    /// The packet being read.
    buffer: Box<[u8]>,
    /// Tells [`run`] that a handoff is waiting for something.
    waiting: Arc<Notify>,
    /// Flows whose response is to be timed have come.
    ticks_wanted: bool,
    /// All that was read from the TUN lately were copies of whole responses.
    pub(crate) may_rest: bool,
}

/// Sees to what the TUN and the clock bring, until `stop` is done.
pub(crate) async fn run(engine: &Mutex<Engine>, stop: impl Future<Output = ()>) -> io::Result<()> {
    let lock = || engine.lock().unwrap_or_else(PoisonError::into_inner);
    let (tun, waiting, arrivals) = {
        let engine = lock();
        (Arc::clone(&engine.tun), Arc::clone(&engine.waiting), Arrivals::of(engine.ring.as_ref())?)
    };
    let mut buffer = vec![0; PACKET_BYTES].into_boxed_slice();
    tokio::pin!(stop);
    let mut tick_at = Instant::now() + AGEING_TICK;
    let mut age_at = tick_at;
    let timer = sleep_until(age_at);
    tokio::pin!(timer);
    let mut ticks = false;
    let mut rest_until = None;
    loop {
        let mut arrived = false;
        tokio::select! {
            biased;
            () = &mut stop => {
                // The records say how far responses were followed.
                let mut engine = lock();
                let table = Arc::clone(&engine.shared.table);
                engine.drain_copies(&mut table.lock().unwrap_or_else(PoisonError::into_inner));
                return Ok(());
            }
            received = tun.recv(&mut buffer), if rest_until.is_none() => {
                let length = received?;
                if lock().on_packets(buffer.get(..length).unwrap_or_default()) {
                    rest_until = Some(Instant::now() + REST);
                }
            }
            came = arrivals.next() => {
                came?;
                arrived = true;
            }
            () = &mut timer => {}
            () = waiting.notified() => {}
        }
        let now = Instant::now();
        let mut engine = lock();
        {
            let table = Arc::clone(&engine.shared.table);
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            engine.read_copies(&mut table, arrived || now >= timer.deadline());
            if now >= timer.deadline() {
                engine.drive_active(&mut table);
                engine.see_to_recalls(&mut table);
                engine.see_to_loads(&mut table, monotonic_ns());
                ticks = table.loads.responses.wants_tick(monotonic_ns());
                if now >= age_at {
                    let on_tick = now >= tick_at;
                    let done = engine.age(&mut table, monotonic_ns(), on_tick);
                    engine.look_around(monotonic_ns());
                    if on_tick {
                        tick_at = now + AGEING_TICK;
                    }
                    age_at = if done { tick_at } else { now + AGEING_GOES_ON };
                }
            }
        }
        ticks |= std::mem::take(&mut engine.ticks_wanted);
        if engine.is_awaited() || rest_until.is_some_and(|until| until <= now) {
            rest_until = None;
        }
        let wake = match (engine.is_awaited(), ticks) {
            (true, _) => age_at.min(now + HANDOFF_TICK),
            (false, true) => age_at.min(now + RESPONSE_TICK),
            (false, false) => age_at,
        };
        let wake = rest_until.map_or(wake, |until| wake.min(until));
        let wake = engine
            .copies_at_ns()
            .map_or(wake, |at| wake.min(now + Duration::from_nanos(at.saturating_sub(monotonic_ns()))));
        // Put off only when it has passed or must come earlier: resetting a timer costs a little.
        if now >= timer.deadline() || wake < timer.deadline() {
            timer.as_mut().reset(wake);
        }
    }
}

impl Engine {
    /// With everything opened; the server is set once it listens.
    pub(crate) fn new(
        shared: Shared,
        tun: Tun,
        server: Arc<OnceLock<Server>>,
        diag: SockDiag,
        preflight: Preflight,
    ) -> Self {
        let blind_ns = if shared.plane.knows_earlier() { 0 } else { BLIND_NS };
        Engine {
            blind_until_ns: monotonic_ns().saturating_add(blind_ns),
            ring: shared.plane.take_copies().map(Ring::new),
            shared,
            tun: Arc::new(tun),
            server,
            diag,
            preflight,
            preflight_at_ns: 0,
            active: Vec::new(),
            recalls: Vec::new(),
            draining: false,
            leaving: HashSet::new(),
            closing_from: 0,
            live_from: 0,
            probes: Probes::default(),
            packet: Vec::with_capacity(2048),
            buffer: vec![0; PACKET_BYTES].into_boxed_slice(),
            waiting: Arc::default(),
            ticks_wanted: false,
            may_rest: false,
        }
    }

    /// Looks, if it is time, whether connections can be adopted.
    pub(crate) fn look_around(&mut self, now_ns: u64) {
        if now_ns >= self.preflight_at_ns {
            let Shared { policy, ways, .. } = &self.shared;
            let served = policy.allowed().map(|(_, vip, server)| (vip, server));
            self.preflight.run(ways, served, &mut self.diag);
            self.preflight_at_ns = now_ns.saturating_add(PREFLIGHT_NS);
        }
    }

    /// Something happened on the control channel.
    pub(crate) fn on_event(&mut self, event: ServerEvent) {
        let table = Arc::clone(&self.shared.table);
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *table;
        match event {
            ServerEvent::Up { session, peer } => self.on_up(table, session, peer),
            // Flows go on without their intermediate; it comes back and asks.
            ServerEvent::Down { session, .. } => {
                if let Some(session) = table.sessions.remove(&session) {
                    events::publish(Kind::Channel, || json!({ "intermediate": session.name, "up": false }));
                }
                self.leaving.remove(&session);
                self.forget_recalls(table, session);
            }
            ServerEvent::Message { session, message } => {
                let peer = table.sessions.get(&session).and_then(|s| s.peer);
                self.on_message(table, session, peer, message);
            }
        }
        if self.is_awaited() {
            self.waiting.notify_one();
        }
    }

    /// Whether a handoff or a recall waits for what the TUN brings.
    fn is_awaited(&self) -> bool {
        !self.active.is_empty() || !self.recalls.is_empty()
    }

    /// A response is to be timed, and none was before: [`run`] must look sooner.
    pub(crate) fn begin_ticks(&mut self) {
        self.ticks_wanted = true;
        self.waiting.notify_one();
    }

    fn on_up(&mut self, table: &mut Table, session: u64, hello: Hello) {
        let Hello { name, instance, software, .. } = hello;
        let peer = self.shared.policy.peer(&name);
        events::publish(Kind::Channel, || json!({ "intermediate": name, "up": true }));
        if let Some(peer) = peer {
            table.loads.on_session(peer);
        }
        table.sessions.insert(session, Session { peer, name, instance, software, since_ns: monotonic_ns() });
        for (who, report) in table.reports.unseen().filter(|((of, _), _)| Some(*of) == peer) {
            if table.session_for(*who) == Some(session) {
                self.send(session, Message::Ended(*report));
            }
        }
        if self.draining {
            self.say_farewell(session);
        }
    }

    fn on_message(&mut self, table: &mut Table, session: u64, peer: Option<PeerId>, message: Message) {
        let Some(peer) = peer else {
            if let Message::EndSeen(FlowRef::NONE) = message {
                self.leaving.remove(&session);
            } else if let Message::Handoff(handoff) = message {
                self.refuse_at_once(session, handoff.flow, Refusal::NotAllowed);
            } else if let Message::Status(flow) | Message::Cancel(flow) = message {
                self.refuse_at_once(session, flow, Refusal::NeverSeen);
            } else if let Message::Recall(request) = message {
                self.refuse_recall(session, request.flow, Refusal::NotAllowed);
            } else if let Message::Probe(order) = message {
                self.refuse_probe(session, order.id, "the intermediate is in no [[allow]]");
            }
            return;
        };
        match message {
            Message::Handoff(handoff) => {
                self.on_handoff(table, session, peer, handoff);
                // The server's SYN-ACK is mostly there already: what it saves is a wakeup.
                if !self.active.is_empty() {
                    self.drain_tun(table, false);
                }
            }
            Message::Status(flow) => {
                self.on_status(table, session, (peer, flow));
                // It may be asked for since its client uses its port again: if it has ended that is told now.
                let slot = table.slot_of(&(peer, flow));
                let slot = slot.filter(|slot| table.get(*slot).is_some_and(Flow::is_open));
                if let Some(slot) = slot {
                    self.look(table, slot, monotonic_ns());
                }
            }
            Message::Cancel(flow) => {
                let who = (peer, flow);
                let open = table.slot_of(&who).filter(|s| table.get(*s).is_some_and(|f| f.answer.is_none()));
                match open {
                    // It answers.
                    Some(slot) => self.withdraw(table, slot, Refusal::Cancelled),
                    None => self.on_status(table, session, who),
                }
            }
            Message::Recall(request) => {
                // What the server has sent by now is read before it is judged.
                self.drain_copies(table);
                self.drain_tun(table, true);
                self.on_recall(table, session, peer, &request);
            }
            Message::Probe(order) => {
                let id = order.id;
                let begun = if !self.shared.policy.knows_vip(peer, order.vip) {
                    Err(format!("no [[allow]] of this intermediate names {}", order.vip))
                } else if self.draining {
                    Err("the agent is stopping".to_owned())
                } else {
                    self.probes.begin(*order, &self.server, session)
                };
                if let Err(why) = begun {
                    self.refuse_probe(session, id, &why);
                }
            }
            Message::Inspect(flow) => {
                self.drain_copies(table);
                self.on_inspect(table, session, (peer, flow));
            }
            Message::EndSeen(flow) => self.on_end_seen(table, session, (peer, flow)),
            // The transport answers pings; the rest is not for an agent.
            _ => {}
        }
    }

    /// Says where a handoff stands. One that is under way gets its answer when it is known; one never seen is
    /// refused, now and should it come later. If not all records of the run before were found it is not "never seen": that one may
    /// have fed it, and nobody else may run it.
    fn on_status(&mut self, table: &mut Table, session: u64, who: Who) {
        let answer = self.known(table, &who).unwrap_or_else(|| {
            let now = monotonic_ns();
            let blind = now < self.blind_until_ns;
            let reason = if blind { Refusal::LostInFeeding } else { Refusal::NeverSeen };
            let answer = Answer::Refused(RefusedAnswer { flow: who.1, reason });
            self.shared.metrics.refused(reason);
            table.memory.keep(who, answer, now);
            Some(answer)
        });
        if let Some(answer) = answer {
            self.say(session, answer);
        }
    }

    /// The answer to a handoff that was seen, if there is one by now; with the server's window as it is now.
    pub(crate) fn known(&self, table: &Table, who: &Who) -> Option<Option<Answer>> {
        let found = table.slot_of(who).and_then(|slot| Some((slot, table.get(slot)?)));
        let Some((slot, flow)) = found else { return table.memory.answer(who).map(Some) };
        Some(flow.answer.map(|answer| match answer {
            Answer::Migrated(mut migrated) => {
                let record = self.shared.plane.slots().read(slot);
                migrated.window_end = Seq::new(record.noted_window_end());
                Answer::Migrated(migrated)
            }
            refused @ Answer::Refused(_) => refused,
        }))
    }

    /// Queues a message. One that cannot be queued is asked for again by the intermediate.
    pub(crate) fn send(&self, session: u64, message: Message) {
        if let Some(Err(e)) = self.server.get().map(|server| server.send(session, message)) {
            tracing::warn!(session, "message not sent: {e}");
        }
    }

    pub(crate) fn say(&self, session: u64, answer: Answer) {
        self.send(
            session,
            match answer {
                Answer::Migrated(m) => Message::Migrated(m),
                Answer::Refused(r) => Message::Refused(r),
            },
        );
    }

    pub(crate) fn refuse_at_once(&self, session: u64, flow: FlowRef, reason: Refusal) {
        self.shared.metrics.refused(reason);
        self.say(session, Answer::Refused(RefusedAnswer { flow, reason }));
    }

    fn refuse_probe(&self, session: u64, id: u64, why: &str) {
        self.send(session, Message::Probed(Box::new(probe::refused(id, why))));
    }

    // --- the TUN ---

    /// Handles what the TUN has by now; unless `all` is asked for, only while a handoff waits for something: a read
    /// that finds nothing is not worth its time.
    pub(crate) fn drain_tun(&mut self, table: &mut Table, all: bool) {
        // Whoever handles a packet reads on by himself.
        if self.buffer.is_empty() {
            return;
        }
        // Out of the way of what is done with a packet.
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            match self.tun.try_recv(&mut buffer) {
                Ok(length) if length > 0 => {
                    self.on_packet(table, buffer.get(..length).unwrap_or_default());
                    if !all && self.active.is_empty() {
                        break;
                    }
                }
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    tracing::error!("read from the TUN: {e}");
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// A packet came by the TUN; there may be more. Whether what comes next may wait a little.
    fn on_packets(&mut self, packet: &[u8]) -> bool {
        let table = Arc::clone(&self.shared.table);
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        self.may_rest = true;
        self.on_packet(&mut table, packet);
        // Copies have gathered, or a handoff waits for more.
        let copies = self.may_rest;
        self.drain_tun(&mut table, copies);
        self.may_rest && !self.is_awaited()
    }

    /// A packet of the server's kernel: diverted in mid-handshake, or a copy with a part of a response.
    fn on_packet(&mut self, table: &mut Table, packet: &[u8]) {
        let Some(FromServer { ends, reply, payload }) = packet::parse(packet) else { return };
        let Some(slot) = table.slot_under(&super::handoff::key(ends).into()) else { return };
        let followed = table.get(slot).is_some_and(|flow| flow.responses.is_some());
        if followed && !payload.is_empty() {
            self.on_copy(table, slot, reply.seq, payload);
        } else {
            self.may_rest = false;
            self.on_reply(table, slot, &reply);
        }
    }

    /// Injects a segment in the client's name.
    pub(crate) fn inject(&mut self, ends: Ends, segment: &SegmentToSend, payload: &[u8]) -> io::Result<()> {
        packet::build(ends, segment, payload, &mut self.packet)?;
        self.tun.send(&self.packet).map(|_| ())
    }

    /// Resets the server's socket in the client's name. `seq` must be the very number the server expects next
    /// (RFC 5961, section 3.2).
    pub(crate) fn inject_reset(&mut self, ends: Ends, seq: u32) -> io::Result<()> {
        let reset =
            SegmentToSend { seq: Seq::<Client>::new(seq), flags: flag::RST, ..SegmentToSend::default() };
        self.inject(ends, &reset, &[])
    }
}
