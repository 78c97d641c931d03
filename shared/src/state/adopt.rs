//! One handoff on the target, adopted: the kernel is given the first packet of the request, and makes the server's
//! socket from it.
//!
//! A pure state machine like [`Replay`](super::replay::Replay), to which it leaves the feeding. Times are
//! CLOCK_MONOTONIC nanoseconds.
//!
//! | from | event | to | what follows |
//! |---|---|---|---|
//! | (new) | | `Offered` | up to 32 kB of the request |
//! | (new) | the flow before has left a socket in TIME_WAIT | `Offered` | it is destroyed first |
//! | `Offered` | the socket has said something, or the kernel knows it | `Taken` | the rest, as its window allows |
//! | `Offered` | a socket in TIME_WAIT has the 4-tuple | `Offered` | it is destroyed; again |
//! | `Offered` | resend time | `Offered` | the kernel is asked for the socket; again |
//! | `Offered` | another connection has the 4-tuple | `Refused(Duplicate)` | |
//! | `Offered` | no listener | `Refused(ServerRefused)` | |
//! | `Offered` | the kernel refused, or would have reset the client | `Unadopted` | the caller replays the handshake, or refuses |
//! | `Offered` | silence, or withdrawn | `Fencing` | the record takes no packet for the kernel any more |
//! | `Fencing` | grace time over: the kernel knows the socket | `Taken` | |
//! | `Fencing` | grace time over: it does not, after silence | `Unadopted(Silent)` | as above |
//! | `Fencing` | grace time over: it does not, withdrawn | `Refused(its reason)` | |
//! | `Taken` | as `Feeding` of a replay | | answer `Migrated` |
//!
//! `Refused` and `Unadopted` are final, and in both the request has not reached the server: between the program that
//! gives a packet to the kernel and the socket made from it lies no queue, only the rest of one run of the network's
//! soft interrupt, which the grace time outlasts by far.

mod needs;
mod scale;

pub use needs::{Surroundings, needs};
pub use scale::{ANY_SCALE, Buffers};

use super::ending::SocketState;
use super::replay::{Answer, Phase as Feeding, Replay, SegmentToSend};
use crate::capture::CapturedConnection;
use crate::control::{FlowRef, Handoff, RefusedAnswer};
use crate::reason::Refusal;
use crate::record::{
    FLAG_ADOPTED, FLAG_ECN, FLAG_OWN_SCALE, FLAG_SACK, FLAG_TIMESTAMPS, FLAG_TRACKED, FLAG_WINDOW_SCALES,
    FlowRecord, FlowState, NOTE_ASSIGN_FAILED, NOTE_ASSIGNED, NOTE_NO_LISTENER, NOTE_RST, NOTE_SYN_ACK,
    NOTE_TAKEN, NOTE_TIME_WAIT, NOTE_UNADOPTED,
};
use crate::translate::adopt::packed_client;

/// How long the kernel may keep silent before the handoff goes another way, ns: a listener's full accept queue has
/// emptied by then, or the server is not fit to serve.
const SILENCE_NS: u64 = 400_000_000;
/// From the moment the record takes no packet for the kernel any more to the last look for a socket, ns.
const GRACE_NS: u64 = 100_000_000;
/// Added to the last timestamp value the client may have seen.
const TSVAL_AHEAD: u32 = 2;
/// The smallest MSS of a client from which the kernel makes a socket, bytes.
const LEAST_MSS_V4: u16 = 536;
/// For IPv6.
const LEAST_MSS_V6: u16 = 1220;

/// By how much at most the MSS told to the kernel is smaller than the client's, bytes.
const MSS_GIVEN_UP: u16 = 16;

/// Why the kernel made no socket, though it might have by what was known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It refused; the errno.
    Refused(u32),
    /// It would have answered with a reset.
    Reset,
    /// Nothing happened.
    Silent,
}

impl Cause {
    /// The refusal where there is no other way.
    pub const fn refusal(self) -> Refusal {
        match self {
            Cause::Refused(_) => Refusal::AdoptFailed,
            Cause::Reset => Refusal::AdoptReset,
            Cause::Silent => Refusal::AdoptSilent,
        }
    }
}

/// Where the handoff stands; the table is at the top of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first bytes are out, there may be a socket.
    Offered,
    /// No packet is given to the kernel any more, there may yet be a socket.
    Fencing,
    /// The server has its socket; the request is being fed or was.
    Taken(Feeding),
    /// No socket was made and none will be: the request may go to the server another way.
    Unadopted(Cause),
    /// Not taken; the request was not fed.
    Refused(Refusal),
}

impl Phase {
    /// The phase's name in logs and the admin API.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Offered => "offered",
            Phase::Fencing => "fencing",
            Phase::Taken(feeding) => feeding.name(),
            Phase::Unadopted(_) => "unadopted",
            Phase::Refused(_) => "refused",
        }
    }
}

/// What the machine itself has to remember of its phase; what `Taken` comes to is the feeding's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Offered,
    Fencing { until_ns: u64, reason: Option<Refusal> },
    Taken,
    Unadopted(Cause),
    Refused(Refusal),
}

/// One handoff.
#[derive(Debug)]
pub struct Adopt {
    feeding: Replay,
    stage: Stage,
    give_up_ns: u64,
    /// The timestamp value at which the socket's own begin.
    tsval: u32,
    /// The largest window scale that the server's buffer can answer for.
    own_scale: u8,
    /// The kernel is to be asked for the socket.
    probe_due: bool,
    /// The 4-tuple's socket in TIME_WAIT is to be destroyed; not more than once between two attempts.
    destroy_due: bool,
    destroyed: bool,
}

/// Whether a connection can be adopted; one that cannot is given to the server by a replayed handshake.
pub fn is_adoptable(connection: &CapturedConnection) -> bool {
    let least = if connection.vip.is_ipv4() { LEAST_MSS_V4 } else { LEAST_MSS_V6 };
    connection.options.client_mss >= least
}

/// The MSS told to the kernel: the client's, or a little less, so that the socket's first window is not smaller than what
/// the client was promised, counted from the request's first byte. The kernel makes it of whole segments of this size
/// below 64 kB (`tcp_select_initial_window()`), where a handshake would have counted segments without the timestamps'
/// bytes: 64 240 bytes of 1460, not 65 160 of 1448. With 1456 they are 65 520.
fn told_mss(client: u16, promised: u32) -> u16 {
    let first_window = |mss: u16| u32::from(u16::MAX) / u32::from(mss.max(1)) * u32::from(mss);
    let least = client.saturating_sub(MSS_GIVEN_UP).max(LEAST_MSS_V6.min(client));
    (least..=client).rev().find(|mss| first_window(*mss) >= promised).unwrap_or(client)
}

/// The timestamp echoed in the client's name: the kernel times the round trip by it. A local one would be taken for the
/// client's (and by BBR for ten seconds).
fn echo(tsval: u32, rtt_us: u32) -> u32 {
    tsval.wrapping_sub(rtt_us.div_ceil(1000).max(1))
}

impl Adopt {
    /// Starts a handoff received at `now_ns`, to a server with this window scale ([`Buffers::scale`]).
    pub fn new(handoff: Box<Handoff>, own_scale: u8, now_ns: u64) -> Self {
        let connection = &handoff.connection;
        let tsval = connection.vip_tsval.wrapping_add(TSVAL_AHEAD);
        let echo = echo(tsval, connection.rtt_us);
        let feeding = Replay::adopted(handoff, echo, now_ns);
        let half = feeding.deadline_ns().saturating_sub(now_ns) / 2;
        Adopt {
            give_up_ns: now_ns.saturating_add(half.min(SILENCE_NS)),
            tsval,
            own_scale,
            stage: Stage::Offered,
            probe_due: false,
            destroy_due: false,
            destroyed: false,
            feeding,
        }
    }

    /// A socket in TIME_WAIT is known to have the 4-tuple. Before the first attempt; another one may be met yet.
    pub fn expect_time_wait(&mut self) {
        self.destroy_due = true;
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match self.stage {
            Stage::Offered => Phase::Offered,
            Stage::Fencing { .. } => Phase::Fencing,
            Stage::Taken => Phase::Taken(self.feeding.phase()),
            Stage::Unadopted(cause) => Phase::Unadopted(cause),
            Stage::Refused(reason) => Phase::Refused(reason),
        }
    }

    /// Which handoff this is.
    pub fn flow(&self) -> FlowRef {
        self.feeding.flow()
    }

    /// When it was received, ns.
    pub fn received_ns(&self) -> u64 {
        self.feeding.received_ns()
    }

    /// The part of the request a segment carries.
    pub fn payload(&self, segment: &SegmentToSend) -> &[u8] {
        self.feeding.payload(segment)
    }

    /// The handoff as it came, for another way.
    pub fn into_handoff(self) -> Box<Handoff> {
        self.feeding.into_handoff()
    }

    // --- the record ---

    /// What a new record has besides identity and addresses: what the program goes by, and the notes.
    pub fn fill(&self, record: &mut FlowRecord) {
        let connection = self.feeding.connection();
        let options = &connection.options;
        let (first, next) = (self.feeding.first_byte().raw(), connection.snd_nxt.raw());
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        record.state = FlowState::Adopting as u32;
        record.flags = FLAG_ADOPTED
            | flag(options.timestamps, FLAG_TIMESTAMPS)
            | flag(options.sack, FLAG_SACK)
            | flag(options.window_scale.is_some(), FLAG_WINDOW_SCALES)
            | flag(options.ecn, FLAG_ECN)
            | flag(self.feeding.is_tracked(), FLAG_TRACKED);
        record.read_from = next;
        record.seq_delta = first;
        record.ack_delta = next;
        record.tsecr_delta = self.tsval;
        record.ack_floor = connection.rcv_nxt.raw();
        let (client, promised) = options.window_scale.map_or((0, 0), |s| (s.client, s.promised));
        record.window_shift_in = promised.min(self.own_scale);
        record.window_shift_out = promised;
        record.flags |= flag(record.window_shift_in != promised, FLAG_OWN_SCALE);
        let promised = connection.rcv_nxt.plus(connection.rcv_wnd).since(self.feeding.first_byte());
        record.out_ifindex = packed_client(told_mss(options.client_mss, promised), client);
        record.diverted = next;
        record.note_ack = first;
        record.note_seq_end = next;
        // There is no SYN-ACK to begin the notes with.
        record.note_flags = NOTE_SYN_ACK;
    }

    /// Brings the record to where the handoff stands; whether it changed. Statistics and notes are left alone.
    pub fn update(&self, record: &mut FlowRecord) -> bool {
        let state = match self.stage {
            Stage::Offered => FlowState::Adopting,
            Stage::Taken => FlowState::Committed,
            Stage::Fencing { .. } | Stage::Unadopted(_) | Stage::Refused(_) => FlowState::Fenced,
        };
        if record.state == state as u32 {
            return false;
        }
        record.state = state as u32;
        if state == FlowState::Committed {
            // Both sides count alike.
            (record.seq_delta, record.ack_delta, record.tsecr_delta) = (0, 0, 0);
        }
        true
    }

    // --- events ---

    /// What the programs have noted.
    pub fn on_notes(&mut self, record: &FlowRecord, now_ns: u64) {
        let noted = |bit: u32| record.note_flags & bit != 0;
        if matches!(self.stage, Stage::Offered | Stage::Fencing { .. }) {
            if record.packets > 0 {
                self.take(now_ns);
                self.feeding.on_first_window(record.note_ack, record.note_window);
            } else if self.stage == Stage::Offered {
                self.on_obstacles(record, now_ns);
            }
        }
        if self.stage == Stage::Taken {
            self.feeding.on_notes(record.note_ack, record.note_window, noted(NOTE_RST), now_ns);
        }
    }

    fn on_obstacles(&mut self, record: &FlowRecord, now_ns: u64) {
        let noted = |bit: u32| record.note_flags & bit != 0;
        if noted(NOTE_UNADOPTED) {
            self.stage = Stage::Unadopted(Cause::Reset);
        } else if noted(NOTE_ASSIGN_FAILED) {
            self.stage = Stage::Unadopted(Cause::Refused(record.released));
        } else if noted(NOTE_NO_LISTENER) {
            self.refuse(Refusal::ServerRefused);
        } else if noted(NOTE_TAKEN) {
            self.refuse(Refusal::Duplicate);
        } else if noted(NOTE_ASSIGNED) {
            // A request without a byte gets no acknowledgement.
            self.probe_due |= self.feeding.is_bare();
        } else if noted(NOTE_TIME_WAIT) && !self.destroyed {
            self.destroy_due = true;
            self.destroyed = true;
            self.feeding.again();
        }
        if now_ns >= self.give_up_ns && self.stage == Stage::Offered {
            self.fence(None, now_ns);
        }
    }

    /// The kernel has told of the socket under the client's and the VIP's address.
    pub fn on_probe(&mut self, socket: SocketState, now_ns: u64) {
        self.probe_due = false;
        let there = socket != SocketState::Gone;
        match self.stage {
            Stage::Offered if there => self.take(now_ns),
            Stage::Fencing { .. } if there => self.take(now_ns),
            Stage::Fencing { until_ns, reason } if now_ns >= until_ns => match reason {
                None => self.stage = Stage::Unadopted(Cause::Silent),
                Some(reason) => self.refuse(reason),
            },
            _ => {}
        }
    }

    /// Time has passed: the moment of [`Adopt::next_timer_ns`] or later.
    pub fn on_time(&mut self, now_ns: u64) {
        match self.stage {
            Stage::Offered if now_ns >= self.give_up_ns => self.fence(None, now_ns),
            Stage::Offered => {
                if now_ns >= self.feeding.resend_at_ns() {
                    self.probe_due = true;
                    self.destroyed = false;
                    self.feeding.on_time(now_ns);
                }
            }
            Stage::Fencing { until_ns, .. } => self.probe_due |= now_ns >= until_ns,
            Stage::Taken => self.feeding.on_time(now_ns),
            Stage::Unadopted(_) | Stage::Refused(_) => {}
        }
    }

    /// The intermediate withdraws the handoff, or the agent must (`reason`). Too late once there is a socket: then the
    /// answer is `Migrated`.
    pub fn withdraw(&mut self, reason: Refusal, now_ns: u64) {
        match self.stage {
            Stage::Offered => self.fence(Some(reason), now_ns),
            Stage::Fencing { until_ns, .. } => self.stage = Stage::Fencing { until_ns, reason: Some(reason) },
            Stage::Taken => self.feeding.withdraw(reason, now_ns),
            Stage::Unadopted(_) => self.refuse(reason),
            Stage::Refused(_) => {}
        }
    }

    fn take(&mut self, now_ns: u64) {
        self.stage = Stage::Taken;
        self.feeding.on_socket(now_ns);
    }

    fn fence(&mut self, reason: Option<Refusal>, now_ns: u64) {
        self.stage = Stage::Fencing { until_ns: now_ns.saturating_add(GRACE_NS), reason };
    }

    fn refuse(&mut self, reason: Refusal) {
        self.stage = Stage::Refused(reason);
    }

    // --- what is to be done ---

    /// The next segment to inject, to the VIP; ask until `None`.
    pub fn poll_segment(&mut self, now_ns: u64) -> Option<SegmentToSend> {
        match self.stage {
            Stage::Offered | Stage::Taken => self.feeding.poll_segment(now_ns),
            _ => None,
        }
    }

    /// Whether the kernel is to be asked for the socket, for [`Adopt::on_probe`].
    pub fn wants_probe(&self) -> bool {
        self.probe_due && matches!(self.stage, Stage::Offered | Stage::Fencing { .. })
    }

    /// Whether the 4-tuple's socket in TIME_WAIT is to be destroyed now; asked once.
    pub fn poll_destroy(&mut self) -> bool {
        std::mem::take(&mut self.destroy_due)
    }

    /// The answer to the intermediate once it is known; `Unadopted` has none.
    pub fn answer(&self) -> Option<Answer> {
        match self.stage {
            Stage::Taken => self.feeding.answer(),
            Stage::Refused(reason) => Some(Answer::Refused(RefusedAnswer { flow: self.flow(), reason })),
            _ => None,
        }
    }

    /// When [`Adopt::on_time`] must be called at the latest; `None` once nothing is left to do.
    pub fn next_timer_ns(&self) -> Option<u64> {
        match self.stage {
            Stage::Offered => Some(self.feeding.resend_at_ns().min(self.give_up_ns)),
            Stage::Fencing { until_ns, .. } => Some(until_ns),
            Stage::Taken => self.feeding.next_timer_ns(),
            Stage::Unadopted(_) | Stage::Refused(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
