//! What follows from where a [`Replay`] stands: the next segment, the answer, the next time.

use super::facts::{self, Answer, SegmentOptions, SegmentToSend, flag};
use super::{Phase, Replay};
use crate::control::{MigratedAnswer, RefusedAnswer};

impl Replay {
    /// The next segment to inject; ask until `None`.
    pub fn poll_segment(&mut self, now_ns: u64) -> Option<SegmentToSend> {
        if let Some(seq) = self.reset_due.take() {
            return Some(SegmentToSend { seq, flags: flag::RST, ..SegmentToSend::default() });
        }
        match self.phase {
            Phase::SynSent if self.syns_due > 0 => {
                self.syns_due -= 1;
                Some(SegmentToSend::syn(&self.handoff.connection, self.first_byte().minus(1)))
            }
            Phase::Feeding => {
                let segment = self.poll_data();
                // Asked again after the last one was sent: only now it surely was.
                if segment.is_none() && self.fed_once && self.answered_ns == 0 {
                    self.answered_ns = now_ns.max(1);
                }
                segment
            }
            _ => None,
        }
    }

    fn poll_data(&mut self) -> Option<SegmentToSend> {
        let (request, total) = (self.request_bytes(), self.total());
        let room = self.right_edge.saturating_sub(self.next);
        let bytes = request.saturating_sub(self.next).min(self.payload_bytes).min(room);
        let to = self.next.saturating_add(bytes);
        let fin = total > request && to == request && room > bytes;
        // A short segment in mid-request only if nothing is in flight (RFC 9293, section 3.8.6.2.1).
        let short = bytes < self.payload_bytes && to < request && self.next != self.acknowledged;
        let bare = std::mem::take(&mut self.ack_due);
        if !bare && ((bytes == 0 && !fin) || short) {
            return None;
        }
        let mut flags = flag::ACK;
        if bytes > 0 && to == request {
            flags |= flag::PSH;
        }
        if fin {
            flags |= flag::FIN;
        }
        let segment = SegmentToSend {
            seq: self.first_byte().plus(self.next),
            ack: self.server_isn.plus(1),
            flags,
            window: facts::scaled_window(&self.handoff.connection),
            options: self.data_options(),
            payload_from: self.next,
            payload_to: to,
        };
        self.next = to.saturating_add(u32::from(fin));
        self.sent = self.sent.max(self.next);
        self.fed_once |= self.sent == total;
        Some(segment)
    }

    fn data_options(&self) -> SegmentOptions {
        if self.handoff.connection.options.timestamps {
            // The client's own clock as it last stood: echoes need no change then.
            SegmentOptions::Timestamps {
                value: self.handoff.connection.client_tsval,
                // Linux measures nothing by an echo of 0.
                echo: if self.untimed { 0 } else { self.server_tsval },
            }
        } else {
            SegmentOptions::None
        }
    }

    /// The answer to the intermediate once it is known; the same ever after, but for the times in it and the
    /// window.
    pub fn answer(&self) -> Option<Answer> {
        if self.answered_ns == 0 {
            return None;
        }
        let flow = self.handoff.flow;
        Some(match self.phase {
            Phase::SynSent | Phase::Accepted => return None,
            Phase::Refused(reason) => Answer::Refused(RefusedAnswer { flow, reason }),
            Phase::Feeding | Phase::Fed | Phase::Stopped => Answer::Migrated(MigratedAnswer {
                flow,
                server_snd_nxt: self.server_isn.plus(1),
                client_snd_nxt: self.handoff.connection.snd_nxt,
                ts_delta: self.translation.tsval_delta,
                window_end: self.first_byte().plus(self.right_edge),
                handshake_us: micros(self.handshake_ns),
                total_us: micros(self.answered_ns.saturating_sub(self.received_ns)),
            }),
        })
    }

    /// When [`Replay::on_time`] must be called at the latest; `None` once nothing is left to do.
    pub fn next_timer_ns(&self) -> Option<u64> {
        match self.phase {
            Phase::SynSent => Some(self.resend_at_ns.min(self.deadline_ns)),
            Phase::Accepted => Some(self.deadline_ns),
            Phase::Feeding if self.answered_ns == 0 => Some(self.resend_at_ns.min(self.deadline_ns)),
            Phase::Feeding => Some(self.resend_at_ns),
            _ => None,
        }
    }
}

fn micros(ns: u64) -> u32 {
    u32::try_from(ns / 1000).unwrap_or(u32::MAX)
}
