//! A flow's key and record, the same for both hosts.
//!
//! The hash map `FLOWS` holds [`FlowKey`] → slot number; the memory-mapped array `SLOTS` holds the
//! [`FlowRecord`]s. The daemon fills a free slot, stores its state last, and only then inserts the key, so a
//! program never sees half a record; afterwards state and marks change by single stores without a syscall.

use crate::addr::{IpWords, PortWord};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A flow as seen at the hook that looks it up.
///
/// On the intermediate's ingress `local` is the VIP, on the target's egress it is the server's address; `remote`
/// is the client on both. All in wire byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowKey {
    /// The client's address.
    pub remote: IpWords,
    /// The VIP (intermediate) or the server's address (target).
    pub local: IpWords,
    /// The client's port.
    pub remote_port: PortWord,
    /// The VIP's or the server's port.
    pub local_port: PortWord,
}

const _: () = assert!(size_of::<FlowKey>() == 36);

impl core::hash::Hash for FlowKey {
    /// All bytes at once, which takes half the time of one field after the other. They are all the fields' own.
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

#[cfg(feature = "std")]
impl FlowKey {
    /// The client's address and port.
    pub fn remote_addr(&self) -> core::net::SocketAddr {
        self.remote.socket_addr(self.remote_port)
    }

    /// Those of the VIP or the server.
    pub fn local_addr(&self) -> core::net::SocketAddr {
        self.local.socket_addr(self.local_port)
    }
}

/// Where a flow stands, as the programs see it. Stored as `u32` in [`FlowRecord::state`].
///
/// `I` is the intermediate's ingress program, `T` the target's egress program.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowState {
    /// The slot holds no flow; a program that comes here through a stale key passes the packet.
    Free = 0,
    /// I: the connection is being captured or handed off; the client's packets are diverted to the hold TUN (but see
    /// [`FLAG_AHEAD`]), until [`FlowRecord::deadline_ns`], after which they pass to the ordinary stack by themselves.
    Frozen = 1,
    /// I and T: translate.
    Committed = 2,
    /// I: the flow has ended on T and lingers; still translated, but a SYN turns it `Superseded` and passes to
    /// the listener. T: lingers, still translated (TIME_WAIT's acknowledgements go out right).
    Ended = 3,
    /// T: the handshake is being replayed; whatever the server's kernel sends goes to the agent's TUN and
    /// nothing to the wire.
    Replaying = 4,
    /// T: the flow is fenced; whatever the server's kernel still sends is dropped and counted.
    Fenced = 5,
    /// I: a new connection took the 4-tuple over; all packets pass to the ordinary stack.
    Superseded = 6,
    /// T, adopted flows only ([`FLAG_ADOPTED`]): the agent's packet may be given to the kernel, which makes the
    /// server's socket from it. What that socket sends goes out at once.
    Adopting = 9,
}

impl FlowState {
    /// The state for a stored number; unknown numbers are `Free`, whose packets pass.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => FlowState::Frozen,
            2 => FlowState::Committed,
            3 => FlowState::Ended,
            4 => FlowState::Replaying,
            5 => FlowState::Fenced,
            6 => FlowState::Superseded,
            9 => FlowState::Adopting,
            _ => FlowState::Free,
        }
    }

    /// The state's name in the admin API.
    pub const fn name(self) -> &'static str {
        match self {
            FlowState::Free => "free",
            FlowState::Frozen => "frozen",
            FlowState::Committed => "committed",
            FlowState::Ended => "ended",
            FlowState::Replaying => "replaying",
            FlowState::Fenced => "fenced",
            FlowState::Superseded => "superseded",
            FlowState::Adopting => "adopting",
        }
    }
}

/// [`FlowRecord::flags`]: both ends agreed on timestamps (RFC 7323).
pub const FLAG_TIMESTAMPS: u32 = 1;
/// [`FlowRecord::flags`], set by the agent: the server has acknowledged the whole request as fed. From then on
/// [`FlowRecord::ack_floor`] counts until [`NOTE_CAUGHT_UP`]. Tells a restarted agent which flows can go on without it.
pub const FLAG_FED: u32 = 2;
/// [`FlowRecord::flags`], I: packets go to the target inside another IP header (`translate::Leg`).
pub const FLAG_LEG_IPIP: u32 = 4;
/// [`FlowRecord::flags`], I: packets go to the target inside IP and UDP.
pub const FLAG_LEG_UDP: u32 = 8;

/// [`FlowRecord::flags`]: later requests are read before they go on, [`FlowRecord::read_from`] counts.
pub const FLAG_TRACKED: u32 = 16;
/// [`FlowRecord::flags`], I, tracked: no request may follow the one under way, what reaches beyond it is dropped. For the
/// daemon alone, so that a restarted one knows it.
pub const FLAG_LAST: u32 = 32;
/// [`FlowRecord::flags`], I, tracked: [`FlowRecord::read_from`] lies within the body of the request under way, whose end is not
/// known yet. For the daemon alone: a restarted one cannot follow it.
pub const FLAG_WITHIN_BODY: u32 = 128;

/// [`FlowRecord::flags`], I, tracked: the client was told of bytes that no server has and only the daemon can deliver.
/// Without the daemon that gave the flow away its client would wait for ever.
pub const FLAG_OWED: u32 = 64;

/// [`FlowRecord::flags`], I, while `Frozen`: the handoff is on its way to a target that is expected to adopt, whose numbers are the
/// client's own. What the client can only say because its server has answered goes on there at once
/// ([`judge_ingress`](crate::translate::judge_ingress)); the notes are filled in, and [`FlowRecord::read_from`] is where what the
/// target was given ends.
pub const FLAG_AHEAD: u32 = 256;

/// [`FlowRecord::flags`], T: the kernel makes the server's socket as the client's connection is, with the VIP as its
/// own address (`translate::adopt`). The record is found under two keys: [`FlowRecord::key`], whose local address is
/// the VIP, and [`FlowRecord::arrival_key`]. Nothing the server sends is changed.
pub const FLAG_ADOPTED: u32 = 1 << 16;
/// [`FlowRecord::flags`], T, adopted: both ends agreed on selective acknowledgements.
pub const FLAG_SACK: u32 = 1 << 17;
/// [`FlowRecord::flags`], T, adopted: both ends agreed on window scales.
pub const FLAG_WINDOW_SCALES: u32 = 1 << 18;
/// [`FlowRecord::flags`], T, adopted: both ends agreed on ECN.
pub const FLAG_ECN: u32 = 1 << 19;
/// [`FlowRecord::flags`], T, adopted: the server's socket scales its window by [`FlowRecord::window_shift_in`], the client
/// was promised [`FlowRecord::window_shift_out`]; without it, both are what the client was promised.
pub const FLAG_OWN_SCALE: u32 = 1 << 20;

/// [`FlowRecord::note_flags`]: the server sent a FIN.
pub const NOTE_FIN: u32 = 1;
/// [`FlowRecord::note_flags`]: the server sent an RST.
pub const NOTE_RST: u32 = 2;
/// [`FlowRecord::note_flags`]: a SYN-ACK was diverted to the agent.
pub const NOTE_SYN_ACK: u32 = 4;
/// [`FlowRecord::note_flags`]: a SYN-ACK was dropped after the handshake. The listener answers on this 4-tuple, so
/// the server's socket is gone; or it was the replay's own, late.
pub const NOTE_LISTENER: u32 = 8;
/// [`FlowRecord::note_flags`], beside [`NOTE_RST`]: an RST carried an acknowledgement, so a socket sent it of its own
/// accord (`tcp_send_active_reset`). One without answers a segment that no socket wanted (`tcp_v4_send_reset`): the
/// connection was over before, by whose doing it does not tell.
pub const NOTE_ACTIVE_RST: u32 = 16;
/// [`FlowRecord::note_flags`], of a flow whose request is fed: the server's acknowledgements have reached
/// [`FlowRecord::ack_floor`]. With the request the client may have been told that more was received, which comes behind it.
pub const NOTE_CAUGHT_UP: u32 = 32;
/// [`FlowRecord::note_flags`]: those by which the server's socket may be gone, or go soon; the agent asks its kernel. Of the
/// listener's SYN-ACK: the socket is gone without a word of its own (the client reset it) and the client uses its port again,
/// waiting for us to notice.
pub const NOTE_CLOSING: u32 = NOTE_FIN | NOTE_RST | NOTE_LISTENER;

/// Bytes of one flow that go through the hold queue after its commit, at most, and what other CPUs have in hand at that
/// moment. The queue of a sender that is as fast as the daemon need not run empty by itself: on a path without delay every
/// packet given back lets it send the next. Behind the limit new data overtakes what is still queued: TCP takes some of that
/// for lost and sends it in vain.
pub const DRAIN_BYTES: u32 = 4 << 20;

/// [`FlowRecord::note_flags`], adopted: the agent's packet was given to the kernel, to make a socket from.
pub const NOTE_ASSIGNED: u32 = 1 << 16;
/// [`FlowRecord::note_flags`], adopted: the kernel refused that; its errno stands in [`FlowRecord::released`].
pub const NOTE_ASSIGN_FAILED: u32 = 1 << 17;
/// [`FlowRecord::note_flags`], adopted: nothing listens on the server's address.
pub const NOTE_NO_LISTENER: u32 = 1 << 18;
/// [`FlowRecord::note_flags`], adopted: a socket that is in use has this 4-tuple, and it is not the flow's.
pub const NOTE_TAKEN: u32 = 1 << 19;
/// [`FlowRecord::note_flags`], adopted: a socket in TIME_WAIT has this 4-tuple.
pub const NOTE_TIME_WAIT: u32 = 1 << 20;
/// [`FlowRecord::note_flags`], adopted: the kernel answered the agent's packet with a reset, which was dropped.
pub const NOTE_UNADOPTED: u32 = 1 << 21;

/// One direction of one flow on one host: from the client, on the intermediate's ingress; from the server, on
/// the target's egress.
///
/// "Added" below means modulo 2^32. "This direction" is the one the record translates.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowRecord {
    // --- identity: written by the daemon before the state, constant while the state is not Free ---
    /// The flow's number, the intermediate's choice; unique per intermediate.
    pub flow_id: u64,
    /// CLOCK_MONOTONIC, ns. I: when a `Frozen` record stops to bind. T: when the handoff was received (for the
    /// agent alone, so that a restarted one knows the flow's age).
    pub deadline_ns: u64,
    /// The key under which this record is found.
    pub key: FlowKey,
    /// Counts the handoffs of this flow, from 1.
    pub generation: u32,
    /// A [`FlowState`], stored last.
    pub state: u32,
    /// `FLAG_*`.
    pub flags: u32,

    // --- translation ---
    /// I: the server's address, the new destination. T: the VIP, the new source; of an adopted flow, the server's
    /// address, the destination with which the client's packets arrive.
    pub new_addr: IpWords,
    /// Its port.
    pub new_port: PortWord,
    /// Window scale of the numbers in this direction's headers as they arrive (0 to 14).
    pub window_shift_in: u8,
    /// Window scale the receiver of the translated segment applies (0 to 14).
    pub window_shift_out: u8,
    /// Added to the sequence number. While `Adopting`: the one the agent's packet must have.
    pub seq_delta: u32,
    /// Added to the acknowledgement number and to every SACK edge. While `Adopting`: the one the agent's packet must
    /// have.
    pub ack_delta: u32,
    /// Added to the timestamp value.
    pub tsval_delta: u32,
    /// Added to the timestamp echo reply. While `Adopting`: the value at which the socket's own timestamps begin.
    pub tsecr_delta: u32,
    /// T: until [`NOTE_CAUGHT_UP`], acknowledgements (after translation, client space) before this are raised to it and the window
    /// is reduced so that its right edge stays. I, tracked: what both ends agreed on (`NegotiatedOptions::to_word`), for the
    /// daemon alone, so that a restarted one can take the flow back.
    pub ack_floor: u32,
    /// I: the device through which the target is reached (`bpf_redirect_neigh`). T, adopted: the client's MSS, bytes, in the
    /// low 16 bits, its window scale in the next 8 (`translate::adopt::packed_client`).
    pub out_ifindex: u32,
    /// I: at which [`FlowRecord::diverted`] new data stops to queue behind held data that has not come back yet: what
    /// stood there at the commit, and [`DRAIN_BYTES`].
    pub drain_end: u32,
    /// With `FLAG_TRACKED`, in the space of this direction's sender as it arrives: payload from here on is the daemon's
    /// to read. I: the end of the request under way, what reaches beyond it is diverted to the hold TUN; the program moves it
    /// over a plain request. T: where the agent needs the server's stream next, what reaches beyond it is copied to the
    /// agent. By the daemon.
    pub read_from: u32,
    /// I: the largest packet, bytes with its IP header, that the way to the target takes, without what the leg puts in front
    /// of it; 0: any. By the daemon, as it learns it.
    pub leg_mtu: u32,

    // --- hold accounts (I): payload bytes (FIN counts one), wrapping ---
    /// I: sent to the hold TUN. Written by the program. T: no account; the client's `snd_nxt` at the handoff, for
    /// the agent alone, so that a restarted one can repeat its answer.
    pub diverted: u32,
    /// Come back, marked, from the hold TUN. Written by the program, and by the daemon when it reconciles. T, adopted:
    /// the errno with which the kernel refused to make a socket.
    pub released: u32,

    // --- notes: what this direction's sender last sent, before translation; by the program. T: the server's kernel,
    // server space. I: the client, client space, without flags; the daemon fills them in from the captured connection
    // before it commits, and alone writes `note_window` ---
    /// Newest acknowledgement number (T: client's bytes the server has; I: the server's bytes the client has).
    pub note_ack: u32,
    /// The window that came with it, in bytes. I: the largest that the client can offer; `note_ack` takes no longer step.
    pub note_window: u32,
    /// Newest timestamp value, as translated: what the client has seen. I: the window field, unscaled, of the
    /// newest segment whose acknowledgement was not older than another's.
    pub note_tsval: u32,
    /// Highest sequence number sent plus segment length (FIN counts one).
    pub note_seq_end: u32,
    /// `NOTE_*`. I, tracked, by the daemon: the ruling under which plain requests go on without being read
    /// ([`FlowRecord::ruling`]); 0: none.
    pub note_flags: u32,
    /// Tracked. I: requests the target was given since the handoff, the handed-off one included; the program counts those that
    /// it judges by itself. T, by the daemon and, where it sees a response's end by itself, by the program, so that a
    /// restarted daemon can go on: `state::responses::Responses::mark`; 0 also where the program must not.
    pub requests: u32,

    // --- statistics, by the program ---
    /// CLOCK_MONOTONIC, ns, of the last packet seen.
    pub last_seen_ns: u64,
    /// Packets translated (GSO super-packets count one).
    pub packets: u64,
    /// Payload bytes translated.
    pub bytes: u64,
}

impl FlowRecord {
    /// [`FlowRecord::new_addr`] and [`FlowRecord::new_port`].
    #[cfg(feature = "std")]
    pub fn rewritten_addr(&self) -> core::net::SocketAddr {
        self.new_addr.socket_addr(self.new_port)
    }

    /// The second key of an adopted flow on T, under which the client's packets are found as they arrive: they are
    /// addressed to the server.
    #[inline(always)]
    pub const fn arrival_key(&self) -> FlowKey {
        FlowKey {
            remote: self.key.remote,
            local: self.new_addr,
            remote_port: self.key.remote_port,
            local_port: self.new_port,
        }
    }

    /// On T: the server's own address, to which the intermediate sends the client's packets.
    #[inline(always)]
    pub const fn server_address(&self) -> IpWords {
        if self.flags & FLAG_ADOPTED != 0 { self.new_addr } else { self.key.local }
    }

    /// On T: the client's number up to which the server's newest window reaches.
    #[inline(always)]
    pub const fn noted_window_end(&self) -> u32 {
        self.note_ack.wrapping_add(self.ack_delta).wrapping_add(self.note_window)
    }

    /// On I: the ruling by which the daemon judged the flow's last request, if plain ones may follow it without being read as
    /// long as it stands (`translate::may_be_plain`); 0: they are read.
    #[inline(always)]
    pub const fn ruling(&self) -> u32 {
        self.note_flags
    }

    /// On I: whether the target's kernel made the server's socket as the client's connection is, so that no number is
    /// translated (`control::MigratedAnswer::is_adopted`).
    #[inline(always)]
    pub const fn leads_to_adopted(&self) -> bool {
        self.ack_delta == 0 && self.tsecr_delta == 0
    }

    /// Whether `key` leads to this record rightly.
    #[inline(always)]
    pub fn belongs_under(&self, key: &FlowKey) -> bool {
        self.key == *key || (self.flags & FLAG_ADOPTED != 0 && self.arrival_key() == *key)
    }
}

const _: () = assert!(size_of::<FlowRecord>() == 176);
const _: () = assert!(core::mem::offset_of!(FlowRecord, state) == 56);
const _: () = assert!(core::mem::offset_of!(FlowRecord, new_addr) == 64);
const _: () = assert!(core::mem::offset_of!(FlowRecord, diverted) == 120);
const _: () = assert!(core::mem::offset_of!(FlowRecord, last_seen_ns) == 152);
