//! A frozen connection's state, as the intermediate captured it and the agent needs it.

use crate::seq::{Client, Seq};
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// What both ends agreed on at the handshake, from `TCP_INFO` (never from the SYN: a SYN-cookie connection can
/// lack what its SYN asked for).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NegotiatedOptions {
    /// The largest segment the client accepts, bytes (RFC 9293, section 3.7.1).
    pub client_mss: u16,
    /// Selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// Timestamps (RFC 7323, section 3).
    pub timestamps: bool,
    /// Window scales if both sent the option (RFC 7323, section 2), else `None` and all windows are unscaled.
    pub window_scale: Option<WindowScales>,
    /// Explicit congestion notification (RFC 3168).
    pub ecn: bool,
}

impl NegotiatedOptions {
    /// The largest window the client can offer, bytes: how far it can acknowledge beyond what it had.
    pub fn reach(&self) -> u32 {
        crate::state::acceptable::reach(self.window_scale.map(|scales| scales.client))
    }

    /// Sizes of the fields of [`NegotiatedOptions::to_word`], bits: the MSS comes first, then the two shifts, then a bit for
    /// each option.
    const MSS_BITS: u32 = 16;
    const SHIFT_BITS: u32 = 4;
    const CLIENT_AT: u32 = Self::MSS_BITS;
    const PROMISED_AT: u32 = Self::CLIENT_AT + Self::SHIFT_BITS;
    const SACK: u32 = 1 << 24;
    const TIMESTAMPS: u32 = 1 << 25;
    const SCALES: u32 = 1 << 26;
    const ECN: u32 = 1 << 27;

    /// All of it in one word, which is not 0: no segment size is.
    pub fn to_word(&self) -> u32 {
        let bit = |there: bool, bit: u32| if there { bit } else { 0 };
        let scales = self.window_scale.map_or(0, |scales| {
            let nibble = |shift: u8| u32::from(shift & 15);
            nibble(scales.client) << Self::CLIENT_AT
                | nibble(scales.promised) << Self::PROMISED_AT
                | Self::SCALES
        });
        u32::from(self.client_mss)
            | scales
            | bit(self.sack, Self::SACK)
            | bit(self.timestamps, Self::TIMESTAMPS)
            | bit(self.ecn, Self::ECN)
    }

    /// Back from the word; `None` from one without a segment size: nobody wrote it.
    pub fn from_word(word: u32) -> Option<Self> {
        let [low, high, shifts, _] = word.to_le_bytes();
        let client_mss = u16::from_le_bytes([low, high]);
        let scales = WindowScales { client: shifts & 15, promised: shifts >> Self::SHIFT_BITS };
        (client_mss != 0).then_some(NegotiatedOptions {
            client_mss,
            sack: word & Self::SACK != 0,
            timestamps: word & Self::TIMESTAMPS != 0,
            window_scale: (word & Self::SCALES != 0).then_some(scales),
            ecn: word & Self::ECN != 0,
        })
    }
}

/// The two shifts of RFC 7323, section 2.3; each 0 to 14.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowScales {
    /// The client's: applied to the windows the client sends.
    pub client: u8,
    /// The intermediate's, as promised to the client: applied to the windows sent to the client.
    pub promised: u8,
}

/// A connection between client and VIP at the moment of its freeze. All numbers are in the client's space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedConnection {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The VIP's address and port.
    pub vip: SocketAddr,
    /// The next sequence number expected from the client; counts the client's FIN if `client_fin`.
    #[serde(with = "seq_serde")]
    pub rcv_nxt: Seq<Client>,
    /// The next sequence number to be sent to the client. Nothing before it is unacknowledged.
    #[serde(with = "seq_serde")]
    pub snd_nxt: Seq<Client>,
    /// The client's window, bytes, beyond `snd_nxt`.
    pub snd_wnd: u32,
    /// The largest window the client has offered, bytes.
    pub max_window: u32,
    /// The window last promised to the client, bytes, beyond `rcv_nxt`.
    pub rcv_wnd: u32,
    /// What was negotiated.
    pub options: NegotiatedOptions,
    /// The newest timestamp known from the client (RFC 7323's TSval; the SYN's is good enough), 0 without, and 0 if its
    /// clock is not known (a SYN cookie's connection). Linux takes a 0 for "none yet" (`tcp_paws_check` in
    /// `include/net/tcp.h`), so that the client's next packet passes whatever its clock says, and echoes 0 until then, which
    /// clients measure nothing by.
    pub client_tsval: u32,
    /// A timestamp value no smaller than any the client was sent, 0 without.
    pub vip_tsval: u32,
    /// Smoothed round-trip time to the client, microseconds, 0 if not measured.
    pub rtt_us: u32,
    /// The client has closed its direction: its FIN is the last thing before `rcv_nxt`.
    pub client_fin: bool,
}

/// Sequence numbers as plain numbers in messages.
pub(crate) mod seq_serde {
    use super::Seq;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S, Z: Serializer>(seq: &Seq<S>, z: Z) -> Result<Z::Ok, Z::Error> {
        z.serialize_u32(seq.raw())
    }

    pub(crate) fn deserialize<'de, S, D: Deserializer<'de>>(d: D) -> Result<Seq<S>, D::Error> {
        u32::deserialize(d).map(Seq::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_was_agreed_comes_back_from_its_word(
            client_mss in 1u16..,
            (sack, timestamps, ecn) in proptest::arbitrary::any::<(bool, bool, bool)>(),
            scales in proptest::option::of((0u8..15, 0u8..15)),
        ) {
            let window_scale = scales.map(|(client, promised)| WindowScales { client, promised });
            let agreed = NegotiatedOptions { client_mss, sack, timestamps, window_scale, ecn };
            proptest::prop_assert_eq!(NegotiatedOptions::from_word(agreed.to_word()), Some(agreed));
        }

        #[test]
        fn any_word_is_read(word: u32) {
            let read = NegotiatedOptions::from_word(word);
            proptest::prop_assert_eq!(read.is_none(), word & 0xffff == 0);
        }
    }
}
