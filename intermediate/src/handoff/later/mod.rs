//! Later requests of tracked flows: what a client sends behind the request under way is diverted to the hold TUN, read
//! here through the gate, and routed anew.
//!
//! A request for the pool that has the flow goes on in one step: the record's `read_from` is raised and the held packets
//! are written back ([`state`]). Any other one has to wait for the end of the response under way: the flow is recalled
//! from its agent, and then handed to another target, or a socket is made for it and the front has it again as if it had
//! just been accepted ([`turn`]).

mod admit;
mod ends;
mod give_back;
mod hand_on;
mod let_go;
mod read;
mod restore;
mod state;
mod turn;
mod waiting;
pub(super) mod waits;

pub use restore::Returned;
pub(crate) use state::LaterFlow;
pub(super) use state::Started;

use super::Migrator;
use crate::access_log::{Asked, Placed};
use crate::front::Seat;
use crate::hold::NotHeld;
use crate::targets::TargetId;
use baton_daemon::metrics::ReasonCounters;
use baton_daemon::tun::Offload;
use baton_shared::http::{HeadLimits, RequestHead};
use baton_shared::packet::held::HeldFacts;
use baton_shared::reason::Refusal;
use state::State;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use waits::Waits;

/// How long an incomplete head may be held: its sender gets no acknowledgement meanwhile, and may need one to go on.
const PARTIAL: Duration = Duration::from_millis(250);

/// How long what lies beyond a gap may be held: by then a client has sent a lost packet again some five times (RFC 6298).
const GAP: Duration = Duration::from_secs(10);

/// The flow whose later request is to be routed.
#[derive(Clone, Copy, Debug)]
pub struct FlowNow {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The VIP's address and port.
    pub vip: SocketAddr,
    /// Who has it now.
    pub target: TargetId,
    /// The request's place on its connection; the first was 1.
    pub request_no: u32,
    /// Its agent has said that it cannot give it back.
    pub bound: bool,
    /// The client was told that bytes of the request arrived which no server has.
    pub owes: bool,
}

/// For the access log, if there is one; its target is filled in.
pub type Noted = Option<(Asked, Placed)>;

/// Where a later request goes.
#[derive(Clone, Debug)]
pub enum Next {
    /// Where the flow is.
    Stay {
        /// See there.
        noted: Noted,
        /// Plain requests may follow it unread as long as this ruling is in force.
        ruling: Option<u32>,
    },
    /// To another target, with the connection.
    Move {
        /// Which; perhaps the same.
        target: TargetId,
        /// The head as its server shall see it.
        head: Vec<u8>,
        /// See there.
        noted: Noted,
        /// If the agent cannot give the flow back, it may as well stay.
        or_stay: bool,
    },
    /// It cannot be given to a target as it is: the front gets connection and request.
    Return {
        /// See above.
        or_stay: bool,
    },
}

impl Next {
    /// The front gets it, whatever it takes.
    pub const RETURN: Next = Next::Return { or_stay: false };
}

/// Decides about later requests, and takes connections back.
pub trait Router: Send + Sync {
    /// What a head may be at most on this VIP's connections.
    fn limits(&self, vip: SocketAddr) -> HeadLimits;

    /// Where a request goes that passed the gate. `bytes` are those its head was parsed from.
    fn route(&self, flow: &FlowNow, head: &RequestHead, bytes: &[u8]) -> Next;

    /// For the access log, if there is one: a request that cannot be given to a target as it is, or what is none.
    fn note(&self, flow: &FlowNow, request: Option<(&RequestHead, &[u8])>) -> Noted;

    /// By what a VIP's connection is served that comes back here, if it is known. While the flow is there yet.
    fn seat(&self, vip: SocketAddr) -> Option<Seat>;

    /// A connection has a socket here again. In a tokio runtime.
    fn take_back(&self, returned: Returned);
}

/// Counts, for `/metrics`.
#[derive(Debug, Default)]
pub struct LaterCounts {
    /// Later requests that stayed where their flow was.
    pub stayed: AtomicU64,
    /// Later requests handed to another target, or again to the same one.
    pub moved: AtomicU64,
    /// Connections that got a socket here again.
    pub returned: AtomicU64,
    /// Connections that were to leave their target, whose agent could not give them back: they stayed.
    pub bound: AtomicU64,
    /// Connections whose later bytes were dropped, since the server had closed or was told to.
    pub closed: AtomicU64,
    /// Connections reset since a body under way broke the rules of its coding.
    pub broken: AtomicU64,
    /// Segments behind a request that no kernel would have taken for the client's.
    pub disbelieved: AtomicU64,
    /// Segments with a wrong checksum, which were not read.
    pub corrupt: AtomicU64,
    /// Recalls that were refused, by reason.
    pub refused: Arc<ReasonCounters<Refusal>>,
}

impl LaterCounts {
    /// By their names in metrics.
    pub fn outcomes(&self) -> [(&'static str, u64); 8] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("stayed", of(&self.stayed)),
            ("moved", of(&self.moved)),
            ("returned", of(&self.returned)),
            ("bound", of(&self.bound)),
            ("dropped", of(&self.closed)),
            ("broken_off", of(&self.broken)),
            ("disbelieved", of(&self.disbelieved)),
            ("corrupt", of(&self.corrupt)),
        ]
    }
}

/// What a migrator has of all this.
pub(super) struct Laters {
    pub(super) router: OnceLock<Arc<dyn Router>>,
    pub(super) waits: Waits,
    pub(super) counts: LaterCounts,
    /// Flows with an incomplete head.
    partial: Since,
    /// Flows with a gap.
    gaps: Since,
}

/// Flows of which something is true, and since when it was.
#[derive(Default)]
struct Since(Mutex<Vec<(Instant, Weak<LaterFlow>)>>);

impl Since {
    fn note(&self, since: Instant, flow: &Arc<LaterFlow>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((since, Arc::downgrade(flow)));
    }

    /// Those for which it has been so for so long, if they are still there.
    fn due(&self, time: Duration) -> Vec<(Instant, Arc<LaterFlow>)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = all.extract_if(.., |(since, _)| since.elapsed() >= time);
        due.filter_map(|(since, flow)| Some((since, flow.upgrade()?))).collect()
    }
}

impl std::fmt::Debug for Laters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Laters").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Laters {
    pub(super) fn new() -> Self {
        Laters {
            router: OnceLock::new(),
            waits: Waits::default(),
            counts: LaterCounts::default(),
            partial: Since::default(),
            gaps: Since::default(),
        }
    }
}

impl Migrator {
    /// Who decides about later requests from here on; without one there are no tracked flows. Once.
    pub fn set_router(&self, router: Arc<dyn Router>) {
        let _ = self.laters.router.set(router);
    }

    /// What became of later requests.
    pub fn later_counts(&self) -> &LaterCounts {
        &self.laters.counts
    }

    /// A packet came from the hold TUN. Only one task may call this: order rests on it.
    pub fn on_hold_packet(self: &Arc<Self>, packet: &[u8], offload: Offload) {
        let Some(NotHeld { facts, key }) = self.hold.offer(packet, offload) else { return };
        let Some((slot, later)) = self.flows.place_of(&key) else {
            return self.hold.write_back(None, packet, offload);
        };
        if facts.segment.opens() && self.await_end(slot, packet, offload) {
            return;
        }
        let _in_hand = self.flows.in_hand(slot);
        // A SYN is no part of the stream that is read.
        match later.filter(|_| !facts.segment.opens()) {
            Some(flow) => self.on_packet(&flow, &mut flow.lock(), packet, offload, &facts),
            None => self.hold.write_back(Some(slot), packet, offload),
        }
    }

    /// A packet of a flow's.
    pub(super) fn on_packet(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        state: &mut State,
        packet: &[u8],
        offload: Offload,
        facts: &HeldFacts<'_>,
    ) {
        let record = self.flows.record(flow.slot);
        // From here on the flow is read until it is judged again.
        if record.ruling() != 0 {
            self.flows.set_ruling(flow.slot, 0);
        }
        // By no ruling either: one that a program on another CPU judged by the ruling of before was not in the record yet when
        // what lies behind it had come here.
        if state.follow(&record) {
            self.let_go_before(flow, state, state.later.end());
        }
        self.take_in(flow, state, &record, packet, offload, facts);
        self.read_on(flow, state);
    }

    /// Heads that stay incomplete: whoever sends them must be acknowledged to go on, and that is a socket's work. And gaps
    /// that nobody fills.
    pub(super) fn sweep_partial(self: &Arc<Self>) {
        for (since, flow) in self.laters.partial.due(PARTIAL) {
            let mut state = flow.lock();
            if state.waiting.unfinished().partial_since == Some(since) {
                self.turn_back(&flow, &mut state, None, false);
            }
        }
        for (_, flow) in self.laters.gaps.due(GAP) {
            self.look_at_gap(&flow, &mut flow.lock());
        }
    }

    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
