//! What a host knows of one flow, for people: asked for by the intermediate's admin endpoint.

use super::message::{FlowRef, flow_id_text};
use crate::record::{FlowKey, FlowRecord, FlowState};
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// The answer to `Inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// Which handoff was asked for.
    pub flow: FlowRef,
    /// What the agent has of it; nothing if it does not know it.
    pub held: Option<Box<TargetFlow>>,
}

/// A flow on its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFlow {
    /// The server's address and port.
    pub server: SocketAddr,
    /// Whether the kernel made the server's socket from a packet; else the handshake was replayed.
    pub adopted: bool,
    /// Where the handoff stands while it is under way.
    pub handoff: Option<String>,
    /// How it ended, if it lingers.
    pub end: Option<String>,
    /// Milliseconds since its handoff.
    pub age_ms: u64,
    /// The program's half.
    pub map: MapReport,
    /// The server's socket, if there is one.
    pub socket: Option<SocketReport>,
    /// Why there is nothing about the socket, if the kernel could not be asked.
    pub socket_error: Option<String>,
}

/// A flow as one host's programs have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapReport {
    /// Its slot.
    pub slot: u32,
    /// Its keys, and the slots the map says for them.
    pub keys: Vec<KeyReport>,
    /// What the slot holds.
    pub record: RecordReport,
}

/// A key of the flow map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyReport {
    /// The client.
    pub remote: SocketAddr,
    /// The VIP (intermediate; target, adopted) or the server (target).
    pub local: SocketAddr,
    /// The slot under it, if it is in the map.
    pub slot: Option<u32>,
}

impl KeyReport {
    /// Of a key under which the map has this slot.
    pub fn new(key: &FlowKey, slot: Option<u32>) -> Self {
        KeyReport { remote: key.remote_addr(), local: key.local_addr(), slot }
    }
}

/// A [`FlowRecord`]; see there for each number's meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordReport {
    /// The state's name.
    pub state: String,
    /// 16 hexadecimal digits.
    pub flow_id: String,
    /// See there; so all below.
    pub generation: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// The address and port that are written into packets.
    pub new: SocketAddr,
    /// Added to sequence numbers, modulo 2^32.
    pub seq_delta: u32,
    /// Added to acknowledgement numbers and SACK edges, modulo 2^32.
    pub ack_delta: u32,
    /// Added to timestamp values, modulo 2^32.
    pub tsval_delta: u32,
    /// Added to timestamp echoes, modulo 2^32.
    pub tsecr_delta: u32,
    /// As they arrive, and as they leave.
    pub window_shifts: (u8, u8),
    /// See there.
    pub ack_floor: u32,
    /// See there.
    pub read_from: u32,
    /// Bytes; 0: any.
    pub leg_mtu: u32,
    /// See there.
    pub diverted: u32,
    /// See there.
    pub released: u32,
    /// The sender's newest acknowledgement number.
    pub note_ack: u32,
    /// The window that came with it, bytes.
    pub note_window: u32,
    /// Its newest timestamp value.
    pub note_tsval: u32,
    /// How far it has sent.
    pub note_seq_end: u32,
    /// `NOTE_*`.
    pub note_flags: u32,
    /// Milliseconds since the last packet; nothing if there was none.
    pub idle_ms: Option<u64>,
    /// Packets translated.
    pub packets: u64,
    /// Payload bytes translated.
    pub bytes: u64,
}

impl RecordReport {
    /// Of a record at this time (CLOCK_MONOTONIC, ns).
    pub fn new(record: &FlowRecord, now_ns: u64) -> Self {
        let seen = (record.last_seen_ns != 0).then_some(record.last_seen_ns);
        RecordReport {
            state: FlowState::from_raw(record.state).name().to_owned(),
            flow_id: flow_id_text(record.flow_id),
            generation: record.generation,
            flags: record.flags,
            new: record.rewritten_addr(),
            seq_delta: record.seq_delta,
            ack_delta: record.ack_delta,
            tsval_delta: record.tsval_delta,
            tsecr_delta: record.tsecr_delta,
            window_shifts: (record.window_shift_in, record.window_shift_out),
            ack_floor: record.ack_floor,
            read_from: record.read_from,
            leg_mtu: record.leg_mtu,
            diverted: record.diverted,
            released: record.released,
            note_ack: record.note_ack,
            note_window: record.note_window,
            note_tsval: record.note_tsval,
            note_seq_end: record.note_seq_end,
            note_flags: record.note_flags,
            idle_ms: seen.map(|seen| now_ns.saturating_sub(seen) / 1_000_000),
            packets: record.packets,
            bytes: record.bytes,
        }
    }
}

/// The server's socket as its kernel tells (`struct tcp_info` and `struct inet_diag_msg`, linux/tcp.h and
/// linux/inet_diag.h). Numbers the kernel is too old for are 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketReport {
    /// `ESTAB` and so on, as ss(8) writes them.
    pub state: String,
    /// The congestion control's name.
    pub congestion: String,
    /// Bytes received and not yet read by the server.
    pub receive_queue: u32,
    /// Bytes written by the server and not yet acknowledged by the client.
    pub send_queue: u32,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Its variation, microseconds.
    pub rtt_var_us: u32,
    /// The smallest there was, microseconds.
    pub min_rtt_us: u32,
    /// Retransmission time-out, microseconds.
    pub rto_us: u32,
    /// How often in a row it has run out.
    pub timeouts: u8,
    /// The largest segment sent, bytes.
    pub mss: u32,
    /// The path's MTU, bytes.
    pub path_mtu: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Slow-start threshold, segments.
    pub ssthresh: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Segments acknowledged selectively.
    pub sacked: u32,
    /// Segments taken for lost.
    pub lost: u32,
    /// Segments sent again and not acknowledged.
    pub retrans: u32,
    /// Segments sent again since the socket was made.
    pub total_retrans: u32,
    /// Payload bytes sent, those sent again included.
    pub bytes_sent: u64,
    /// Payload bytes sent again.
    pub bytes_retrans: u64,
    /// Payload bytes acknowledged.
    pub bytes_acked: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Bytes a second.
    pub pacing_rate: u64,
    /// Bytes a second.
    pub delivery_rate: u64,
    /// The client's window, bytes.
    pub send_window: u32,
    /// Microseconds during which there was something to send; of those, waiting for the client's window, and for room in
    /// the send buffer.
    pub busy_us: u64,
    /// See there.
    pub window_limited_us: u64,
    /// See there.
    pub buffer_limited_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortWord;
    use core::net::Ipv4Addr;

    #[test]
    fn a_record_is_shown_with_addresses_and_how_long_it_was_quiet() {
        let record = FlowRecord {
            flow_id: 0xab,
            state: FlowState::Committed as u32,
            new_addr: core::net::IpAddr::from(Ipv4Addr::new(10, 0, 2, 1)).into(),
            new_port: PortWord::new(8080),
            last_seen_ns: 5_000_000,
            ..FlowRecord::default()
        };
        let report = RecordReport::new(&record, 9_000_000);
        assert_eq!((report.flow_id.as_str(), report.state.as_str()), ("00000000000000ab", "committed"));
        assert_eq!((report.new, report.idle_ms), ("10.0.2.1:8080".parse().unwrap(), Some(4)));
        let silent = RecordReport::new(&FlowRecord { last_seen_ns: 0, ..record }, 9_000_000);
        assert_eq!(silent.idle_ms, None);
    }
}
