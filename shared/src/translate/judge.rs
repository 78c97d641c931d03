//! The verdict on a packet of a known flow, at each of the two hooks.

use super::{Account, Direction, Patch, adopt};
use crate::reason::PacketCounter;
use crate::record::{
    FLAG_AHEAD, FLAG_FED, FLAG_LEG_IPIP, FLAG_LEG_UDP, FLAG_TRACKED, FlowRecord, FlowState, NOTE_ACTIVE_RST,
    NOTE_CAUGHT_UP, NOTE_CLOSING, NOTE_FIN, NOTE_LISTENER, NOTE_RST, NOTE_SYN_ACK,
};
use crate::seq::before;
use crate::wire::{ACK, FIN, RST, SYN, Segment};

/// What to do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// Leave it to the ordinary stack, unchanged.
    Pass = 0,
    /// Have [`translate`](super::translate) fill in the patch, write it into the packet, send it on its way.
    Translate = 1,
    /// Send it, unchanged, to the daemon's TUN.
    Divert = 2,
    /// Drop it.
    Drop = 3,
}

/// The judgement: two words. `patch.account` is filled in besides, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// What to count; `None` only with [`Action::Pass`].
    pub counter: Option<PacketCounter>,
}

impl Verdict {
    #[inline(always)]
    const fn new(action: Action, counter: PacketCounter) -> Self {
        Verdict { action, counter: Some(counter) }
    }

    #[inline(always)]
    const fn pass() -> Self {
        Verdict { action: Action::Pass, counter: None }
    }
}

/// On the intermediate's ingress: a packet from the client to the VIP.
///
/// `marked` tells that it came back from the hold TUN. `now_ns` is CLOCK_MONOTONIC.
#[inline(always)]
pub fn judge_ingress(
    record: &FlowRecord,
    segment: &Segment,
    marked: bool,
    now_ns: u64,
    patch: &mut Patch,
) -> Verdict {
    patch.account = Account::default();
    let length = segment.held_length();
    let state = FlowState::from_raw(record.state);
    match state {
        FlowState::Frozen => {
            // The owner is dead or stuck: the ordinary stack still has the connection.
            if now_ns >= record.deadline_ns {
                return Verdict::new(Action::Pass, PacketCounter::FreezeExpired);
            }
            if !marked && shows_answer(record, segment) {
                let verdict = goes_on(record, segment, &mut patch.account);
                if matches!(verdict.action, Action::Translate) {
                    patch.account.also = PacketCounter::AheadOfAnswer.code();
                }
                return verdict;
            }
            if marked {
                patch.account.released = length;
            }
            patch.account.diverted = length;
            Verdict::new(Action::Divert, PacketCounter::Diverted)
        }
        FlowState::Committed | FlowState::Ended => {
            // The client uses its port again. Not so while the flow lives: anybody can forge a SYN, and only
            // the owner of the socket knows what to answer (RFC 5961, section 4). But the word of its end may be on its
            // way: the daemon waits for that, and gives the SYN back.
            if segment.opens() {
                if matches!(state, FlowState::Ended) {
                    patch.account.state = FlowState::Superseded as u32;
                    return Verdict::new(Action::Pass, PacketCounter::SynToListener);
                }
                if !marked {
                    patch.account.diverted = length;
                    return Verdict::new(Action::Divert, PacketCounter::SynAwaitsEnd);
                }
            }
            if marked {
                patch.account.released = length;
                patch.account.also = PacketCounter::Released.code();
            } else if length != 0 && is_draining(record) {
                patch.account.diverted = length;
                return Verdict::new(Action::Divert, PacketCounter::Diverted);
            } else if matches!(state, FlowState::Committed) && starts_later(record, segment) {
                patch.account.diverted = length;
                return Verdict::new(Action::Divert, PacketCounter::LaterRequest);
            }
            if exceeds_leg(record, segment) {
                // The daemon tells the client, gives the packet back so that the accounts agree, and here it ends.
                if marked {
                    patch.account.also = 0;
                    return Verdict::new(Action::Drop, PacketCounter::DropTooBig);
                }
                patch.account.diverted = length;
                return Verdict::new(Action::Divert, PacketCounter::TooBig);
            }
            goes_on(record, segment, &mut patch.account)
        }
        FlowState::Superseded => Verdict::new(Action::Pass, PacketCounter::Superseded),
        // The target's states do not occur here.
        FlowState::Free | FlowState::Replaying | FlowState::Fenced | FlowState::Adopting => Verdict::pass(),
    }
}

/// Whether a packet of a client in mid-handoff tells that the server has answered, and is nothing but an acknowledgement of that
/// or the end behind all that the server was given: the connection is the server's, and the word of it is on its way. The first
/// one must acknowledge more than was sent here; `packets` are those that went on. An end is kept where something of the client's
/// is.
#[inline(always)]
fn shows_answer(record: &FlowRecord, segment: &Segment) -> bool {
    let news = segment.ack.wrapping_sub(record.note_ack);
    let ends = segment.has(FIN);
    record.flags & FLAG_AHEAD != 0
        && segment.payload == 0
        && segment.flags & (ACK | SYN | RST) == ACK
        && news <= record.note_window
        && (news != 0 || record.packets != 0)
        && (!ends || record.diverted == record.released && !before(record.read_from, segment.seq))
}

/// A client's packet goes on to the target, unless it has been on its way for too long.
#[inline(always)]
pub(super) fn goes_on(record: &FlowRecord, segment: &Segment, account: &mut Account) -> Verdict {
    if segment.ttl <= 1 {
        return Verdict::new(Action::Drop, PacketCounter::DropTtlExpired);
    }
    note_client(record, segment, account);
    Verdict::new(Action::Translate, PacketCounter::Translated)
}

/// Whether held data of the flow is still on its way through the daemon, so that new data queues behind it; not for ever.
#[inline(always)]
fn is_draining(record: &FlowRecord) -> bool {
    before(record.released, record.diverted) && before(record.diverted, record.drain_end)
}

/// Whether a segment is larger than the way to the target takes. Where routers cut it into fragments it is not: but never
/// inside an outer header, which they must not cut, nor on its way to an adopted socket, to which no fragments are led.
#[inline(always)]
pub const fn exceeds_leg(record: &FlowRecord, segment: &Segment) -> bool {
    let whole = record.flags & (FLAG_LEG_IPIP | FLAG_LEG_UDP) != 0 || record.leads_to_adopted();
    record.leg_mtu != 0 && segment.packet > record.leg_mtu && (segment.may_fragment == 0 || whole)
}

/// Whether data of a tracked flow reaches beyond the request under way, or a FIN behind such data does. A FIN that follows
/// the request at once is its server's to know, and starts nothing. A reset is the server's, whatever it carries: it ends
/// the flow.
#[inline(always)]
fn starts_later(record: &FlowRecord, segment: &Segment) -> bool {
    record.flags & FLAG_TRACKED != 0
        && segment.held_length() != 0
        && !segment.has(RST)
        && before(record.read_from, segment.seq.wrapping_add(segment.payload))
}

/// On the target's egress: a packet from the server's kernel to the client.
#[inline(always)]
pub fn judge_egress(record: &FlowRecord, segment: &Segment, patch: &mut Patch) -> Verdict {
    patch.account = Account::default();
    match FlowState::from_raw(record.state) {
        FlowState::Replaying => {
            note(record, segment, &mut patch.account);
            Verdict::new(Action::Divert, PacketCounter::ReplayDiverted)
        }
        FlowState::Fenced => Verdict::new(Action::Drop, PacketCounter::DropFenced),
        FlowState::Committed | FlowState::Ended | FlowState::Adopting => {
            if segment.has(SYN | ACK) {
                as_noted(record, &mut patch.account);
                patch.account.note_flags = NOTE_LISTENER;
                tell_closing(record, &mut patch.account);
                return Verdict::new(Action::Drop, PacketCounter::DropLateSynAck);
            }
            if adopt::is_adopted(record) {
                return adopt::judge_sent(record, segment, patch);
            }
            note(record, segment, &mut patch.account);
            tell_closing(record, &mut patch.account);
            patch.account.copy = copied(record, segment);
            Verdict::new(Action::Translate, PacketCounter::Translated)
        }
        // The intermediate's states do not occur here.
        FlowState::Free | FlowState::Frozen | FlowState::Superseded => Verdict::pass(),
    }
}

/// Tells whether the agent must look at a flow by what is noted of this packet: not of one that has ended, and once for each
/// sign, for it looks again by itself.
#[inline(always)]
pub(super) fn tell_closing(record: &FlowRecord, account: &mut Account) {
    let is_news = account.note_flags & !record.note_flags & NOTE_CLOSING != 0;
    let goes_on = matches!(FlowState::from_raw(record.state), FlowState::Committed | FlowState::Adopting);
    account.closes = (goes_on && is_news) as u32;
}

/// How much of the server's segment the agent must read, to know where its response ends, bytes: all or nothing.
#[inline(always)]
pub(super) fn copied(record: &FlowRecord, segment: &Segment) -> u32 {
    let is_read = !matches!(FlowState::from_raw(record.state), FlowState::Ended)
        && record.flags & FLAG_TRACKED != 0
        && before(record.read_from, segment.seq.wrapping_add(segment.payload));
    // Without a payload there is nothing to read, either way.
    segment.payload.wrapping_mul(is_read as u32)
}

/// Either hook: a packet of a known flow whose segment cannot be read, for `reason`. It must not reach the local
/// stack, which knows nothing of the flow and would answer with a reset, unless the stack has the connection.
#[inline(always)]
pub fn judge_unreadable(record: &FlowRecord, now_ns: u64, reason: PacketCounter) -> Verdict {
    match FlowState::from_raw(record.state) {
        FlowState::Free | FlowState::Superseded => Verdict::pass(),
        FlowState::Frozen if now_ns >= record.deadline_ns => {
            Verdict::new(Action::Pass, PacketCounter::FreezeExpired)
        }
        _ => Verdict::new(Action::Drop, reason),
    }
}

/// Either hook: an IPv6 packet with more extension headers than are walked
/// ([`EXTENSIONS_MAX`](crate::wire::EXTENSIONS_MAX)), or a first fragment that ends before the ports, so that its flow
/// cannot be known. It could be a migrated one, so the intermediate's stack does not get it; what the target's own kernel
/// sends is not ours to hold back.
#[inline(always)]
pub fn judge_unwalked(direction: Direction) -> Verdict {
    match direction {
        Direction::FromClient => Verdict::new(Action::Drop, PacketCounter::DropExtensions),
        Direction::ToClient => Verdict::pass(),
    }
}

/// The notes as they stand, to be changed or to have a flag added.
#[inline(always)]
pub(super) fn as_noted(record: &FlowRecord, account: &mut Account) {
    account.noted = 1;
    account.note_ack = record.note_ack;
    account.note_window = record.note_window;
    account.note_tsval = record.note_tsval;
    account.note_seq_end = record.note_seq_end;
}

/// Notes how far the client is and what it takes: by it the intermediate sees whether a flow whose agent is gone still gets
/// on, knows the number for a reset if it does not (`state::lost`), and tells the server that gets the flow next
/// (`state::heard`). The daemon filled the notes in before the first packet; the largest window there can be stays.
#[inline(always)]
fn note_client(record: &FlowRecord, segment: &Segment, account: &mut Account) {
    as_noted(record, account);
    let within = |bytes: u32| record.note_window == 0 || bytes <= record.note_window;
    // Further than its largest window the client cannot have got, and no older segment of its is that old (RFC 5961,
    // section 5.2): the notes follow no forger who does not know where the connection stands.
    let ahead = within(segment.ack.wrapping_sub(record.note_ack));
    let behind = within(record.note_ack.wrapping_sub(segment.ack));
    if !segment.has(ACK) || segment.has(RST) || !(ahead || behind) {
        return;
    }
    let older = before(segment.ack, record.note_ack);
    if ahead && !older {
        account.note_ack = segment.ack;
    }
    let end = segment.seq.wrapping_add(segment.sequence_length());
    // What an older segment says of the window is no news (RFC 9293, section 3.10.7.4).
    if !before(end, record.note_seq_end) {
        account.note_seq_end = end;
        if ahead && !older {
            account.note_tsval = segment.window as u32;
        }
    }
}

/// Notes what the server's kernel says of itself: the agent feeds the request by it, and judges the end.
#[inline(always)]
pub(super) fn note(record: &FlowRecord, segment: &Segment, account: &mut Account) {
    // The first segment noted is the SYN-ACK; before it there is nothing to compare with.
    let first = record.note_flags & NOTE_SYN_ACK == 0;
    as_noted(record, account);
    // A reset's acknowledgement and window tell nothing about what was received.
    if segment.has(ACK) && !segment.has(RST) && (first || !before(segment.ack, record.note_ack)) {
        let shift = if segment.has(SYN) { 0 } else { record.window_shift_in & 15 };
        account.note_ack = segment.ack;
        account.note_window = (segment.window as u32) << shift;
        if record.flags & FLAG_FED != 0
            && !before(segment.ack.wrapping_add(record.ack_delta), record.ack_floor)
        {
            account.note_flags |= NOTE_CAUGHT_UP;
        }
    }
    if segment.options.places.timestamps != 0 {
        // As the client sees it; what was noted during the replay knew no delta yet.
        let tsval = segment.options.tsval.wrapping_add(record.tsval_delta);
        if record.packets == 0 || !before(tsval, record.note_tsval) {
            account.note_tsval = tsval;
        }
    }
    if !segment.has(RST) {
        let end = segment.seq.wrapping_add(segment.sequence_length());
        if first || before(record.note_seq_end, end) {
            account.note_seq_end = end;
        }
    }
    if segment.has(FIN) {
        account.note_flags |= NOTE_FIN;
    }
    if segment.has(RST) {
        account.note_flags |= NOTE_RST;
        if segment.has(ACK) {
            account.note_flags |= NOTE_ACTIVE_RST;
        }
    }
    if segment.has(SYN | ACK) {
        account.note_flags |= NOTE_SYN_ACK;
    }
}

#[cfg(test)]
mod tests;
