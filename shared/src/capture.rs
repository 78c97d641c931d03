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
