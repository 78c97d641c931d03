//! What goes into and comes out of a [`Replay`](super::Replay): values of headers, not bytes.

use crate::capture::CapturedConnection;
use crate::control::{Handoff, MigratedAnswer, RefusedAnswer};
use crate::record::{FLAG_TIMESTAMPS, FLAG_TRACKED, FlowRecord};
use crate::seq::{Client, Seq, Server};

/// Control bits of the TCP header's 14th byte (RFC 9293, section 3.1).
pub mod flag {
    pub use crate::wire::{ACK, FIN, RST, SYN};

    /// Push.
    pub const PSH: u8 = 0x08;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168, section 6.1).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168, section 6.1).
    pub const CWR: u8 = 0x80;
}

/// A segment of the server's kernel that was diverted to the agent, its numbers as they stand in the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerReply {
    /// Sequence number.
    pub seq: Seq<Server>,
    /// Acknowledgement number; the client's space is the server's here.
    pub ack: Seq<Client>,
    /// [`flag`] bits.
    pub flags: u8,
    /// The window field, unscaled.
    pub window: u16,
    /// The MSS option, bytes.
    pub mss: Option<u16>,
    /// The SACK-permitted option.
    pub sack_permitted: bool,
    /// The timestamp option: value and echo.
    pub timestamps: Option<(u32, u32)>,
    /// The window-scale option.
    pub window_scale: Option<u8>,
}

/// The options of a segment to inject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SegmentOptions {
    /// None.
    #[default]
    None,
    /// Those of a SYN, as the client's connection has them.
    Syn {
        /// MSS, bytes.
        mss: u16,
        /// SACK permitted.
        sack: bool,
        /// Timestamp value (the echo is 0).
        tsval: Option<u32>,
        /// Window scale.
        window_scale: Option<u8>,
    },
    /// A timestamp option.
    Timestamps {
        /// Value, the client's clock.
        value: u32,
        /// Echo, the server's clock.
        echo: u32,
    },
}

/// A segment to inject, from the client's address to the server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentToSend {
    /// Sequence number.
    pub seq: Seq<Client>,
    /// Acknowledgement number; counts if [`flag::ACK`] is set.
    pub ack: Seq<Server>,
    /// [`flag`] bits.
    pub flags: u8,
    /// The window field.
    pub window: u16,
    /// Options.
    pub options: SegmentOptions,
    /// First request byte carried, counted from the request's first.
    pub payload_from: u32,
    /// One past the last.
    pub payload_to: u32,
}

impl SegmentToSend {
    /// The SYN of a captured connection.
    pub(super) fn syn(connection: &CapturedConnection, seq: Seq<Client>) -> Self {
        let options = &connection.options;
        // Linux takes the offer of ECN only from a SYN whose IP header is Not-ECT; the packets built are.
        let ecn = if options.ecn { flag::ECE | flag::CWR } else { 0 };
        SegmentToSend {
            seq,
            flags: flag::SYN | ecn,
            window: u16::try_from(connection.snd_wnd).unwrap_or(u16::MAX),
            options: SegmentOptions::Syn {
                mss: options.client_mss,
                sack: options.sack,
                tsval: options.timestamps.then_some(connection.client_tsval),
                window_scale: options.window_scale.map(|s| s.client),
            },
            ..SegmentToSend::default()
        }
    }
}

/// The client's window as it stands in its headers.
pub(super) fn scaled_window(connection: &CapturedConnection) -> u16 {
    let shift = connection.options.window_scale.map_or(0, |s| u32::from(s.client)).min(14);
    u16::try_from(connection.snd_wnd >> shift).unwrap_or(u16::MAX)
}

/// How the server's segments become the client's: what a record on the target needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Added to sequence numbers.
    pub seq_delta: u32,
    /// Added to timestamp values.
    pub tsval_delta: u32,
    /// Acknowledgements before this are raised to it: the client was told so much already.
    pub ack_floor: Seq<Client>,
    /// The server's window scale.
    pub window_shift_in: u8,
    /// The window scale promised to the client.
    pub window_shift_out: u8,
    /// Whether the connection has timestamps.
    pub timestamps: bool,
    /// Where the server's first response begins, if the flow is tracked: the agent reads from there.
    pub read_from: Option<Seq<Server>>,
}

impl Translation {
    /// From the server's SYN-ACK; `None` if the server does not offer just the options the client uses.
    pub(super) fn between(handoff: &Handoff, reply: &ServerReply) -> Option<Self> {
        let connection = &handoff.connection;
        let options = &connection.options;
        let scales = match (options.window_scale, reply.window_scale) {
            (Some(client), Some(server)) if server <= 14 => Some((server, client.promised)),
            (None, None) => None,
            _ => return None,
        };
        let ecn = reply.flags & flag::ECE != 0;
        if options.timestamps != reply.timestamps.is_some()
            || options.sack != reply.sack_permitted
            || options.ecn != ecn
        {
            return None;
        }
        let tsval_delta = reply.timestamps.map_or(0, |(value, _)| {
            connection.vip_tsval.wrapping_add(super::TSVAL_AHEAD).wrapping_sub(value)
        });
        Some(Translation {
            seq_delta: reply.seq.plus(1).delta_to(connection.snd_nxt).0,
            tsval_delta,
            ack_floor: handoff.acknowledged,
            window_shift_in: scales.map_or(0, |(server, _)| server),
            window_shift_out: scales.map_or(0, |(_, promised)| promised),
            timestamps: options.timestamps,
            read_from: handoff.tracked.map(|_| reply.seq.plus(1)),
        })
    }

    /// Writes the translation into a record of the target; addresses, notes and state are the caller's.
    pub fn fill(&self, record: &mut FlowRecord) {
        record.seq_delta = self.seq_delta;
        record.ack_delta = 0;
        record.tsval_delta = self.tsval_delta;
        record.tsecr_delta = 0;
        record.ack_floor = self.ack_floor.raw();
        record.window_shift_in = self.window_shift_in;
        record.window_shift_out = self.window_shift_out;
        record.flags = if self.timestamps { FLAG_TIMESTAMPS } else { 0 };
        if let Some(read_from) = self.read_from {
            record.flags |= FLAG_TRACKED;
            record.read_from = read_from.raw();
        }
    }
}

/// What the intermediate is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server has the connection.
    Migrated(MigratedAnswer),
    /// It has not, and will not.
    Refused(RefusedAnswer),
}
