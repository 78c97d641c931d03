//! Fast Open (RFC 7413) where an administrator has switched it on for all listeners of the intermediate: data in the SYN is
//! there before the handshake has ended.

use crate::place::{Place, Row, Setting};
use crate::rows;
use baton_tests::peer::{Peer, Start, request};
use netns_lab::{Program, plan};

pub(crate) const ALONE: &[Row] = rows![request_in_the_syn_is_proxied, request_in_the_syn_and_an_early_ack];

/// Servers take data in SYNs (2), without asking for a cookie (0x200), at every listener (0x400); clients as before (1).
const FOR_ALL_LISTENERS: &str = "1539";

/// The intermediate listens with Fast Open; when this is dropped it listens without.
struct FastOpen<'a> {
    place: &'a Place,
    setting: Option<Setting<'a>>,
}

fn fast_open(place: &Place) -> FastOpen<'_> {
    let setting = place.set_sysctl(plan::INTERMEDIATE, "net/ipv4/tcp_fastopen", FOR_ALL_LISTENERS);
    restart(place);
    FastOpen { place, setting: Some(setting) }
}

fn restart(place: &Place) {
    place.t.lab.stop(plan::INTERMEDIATE, Program::Balancer).unwrap();
    place.t.lab.start(plan::INTERMEDIATE, Program::Balancer).unwrap();
}

impl Drop for FastOpen<'_> {
    fn drop(&mut self) {
        self.setting = None;
        restart(self.place);
    }
}

fn asked_in_the_syn(place: &Place) -> Peer {
    let start = Start { data: request("/10k").into_bytes(), ..Start::default() };
    let mut peer = Peer::dial(place.host(), place.vip(), &start);
    let syn_ack = peer.syn_ack();
    assert_eq!(syn_ack.segment.ack, peer.seq, "the listener has taken the data");
    peer
}

fn request_in_the_syn_is_proxied(place: &Place) {
    let _on = fast_open(place);
    let mut peer = asked_in_the_syn(place);
    // Not acknowledged: such a connection is not established, and is answered all the same.
    peer.wait("the answer", |p| p.has_data());
    place.expect_outcome(&peer, "proxied", Some("fast_open"));
    peer.ack = peer.watch().next_expected();
    peer.acknowledge();
    place.expect_file(&mut peer, "10k");
    place.close(&mut peer);
}

fn request_in_the_syn_and_an_early_ack(place: &Place) {
    let _on = fast_open(place);
    // Whether the acknowledgement is there before the request is looked at is open; the bytes are right either way.
    let mut peer = asked_in_the_syn(place);
    // The kernel keeps no SYN of such a connection: the client's clock is not known, as with cookies.
    peer.watch_mut().allow_no_echo();
    peer.acknowledge();
    place.expect_file(&mut peer, "10k");
    place.fetch(&mut peer, "100k");
    place.close(&mut peer);
}
