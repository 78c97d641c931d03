//! Adopted flows on the target: the kernel makes the server's socket from one packet, as the client's connection is.
//!
//! The socket's own address is the VIP, so what it sends needs no change ([`judge_sent`]). What the client sends arrives
//! addressed to the server, because the intermediate can only send it so; the VIP is put back ([`readdress`]). The
//! packet from which the socket is made comes from the agent's TUN, has exactly the numbers the record says, and is
//! never passed on unless the kernel has taken it: the local stack, which knows nothing of the connection, would reset
//! the client ([`judge_arrival`]).

use super::{Account, Action, Patch, ReportPatch, Verdict, judge};
use crate::reason::PacketCounter;
use crate::record::{
    FLAG_ADOPTED, FLAG_ECN, FLAG_OWN_SCALE, FLAG_SACK, FLAG_TIMESTAMPS, FLAG_WINDOW_SCALES, FlowRecord,
    FlowState, NOTE_ASSIGN_FAILED, NOTE_ASSIGNED, NOTE_LISTENER, NOTE_NO_LISTENER, NOTE_TAKEN,
    NOTE_TIME_WAIT, NOTE_UNADOPTED,
};
use crate::wire::{ACK, Fragment, RST, Report, SYN, Segment, Sum, TcpWords};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What the kernel knows under a 4-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// No socket, or none but one that listens.
    Nobody,
    /// A socket in TIME_WAIT.
    TimeWait,
    /// A connection's.
    Connection,
}

impl Holder {
    /// From a state of `net/tcp_states.h`; 0 for no socket.
    #[inline(always)]
    pub const fn from_kernel(state: u32) -> Self {
        match state {
            TCP_TIME_WAIT => Holder::TimeWait,
            0 | TCP_CLOSE | TCP_LISTEN => Holder::Nobody,
            _ => Holder::Connection,
        }
    }
}

const TCP_TIME_WAIT: u32 = 6;
const TCP_CLOSE: u32 = 7;
/// A listening socket's state.
pub const TCP_LISTEN: u32 = 10;

/// What to do with a packet that arrives on the target and belongs to an adopted flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Arrival {
    /// Leave it to the stack as it is.
    Pass = 0,
    /// Put the VIP back as its destination ([`readdress`]), and leave it to the stack.
    Readdress = 1,
    /// Give it to the kernel to make a socket from, and ask [`judge_assignment`] what then.
    Assign = 2,
    /// Drop it.
    Drop = 3,
}

/// Whether [`judge_arrival`] must be told who holds the 4-tuple: a look-up that most packets need not pay for.
#[inline(always)]
pub const fn asks_for_holder(record: &FlowRecord, segment: &Segment) -> bool {
    matches!(FlowState::from_raw(record.state), FlowState::Adopting) || segment.opens()
}

/// A packet on the target's ingress whose flow is adopted. `marked` tells that it came from the agent's TUN,
/// `to_server` that it is addressed to the server (else to the VIP). Fills in `patch.account`.
#[inline(always)]
pub fn judge_arrival(
    record: &FlowRecord,
    segment: &Segment,
    marked: bool,
    to_server: bool,
    holder: Holder,
    patch: &mut Patch,
) -> (Arrival, Option<PacketCounter>) {
    patch.account = Account::default();
    match FlowState::from_raw(record.state) {
        FlowState::Adopting if marked || !has_answered(record, holder) => {
            adopting(record, segment, marked, holder, &mut patch.account)
        }
        FlowState::Adopting | FlowState::Committed | FlowState::Ended | FlowState::Fenced => {
            if segment.opens() && !matches!(holder, Holder::Connection) {
                // A listener might answer it past the intermediate, or the stack reset it: the client uses its port
                // again before the end of this flow was noticed.
                patch.account.note_flags = NOTE_LISTENER;
                judge::tell_closing(record, &mut patch.account);
                return (Arrival::Drop, Some(PacketCounter::DropAdoptGone));
            }
            if to_server {
                (Arrival::Readdress, Some(PacketCounter::Readdressed))
            } else {
                (Arrival::Pass, None)
            }
        }
        // The others do not occur here.
        FlowState::Free | FlowState::Frozen | FlowState::Replaying | FlowState::Superseded => {
            (Arrival::Pass, None)
        }
    }
}

/// Whether the kernel has made the socket, so that the client may have its answer and speak for itself: the agent will notice.
#[inline(always)]
const fn has_answered(record: &FlowRecord, holder: Holder) -> bool {
    record.note_flags & NOTE_ASSIGNED != 0 && !matches!(holder, Holder::Nobody)
}

#[inline(always)]
fn adopting(
    record: &FlowRecord,
    segment: &Segment,
    marked: bool,
    holder: Holder,
    account: &mut Account,
) -> (Arrival, Option<PacketCounter>) {
    let drop = |counter| (Arrival::Drop, Some(counter));
    // The intermediate holds the client's packets until there is an answer: one that comes now is not the client's.
    if !marked {
        return drop(PacketCounter::DropAdoptEarly);
    }
    let assigned = record.note_flags & NOTE_ASSIGNED != 0;
    match holder {
        Holder::Connection if assigned => (Arrival::Pass, Some(PacketCounter::AdoptRepeated)),
        Holder::Connection => {
            account.note_flags = NOTE_TAKEN;
            drop(PacketCounter::DropAdoptRefused)
        }
        Holder::TimeWait if !assigned => {
            account.note_flags = NOTE_TIME_WAIT;
            drop(PacketCounter::DropAdoptRefused)
        }
        // The adopted connection has come to its end already.
        Holder::TimeWait => (Arrival::Pass, Some(PacketCounter::AdoptRepeated)),
        Holder::Nobody => {
            let expected = segment.seq == record.seq_delta
                && segment.ack == record.ack_delta
                && segment.flags & (ACK | SYN | RST) == ACK;
            if expected {
                (Arrival::Assign, Some(PacketCounter::AdoptAssigned))
            } else {
                drop(PacketCounter::DropAdoptEarly)
            }
        }
    }
}

/// What follows from the kernel's answer to an assignment: its return value, or [`NO_LISTENER`]. Fills in the account.
#[inline(always)]
pub fn judge_assignment(code: i32, patch: &mut Patch) -> (Arrival, PacketCounter) {
    if code == 0 {
        patch.account.note_flags = NOTE_ASSIGNED;
        return (Arrival::Pass, PacketCounter::AdoptAssigned);
    }
    if code == NO_LISTENER {
        patch.account.note_flags = NOTE_NO_LISTENER;
    } else {
        patch.account.note_flags = NOTE_ASSIGN_FAILED;
        patch.account.errno = code.unsigned_abs();
    }
    (Arrival::Drop, PacketCounter::DropAdoptRefused)
}

/// Stands for the kernel's answer where there was no listener to ask it with; no errno is positive.
pub const NO_LISTENER: i32 = 1;

/// A packet of an adopted socket, on the target's egress. Its account is to be booked, its window perhaps rescaled.
#[inline(always)]
pub fn judge_sent(record: &FlowRecord, segment: &Segment, patch: &mut Patch) -> Verdict {
    let adopting = matches!(FlowState::from_raw(record.state), FlowState::Adopting);
    // The stack's answer to a packet it has no connection for has no acknowledgement; a socket's own reset has
    // (RFC 9293, section 3.10.7.1). Once the socket has said anything it is not the packet of the adoption any more.
    if adopting && record.packets == 0 && segment.flags & (RST | ACK) == RST {
        judge::as_noted(record, &mut patch.account);
        patch.account.note_flags = NOTE_UNADOPTED;
        return Verdict { action: Action::Drop, counter: Some(PacketCounter::DropAdoptReset) };
    }
    judge::note(record, segment, &mut patch.account);
    judge::tell_closing(record, &mut patch.account);
    patch.account.copy = judge::copied(record, segment);
    let counter = Some(PacketCounter::AdoptedSent);
    if record.flags & FLAG_OWN_SCALE != 0 {
        patch.account.also = PacketCounter::WindowRescaled.code();
        return Verdict { action: Action::Translate, counter };
    }
    patch.account.sent = 1;
    Verdict { action: Action::Pass, counter }
}

/// Fills in the patch of such a packet whose window is to be put into the scale the client was promised: all else stays.
#[inline(always)]
pub(super) fn rescale_sent(record: &FlowRecord, segment: &Segment, window: u16, patch: &mut Patch) {
    patch.seq = segment.seq;
    patch.ack = segment.ack;
    patch.window = window;
    patch.new_addr = record.key.local;
    patch.new_port = record.key.local_port;
    patch.tsval = segment.options.tsval;
    patch.tsecr = segment.options.tsecr;
    patch.sack_edges = segment.options.sack_edges;
    patch.ttl = segment.ttl;
    patch.header_checksum = segment.header_checksum;
    patch.address_change = 0;
    patch.tcp_change = u32::from(Sum::ZERO.replaced16(segment.window.to_be(), window.to_be()).folded());
}

/// A packet from the agent's TUN for which there is no record, on a target that adopts: whether it is dropped. Its
/// handoff has ended while it was on its way; the stack would reset the client in the VIP's name.
#[inline(always)]
pub const fn is_stray(marked: bool, flags: u8) -> bool {
    marked && flags & RST == 0
}

/// Whether a packet that the record was found for on ingress is any business of adopting.
#[inline(always)]
pub const fn is_adopted(record: &FlowRecord) -> bool {
    record.flags & FLAG_ADOPTED != 0
}

/// Puts the VIP back as the destination of a packet addressed to the server: fills in the patch's address, port, hop
/// limit (as it was) and sums.
#[inline(always)]
pub fn readdress(record: &FlowRecord, segment: &Segment, patch: &mut Patch) {
    let mut addresses = Sum::ZERO;
    for (old, new) in record.new_addr.0.iter().zip(record.key.local.0) {
        addresses = addresses.replaced(*old, new);
    }
    patch.new_addr = record.key.local;
    patch.new_port = record.key.local_port;
    patch.ttl = segment.ttl;
    patch.address_change = u32::from(addresses.folded());
    patch.tcp_change = u32::from(Sum::ZERO.replaced16(record.new_port.0, record.key.local_port.0).folded());
    patch.header_checksum = segment.header_checksum.changed(addresses);
}

/// On a target that adopts, an ICMP error about what a server sent, adopted or not, as the intermediate has translated it
/// for a server with an address of its own: is it whole, and about a flow in force? `there` is how many bytes of the
/// packet there are.
#[inline(always)]
pub fn judge_arrived_report(record: &FlowRecord, report: &Report, there: u32) -> Verdict {
    match FlowState::from_raw(record.state) {
        FlowState::Committed | FlowState::Ended | FlowState::Adopting => {}
        _ => return Verdict { action: Action::Pass, counter: None },
    }
    let (action, counter) = if !matches!(report.outer.fragment(), Fragment::No) {
        (Action::Drop, PacketCounter::DropFragment)
    } else if report.bytes() > report.outer.total || report.outer.total > there {
        (Action::Drop, PacketCounter::DropIcmpMalformed)
    } else {
        (Action::Translate, PacketCounter::IcmpTranslated)
    };
    Verdict { action, counter: Some(counter) }
}

/// Fills in the patch of such an error: the quoted packet becomes the one the socket sent, if that was adopted from the
/// VIP. Around it the client is the sender: the VIP, which the intermediate put there, is this host's own address now, and
/// the stack takes a packet from one of its own addresses for a martian.
#[inline(always)]
pub fn readdress_report(record: &FlowRecord, report: &Report, patch: &mut ReportPatch) {
    // Of a flow that was not adopted, the key's local address is the server's: what is quoted stays.
    let (client, vip, server) = (record.key.remote, record.key.local, report.quoted.source);
    let outer = &report.outer;
    patch.source = client;
    patch.server = vip;
    patch.ports = TcpWords::port_word(record.key.local_port, record.key.remote_port);
    patch.seq = report.tcp.0[1];
    patch.ttl = outer.ttl;

    let mut from_server_to_vip = Sum::ZERO;
    let mut from_vip_to_client = Sum::ZERO;
    for (old, new) in server.0.iter().zip(vip.0) {
        from_server_to_vip = from_server_to_vip.replaced(*old, new);
    }
    for (old, new) in outer.source.0.iter().zip(client.0) {
        from_vip_to_client = from_vip_to_client.replaced(*old, new);
    }
    let outer_addresses = from_server_to_vip.plus(from_vip_to_client);
    patch.outer_checksum = outer.header_checksum.changed(outer_addresses);
    let segment = Sum::ZERO.replaced(report.tcp.0[0], patch.ports);
    patch.quoted_checksum = report.quoted.header_checksum.changed(from_server_to_vip);
    // ICMPv6's own checksum covers the outer addresses too (RFC 4443, section 2.3).
    let message = if server.is_v4() {
        segment.plus(from_server_to_vip).replaced16(report.quoted.header_checksum.0, patch.quoted_checksum.0)
    } else {
        segment.plus(from_server_to_vip).plus(outer_addresses)
    };
    patch.icmp_checksum = report.icmp.checksum().changed(message);
}

/// What of the client stands in a record's `out_ifindex`: its MSS and its window scale.
pub const fn packed_client(mss: u16, scale: u8) -> u32 {
    mss as u32 | ((scale as u32) << 16)
}

/// What the kernel is told of the connection: `struct bpf_tcp_req_attrs` of `include/net/tcp.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Attributes {
    /// The client's timestamp value.
    pub rcv_tsval: u32,
    /// The value at which the socket's own timestamps begin.
    pub rcv_tsecr: u32,
    /// The client's MSS, bytes.
    pub mss: u16,
    /// The window scale the socket is to use: the one promised to the client, or a smaller one (`FLAG_OWN_SCALE`).
    pub rcv_wscale: u8,
    /// The client's window scale.
    pub snd_wscale: u8,
    /// ECN was agreed on; here and below 0 or 1.
    pub ecn_ok: u8,
    /// Window scales were.
    pub wscale_ok: u8,
    /// Selective acknowledgements were.
    pub sack_ok: u8,
    /// Timestamps were.
    pub tstamp_ok: u8,
    /// Timestamps count microseconds: never. The clients of a VIP have seen milliseconds.
    pub usec_ts_ok: u8,
    /// Must be zeros.
    pub reserved: [u8; 3],
}

const _: () = assert!(size_of::<Attributes>() == 20);

impl Attributes {
    /// Of the flow, and of the packet to be assigned, whose timestamp value is the client's newest that is known.
    #[inline(always)]
    pub fn load(&mut self, record: &FlowRecord, segment: &Segment) {
        let flag = |bit: u32| u8::from(record.flags & bit != 0);
        let timestamps = flag(FLAG_TIMESTAMPS);
        self.rcv_tsval = if timestamps != 0 { segment.options.tsval } else { 0 };
        self.rcv_tsecr = record.tsecr_delta;
        // See `packed_client`.
        #[expect(clippy::cast_possible_truncation, reason = "the low 16 bits, and four more")]
        {
            self.mss = record.out_ifindex as u16;
            self.snd_wscale = (record.out_ifindex >> 16) as u8 & 15;
        }
        self.rcv_wscale = record.window_shift_in & 15;
        self.ecn_ok = flag(FLAG_ECN);
        self.wscale_ok = flag(FLAG_WINDOW_SCALES);
        self.sack_ok = flag(FLAG_SACK);
        self.tstamp_ok = timestamps;
        self.usec_ts_ok = 0;
        self.reserved = [0; 3];
    }
}

#[cfg(test)]
mod tests;
