//! A captured connection, for this module's tests.

use baton_shared::capture::{CapturedConnection, NegotiatedOptions};
use baton_shared::seq::{Client, Seq};

/// Between `client` and `vip`, received up to `rcv_nxt`; the client has had all up to 500.
pub(crate) fn captured(client: &str, vip: &str, rcv_nxt: Seq<Client>) -> CapturedConnection {
    CapturedConnection {
        client: client.parse().unwrap(),
        vip: vip.parse().unwrap(),
        rcv_nxt,
        snd_nxt: Seq::new(500),
        snd_wnd: 1000,
        max_window: 1000,
        rcv_wnd: 1000,
        options: NegotiatedOptions {
            client_mss: 1460,
            sack: true,
            timestamps: true,
            window_scale: None,
            ecn: false,
        },
        client_tsval: 3,
        vip_tsval: 4,
        rtt_us: 0,
        client_fin: false,
    }
}
