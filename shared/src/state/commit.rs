//! The intermediate's record of a flow that a target has taken: how its client's packets are translated from there on.

use crate::capture::CapturedConnection;
use crate::control::MigratedAnswer;
use crate::record::{FLAG_TIMESTAMPS, FlowRecord};

/// The record of a frozen flow that is about to be handed to a target that is expected to adopt it: with what lets the client's
/// packets go on that show its server's answer ([`FLAG_AHEAD`](crate::record::FLAG_AHEAD), to be set when the rest is in the record). `given` as below.
pub fn ahead(record: &FlowRecord, given: &CapturedConnection) -> FlowRecord {
    let timestamps = if given.options.timestamps { FLAG_TIMESTAMPS } else { 0 };
    let record = FlowRecord {
        flags: record.flags | timestamps,
        seq_delta: 0,
        tsval_delta: 0,
        ack_delta: 0,
        tsecr_delta: 0,
        read_from: given.rcv_nxt.raw(),
        ..*record
    };
    noted(&record, given)
}

/// `record` with what is known of the client.
fn noted(record: &FlowRecord, given: &CapturedConnection) -> FlowRecord {
    FlowRecord {
        note_ack: given.snd_nxt.raw(),
        note_seq_end: given.rcv_nxt.raw(),
        note_window: given.options.reach(),
        note_tsval: window_field(given),
        ..*record
    }
}

/// `record` with the translation that `answer` asks for, of the connection as it was given to the target: its numbers in the
/// client's space.
pub fn committed(record: &FlowRecord, answer: &MigratedAnswer, given: &CapturedConnection) -> FlowRecord {
    let timestamps = if given.options.timestamps { FLAG_TIMESTAMPS } else { 0 };
    let record = FlowRecord {
        flags: record.flags | timestamps,
        // The client's own numbers are the server's, too: the handshake was replayed, or the socket made, with them.
        seq_delta: 0,
        tsval_delta: 0,
        ack_delta: answer.client_snd_nxt.delta_to(answer.server_snd_nxt).0,
        tsecr_delta: answer.ts_delta.wrapping_neg(),
        ..*record
    };
    noted(&record, given)
}

/// The window as the client's segments have it.
fn window_field(given: &CapturedConnection) -> u32 {
    let scale = given.options.window_scale.map_or(0, |scales| u32::from(scales.client & 15));
    (given.snd_wnd >> scale).min(u16::MAX.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::NegotiatedOptions;
    use crate::control::FlowRef;
    use crate::record::{FLAG_LEG_UDP, FLAG_TRACKED};
    use crate::seq::Seq;

    fn given(timestamps: bool) -> CapturedConnection {
        CapturedConnection {
            client: "10.0.0.1:1000".parse().unwrap(),
            vip: "10.0.0.2:80".parse().unwrap(),
            rcv_nxt: Seq::new(7),
            snd_nxt: Seq::new(u32::MAX),
            snd_wnd: 1000,
            max_window: 1000,
            rcv_wnd: 1000,
            options: NegotiatedOptions {
                client_mss: 1460,
                sack: true,
                timestamps,
                window_scale: None,
                ecn: false,
            },
            client_tsval: 3,
            vip_tsval: 4,
            rtt_us: 0,
            client_fin: false,
        }
    }

    fn answer(server_snd_nxt: u32, ts_delta: u32) -> MigratedAnswer {
        MigratedAnswer {
            flow: FlowRef { flow_id: 1, generation: 1 },
            server_snd_nxt: Seq::new(server_snd_nxt),
            client_snd_nxt: Seq::new(u32::MAX),
            ts_delta,
            window_end: Seq::new(9),
            handshake_us: 0,
            total_us: 0,
        }
    }

    #[test]
    fn the_clients_acknowledgements_and_echoes_become_the_servers() {
        let before = FlowRecord {
            flow_id: 9,
            flags: FLAG_TRACKED,
            ack_delta: 5,
            seq_delta: 6,
            ..FlowRecord::default()
        };
        let record = committed(&before, &answer(1, 10), &given(true));
        // What the client acknowledges as u32::MAX is 1 to the server.
        assert_eq!(u32::MAX.wrapping_add(record.ack_delta), 1);
        assert_eq!(10u32.wrapping_add(record.tsecr_delta), 0);
        assert_eq!((record.seq_delta, record.tsval_delta), (0, 0));
        assert_eq!((record.note_ack, record.note_seq_end), (u32::MAX, 7));
        assert_eq!(record.flags, FLAG_TRACKED | FLAG_TIMESTAMPS);
        assert_eq!(record.flow_id, 9);
    }

    #[test]
    fn what_is_known_of_the_client_is_the_same_before_the_answer_and_behind_it() {
        let frozen = FlowRecord { flow_id: 9, flags: FLAG_LEG_UDP, ack_delta: 5, ..FlowRecord::default() };
        let (before, behind) =
            (ahead(&frozen, &given(true)), committed(&frozen, &answer(u32::MAX, 0), &given(true)));
        assert_eq!(before, FlowRecord { read_from: 7, ..behind });
        assert_eq!(before.flags, FLAG_LEG_UDP | FLAG_TIMESTAMPS);
        assert!(before.leads_to_adopted());
    }

    #[test]
    fn an_adopted_connection_is_translated_in_nothing() {
        let record = committed(&FlowRecord::default(), &answer(u32::MAX, 0), &given(false));
        assert_eq!((record.ack_delta, record.seq_delta, record.tsecr_delta, record.flags), (0, 0, 0, 0));
        assert!(
            answer(u32::MAX, 0).is_adopted()
                && !answer(1, 0).is_adopted()
                && !answer(u32::MAX, 1).is_adopted()
        );
    }
}
