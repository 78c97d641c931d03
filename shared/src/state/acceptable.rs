//! Whether data that a client sends behind the request under way are believed to be the client's: a server's kernel would
//! judge them before anybody read them, and here the intermediate reads them first.
//!
//! As strict as a kernel can be that does not know how far the server has sent: what an attacker who sees nothing would have
//! to guess stays as hard to guess within a factor of two (RFC 5961, section 5.2; RFC 7323, section 5.3).

use crate::packet::held::HeldFacts;
use crate::seq::{are_near, before};

/// What is known of a client, in its own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownClient {
    /// The highest number it has acknowledged.
    pub acked: u32,
    /// How far from that an acknowledgement of its can lie: its largest window, bytes. 0: not known.
    pub reach: u32,
    /// The timestamp of the newest segment of its that came in order; 0: none is known.
    pub tsval: u32,
}

/// The largest window a client with this scale can offer (RFC 7323, section 2.2), bytes.
pub const fn reach(window_scale: Option<u8>) -> u32 {
    match window_scale {
        Some(scale) => {
            // A scale above 14 counts as 14.
            let scale = if scale > 14 { 14 } else { scale };
            (u16::MAX as u32) << scale
        }
        None => u16::MAX as u32,
    }
}

/// Whether to believe it. A segment without an acknowledgement is nobody's (RFC 9293, section 3.10.7.4).
pub fn is_acceptable(facts: &HeldFacts<'_>, known: &KnownClient) -> bool {
    let Some(ack) = facts.ack else { return false };
    let near = are_near(ack, known.acked, known.reach);
    let fresh = facts.tsval.is_none_or(|tsval| known.tsval == 0 || !before(tsval, known.tsval));
    near && fresh
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FlowKey;
    use crate::wire::Segment;

    fn judge(ack: Option<u32>, tsval: Option<u32>, known: KnownClient) -> bool {
        let facts = HeldFacts {
            key: FlowKey::default(),
            seq: 0,
            ack,
            fin: false,
            rst: false,
            window: 0,
            tsval,
            plain_options: true,
            payload: b"x",
            segment: Segment::default(),
        };
        is_acceptable(&facts, &known)
    }

    #[test]
    fn acknowledgements_within_the_clients_reach_are_believed_across_the_wrap() {
        let known = KnownClient { acked: 10, reach: 65_535, tsval: 0 };
        for (ack, expected) in [
            (10, true),
            (10 + 65_535, true),
            (10 + 65_536, false),
            (10u32.wrapping_sub(65_535), true),
            (10u32.wrapping_sub(65_536), false),
            (10 + (1 << 31), false),
        ] {
            assert_eq!(judge(Some(ack), None, known), expected, "{ack}");
        }
        assert!(!judge(None, None, known), "no acknowledgement");
        assert!(judge(Some(1 << 31), None, KnownClient { reach: 0, ..known }), "nothing is known");
    }

    #[test]
    fn timestamps_that_go_back_are_not_believed() {
        let known = KnownClient { acked: 0, reach: 1, tsval: u32::MAX };
        assert!(judge(Some(0), Some(u32::MAX), known) && judge(Some(0), Some(5), known));
        assert!(!judge(Some(0), Some(u32::MAX - 1), known));
        assert!(judge(Some(0), None, known), "a kernel takes those as well");
        assert!(judge(Some(0), Some(7), KnownClient { tsval: 0, ..known }));
    }

    #[test]
    fn the_reach_is_the_largest_window() {
        assert_eq!([reach(None), reach(Some(0)), reach(Some(7))], [65_535, 65_535, 65_535 << 7]);
        assert_eq!(reach(Some(200)), reach(Some(14)));
    }
}
