//! Connections made from a SYN cookie (`net.ipv4.tcp_syncookies=2`, on the intermediate and on the target). The
//! listener has forgotten the SYN: what it needs of it is in its own number and in its timestamp.

use crate::place::{Place, Row};
use crate::rows;
use baton_tests::peer::{Options, Start};

pub(crate) const ALONE: &[Row] = rows![
    cookie_with_all_options,
    cookie_without_timestamps,
    cookie_without_any_option,
    cookie_on_the_target_too,
];

/// Two files from a VIP that answers every SYN with a cookie: right, migrated or not.
fn two_files(place: &Place, options: Options, (outcome, reason): (&str, Option<&str>)) {
    let _restore = place.set_sysctl("intermediate", "net/ipv4/tcp_syncookies", "2");
    let mut peer = place.open(&Start { options, ..Start::default() });
    peer.window = (64_240 >> peer.watch().scales().0).max(1);
    place.fetch(&mut peer, "10k");
    place.expect_outcome(&peer, outcome, reason);
    place.fetch(&mut peer, "100k");
    place.close(&mut peer);
}

const MIGRATED: (&str, Option<&str>) = ("migrated", None);

fn cookie_with_all_options(place: &Place) {
    // The client's clock is known by its SYN only, and that is forgotten: proxied.
    two_files(place, Start::default().options, ("proxied", Some("syn_cookie")));
}

fn cookie_without_timestamps(place: &Place) {
    // Without timestamps a cookie keeps neither SACK nor scales.
    two_files(place, Options { timestamps: None, ..Start::default().options }, MIGRATED);
}

fn cookie_without_any_option(place: &Place) {
    two_files(place, Options { mss: Some(1460), ..Options::default() }, MIGRATED);
}

fn cookie_on_the_target_too(place: &Place) {
    let _restore = place.set_sysctl("target1", "net/ipv4/tcp_syncookies", "2");
    two_files(place, Options { timestamps: None, ..Start::default().options }, MIGRATED);
    let mut peer = place.open(&Start::default());
    place.fetch(&mut peer, "10k");
    place.fetch(&mut peer, "100k");
    place.close(&mut peer);
}
